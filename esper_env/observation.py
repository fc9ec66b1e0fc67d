"""The observation, Obs V3: one table of features, and the function that fills it for many environments at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import log, log1p

import numpy as np
import numpy.typing as npt

from esper_env.actions import Algorithm, Op
from esper_env.arrays import Floats, Ints
from esper_env.lifecycle import alpha as schedules
from esper_env.lifecycle.alpha import Ramps
from esper_env.lifecycle.stages import OCCUPIED, PRESENT, Stage
from esper_env.lifecycle.state import NEVER, Slots
from esper_env.signals import Signals, trend, volatility

FRESHNESS_DECAY = 0.8


@dataclass(frozen=True)
class Feature:
    """One number of the observation: the raw quantity divided by `unit`, clamped to `[low, high]`."""

    name: str
    formula: str
    low: float
    high: float
    unit: float = 1.0


BASE_FEATURES: tuple[Feature, ...] = (
    Feature("epoch_progress", "epoch / max_epochs", 0, 1),
    Feature("loss_norm", "min(log(1 + loss) / log 11, 2)", 0, 2, log(11)),
    Feature("loss_delta", "clamp(previous - present loss, ±2) / 2", -1, 1, 2),
    Feature("accuracy", "accuracy / 100", 0, 1, 100),
    Feature("accuracy_delta", "clamp(present - previous accuracy, ±10) / 10", -1, 1, 10),
    Feature("plateau", "clamp(plateau epochs, 0, 20) / 20", 0, 1, 20),
    Feature("host_stabilized", "1 once the loss has been stable, latched", 0, 1),
    Feature("loss_trend", "clamp(mean of the last 5 loss deltas, ±2) / 2", -1, 1, 2),
    Feature("loss_volatility", "min(log(1 + std of the last 5 losses) / log 3, 1)", 0, 1, log(3)),
    Feature("accuracy_trend", "clamp(mean of the last 5 accuracy deltas, ±10) / 10", -1, 1, 10),
    Feature("accuracy_volatility", "min(log(1 + std of the last 5 accuracies) / log 11, 1)", 0, 1, log(11)),
    Feature("best_accuracy", "best accuracy / 100", 0, 1, 100),
    Feature("best_loss", "min(log(1 + best loss) / log 11, 2)", 0, 2, log(11)),
    Feature("params_utilization", "min(log(1 + params of present seeds) / log(1 + budget), 2)", 0, 2),
    Feature("slot_utilization", "fraction of slots with a live or fossilized seed", 0, 1),
    Feature("fraction_training", "fraction of slots in TRAINING", 0, 1),
    Feature("fraction_blending", "fraction of slots in BLENDING", 0, 1),
    Feature("fraction_holding", "fraction of slots in HOLDING", 0, 1),
    Feature("last_action_success", "1 if the last action was executed", 0, 1),
    *(Feature(f"last_action_op_{op.name.lower()}", f"1 if the last op asked for was {op.name}", 0, 1) for op in Op),
)

SLOT_FEATURES: tuple[Feature, ...] = (
    Feature("is_active", "1 unless the slot is DORMANT", 0, 1),
    *(Feature(f"stage_{s.name.lower()}", f"1 if active and in {s.name}", 0, 1) for s in Stage),
    Feature("alpha", "present alpha", 0, 1),
    Feature("alpha_target", "target of the alpha schedule", 0, 1),
    Feature("alpha_mode", "index of HOLD, RAMP, STEP / 2", 0, 1),
    Feature("alpha_velocity", "clamp((target - start) / steps of the running schedule, ±1)", -1, 1),
    Feature("time_to_target", "epochs until the running schedule ends / 8", 0, 1, 8),
    Feature("algorithm", "index of ADD, MULTIPLY, GATE / 2", 0, 1),
    Feature("contribution", "clamp(contribution, ±10) / 10", -1, 1, 10),
    Feature("contribution_velocity", "clamp(contribution velocity, ±10) / 10", -1, 1, 10),
    Feature("epochs_in_stage", "clamp(epochs in stage, 0, 50) / 50", 0, 1, 50),
    Feature("gradient_norm", "clamp(gradient norm, 0, 10) / 10, 1 when not finite", 0, 1, 10),
    Feature("gradient_health", "gradient health, 0 when unmeasured", 0, 1),
    Feature("gradient_vanishing", "1 if a gradient vanishes", 0, 1),
    Feature("gradient_exploding", "1 if a gradient explodes", 0, 1),
    Feature("interaction_sum", "clamp(sum of interactions, ±10) / 10", -1, 1, 10),
    Feature("boost_received", "clamp(greatest positive interaction, 0, 5) / 5", 0, 1, 5),
    Feature("upstream_alpha", "clamp(sum of alphas of earlier slots, 0, 3) / 3", 0, 1, 3),
    Feature("downstream_alpha", "clamp(sum of alphas of later slots, 0, 3) / 3", 0, 1, 3),
    Feature("freshness", "0.8^(epochs since the counterfactual was measured), 0 when never", 0, 1),
)


@cache
def features(num_slots: int) -> tuple[Feature, ...]:
    """Every feature of an environment with `num_slots` slots, in the order of the observation."""
    per_slot = (replace(f, name=f"slot{s}_{f.name}") for s in range(num_slots) for f in SLOT_FEATURES)
    return (*BASE_FEATURES, *per_slot)


FEATURES = features(3)


def feature_bounds(num_slots: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The lowest and highest value of every feature."""
    low, high, _ = _scales(1, num_slots)
    return low[0].copy(), high[0].copy()


@cache
def _scales(envs: int, num_slots: int) -> tuple[npt.NDArray[np.float32], ...]:
    """Low, high and unit of every feature, `[envs, features]` each: repeated, for broadcasting would take longer."""
    rows = np.array([(f.low, f.high, f.unit) for f in features(num_slots)], np.float32)
    return tuple(np.tile(scale, (envs, 1)) for scale in rows.T)


# Enums become numbers through these tables, never by arithmetic on their values.
_ACTIVE: Floats = OCCUPIED.astype(np.float32)
_STAGE_COLUMNS: Floats = np.column_stack((_ACTIVE, np.eye(len(Stage), dtype=np.float32) * _ACTIVE))
_STAGE_SHARES: Floats = np.stack((PRESENT, *np.eye(len(Stage))[[Stage.TRAINING, Stage.BLENDING, Stage.HOLDING]]))
_OP_COLUMNS: Floats = np.eye(len(Op), dtype=np.float32)
_ALGORITHM_LEVEL: Floats = np.zeros(len(Algorithm), np.float32)
_ALGORITHM_LEVEL[[Algorithm.ADD, Algorithm.MULTIPLY, Algorithm.GATE]] = 0, 0.5, 1
_STAGES = _STAGE_COLUMNS.shape[1]
_MODE_LEVEL: Floats = np.zeros(3, np.float32)
_MODE_LEVEL[[schedules.HOLD, schedules.RAMP, schedules.STEP]] = 0, 0.5, 1


def encode(
    signals: Signals, slots: Slots, *, max_epochs: int, budget: float, ramps: Ramps | None = None
) -> npt.NDArray[np.float32]:
    """The features `[envs, 25 + 29 * slots]` of the present state.

    Raw quantities are gathered in the order of the table, then scaled and clamped all together, which keeps every
    value inside its bounds whatever the state; NaN becomes the upper bound. `ramps` are the schedules at this epoch,
    where they are known already.
    """
    envs, num_slots = slots.stage.shape
    low, high, unit = _scales(envs, num_slots)
    out = np.empty(unit.shape, np.float32)
    # A view, because only the last axis is split.
    per_slot = out[:, len(BASE_FEATURES) :].reshape(envs, num_slots, len(SLOT_FEATURES))
    with np.errstate(all="ignore"):
        out[:, : len(BASE_FEATURES)] = _base_columns(signals, slots, max_epochs, budget).T
        per_slot[..., :_STAGES] = _STAGE_COLUMNS.take(slots.stage, axis=0)
        per_slot[..., _STAGES:] = _slot_columns(slots, signals.epoch, ramps).transpose(1, 2, 0)
        out /= unit
        np.fmin(out, high, out=out)
        np.fmax(out, low, out=out)
    return out


def _base_columns(signals: Signals, slots: Slots, max_epochs: int, budget: float) -> npt.NDArray[np.float32]:
    """The features of the host `[feature, env]`, in the order of `BASE_FEATURES`.

    Environments come last wherever something is added up: NumPy is quick along the last axis, which should be long.
    """
    histories = np.array((signals.loss_history.T, signals.accuracy_history.T)).transpose(0, 2, 1)
    loss_trend, accuracy_trend = trend(histories, signals.epoch)
    stage = slots.stage.T
    shares = _STAGE_SHARES.take(stage, axis=1)
    params = (shares[0] * slots.params.T).sum(0)
    loss, best_loss, size, loss_volatility, accuracy_volatility = np.log1p(
        (signals.loss, signals.best_loss, params, *volatility(histories, signals.epoch))
    )
    columns = (
        signals.epoch / max_epochs,
        loss,
        signals.loss_delta,
        signals.accuracy,
        signals.accuracy_delta,
        signals.plateau,
        signals.stabilized,
        -loss_trend,
        loss_volatility,
        accuracy_trend,
        accuracy_volatility,
        signals.best_accuracy,
        best_loss,
        size / max(log1p(budget), 1e-9),
        (shares.sum(1) / len(stage)).ravel(),
        signals.last_success,
        _OP_COLUMNS.take(signals.last_op, axis=1).ravel(),
    )
    flat = np.concatenate(columns, dtype=np.float32, casting="same_kind")
    return flat.reshape(len(BASE_FEATURES), -1)


def _slot_columns(slots: Slots, epoch: Ints, ramps: Ramps | None) -> npt.NDArray[np.float32]:
    """The features of the slots `[feature, env, slot]`, in the order of `SLOT_FEATURES`, from alpha on."""
    ramps = ramps or Ramps.at(slots, epoch)
    freshness = FRESHNESS_DECAY ** (epoch[:, None] - slots.measured)
    columns = (
        ramps.alpha,
        slots.target,
        _MODE_LEVEL.take(schedules.mode(slots, epoch, ramps)),
        schedules.velocity(slots, epoch, ramps),
        schedules.time_to_target(slots, epoch, ramps),
        _ALGORITHM_LEVEL.take(slots.algorithm),
        slots.contribution,
        slots.contribution_velocity,
        slots.epochs_in_stage,
        slots.gradient_norm,
        np.fmax(slots.gradient_health, 0.0),
        slots.vanishing,
        slots.exploding,
        slots.interaction_sum,
        slots.boost_received,
        *_sides(ramps.alpha),
        freshness * (slots.measured != NEVER),
    )
    return np.array(columns, np.float32)


def _sides(alpha: Floats) -> Floats:
    """`[side, env, slot]`: the sum of the alphas that lie upstream (0) or downstream (1) of each slot."""
    others = _others(alpha.shape[1])[..., None] * np.ascontiguousarray(alpha.T)
    return np.asarray(others.sum(2).transpose(0, 2, 1))


@cache
def _others(num_slots: int) -> Floats:
    """`[side, slot, other]`: does the other slot lie upstream (0) or downstream (1) of the slot?"""
    slot, other = np.indices((num_slots, num_slots))
    return np.stack((other < slot, other > slot)).astype(float)
