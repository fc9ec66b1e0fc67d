"""The naive reference's records and its observation: plain Python, one number at a time."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

STAGES = (
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
)
PRESENT = ("GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED")
ALGORITHMS = ("ADD", "MULTIPLY", "GATE")
MODES = ("HOLD", "RAMP", "STEP")
OPS = ("WAIT", "GERMINATE", "SET_ALPHA_TARGET", "PRUNE", "FOSSILIZE", "ADVANCE")
VANISHING, EXPLODING = 1e-7, 10.0

Coalition = tuple[int, ...]


@dataclass
class SlotRecord:
    """What is known about a slot."""

    stage: str = "DORMANT"
    algorithm: str = "ADD"
    age: int = 0
    epochs_in_stage: int = 0
    params: int = 0
    alpha: float = 0.0
    alpha_target: float = 0.0
    mode: str = "HOLD"
    velocity: float = 0.0
    time_to_target: int = 0
    contribution: float = 0.0
    contribution_velocity: float = 0.0
    interaction_sum: float = 0.0
    boost_received: float = 0.0
    shapley: float = 0.0
    measured: int | None = None
    gradient_norm: float = 0.0
    gradient_health: float | None = None
    vanishing: bool = False
    exploding: bool = False

    def measure_gradients(self, norms: list[float], total: float) -> None:
        """Health and flags from the norm of every tensor, averaged over the epoch."""
        vanishing = sum(n < VANISHING for n in norms)
        exploding = sum(not n <= EXPLODING for n in norms)
        health = 1 - 0.5 * vanishing / len(norms) - 0.8 * exploding / len(norms)
        self.gradient_norm = total
        self.gradient_health = min(max(health, 0.0), 1.0)
        self.vanishing, self.exploding = vanishing > 0, exploding > 0


@dataclass
class HostRecord:
    """What is known about a host's training, and its slots."""

    slots: list[SlotRecord]
    epoch: int = 0
    train_loss: float = 0.0
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=10))
    accuracies: deque[float] = field(default_factory=lambda: deque(maxlen=10))
    loss_delta: float = 0.0
    accuracy_delta: float = 0.0
    plateau: int = 0
    stable_run: int = 0
    stabilized: bool = False
    best_loss: float = math.inf
    best_accuracy: float = 0.0
    last_op: str = "WAIT"
    last_success: bool = True

    def validated(self, loss: float, accuracy: float) -> None:
        """Bring the signals up to date with a validation."""
        if self.losses:
            previous = self.losses[-1]
            self.loss_delta, self.accuracy_delta = previous - loss, accuracy - self.accuracies[-1]
            self.plateau = self.plateau + 1 if self.accuracy_delta < 0.5 else 0
            stable = self.epoch >= 2 and -0.05 * previous < self.loss_delta < 0.03 * previous
            self.stable_run = self.stable_run + 1 if stable else 0
            self.stabilized = self.stabilized or self.stable_run >= 3
        self.losses.append(loss)
        self.accuracies.append(accuracy)
        self.best_loss = min(self.best_loss, loss)
        self.best_accuracy = max(self.best_accuracy, accuracy)

    def credit(self, active: list[int], values: dict[Coalition, float]) -> None:
        """Contributions, interactions and Shapley values from the accuracy of every coalition."""
        everything, n = tuple(active), len(active)
        for slot in active:
            record = self.slots[slot]
            others = [other for other in active if other != slot]
            contribution = values[everything] - values[tuple(others)]
            if record.measured is not None:
                change = contribution - record.contribution
                record.contribution_velocity = 0.7 * record.contribution_velocity + 0.3 * change
            interactions = [
                values[tuple(sorted((slot, other)))] - values[(slot,)] - values[(other,)] + values[()]
                for other in others
            ]
            record.contribution = contribution
            record.interaction_sum = sum(interactions)
            record.boost_received = max([0.0, *interactions])
            record.shapley = 0.0
            for coalition, value in values.items():
                if slot in coalition:
                    k = len(coalition)
                    weight = math.factorial(k - 1) * math.factorial(n - k) / math.factorial(n)
                    without = tuple(other for other in coalition if other != slot)
                    record.shapley += weight * (value - values[without])
            record.measured = self.epoch


def clamp(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def observe(host: HostRecord, max_epochs: int, budget: float) -> list[float]:
    """The observation, number by number."""
    row = observe_host(host, max_epochs, budget)
    for index in range(len(host.slots)):
        row += observe_slot(host, index)
    return row


def observe_host(host: HostRecord, max_epochs: int, budget: float) -> list[float]:
    losses, accuracies = list(host.losses), list(host.accuracies)
    stages = [slot.stage for slot in host.slots]
    params = sum(slot.params for slot in host.slots if slot.stage in PRESENT)
    row = [
        host.epoch / max_epochs,
        min(math.log(1 + losses[-1]) / math.log(11), 2),
        clamp(host.loss_delta, -2, 2) / 2,
        accuracies[-1] / 100,
        clamp(host.accuracy_delta, -10, 10) / 10,
        clamp(host.plateau, 0, 20) / 20,
        float(host.stabilized),
        clamp(-trend(losses), -2, 2) / 2,
        min(math.log(1 + deviation(losses)) / math.log(3), 1),
        clamp(trend(accuracies), -10, 10) / 10,
        min(math.log(1 + deviation(accuracies)) / math.log(11), 1),
        host.best_accuracy / 100,
        min(math.log(1 + host.best_loss) / math.log(11), 2),
        min(math.log(1 + params) / math.log(1 + budget), 2),
        sum(stage in PRESENT for stage in stages) / len(stages),
        stages.count("TRAINING") / len(stages),
        stages.count("BLENDING") / len(stages),
        stages.count("HOLDING") / len(stages),
        float(host.last_success),
    ]
    row += [float(host.last_op == op) for op in OPS]
    return row


def trend(history: list[float]) -> float:
    deltas = [b - a for a, b in pairwise(history)][-5:]
    return sum(deltas) / len(deltas) if deltas else 0.0


def deviation(history: list[float]) -> float:
    recent = history[-5:]
    mean = sum(recent) / len(recent)
    return math.sqrt(sum((x - mean) ** 2 for x in recent) / len(recent))


def observe_slot(host: HostRecord, index: int) -> list[float]:
    slot = host.slots[index]
    active = slot.stage != "DORMANT"
    row = [float(active)]
    row += [float(active and slot.stage == stage) for stage in STAGES]
    norm = slot.gradient_norm if math.isfinite(slot.gradient_norm) else 10.0
    row += [
        slot.alpha,
        slot.alpha_target,
        MODES.index(slot.mode) / 2,
        clamp(slot.velocity, -1, 1),
        clamp(slot.time_to_target / 8, 0, 1),
        ALGORITHMS.index(slot.algorithm) / 2,
        clamp(slot.contribution, -10, 10) / 10,
        clamp(slot.contribution_velocity, -10, 10) / 10,
        clamp(slot.epochs_in_stage, 0, 50) / 50,
        clamp(norm, 0, 10) / 10,
        0.0 if slot.gradient_health is None else slot.gradient_health,
        float(slot.vanishing),
        float(slot.exploding),
        clamp(slot.interaction_sum, -10, 10) / 10,
        clamp(slot.boost_received, 0, 5) / 5,
        clamp(sum(other.alpha for other in host.slots[:index]), 0, 3) / 3,
        clamp(sum(other.alpha for other in host.slots[index + 1 :]), 0, 3) / 3,
        0.0 if slot.measured is None else 0.8 ** (host.epoch - slot.measured),
    ]
    return row
