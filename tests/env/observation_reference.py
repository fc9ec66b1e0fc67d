"""The observation, one number at a time, straight from the text: slow, obvious, and independent of the encoder."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

PRESENT = ("GERMINATED", "TRAINING", "BLENDING", "HOLDING", "FOSSILIZED")
STAGES = ("UNKNOWN", "DORMANT", *PRESENT, "PRUNED", "EMBARGOED", "RESETTING")
NOT_BEGUN, NEVER = 1_000_000, -1


def clamp(x, low, high):
    if math.isnan(x):
        return high
    return min(max(x, low), high)


def log1p(x):
    if math.isnan(x) or x == math.inf:
        return math.inf
    return math.log(1 + x)


def ease(t, curve):
    if curve == 0:
        return t
    if curve == 1:
        return (1 - math.cos(math.pi * t)) / 2
    k = {2: 6.0, 3: 12.0, 4: 24.0}[curve]

    def logistic(x):
        return 1 / (1 + math.exp(-k * (x - 0.5)))

    return (logistic(t) - logistic(0)) / (logistic(1) - logistic(0))


class Seed:
    """One slot as plain numbers."""

    def __init__(self, slots, env, slot, epoch):
        for name, array in vars(slots).items():
            setattr(self, name, array[env, slot].item())
        self.stage = STAGES[self.stage]
        waiting = self.begun == NOT_BEGUN
        k = 0 if waiting else max(epoch - self.begun, 0)
        self.running = not waiting and k < self.steps
        if waiting:
            self.alpha = self.start
        elif self.running:
            self.alpha = self.start + (self.target - self.start) * ease(k / self.steps, self.curve)
        else:
            self.alpha = self.target
        self.remaining = self.steps - k if self.running else 0
        stepped = self.steps == 0 and self.begun == epoch - 1
        self.mode = "RAMP" if self.running else "STEP" if stepped else "HOLD"


def recent(history, epoch, count):
    """The last `count` real values of a history."""
    return [float(x) for x in history][-min(epoch + 1, 10) :][-count:]


def mean_change(history, epoch):
    values = recent(history, epoch, 6)
    changes = [b - a for a, b in pairwise(values)]
    return sum(changes) / len(changes) if changes else 0.0


def deviation(history, epoch):
    values = recent(history, epoch, 5)
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((x - mean) ** 2 for x in values) / len(values))


def base(signals, env, seeds, max_epochs, budget):
    epoch = signals.epoch[env].item()
    loss_history, accuracy_history = signals.loss_history[env], signals.accuracy_history[env]

    def loss_norm(loss):
        return clamp(log1p(loss) / math.log(11), 0, 2)

    def share(*stages):
        return sum(seed.stage in stages for seed in seeds) / len(seeds)

    params = sum(seed.params for seed in seeds if seed.stage in PRESENT)
    row = [
        clamp(epoch / max_epochs, 0, 1),
        loss_norm(signals.loss[env]),
        clamp(signals.loss_delta[env], -2, 2) / 2,
        clamp(signals.accuracy[env] / 100, 0, 1),
        clamp(signals.accuracy_delta[env], -10, 10) / 10,
        clamp(signals.plateau[env], 0, 20) / 20,
        1.0 if signals.stabilized[env] else 0.0,
        clamp(-mean_change(loss_history, epoch), -2, 2) / 2,
        clamp(log1p(deviation(loss_history, epoch)) / math.log(3), 0, 1),
        clamp(mean_change(accuracy_history, epoch), -10, 10) / 10,
        clamp(log1p(deviation(accuracy_history, epoch)) / math.log(11), 0, 1),
        clamp(signals.best_accuracy[env] / 100, 0, 1),
        loss_norm(signals.best_loss[env]),
        clamp(math.log(1 + params) / math.log(1 + budget), 0, 2),
        share(*PRESENT),
        share("TRAINING"),
        share("BLENDING"),
        share("HOLDING"),
        1.0 if signals.last_success[env] else 0.0,
    ]
    return row + [1.0 if signals.last_op[env] == op else 0.0 for op in range(6)]


def per_slot(seeds, index, epoch):
    seed = seeds[index]
    active = seed.stage != "DORMANT"
    norm = seed.gradient_norm if math.isfinite(seed.gradient_norm) else 10.0
    health = 0.0 if math.isnan(seed.gradient_health) else seed.gradient_health
    since = epoch - seed.measured
    row = [1.0 if active else 0.0]
    row += [1.0 if active and seed.stage == stage else 0.0 for stage in STAGES]
    row += [
        clamp(seed.alpha, 0, 1),
        clamp(seed.target, 0, 1),
        {"HOLD": 0, "RAMP": 1, "STEP": 2}[seed.mode] / 2,
        clamp((seed.target - seed.start) / seed.steps, -1, 1) if seed.running else 0.0,
        clamp(seed.remaining / 8, 0, 1),
        seed.algorithm / 2,
        clamp(seed.contribution, -10, 10) / 10,
        clamp(seed.contribution_velocity, -10, 10) / 10,
        clamp(seed.epochs_in_stage, 0, 50) / 50,
        clamp(norm, 0, 10) / 10,
        clamp(health, 0, 1),
        1.0 if seed.vanishing else 0.0,
        1.0 if seed.exploding else 0.0,
        clamp(seed.interaction_sum, -10, 10) / 10,
        clamp(seed.boost_received, 0, 5) / 5,
        clamp(sum(other.alpha for other in seeds[:index]), 0, 3) / 3,
        clamp(sum(other.alpha for other in seeds[index + 1 :]), 0, 3) / 3,
        0.0 if seed.measured == NEVER else clamp(0.8**since, 0, 1),
    ]
    return row


def encode(signals, slots, *, max_epochs, budget):
    """The same as `esper_env.observation.encode`, in plain Python."""
    envs, num_slots = slots.stage.shape
    rows = []
    for env in range(envs):
        epoch = signals.epoch[env].item()
        seeds = [Seed(slots, env, slot, epoch) for slot in range(num_slots)]
        row = base(signals, env, seeds, max_epochs, budget)
        for index in range(num_slots):
            row += per_slot(seeds, index, epoch)
        rows.append(row)
    return np.array(rows)
