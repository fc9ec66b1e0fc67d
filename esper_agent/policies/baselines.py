"""Policies that do not learn: what a learned one has to beat, run through the same evaluation."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from esper_agent.policies.distribution import ActionLayout
from esper_agent.spec import OBSERVATION_KEYS, EnvSpec
from esper_env.actions import ACTION_HEADS, HEAD_INDEX, Op, Style, blueprint_names
from esper_env.config import ConfigError, unknown_name
from esper_env.observation import BASE_FEATURES, SLOT_FEATURES


class Baseline(TensorDictModuleBase):  # type: ignore[misc]
    """A policy that reads the observation and writes `action`, for any batch."""

    def __init__(self, spec: EnvSpec, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.layout = ActionLayout(spec.num_slots, spec.num_blueprints)
        self.generator = generator
        self.in_keys = [*OBSERVATION_KEYS, "is_init"]
        self.out_keys = ["action"]

    def forward(self, td: TensorDictBase) -> TensorDictBase:
        """Act: one step for every element of `td`."""
        td.set("action", self.act(td))
        return td

    def act(self, td: TensorDictBase) -> Tensor:
        """Actions `[..., 8]`."""
        raise NotImplementedError(f"{type(self).__name__} must define act")

    def legal(self, td: TensorDictBase, op: Op) -> Tensor:
        """Slots for which `op` is legal `[..., slots]`; nothing where the op is masked."""
        rows: Tensor = td["slot_by_op"].bool().unflatten(-1, (len(Op), self.spec.num_slots))[..., op, :]
        ops: Tensor = td["action_mask"][..., -len(Op) :].bool()
        return rows & ops[..., op, None]

    def waiting(self, td: TensorDictBase) -> Tensor:
        """WAIT for everybody, to be filled in."""
        canonical = torch.tensor([head.canonical for head in ACTION_HEADS], device=td["features"].device)
        action: Tensor = canonical.expand(*td.batch_size, -1).clone()
        return action


class Random(Baseline):
    """Draws uniformly: a legal op, a slot that is legal for it, and a valid value of each head that matters."""

    def act(self, td: TensorDictBase) -> Tensor:
        """Actions `[..., 8]`."""
        logits = torch.zeros_like(td["action_mask"], dtype=torch.float32)
        drawn: Tensor = self.layout(logits, td["action_mask"], td["slot_by_op"]).sample(self.generator)
        return drawn


class Wait(Baseline):
    """Never does anything: what the host is worth alone."""

    def act(self, td: TensorDictBase) -> Tensor:
        """Actions `[..., 8]`."""
        return self.waiting(td)


class Schedule(Baseline):
    """A fixed script: plant one blueprint in every slot, advance and fossilize as soon as it is legal.

    Args:
        spec: sizes of the environment.
        generator: not used.
        blueprint: what to plant; the first that is legal where this one is not.
        style: blend style of the seeds.
        start: epoch of the first planting.
    """

    def __init__(
        self,
        spec: EnvSpec,
        generator: torch.Generator | None = None,
        *,
        blueprint: str = "conv_light",
        style: str = "SIGMOID_ADD",
        start: int = 0,
    ) -> None:
        super().__init__(spec, generator)
        if blueprint not in blueprint_names():
            raise ConfigError(unknown_name("blueprint", blueprint, blueprint_names()))
        if style not in Style.__members__:
            raise ConfigError(unknown_name("style", style, Style.__members__))
        self.blueprint, self.style, self.start = blueprint_names().index(blueprint), int(Style[style]), start
        self.epoch = torch.zeros(0, dtype=torch.int64)

    def act(self, td: TensorDictBase) -> Tensor:
        """Actions `[..., 8]`."""
        self.epoch = _count(self.epoch, td["is_init"])
        action, blueprints = self.waiting(td), _plantable(self, td)
        wanted = torch.where(blueprints[..., self.blueprint], self.blueprint, _first(blueprints))
        germinate = self.legal(td, Op.GERMINATE) & (self.epoch > self.start)[..., None]
        write(action, Op.GERMINATE, germinate, blueprint=wanted, style=self.style)
        write(action, Op.ADVANCE, self.legal(td, Op.ADVANCE))
        write(action, Op.FOSSILIZE, self.legal(td, Op.FOSSILIZE))
        return action


class Heuristic(Baseline):
    """Rules of thumb that read the observation only: plant on a plateau, keep what contributes, drop what does not.

    It plants blueprints in rotation when the host has settled and no seed is on its way; prunes seeds that have
    cost over 2 points after 5 epochs, fossilizes those that contribute over half a point, and gives the rest of
    those that hold 5 epochs.
    """

    PATIENCE = 5
    PLATEAU = 3

    def __init__(self, spec: EnvSpec, generator: torch.Generator | None = None) -> None:
        super().__init__(spec, generator)
        self.epoch = torch.zeros(0, dtype=torch.int64)
        self.planted = torch.zeros(0, dtype=torch.int64)

    def act(self, td: TensorDictBase) -> Tensor:
        """Actions `[..., 8]`."""
        self.epoch = _count(self.epoch, td["is_init"])
        fresh = td["is_init"].squeeze(-1)
        self.planted = torch.zeros_like(self.epoch) if self.planted.shape != fresh.shape else self.planted
        self.planted = torch.where(fresh, 0, self.planted)
        action = self.waiting(td)

        before_holding = [self.slot(td, f"stage_{name}") for name in ("germinated", "training", "blending")]
        on_its_way = torch.stack(before_holding).any(0)
        settled = (self.base(td, "host_stabilized") > 0) | (
            (self.epoch > self.PATIENCE) & (self.base(td, "plateau") >= self.PLATEAU - 0.5)
        )
        plant = self.legal(td, Op.GERMINATE) & (settled & ~on_its_way.any(-1))[..., None]
        write(action, Op.GERMINATE, plant, blueprint=self.rotation(td))

        contribution, age = self.slot(td, "contribution"), self.slot(td, "epochs_in_stage")
        holding, blending = self.slot(td, "stage_holding") > 0, self.slot(td, "stage_blending") > 0
        patient = age >= self.PATIENCE - 0.5
        useless = patient & (((blending | holding) & (contribution < -2)) | (holding & (contribution <= 0.5)))
        write(action, Op.PRUNE, self.legal(td, Op.PRUNE) & useless)
        write(action, Op.FOSSILIZE, self.legal(td, Op.FOSSILIZE) & (contribution > 0.5))
        write(action, Op.ADVANCE, self.legal(td, Op.ADVANCE))
        self.planted = self.planted + (action[..., HEAD_INDEX["op"]] == Op.GERMINATE)
        return action

    def base(self, td: TensorDictBase, name: str) -> Tensor:
        """A feature of the host `[...]`, in its own unit."""
        column = next(i for i, feature in enumerate(BASE_FEATURES) if feature.name == name)
        value: Tensor = td["features"][..., column] * BASE_FEATURES[column].unit
        return value

    def slot(self, td: TensorDictBase, name: str) -> Tensor:
        """A feature of every slot `[..., slots]`, in its own unit."""
        column = next(i for i, feature in enumerate(SLOT_FEATURES) if feature.name == name)
        slots = td["features"][..., len(BASE_FEATURES) :].unflatten(-1, (self.spec.num_slots, len(SLOT_FEATURES)))
        values: Tensor = slots[..., column] * SLOT_FEATURES[column].unit
        return values

    def rotation(self, td: TensorDictBase) -> Tensor:
        """The next plantable blueprint in turn `[...]`."""
        plantable = _plantable(self, td)
        turn = self.planted % plantable.sum(-1).clamp_min(1)
        reached = (plantable.cumsum(-1) == turn[..., None] + 1) & plantable
        return _first(reached)


def _plantable(policy: Baseline, td: TensorDictBase) -> Tensor:
    """`[..., blueprints]`; noop alone while nothing can be planted."""
    slots = policy.spec.num_slots
    plantable: Tensor = td["action_mask"][..., slots : slots + policy.spec.num_blueprints].bool()
    return plantable


def _first(mask: Tensor) -> Tensor:
    return mask.to(torch.uint8).argmax(-1)


def _count(epoch: Tensor, is_init: Tensor) -> Tensor:
    """Steps since each episode began, this one included."""
    fresh = is_init.squeeze(-1)
    return torch.where(fresh, 1, (epoch + 1) if epoch.shape == fresh.shape else 1)


def write(action: Tensor, op: Op, slots: Tensor, **heads: Any) -> None:
    """Let those who can take `op` on the first of `slots` do so, over what was written before."""
    able = slots.any(-1)
    for name, value in {"op": int(op), "slot": _first(slots), **heads}.items():
        column = action[..., HEAD_INDEX[name]]
        column.copy_(torch.where(able, torch.as_tensor(value, device=action.device), column))


BASELINES: dict[str, type[Baseline]] = {
    "random": Random,
    "wait": Wait,
    "schedule": Schedule,
    "heuristic": Heuristic,
}
