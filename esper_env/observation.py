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
from esper_env.lifecycle.stages import PRESENT, Stage
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
    low, high, _ = _scales(num_slots)
    return low.copy(), high.copy()


@cache
def _scales(num_slots: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    rows = np.array([(f.low, f.high, f.unit) for f in features(num_slots)], np.float32)
    low, high, unit = np.ascontiguousarray(rows.T)
    return low, high, unit


# Where each feature lies: `out[:, _BASE["loss_norm"]]`, `out[:, slot, _SLOT["alpha"]]`.
_BASE = {f.name: i for i, f in enumerate(BASE_FEATURES)}
_SLOT = {f.name: i for i, f in enumerate(SLOT_FEATURES)}

# Enums become numbers through these tables, never by arithmetic on their values.
_ACTIVE: Floats = np.array([stage != Stage.DORMANT for stage in Stage], np.float32)
_STAGE_COLUMNS: Floats = np.column_stack((_ACTIVE, np.eye(len(Stage), dtype=np.float32) * _ACTIVE))
_STAGE_SHARES: Floats = np.column_stack(
    (PRESENT, np.eye(len(Stage))[:, [Stage.TRAINING, Stage.BLENDING, Stage.HOLDING]])
)
_OP_COLUMNS: Floats = np.eye(len(Op), dtype=np.float32)
_ALGORITHM_LEVEL: Floats = np.zeros(len(Algorithm), np.float32)
_ALGORITHM_LEVEL[[Algorithm.ADD, Algorithm.MULTIPLY, Algorithm.GATE]] = 0, 0.5, 1
_MODE_LEVEL: Floats = np.zeros(3, np.float32)
_MODE_LEVEL[[schedules.HOLD, schedules.RAMP, schedules.STEP]] = 0, 0.5, 1

_SHARE_COLUMNS = slice(_BASE["slot_utilization"], _BASE["fraction_holding"] + 1)
_OP_SLICE = slice(_BASE["last_action_op_wait"], len(BASE_FEATURES))
_STAGE_SLICE = slice(_SLOT["is_active"], _SLOT["alpha"])
_SIDES = slice(_SLOT["upstream_alpha"], _SLOT["downstream_alpha"] + 1)
_SIGNAL_COLUMNS = tuple(
    (_BASE[feature], field)
    for feature, field in (
        ("loss_delta", "loss_delta"),
        ("accuracy", "accuracy"),
        ("accuracy_delta", "accuracy_delta"),
        ("plateau", "plateau"),
        ("host_stabilized", "stabilized"),
        ("best_accuracy", "best_accuracy"),
        ("last_action_success", "last_success"),
    )
)
_SLOT_COLUMNS = tuple(
    (_SLOT[feature], field)
    for feature, field in (
        ("alpha_target", "target"),
        ("contribution", "contribution"),
        ("contribution_velocity", "contribution_velocity"),
        ("epochs_in_stage", "epochs_in_stage"),
        ("gradient_norm", "gradient_norm"),
        ("gradient_vanishing", "vanishing"),
        ("gradient_exploding", "exploding"),
        ("interaction_sum", "interaction_sum"),
        ("boost_received", "boost_received"),
    )
)


def encode(signals: Signals, slots: Slots, *, max_epochs: int, budget: float) -> npt.NDArray[np.float32]:
    """The features `[envs, 25 + 29 * slots]` of the present state.

    Raw quantities are written into their columns, then all columns are scaled and clamped together, which keeps
    every value inside its bounds whatever the state; NaN becomes the upper bound.
    """
    envs, num_slots = slots.stage.shape
    low, high, unit = _scales(num_slots)
    out = np.empty((envs, len(unit)), np.float32)
    # A view, because only the last axis is split.
    per_slot = out[:, len(BASE_FEATURES) :].reshape(envs, num_slots, len(SLOT_FEATURES))
    with np.errstate(all="ignore"):
        _write_base(out, signals, slots, max_epochs, budget)
        _write_slots(per_slot, slots, signals.epoch)
        out /= unit
        np.fmin(out, high, out=out)
        np.fmax(out, low, out=out)
    return out


def _write_base(out: npt.NDArray[np.float32], signals: Signals, slots: Slots, max_epochs: int, budget: float) -> None:
    for column, field in _SIGNAL_COLUMNS:
        out[:, column] = getattr(signals, field)
    out[:, _BASE["epoch_progress"]] = signals.epoch / max_epochs
    out[:, _OP_SLICE] = _OP_COLUMNS[signals.last_op]

    histories = np.stack((signals.loss_history, signals.accuracy_history))
    loss_trend, accuracy_trend = trend(histories, signals.epoch)
    out[:, _BASE["loss_trend"]] = -loss_trend
    out[:, _BASE["accuracy_trend"]] = accuracy_trend

    present_params = (slots.params * PRESENT[slots.stage]).sum(1)
    logs = np.log1p((signals.loss, signals.best_loss, present_params, *volatility(histories, signals.epoch)))
    out[:, _BASE["loss_norm"]] = logs[0]
    out[:, _BASE["best_loss"]] = logs[1]
    out[:, _BASE["params_utilization"]] = logs[2] / max(log1p(budget), 1e-9)
    out[:, _BASE["loss_volatility"]] = logs[3]
    out[:, _BASE["accuracy_volatility"]] = logs[4]
    out[:, _SHARE_COLUMNS] = _STAGE_SHARES[slots.stage].sum(1) / slots.stage.shape[1]


def _write_slots(out: npt.NDArray[np.float32], slots: Slots, epoch: Ints) -> None:
    for column, field in _SLOT_COLUMNS:
        out[:, :, column] = getattr(slots, field)
    out[:, :, _STAGE_SLICE] = _STAGE_COLUMNS[slots.stage]
    out[:, :, _SLOT["gradient_health"]] = np.where(np.isnan(slots.gradient_health), 0.0, slots.gradient_health)
    out[:, :, _SLOT["algorithm"]] = _ALGORITHM_LEVEL[slots.algorithm]

    alpha = schedules.alpha(slots, epoch)
    out[:, :, _SLOT["alpha"]] = alpha
    out[:, :, _SLOT["alpha_mode"]] = _MODE_LEVEL[schedules.mode(slots, epoch)]
    out[:, :, _SLOT["alpha_velocity"]] = schedules.velocity(slots, epoch)
    out[:, :, _SLOT["time_to_target"]] = schedules.time_to_target(slots, epoch)
    out[:, :, _SIDES] = (alpha[:, None, :, None] * _sides(alpha.shape[1])).sum(2)

    since = epoch[:, None] - slots.measured
    out[:, :, _SLOT["freshness"]] = np.where(slots.measured == NEVER, 0.0, FRESHNESS_DECAY ** since.astype(float))


@cache
def _sides(num_slots: int) -> Floats:
    """`[slot, other, side]`: does the other slot lie upstream (0) or downstream (1) of the slot?"""
    slot, other = np.indices((num_slots, num_slots))
    return np.stack((other < slot, other > slot), 2).astype(float)
