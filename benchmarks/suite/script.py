"""A fixed script with everything that a schedule can choose, to be tuned by a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from esper_agent.policies.baselines import Baseline, write
from esper_agent.spec import EnvSpec
from esper_env.actions import HEAD_INDEX, Op, Style, blueprint_names
from esper_env.config import ConfigError, check_number, unknown_name
from esper_env.observation import BASE_FEATURES, SLOT_FEATURES

EPOCHS_IN_STAGE, TRAINING = (
    next(i for i, feature in enumerate(SLOT_FEATURES) if feature.name == name)
    for name in ("epochs_in_stage", "stage_training")
)


class Script(Baseline):
    """Plants a blueprint of its own in every slot, trains each seed for a while, blends it in and makes it permanent.

    What can be finished goes first, then what can move on, then planting; lower slots before higher ones.

    Args:
        spec: sizes of the environment.
        generator: not used.
        blueprints: name by slot, the list repeating; `""` leaves a slot empty.
        style: blend style of the seeds.
        tempo: choice of the tempo head.
        training_epochs: epochs that a seed spends in TRAINING; the task may ask for more.
        start: epochs that the host trains alone first.
    """

    def __init__(
        self,
        spec: EnvSpec,
        generator: torch.Generator | None = None,
        *,
        blueprints: Sequence[str] = ("conv_light",),
        style: str = "SIGMOID_ADD",
        tempo: int = 1,
        training_epochs: int = 3,
        start: int = 0,
    ) -> None:
        super().__init__(spec, generator)
        names = blueprint_names()
        for name in blueprints:
            if name and name not in names:
                raise ConfigError(unknown_name("blueprint", name, names))
        if style not in Style.__members__:
            raise ConfigError(unknown_name("style", style, Style.__members__))
        for name, value in (("tempo", tempo), ("training_epochs", training_epochs), ("start", start)):
            check_number(name, value, 0, whole=True)
        planned = [blueprints[slot % len(blueprints)] for slot in range(spec.num_slots)]
        self.blueprint = torch.tensor([names.index(name or "noop") for name in planned])
        self.planted = torch.tensor([bool(name) for name in planned])
        self.style, self.tempo = int(Style[style]), tempo
        self.training_epochs, self.start = training_epochs, start
        self.epoch = torch.zeros(0, dtype=torch.int64)

    def act(self, td: TensorDictBase) -> Tensor:
        """Actions `[..., 8]`."""
        fresh = td["is_init"].squeeze(-1)
        self.epoch = torch.where(fresh, 0, self.epoch + 1 if self.epoch.shape == fresh.shape else 0)
        slots = td["features"][..., len(BASE_FEATURES) :].unflatten(-1, (self.spec.num_slots, len(SLOT_FEATURES)))
        trained = slots[..., EPOCHS_IN_STAGE] * SLOT_FEATURES[EPOCHS_IN_STAGE].unit > self.training_epochs - 0.5
        ready = trained | (slots[..., TRAINING] == 0)
        germinate = self.legal(td, Op.GERMINATE) & self.planted & (self.epoch >= self.start)[..., None]
        action = self.waiting(td)
        for op, able in (
            (Op.GERMINATE, germinate),
            (Op.ADVANCE, self.legal(td, Op.ADVANCE) & ready),
            (Op.FOSSILIZE, self.legal(td, Op.FOSSILIZE)),
        ):
            write(action, op, able)
        slot = action[..., HEAD_INDEX["slot"]]
        planting = action[..., HEAD_INDEX["op"]] == Op.GERMINATE
        chosen: tuple[tuple[str, Any], ...] = (
            ("blueprint", self.blueprint[slot]),
            ("style", self.style),
            ("tempo", self.tempo),
        )
        for name, value in chosen:
            column = action[..., HEAD_INDEX[name]]
            column.copy_(torch.where(planting, torch.as_tensor(value), column))
        return action
