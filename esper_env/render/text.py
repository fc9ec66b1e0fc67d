"""A frame as text for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import wrap

from esper_env.lifecycle.stages import BLENDED, Stage
from esper_env.render.frame import MEANING, Epoch, Frame, SlotView

WIDTH = 80
CURVE = 50
"""Columns of the curves, after the one of epoch 0; longer episodes are thinned out to fit."""
_LABEL = 10
_SPARKS = "▁▂▃▄▅▆▇█"
_MARKS = {
    Stage.UNKNOWN: "?",
    Stage.DORMANT: "·",
    Stage.GERMINATED: "g",
    Stage.TRAINING: "t",
    Stage.BLENDING: "b",
    Stage.HOLDING: "h",
    Stage.FOSSILIZED: "F",
    Stage.PRUNED: "x",
    Stage.EMBARGOED: "-",
    Stage.RESETTING: "-",
}
_ROLLBACK = "!"
_KEY = "g germinated, t training, b blending, h holding, F fossil, x pruned"


def text(frame: Frame) -> str:
    """A frame as a dozen lines: epoch, score, the life of every slot, what was done and what it paid."""
    lines = [
        _heading(frame),
        "",
        _curve(frame, frame.measure.name, _spark(lambda epoch: epoch.value), frame.measure.of(frame.now.value)),
        _curve(
            frame,
            "permanent",
            _spark(lambda epoch: epoch.committed),
            f"{frame.measure.of(frame.now.committed)} is kept",
        ),
        *(_curve(frame, f"slot {slot}", _life(slot), MEANING[view.stage]) for slot, view in enumerate(frame.slots)),
        *_labelled("", _KEY),
        "",
        *_table(frame.slots),
        "",
    ]
    if frame.action:
        terms = [f"{name} {value:+.3f}" for name, value in frame.terms.items() if abs(value) >= 0.0005]
        refused = "" if frame.executed else " (not legal: it waited)"
        lines += _labelled("action", frame.action + refused)
        lines += _labelled("news", "; ".join(map(str, frame.news())) or "-")
        lines += _labelled("reward", f"{frame.reward:+.3f} = {', '.join(terms) or 0}")
    if frame.verdict is not None:
        lines += _labelled("the end", f"{frame.verdict}, with what is permanent")
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def _labelled(label: str, words: str) -> list[str]:
    first, *rest = wrap(words, WIDTH - _LABEL) or [""]
    return [f"{label:<{_LABEL}}{first}", *(" " * _LABEL + line for line in rest)]


def _bar(share: float, width: int) -> str:
    full = round(min(max(share, 0.0), 1.0) * width)
    return "█" * full + "░" * (width - full)


def _heading(frame: Frame) -> str:
    bar = _bar(frame.now.number / frame.max_epochs, 20)
    seeds = sum(slot.params for slot in frame.slots)
    size = f"{frame.host_params} + {seeds} parameters"
    return f"Esper {frame.task}   epoch {frame.now.number} of {frame.max_epochs} {bar}   {size}"


def _curve(frame: Frame, label: str, mark: Callable[[Epoch], str], now: str) -> str:
    """A character per epoch, and what there is to say of the present; what was not watched stays blank."""
    first, last = frame.epochs[0].number, frame.now.number
    columns = min(CURVE, frame.max_epochs)
    shown = [*(column * frame.max_epochs // columns for column in range(last * columns // frame.max_epochs)), last]
    marks = "".join(" " if number < first else mark(frame.epochs[number - first]) for number in shown)
    return f"{label:<{_LABEL}}{marks:<{CURVE + 1}}  {now}"


def _spark(percent: Callable[[Epoch], float]) -> Callable[[Epoch], str]:
    return lambda epoch: _SPARKS[min(int(percent(epoch) / 100 * len(_SPARKS)), len(_SPARKS) - 1)]


def _life(slot: int) -> Callable[[Epoch], str]:
    return lambda epoch: _ROLLBACK if epoch.rolled_back else _MARKS[epoch.stages[slot]]


def _table(slots: tuple[SlotView, ...]) -> list[str]:
    rows = [("", "seed", "stage", "epochs", "alpha", "contribution", "params")]
    for number, slot in enumerate(slots):
        alpha = f"{_bar(slot.alpha, 7)} {slot.alpha:.2f}" if BLENDED[slot.stage] else ""
        if alpha and abs(slot.alpha - slot.target) > 1e-9:
            alpha += f"→{slot.target:g}"
        points = "" if slot.contribution is None else f"{slot.contribution:+.1f} points"
        age = "" if slot.stage == Stage.DORMANT else str(slot.epochs_in_stage)
        params = str(slot.params) if slot.params else ""
        rows.append((f"slot {number}", slot.blueprint or "-", slot.stage.name, age, alpha, points, params))
    widths = [_LABEL - 2, *(max(len(row[i]) for row in rows) for i in range(1, len(rows[0])))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
