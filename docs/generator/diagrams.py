"""Drawings as SVG inside the page, in the colours of its theme, so that they suit light and dark alike."""

from __future__ import annotations

from html import escape

import numpy as np

from docs.generator.lifecycle import CLOCK, causes
from esper_env.actions import Curve
from esper_env.lifecycle.alpha import ease
from esper_env.lifecycle.stages import BLENDED, COOLDOWN, Stage
from esper_env.network.cnn import CnnHost
from esper_env.network.transformer import TransformerHost

PLACES = {
    Stage.DORMANT: (0, 0),
    Stage.GERMINATED: (1, 0),
    Stage.TRAINING: (2, 0),
    Stage.BLENDING: (3, 0),
    Stage.HOLDING: (4, 0),
    Stage.FOSSILIZED: (5, 0),
    Stage.PRUNED: (2.5, 1),
    Stage.EMBARGOED: (1.5, 1),
    Stage.RESETTING: (0.5, 1),
}
"""Where each stage stands, in columns and rows."""
COLUMN, ROW, WIDTH, HEIGHT = 136, 126, 100, 38


def _figure(kind: str, label: str, width: float, height: float, parts: list[str]) -> str:
    """An image with a name for those who can't see it; without blank lines, which would end the HTML block."""
    inside = "".join(parts)
    return (
        f'<figure class="drawing {kind}"><svg viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(label)}" style="max-width: {width:g}px">{inside}</svg></figure>'
    )


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def lifecycle() -> str:
    """The legal transitions, each with what causes it."""
    parts = [
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" class="tip"/></marker></defs>'
    ]
    for (before, after), why in causes().items():
        parts.append(_arrow(before, after, why))
    for stage in PLACES:
        x, y = _center(stage)
        kind = "cooldown" if COOLDOWN[stage] else "blended" if BLENDED[stage] else "plain"
        left, top = x - WIDTH / 2, y - HEIGHT / 2
        parts.append(f'<rect class="{kind}" x="{left:g}" y="{top:g}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>')
        parts.append(_text(x, y + 4, stage.name, "name"))
    width = 5 * COLUMN + WIDTH + 16
    parts += [
        _text(width - 8, 210, "solid: an op of the agent", "small end"),
        _text(width - 8, 226, "dashed: the clock", "small end"),
    ]
    return _figure("lifecycle", "The stages of a seed and the legal transitions", width, 245, parts)


def _center(stage: Stage) -> tuple[float, float]:
    column, row = PLACES[stage]
    return column * COLUMN + WIDTH / 2 + 8, row * ROW + 88


def _arrow(before: Stage, after: Stage, why: str) -> str:
    (x0, y0), (x1, y1) = _center(before), _center(after)
    kind = "clock" if why == CLOCK else "op"
    label = "" if why == CLOCK else why
    if y0 == y1 and abs(x1 - x0) < 1.5 * COLUMN and (before, after) != (Stage.HOLDING, Stage.BLENDING):
        side = 1 if x1 > x0 else -1
        path = f"M{x0 + side * WIDTH / 2:g} {y0:g}H{x1 - side * WIDTH / 2:g}"
        place = ((x0 + x1) / 2, y0 - 26)
    elif y0 == y1:
        path = f"M{x0:g} {y0 - HEIGHT / 2:g}C{x0 - 20:g} {y0 - 70:g} {x1 + 20:g} {y0 - 70:g} {x1:g} {y1 - HEIGHT / 2:g}"
        place = ((x0 + x1) / 2, y0 - 64)
    elif y1 > y0:
        bend = (y0 + y1) / 2 + 6
        spread = (x0 - x1) / COLUMN * 14
        path = (
            f"M{x0:g} {y0 + HEIGHT / 2:g}C{x0:g} {bend:g} {x1 + spread:g} {bend:g} {x1 + spread:g} {y1 - HEIGHT / 2:g}"
        )
        place = (x0 + (14 if x0 > x1 else -14), y0 + HEIGHT / 2 + 16)
        anchor = "start" if x0 > x1 else "end"
        return f'<path class="{kind}" d="{path}"/>' + _text(*place, label, f"why {anchor}")
    else:
        path = f"M{x0 - WIDTH / 2:g} {y0:g}H{x1:g}V{y1 + HEIGHT / 2:g}"
        place = (0, 0)
    return f'<path class="{kind}" d="{path}"/>' + (_text(*place, label, "why") if label else "")


def curves() -> str:
    """The five shapes of a ramp."""
    width, height, left, top = 640, 290, 46, 14
    steps = np.linspace(0, 1, 61)
    parts = [f'<path class="axis" d="M{left} {top}V{height - 30}H{width - 170}"/>']
    span, rise = width - 170 - left, height - 30 - top
    for value in (0, 0.5, 1):
        y = top + rise * (1 - value)
        parts.append(f'<path class="grid" d="M{left} {y:g}h{span}"/>')
        parts.append(_text(left - 10, y + 4, f"{value:g}", "end"))
    parts.append(_text(left + span / 2, height - 8, "epochs since the ramp began, as a share of its length"))
    for curve in Curve:
        eased = zip(steps.tolist(), ease(steps, np.full(len(steps), curve)).tolist(), strict=True)
        line = " ".join(f"{left + span * step:.1f},{top + rise * (1 - alpha):.1f}" for step, alpha in eased)
        parts.append(f'<polyline class="curve c{int(curve)}" points="{line}"/>')
        key = top + 40 + 26 * int(curve)
        parts.append(f'<path class="curve c{int(curve)}" d="M{width - 156} {key}h18"/>')
        parts.append(_text(width - 132, key + 4, curve.name, "start"))
    return _figure("curves", "Alpha along a ramp for each of the five curves", width, height, parts)


def host_diagram(host: object) -> str:
    """A host from input to classes, slots where they are; nothing for a kind of host that is not known here."""
    if isinstance(host, CnnHost):
        return _convolutions(host)
    return _layers(host) if isinstance(host, TransformerHost) else ""


def _layers(host: TransformerHost) -> str:
    """A language host, layer by layer."""
    parts, x, middle = [], 8.0, 78.0
    parts.append(_map(x, middle, 1, 1, f"{host.length}", "input", "tokens"))
    x += 64
    for layer, slot in enumerate(host.slot_of_block):
        parts.append(f'<path class="flow" d="M{x - 14:g} {middle:g}h12"/>')
        parts.append(_map(x, middle, 1, 1, f"{host.width}", "block", f"layer {layer}"))
        if slot is not None:
            parts.append(f'<rect class="slot" x="{x + 4:g}" y="134" width="42" height="20" rx="5"/>')
            parts.append(_text(x + 25, 148, f"slot {slot}", "small"))
        x += 64
    parts.append(f'<path class="flow" d="M{x - 14:g} {middle:g}h12"/>')
    parts.append(_map(x, middle, 0, 1, f"{host.classes}", "classes", "tokens"))
    words = f"{host.layers} layers of {host.heads} heads, {len(host.slots)} slots"
    return _figure("host", f"The host: {words}", x + 60, 162, parts)


def _convolutions(host: CnnHost) -> str:
    """A convolutional host: maps as high as they are large."""
    parts, x, size, middle = [], 8.0, host.image_size, 78.0
    parts.append(_map(x, middle, size, host.image_size, f"{host.image_channels}", "input", f"{size}×{size}"))
    x += 64
    for block, (channels, slot) in enumerate(zip(host.channels, host.slot_of_block, strict=True)):
        pooled = size // 2 if block < host.pools else size
        at_slot = pooled if host.slot_after_pool else size
        parts.append(f'<path class="flow" d="M{x - 14:g} {middle:g}h12"/>')
        label = f"{at_slot}×{at_slot}"
        parts.append(_map(x, middle, at_slot, host.image_size, f"{channels}", "block", label))
        if slot is not None:
            parts.append(f'<rect class="slot" x="{x + 4:g}" y="134" width="42" height="20" rx="5"/>')
            parts.append(_text(x + 25, 148, f"slot {slot}", "small"))
        x += 64
        size = pooled
    parts.append(f'<path class="flow" d="M{x - 14:g} {middle:g}h12"/>')
    parts.append(_map(x, middle, 0, host.image_size, f"{host.classes}", "classes", "classes"))
    words = f"{host.kernel}×{host.kernel} convolutions, {len(host.slots)} slots"
    return _figure("host", f"The host: {words}", x + 60, 162, parts)


def _map(x: float, middle: float, size: int, full: int, channels: str, kind: str, label: str) -> str:
    height = 22 + 70 * size / full
    top = middle - height / 2
    return (
        f'<rect class="{kind}" x="{x:g}" y="{top:g}" width="50" height="{height:g}" rx="5"/>'
        + _text(x + 25, middle + 5, channels, "channels")
        + _text(x + 25, 22, label, "small")
    )
