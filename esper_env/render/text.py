"""A frame as text for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import wrap

from esper_env.lifecycle.stages import BLENDED, Stage
from esper_env.render.frame import Epoch, Frame, SlotView

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
        *_heading(frame),
        "",
        _curve(frame, frame.measure.name, _spark(lambda epoch: epoch.value), frame.measure.of(frame.now.value)),
        _curve(
            frame,
            "permanent",
            _spark(lambda epoch: epoch.committed),
            f"{frame.measure.of(frame.now.committed)} is kept",
        ),
        *(_curve(frame, f"slot {slot}", _life(slot), view.meaning) for slot, view in enumerate(frame.slots)),
        *_labelled("", _KEY),
        *(_labelled("", f"{frame.measure.name}: {frame.measure.scale}") if frame.measure.scale else ()),
        "",
        *_table(frame.slots),
        "",
    ]
    if frame.action:
        terms = [f"{name} {value:+.3f}" for name, value in frame.terms.items() if abs(value) >= 0.0005]
        refused = "" if frame.executed else " (not legal: it waited)"
        lines += _labelled("action", frame.action + refused)
        lines += _labelled("news", "; ".join(map(str, frame.news())) or "-")
        lines += _labelled("reward", f"{frame.reward:+z.3f} = {', '.join(terms) or 0}")
    if frame.verdict is not None:
        lines += _labelled("the end", f"{frame.verdict}, with what is permanent")
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def _labelled(label: str, words: str) -> list[str]:
    first, *rest = wrap(words, WIDTH - _LABEL) or [""]
    return [f"{label:<{_LABEL}}{first}", *(" " * _LABEL + line for line in rest)]


def _bar(share: float, width: int) -> str:
    full = round(min(max(share, 0.0), 1.0) * width)
    return "█" * full + "░" * (width - full)


def _heading(frame: Frame) -> list[str]:
    """The episode, its place in it and the size of the network: on one line, or on more where they are long."""
    bar = _bar(frame.now.number / frame.max_epochs, 20)
    seeds = sum(slot.params for slot in frame.slots)
    lines = [f"Esper {frame.task}"]
    for part in (f"epoch {frame.now.number} of {frame.max_epochs} {bar}", f"{frame.host_params} + {seeds} parameters"):
        longer = f"{lines[-1]}   {part}"
        lines[-1:] = [longer] if len(longer) <= WIDTH else [lines[-1], part]
    return lines


def _curve(frame: Frame, label: str, mark: Callable[[Epoch], str], now: str) -> str:
    """A character per epoch, and what there is to say of the present; what was not watched stays blank."""
    first, last = frame.epochs[0].number, frame.now.number
    columns = min(CURVE, frame.max_epochs)
    shown = [*(column * frame.max_epochs // columns for column in range(last * columns // frame.max_epochs)), last]
    marks = "".join(" " if number < first else mark(frame.epochs[number - first]) for number in shown)
    return f"{label:<{_LABEL}}{marks:<{CURVE + 1}} {now}"


def _spark(percent: Callable[[Epoch], float]) -> Callable[[Epoch], str]:
    return lambda epoch: _SPARKS[min(int(percent(epoch) / 100 * len(_SPARKS)), len(_SPARKS) - 1)]


def _life(slot: int) -> Callable[[Epoch], str]:
    return lambda epoch: _ROLLBACK if epoch.rolled_back else _MARKS[epoch.stages[slot]]


def _table(slots: tuple[SlotView, ...]) -> list[str]:
    """What is known of every seed; the bars of alpha take what room there is."""
    return next(lines for bar in range(7, -1, -1) if max(map(len, lines := _rows(slots, bar))) <= WIDTH or not bar)


def _rows(slots: tuple[SlotView, ...], bar: int) -> list[str]:
    rows = [("", "seed", "stage", "epochs", "blend", "alpha", "worth", "params")]
    for number, slot in enumerate(slots):
        alpha = f"{_bar(slot.alpha, bar)} {slot.alpha:.2f}".lstrip() if BLENDED[slot.stage] else ""
        age = "" if slot.stage == Stage.DORMANT else str(slot.epochs_in_stage)
        params = str(slot.params) if slot.params else ""
        seed = slot.blueprint or "-"
        rows.append((f"slot {number}", seed, slot.stage.name, age, slot.blend, alpha, slot.worth, params))
    widths = [_LABEL - 2, *(max(len(row[i]) for row in rows) for i in range(1, len(rows[0])))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
