"""What there is to see of an episode, as plain values: a frame. Text and picture are functions of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from esper_env.actions import ALPHA_SPEEDS, ALPHA_TARGETS, CNN, Algorithm, Op, action_heads
from esper_env.lifecycle.stages import ALPHA_CONTROLLED, BLENDED, PRESENT, Stage
from esper_env.lifecycle.state import EMPTY, NEVER
from esper_env.network.host import Host
from esper_env.simulation import Simulation

MEANING = {
    Stage.UNKNOWN: "unknown",
    Stage.DORMANT: "empty",
    Stage.GERMINATED: "just planted",
    Stage.TRAINING: "learns, unused",
    Stage.BLENDING: "blended by alpha",
    Stage.HOLDING: "in use, on trial",
    Stage.FOSSILIZED: "permanent",
    Stage.PRUNED: "seed removed",
    Stage.EMBARGOED: "slot rests",
    Stage.RESETTING: "slot rests",
}
"""Every stage in a few words."""


@dataclass(frozen=True)
class Pay:
    """What a term of the reward is paid for."""

    brief: str
    """In so few words that a picture has room for them."""
    meaning: str


PAYS = {
    "progress": Pay("change of the score", "the score rose or fell"),
    "forfeit": Pay("was not permanent", "what was not permanent at the end is lost"),
    "rent": Pay("for seeds in use", "parameters in use cost by size and time"),
    "shock": Pay("for jumps of alpha", "alpha changed suddenly"),
    "op_cost": Pay("for the action", "price of the op"),
    "governor": Pay("for the rollback", "the host diverged and was rolled back"),
    "attribution": Pay("early pay for worth", "early pay for what seeds add, taken back in the end"),
    "stage": Pay("early pay for stages", "early pay for how far seeds have come, taken back in the end"),
    "hindsight": Pay("for helped seeds", "a permanent seed that others had prepared"),
    "activity": Pay("for any action", "price of every op but WAIT"),
    "committed": Pay("permanent score", "the score with permanent seeds alone, at the end"),
    "size": Pay("permanent size", "parameters of permanent seeds, at the end"),
    "early_prune": Pay("removed too early", "a seed was removed before it could show anything"),
}
"""The terms of the reward modes that ship."""
STILL = 1e-9
"""Alpha is at its target when it differs by no more."""


@dataclass(frozen=True)
class Measure:
    """What the reward measures, between 0 and 100."""

    name: str
    unit: str
    meaning: str
    scale: str = ""
    """What its ends are, where its name does not tell."""

    def of(self, value: float) -> str:
        """A value of it in words."""
        return f"{value:.1f}{self.unit}"


BY_ACCURACY = Measure("accuracy", " %", "answers right")
BY_LOSS = Measure("score", "", "of 100", "0 is guessing, 100 the loss aimed at")


@dataclass(frozen=True)
class Epoch:
    """An epoch as the episode's curves need it."""

    number: int
    value: float
    """Of the network as it is, by the frame's measure."""
    committed: float
    """The same with what is permanent alone."""
    stages: tuple[Stage, ...]
    alphas: tuple[float, ...]
    rolled_back: bool


@dataclass(frozen=True)
class Event:
    """A slot that entered a stage, or a host that was rolled back."""

    epoch: int
    slot: int | None
    stage: Stage | None

    def __str__(self) -> str:
        if self.stage is None:
            return "the host diverged and was rolled back"
        return f"slot {self.slot} is {self.stage.name}"


@dataclass(frozen=True)
class SlotView:
    """A slot and the seed in it."""

    stage: Stage
    epochs_in_stage: int
    blueprint: str | None
    algorithm: Algorithm
    alpha: float
    target: float
    contribution: float | None
    """Points of the measure that would be lost without the seed; None where that has not been measured."""
    params: int
    blocks: tuple[int, int]
    """The first and the last of the host's blocks between the slot before and this one, counted from 1."""
    width: str
    """Of the host at this slot, in words."""

    @property
    def moving(self) -> bool:
        """Is alpha not yet at its target?"""
        return bool(BLENDED[self.stage]) and abs(self.alpha - self.target) > STILL

    @property
    def meaning(self) -> str:
        """Its stage in a few words, and where alpha goes while an agent can steer it."""
        if ALPHA_CONTROLLED[self.stage] and self.target == 0:
            return "fades out"
        if self.stage == Stage.BLENDING:
            return f"alpha {'goes to' if self.moving else 'rests at'} {self.target:g}"
        return MEANING[self.stage]

    @property
    def blend(self) -> str:
        """How the seed is blended in; empty where there is no seed to blend."""
        return self.algorithm.name if PRESENT[self.stage] else ""

    @property
    def worth(self) -> str:
        """The contribution to a tenth; empty where that has not been measured."""
        if self.contribution is None:
            return ""
        said = f"{self.contribution:+z.1f}"
        return "0.0" if said == "+0.0" else said


@dataclass(frozen=True)
class Frame:
    """An episode up to the present epoch."""

    task: str
    measure: Measure
    max_epochs: int
    epochs: tuple[Epoch, ...]
    """From the first one that was watched to the present one."""
    slots: tuple[SlotView, ...]
    host_params: int
    action: str
    """The last action in words; empty before the first."""
    executed: bool
    terms: dict[str, float]
    """Of the last step's reward."""
    test_accuracy: float | None
    """Of the committed network, whatever the measure, once the episode has terminated."""

    @property
    def verdict(self) -> str | None:
        """How the committed network does on the test data, once that is known."""
        if self.test_accuracy is None:
            return None
        of_what = "on the test data" if self.measure == BY_ACCURACY else "of test answers right"
        return f"{BY_ACCURACY.of(self.test_accuracy)} {of_what}"

    @property
    def now(self) -> Epoch:
        """The present epoch."""
        return self.epochs[-1]

    @property
    def reward(self) -> float:
        """The last step's."""
        return sum(self.terms.values())

    def events(self) -> Iterator[Event]:
        """What happened, in order."""
        for before, after in pairwise(self.epochs):
            if after.rolled_back:
                yield Event(after.number, None, None)
            for slot, (old, new) in enumerate(zip(before.stages, after.stages, strict=True)):
                if new != old:
                    yield Event(after.number, slot, new)

    def news(self) -> list[Event]:
        """What happened in the present epoch."""
        return [event for event in self.events() if event.epoch == self.now.number]


def look(simulation: Simulation, before: Frame | None = None, vector: Sequence[int] | None = None) -> Frame:
    """The present frame of a simulation's first host, which goes on from the one before.

    Args:
        simulation: what is looked at.
        before: the frame of the epoch before, if it was looked at; without one the curves begin here.
        vector: the action that led here, if one did.
    """
    slots, counters, alphas = simulation.slots, simulation.counters, simulation.alpha()[0].tolist()
    stages = tuple(Stage(stage) for stage in slots.stage[0].tolist())
    present = Epoch(
        number=int(simulation.signals.epoch[0]),
        value=float(simulation.signals.score[0]),
        committed=float(counters.committed[0]),
        stages=stages,
        alphas=tuple(alphas),
        rolled_back=bool(counters.rolled_back[0]),
    )
    test_accuracy = float(counters.test_accuracy[0])
    return Frame(
        task=simulation.config.task,
        measure=BY_LOSS if simulation.task.scored_by_loss else BY_ACCURACY,
        max_epochs=simulation.config.max_epochs,
        epochs=(*(before.epochs if before else ()), present),
        slots=tuple(_slot(simulation, slot, stages[slot], alphas[slot]) for slot in range(simulation.num_slots)),
        host_params=simulation.host_params,
        action="" if vector is None else words(vector, simulation.num_slots),
        executed=bool(counters.executed[0]),
        terms={name: float(term[0]) for name, term in simulation.terms.items()},
        test_accuracy=None if test_accuracy < 0 else test_accuracy,
    )


def _slot(simulation: Simulation, slot: int, stage: Stage, alpha: float) -> SlotView:
    def of(values: Any) -> Any:
        return values[0, slot].item()

    slots = simulation.slots
    measured = bool(BLENDED[stage]) and of(slots.measured) != NEVER
    blueprint = of(slots.blueprint)
    host = simulation.task.host
    channels = host.slots[slot].channels
    return SlotView(
        stage=stage,
        epochs_in_stage=of(slots.epochs_in_stage),
        blueprint=None if blueprint == EMPTY else simulation.blueprints[blueprint],
        algorithm=Algorithm(of(slots.algorithm)),
        alpha=alpha,
        target=of(slots.target),
        contribution=of(slots.contribution) if measured else None,
        params=of(slots.params),
        blocks=blocks_before(host)[slot],
        width=f"{channels} channels" if host.topology == CNN else f"width {channels}",
    )


def blocks_before(host: Host) -> list[tuple[int, int]]:
    """For each slot the first and the last of the host's blocks between the slot before and this one, from 1 on."""
    ends = [0, *(block for block, owner in enumerate(host.slot_of_block, 1) if owner is not None)]
    return [(before + 1, end) for before, end in pairwise(ends)]


def _duration(epochs: int) -> str:
    return f"over {epochs} epochs" if epochs else "at once"


_SAID = {
    "alpha_target": tuple(f"{target:g}" for target in ALPHA_TARGETS),
    "alpha_speed": tuple(_duration(epochs) for epochs in ALPHA_SPEEDS.tolist()),
}
"""Choices of heads that say more as a quantity."""


def words(vector: Sequence[int], num_slots: int) -> str:
    """An action vector in words; a number outside the action space is said as it is."""
    said = {
        head.name: _SAID.get(head.name, head.choices)[choice] if 0 <= choice < head.size else str(choice)
        for head, choice in zip(action_heads(num_slots), vector, strict=True)
    }
    slot, style = f"slot {said['slot']}", f"style {said['style']}"
    meaning = {
        Op.WAIT.name: "train an epoch and change nothing",
        Op.GERMINATE.name: f"plant {said['blueprint']} in {slot}, {style}",
        Op.SET_ALPHA_TARGET.name: f"take alpha in {slot} to {said['alpha_target']} {said['alpha_speed']}, {style}",
        Op.PRUNE.name: f"remove the seed in {slot}",
        Op.FOSSILIZE.name: f"make the seed in {slot} permanent",
        Op.ADVANCE.name: f"move the seed in {slot} to its next stage",
    }
    return f"{said['op']}: {meaning.get(said['op'], 'there is no such op')}"
