"""The lifecycle once more, one slot at a time with plain scalars, written from domain.md §1 and §2 alone.

`Environment` is the reference. `Arrays` drives the array functions exactly as the environment does, so that a test
can take both through the same life and `assert_same` after every step.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from esper_env.actions import decode
from esper_env.config import LifecycleConfig
from esper_env.lifecycle import alpha as schedules
from esper_env.lifecycle.legality import advanceable, legality, permitted
from esper_env.lifecycle.stages import COOLDOWN
from esper_env.lifecycle.state import NEVER, NOT_BEGUN, Slots
from esper_env.lifecycle.transitions import Events, advance, apply_ops, tick

STAGES = [
    "UNKNOWN",
    "DORMANT",
    "GERMINATED",
    "TRAINING",
    "BLENDING",
    "HOLDING",
    "FOSSILIZED",
    "PRUNED",
    "EMBARGOED",
    "RESETTING",
]
OPS = ["WAIT", "GERMINATE", "SET_ALPHA_TARGET", "PRUNE", "FOSSILIZE", "ADVANCE"]
HEADS = ["slot", "blueprint", "style", "tempo", "alpha_target", "alpha_speed", "alpha_curve", "op"]
BLUEPRINT_NAMES = [
    "noop",
    "conv_light",
    "attention",
    "norm",
    "depthwise",
    "bottleneck",
    "conv_small",
    "conv_heavy",
    "lora",
    "lora_large",
    "mlp_small",
    "mlp",
    "flex_attention",
]
CURVES = ["LINEAR", "COSINE", "SIGMOID_GENTLE", "SIGMOID", "SIGMOID_SHARP"]
ALGORITHMS = ["ADD", "MULTIPLY", "GATE"]
MODES = ["HOLD", "RAMP", "STEP"]
TRANSITIONS = {
    "DORMANT": {"GERMINATED"},
    "GERMINATED": {"TRAINING", "PRUNED"},
    "TRAINING": {"BLENDING", "PRUNED"},
    "BLENDING": {"HOLDING", "PRUNED"},
    "HOLDING": {"FOSSILIZED", "BLENDING", "PRUNED"},
    "FOSSILIZED": set(),
    "PRUNED": {"EMBARGOED"},
    "EMBARGOED": {"RESETTING"},
    "RESETTING": {"DORMANT"},
}
HEADS_THAT_MATTER = {
    "WAIT": set(),
    "GERMINATE": {"slot", "blueprint", "style", "tempo", "alpha_target"},
    "SET_ALPHA_TARGET": {"slot", "style", "alpha_target", "alpha_speed", "alpha_curve"},
    "PRUNE": {"slot", "alpha_speed", "alpha_curve"},
    "FOSSILIZE": {"slot"},
    "ADVANCE": {"slot"},
}
STYLE_MEANS = [("ADD", "LINEAR"), ("MULTIPLY", "LINEAR"), ("ADD", "SIGMOID"), ("GATE", "LINEAR")]
TEMPO_EPOCHS = [3, 5, 8]
TARGET_ALPHAS = [0.5, 0.7, 1.0]
SPEED_EPOCHS = [0, 3, 5, 8]


def closed_form(curve: str, t: float) -> float:
    """The ease curves, straight from their definitions."""
    if curve == "LINEAR":
        return t
    if curve == "COSINE":
        return (1 - math.cos(math.pi * t)) / 2
    steepness = {"SIGMOID_GENTLE": 6, "SIGMOID": 12, "SIGMOID_SHARP": 24}[curve]

    def logistic(x: float) -> float:
        return 1 / (1 + math.exp(-steepness * (x - 0.5)))

    return (logistic(t) - logistic(0)) / (logistic(1) - logistic(0))


@dataclass
class Ramp:
    """A running schedule that counts its own epochs."""

    start: float
    target: float
    steps: int
    curve: str
    done: int = 0

    def alpha(self) -> float:
        if self.done == self.steps:
            return self.target
        return self.start + (self.target - self.start) * closed_form(self.curve, self.done / self.steps)


@dataclass
class Slot:
    """One slot and whatever is in it."""

    stage: str = "DORMANT"
    blueprint: int = -1
    algorithm: str = "ADD"
    age: int = 0
    epochs_in_stage: int = 0
    accuracy_at_entry: float = 0.0
    plantings: int = 0
    alpha: float = 0.0
    alpha_target: float = 0.0
    ramp: Ramp | None = None
    first_ramp: tuple[int, str] = (0, "LINEAR")
    stepped: bool = False
    health: float | None = None
    exploding: bool = False
    measured: bool = False
    contribution: float = 0.0

    @property
    def mode(self) -> str:
        if self.ramp is not None:
            return "RAMP"
        return "STEP" if self.stepped else "HOLD"

    @property
    def velocity(self) -> float:
        return (self.ramp.target - self.ramp.start) / self.ramp.steps if self.ramp is not None else 0.0

    @property
    def time_to_target(self) -> int:
        return self.ramp.steps - self.ramp.done if self.ramp is not None else 0

    def move(self, stage: str, accuracy: float) -> None:
        self.stage = stage
        self.epochs_in_stage = 0
        self.accuracy_at_entry = accuracy

    def remove(self, accuracy: float) -> None:
        self.move("PRUNED", accuracy)
        self.ramp, self.alpha, self.alpha_target, self.stepped = None, 0.0, 0.0, False

    def retarget(self, target: float, steps: int, curve: str) -> None:
        self.alpha_target = target
        if target == self.alpha:
            return
        if steps == 0:
            self.alpha, self.stepped = target, True
        else:
            self.ramp = Ramp(self.alpha, target, steps, curve)


@dataclass
class Environment:
    """The slots of one environment, and the rules that they live by."""

    num_slots: int
    config: LifecycleConfig
    plantable: list[bool]
    accuracy: float = 0.0
    slots: list[Slot] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.slots:
            self.slots = [Slot() for _ in range(self.num_slots)]

    def gate(self, slot: Slot) -> bool:
        """Does the gate out of the slot's stage open?"""
        strict = self.config.strict_gates
        if slot.stage == "GERMINATED":
            return True
        if slot.stage == "TRAINING":
            if slot.epochs_in_stage < self.config.min_training_epochs:
                return False
            if slot.health is None or slot.health < 0.7 or slot.exploding:
                return False
            return not strict or self.accuracy - slot.accuracy_at_entry >= 0.5
        if slot.stage == "BLENDING":
            if slot.alpha_target != 1.0 or slot.alpha != 1.0:
                return False
            return not strict or slot.epochs_in_stage >= 10
        if slot.stage == "HOLDING":
            if not slot.measured:
                return False
            return not strict or slot.contribution >= self.config.min_fossilize_contribution
        return False

    def can_advance(self, slot: Slot) -> bool:
        return slot.stage in ("GERMINATED", "TRAINING", "BLENDING") and slot.ramp is None and self.gate(slot)

    def legal(self, op: str, index: int) -> bool:
        slot = self.slots[index]
        if op == "WAIT":
            return True
        if op == "GERMINATE":
            present = 0
            for other in self.slots:
                if other.stage in ("GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED"):
                    present += 1
            return slot.stage == "DORMANT" and present < self.config.max_seeds and any(self.plantable)
        if op == "ADVANCE":
            return not self.config.auto_advance and self.can_advance(slot)
        if slot.ramp is not None:
            return False
        if op == "SET_ALPHA_TARGET":
            return slot.stage in ("BLENDING", "HOLDING")
        if op == "PRUNE":
            live = slot.stage in ("GERMINATED", "TRAINING", "BLENDING", "HOLDING")
            return live and slot.age >= self.config.min_prune_age
        return slot.stage == "HOLDING" and self.gate(slot)

    def permits(self, vector: list[int]) -> bool:
        """Would this action vector execute?"""
        given = dict(zip(HEADS, vector, strict=True))
        if not 0 <= given["op"] < len(OPS):
            return False
        op = OPS[given["op"]]
        sizes = [self.num_slots, len(self.plantable), 4, 3, 3, 4, 5, 6]
        for head, size in zip(HEADS, sizes, strict=True):
            if head in HEADS_THAT_MATTER[op] and not 0 <= given[head] < size:
                return False
        if op == "WAIT":
            return True
        if op == "GERMINATE" and not self.plantable[given["blueprint"]]:
            return False
        return self.legal(op, given["slot"])

    def step(self, vector: list[int]) -> bool:
        """One step up to the training epoch: the action, then the clock. True when the action executed."""
        executed = self.permits(vector)
        cooling = [slot.stage in ("PRUNED", "EMBARGOED", "RESETTING") for slot in self.slots]
        ready = [self.config.auto_advance and self.can_advance(slot) for slot in self.slots]
        for slot in self.slots:
            slot.stepped = False
        if executed:
            self.act(dict(zip(HEADS, vector, strict=True)))
        for slot, was_ready in zip(self.slots, ready, strict=True):
            if was_ready and self.can_advance(slot):
                self.advance(slot)
        for slot, was_cooling in zip(self.slots, cooling, strict=True):
            self.pass_epoch(slot, was_cooling)
        return executed

    def act(self, given: dict[str, int]) -> None:
        op = OPS[given["op"]]
        if op == "WAIT":
            return
        slot = self.slots[given["slot"]]
        if op == "GERMINATE":
            algorithm, curve = STYLE_MEANS[given["style"]]
            planted = Slot(plantings=slot.plantings + 1, blueprint=given["blueprint"], algorithm=algorithm)
            planted.first_ramp = TEMPO_EPOCHS[given["tempo"]], curve
            planted.alpha_target = TARGET_ALPHAS[given["alpha_target"]]
            planted.move("GERMINATED", self.accuracy)
            self.slots[given["slot"]] = planted
        elif op == "SET_ALPHA_TARGET":
            slot.algorithm = STYLE_MEANS[given["style"]][0]
            target = TARGET_ALPHAS[given["alpha_target"]]
            if slot.stage == "HOLDING" and target < 1.0:
                slot.move("BLENDING", self.accuracy)
            slot.retarget(target, SPEED_EPOCHS[given["alpha_speed"]], CURVES[given["alpha_curve"]])
        elif op == "PRUNE":
            steps = SPEED_EPOCHS[given["alpha_speed"]]
            if slot.stage in ("BLENDING", "HOLDING") and steps > 0 and slot.alpha > 0:
                slot.retarget(0.0, steps, CURVES[given["alpha_curve"]])
            else:
                slot.remove(self.accuracy)
        elif op == "FOSSILIZE":
            slot.move("FOSSILIZED", self.accuracy)
            slot.alpha = slot.alpha_target = 1.0
        elif op == "ADVANCE":
            self.advance(slot)

    def advance(self, slot: Slot) -> None:
        if slot.stage == "GERMINATED":
            slot.move("TRAINING", self.accuracy)
        elif slot.stage == "TRAINING":
            slot.move("BLENDING", self.accuracy)
            steps, curve = slot.first_ramp
            slot.ramp = Ramp(0.0, slot.alpha_target, steps, curve)
        else:
            slot.move("HOLDING", self.accuracy)

    def pass_epoch(self, slot: Slot, was_cooling: bool) -> None:
        if slot.stage == "DORMANT":
            return
        if was_cooling:
            if slot.stage == "PRUNED":
                slot.stage, slot.epochs_in_stage = "EMBARGOED", 0
            elif slot.stage == "EMBARGOED" and slot.epochs_in_stage == self.config.embargo_epochs:
                slot.stage, slot.epochs_in_stage = "RESETTING", 0
            elif slot.stage == "RESETTING":
                plantings = slot.plantings
                slot.__dict__.update(Slot(plantings=plantings).__dict__)
                return
        if slot.ramp is not None:
            slot.ramp.done += 1
            slot.alpha = slot.ramp.alpha()
            if slot.ramp.done == slot.ramp.steps:
                slot.ramp = None
                if slot.alpha_target == 0.0:
                    slot.remove(self.accuracy)
        slot.epochs_in_stage += 1
        if slot.stage not in ("PRUNED", "EMBARGOED", "RESETTING"):
            slot.age += 1


class Arrays:
    """The array lifecycle of several environments, driven as the environment drives it."""

    def __init__(self, envs: int, num_slots: int, config: LifecycleConfig, plantable: list[bool]) -> None:
        self.config = config
        self.plantable = np.array(plantable)
        self.slots = Slots.dormant(envs, num_slots)
        self.epoch = np.zeros(envs, np.int64)
        self.accuracy = np.zeros(envs)

    def legal(self) -> np.ndarray:
        return legality(self.slots, self.epoch, self.accuracy, self.plantable, self.config)

    def alpha(self) -> np.ndarray:
        return schedules.alpha(self.slots, self.epoch)

    def advanceable(self) -> np.ndarray:
        return advanceable(self.slots, self.epoch, self.accuracy, self.config)

    def step(self, vectors: np.ndarray) -> tuple[np.ndarray, Events]:
        """One step up to the training epoch: which actions executed, and what happened; ramped prunes included."""
        actions = decode(vectors, self.slots.stage.shape[1], len(self.plantable))
        allowed = permitted(self.legal(), actions.op, actions.slot, actions.blueprint, self.plantable)
        executed = allowed & actions.in_space
        cooling = COOLDOWN[self.slots.stage]
        ready = self.advanceable() if self.config.auto_advance else None
        events = apply_ops(self.slots, self.epoch, self.accuracy, actions, executed)
        if ready is not None:
            advance(self.slots, ready & self.advanceable(), self.epoch, self.accuracy)
        self.epoch = self.epoch + 1
        arrived = tick(self.slots, self.epoch, self.accuracy, cooling, self.config)
        events.pruned = events.pruned | arrived
        return executed, events


class Pair:
    """The same lives twice: in arrays, and in one reference per environment."""

    def __init__(self, envs: int, num_slots: int, config: LifecycleConfig, plantable: list[bool]) -> None:
        self.arrays = Arrays(envs, num_slots, config, plantable)
        self.references = [Environment(num_slots, config, plantable) for _ in range(envs)]

    def step(self, vectors: list[list[int]]) -> list[bool]:
        expected = [env.step(vector) for env, vector in zip(self.references, vectors, strict=True)]
        executed, _ = self.arrays.step(np.array(vectors, np.int64))
        assert executed.tolist() == expected
        self.assert_same()
        return expected

    def measure(
        self, env: int, slot: int, health: float | None, exploding: bool, measured: bool, contribution: float
    ) -> None:
        """What training and validation would have found out about a seed, told to both."""
        seed, slots = self.references[env].slots[slot], self.arrays.slots
        if seed.stage not in ("GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED"):
            return
        seed.health, seed.exploding, seed.measured, seed.contribution = health, exploding, measured, contribution
        slots.gradient_health[env, slot] = np.nan if health is None else health
        slots.exploding[env, slot] = exploding
        slots.measured[env, slot] = 7 if measured else NEVER
        slots.contribution[env, slot] = contribution

    def set_accuracy(self, env: int, accuracy: float) -> None:
        self.references[env].accuracy = accuracy
        self.arrays.accuracy[env] = accuracy

    def assert_same(self) -> None:
        slots, epoch, legal = self.arrays.slots, self.arrays.epoch, self.arrays.legal()
        alpha, mode = self.arrays.alpha(), schedules.mode(slots, epoch)
        velocity, remaining = schedules.velocity(slots, epoch), schedules.time_to_target(slots, epoch)
        for e, env in enumerate(self.references):
            for s, slot in enumerate(env.slots):
                seen = {
                    "stage": STAGES[slots.stage[e, s]],
                    "blueprint": slots.blueprint[e, s],
                    "algorithm": ALGORITHMS[slots.algorithm[e, s]],
                    "age": slots.age[e, s],
                    "epochs_in_stage": slots.epochs_in_stage[e, s],
                    "accuracy_at_entry": slots.accuracy_at_entry[e, s],
                    "plantings": slots.plantings[e, s],
                    "alpha_target": slots.target[e, s],
                    "mode": MODES[mode[e, s]],
                    "time_to_target": remaining[e, s],
                    "health": None if np.isnan(slots.gradient_health[e, s]) else slots.gradient_health[e, s],
                    "exploding": bool(slots.exploding[e, s]),
                    "measured": slots.measured[e, s] != NEVER,
                    "contribution": slots.contribution[e, s],
                }
                assert seen == {name: getattr(slot, name) for name in seen}, (e, s)
                assert abs(alpha[e, s] - slot.alpha) < 1e-12, (e, s, alpha[e, s], slot.alpha)
                assert abs(velocity[e, s] - slot.velocity) < 1e-12, (e, s)
                if slot.ramp is None:
                    assert alpha[e, s] == slot.alpha, (e, s)
                assert legal[e, :, s].tolist() == [env.legal(op, s) for op in OPS], (e, s)


def random_config(rng: np.random.Generator, num_slots: int) -> LifecycleConfig:
    return LifecycleConfig(
        max_seeds=int(rng.integers(0, num_slots + 1)),
        strict_gates=bool(rng.integers(2)),
        auto_advance=bool(rng.integers(2)),
        embargo_epochs=int(rng.integers(1, 8)),
        min_prune_age=int(rng.integers(1, 4)),
        min_training_epochs=int(rng.integers(1, 5)),
        min_fossilize_contribution=float(rng.choice([-1.0, 0.0, 1.0])),
    )


def random_plantable(rng: np.random.Generator) -> list[bool]:
    return [False, *(rng.random(len(BLUEPRINT_NAMES) - 1) < rng.choice([0.3, 1.0])).tolist()]


def random_states(rng: np.random.Generator, envs: int, num_slots: int) -> tuple[Slots, np.ndarray, np.ndarray]:
    """Slots in any stage, with any schedule that fits it, any age and any measurements; epochs; accuracies."""
    shape = (envs, num_slots)
    slots = Slots.dormant(*shape)
    epoch = rng.integers(20, 60, envs)
    accuracy = rng.integers(0, 101, envs).astype(float)
    slots.stage = rng.integers(1, len(STAGES), shape).astype(np.int8)
    occupied = slots.stage != STAGES.index("DORMANT")
    slots.blueprint = np.where(occupied, rng.integers(1, 13, shape), -1)
    slots.algorithm = rng.integers(0, 3, shape).astype(np.int8)
    slots.age = np.where(occupied, rng.integers(1, 6, shape), 0)
    slots.epochs_in_stage = np.where(occupied, rng.integers(1, 14, shape), 0)
    slots.accuracy_at_entry = accuracy[:, None] - rng.choice([-3.0, 0.25, 0.5, 4.0], shape)
    slots.curve = rng.integers(0, 5, shape).astype(np.int8)
    slots.gradient_health = rng.choice([np.nan, 0.0, 0.69, 0.7, 1.0], shape, p=[0.1, 0.1, 0.1, 0.2, 0.5])
    slots.exploding = rng.random(shape) < 0.2
    slots.measured = np.where(rng.random(shape) < 0.7, 3, NEVER)
    slots.contribution = rng.choice([-2.0, 0.9, 1.0, 5.0], shape)

    waiting = (slots.stage == STAGES.index("GERMINATED")) | (slots.stage == STAGES.index("TRAINING"))
    blending, holding = slots.stage == STAGES.index("BLENDING"), slots.stage == STAGES.index("HOLDING")
    fossil = slots.stage == STAGES.index("FOSSILIZED")
    steps = rng.choice([3, 5, 8], shape)
    ago = rng.integers(0, 12, shape)
    removing = (blending | holding) & (rng.random(shape) < 0.2)
    goal = rng.choice(TARGET_ALPHAS, shape, p=[0.2, 0.2, 0.6])
    slots.target = np.where(waiting | blending, goal, np.where(holding | fossil, 1.0, 0.0))
    slots.target[removing] = 0.0
    slots.start = np.where(removing, 1.0, np.where(fossil, 1.0, 0.0))
    slots.steps = np.where(waiting | blending | holding, steps, 0)
    # A ramp that removes a seed, and only that, can be under way in HOLDING; at its end the seed is gone.
    running_ago = np.minimum(ago, steps - 1)
    slots.begun = np.where(
        waiting,
        NOT_BEGUN,
        np.where(
            removing,
            epoch[:, None] - running_ago,
            np.where(blending | holding, epoch[:, None] - np.where(holding, steps + ago, ago), schedules.RESTING),
        ),
    )
    dormant = ~occupied
    slots.begun[dormant] = NOT_BEGUN
    return slots, epoch, accuracy


def read(
    slots: Slots, epoch: np.ndarray, accuracy: np.ndarray, env: int, config: LifecycleConfig, plantable: list[bool]
) -> Environment:
    """The reference in the state of one environment of the arrays."""
    seeds = []
    for s in range(slots.stage.shape[1]):
        done = int(epoch[env] - slots.begun[env, s])
        steps = int(slots.steps[env, s])
        ramp = None
        if 0 <= done < steps:
            curve = CURVES[slots.curve[env, s]]
            ramp = Ramp(float(slots.start[env, s]), float(slots.target[env, s]), steps, curve, done)
        rests_at = float(slots.target[env, s]) if slots.begun[env, s] != NOT_BEGUN else 0.0
        health = float(slots.gradient_health[env, s])
        seeds.append(
            Slot(
                stage=STAGES[slots.stage[env, s]],
                blueprint=int(slots.blueprint[env, s]),
                algorithm=ALGORITHMS[slots.algorithm[env, s]],
                age=int(slots.age[env, s]),
                epochs_in_stage=int(slots.epochs_in_stage[env, s]),
                accuracy_at_entry=float(slots.accuracy_at_entry[env, s]),
                plantings=int(slots.plantings[env, s]),
                alpha=rests_at if ramp is None else ramp.alpha(),
                alpha_target=float(slots.target[env, s]),
                ramp=ramp,
                first_ramp=(steps, CURVES[slots.curve[env, s]]),
                health=None if math.isnan(health) else health,
                exploding=bool(slots.exploding[env, s]),
                measured=int(slots.measured[env, s]) != NEVER,
                contribution=float(slots.contribution[env, s]),
            )
        )
    return Environment(len(seeds), config, plantable, float(accuracy[env]), seeds)
