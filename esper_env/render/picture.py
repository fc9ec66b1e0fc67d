"""A frame as a picture: the network with its seeds, its score over the life of every slot, the last step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

import numpy as np
import numpy.typing as npt

try:
    from PIL import Image, ImageDraw, ImageFont
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("Pictures need Pillow: pip install 'esper-env[render]'.", name=error.name) from error

from esper_env.lifecycle.stages import BLENDED, COOLDOWN, PRESENT, Stage
from esper_env.render.colours import (
    ACCURACY,
    ALARM,
    COLOURS,
    FAINT,
    HOST,
    INK,
    LINE,
    PAPER,
    PERMANENT,
    QUIET,
    Colour,
)
from esper_env.render.frame import PAYS, Event, Frame, SlotView

WIDTH, HEIGHT = 960, 640
"""Multiples of 16, as video encoders like them."""
Point = tuple[float, float]

KEY = (
    Stage.GERMINATED,
    Stage.TRAINING,
    Stage.BLENDING,
    Stage.HOLDING,
    Stage.FOSSILIZED,
    Stage.PRUNED,
)
SEED_SIZE = {Stage.GERMINATED: 14, Stage.TRAINING: 30, Stage.PRUNED: 30, Stage.EMBARGOED: 14, Stage.RESETTING: 8}
"""Pixels across; a seed that is in use is `GROWN`."""
GROWN = 44
SMALLEST = 10
"""Size of letters that can just be read."""

ABOUT = (
    "Each epoch an agent may plant a small module, a seed, in a slot of the network, blend it",
    "in by a weight alpha, make it permanent, or remove it. What is permanent at the end counts.",
)

MARGIN = 36
WIRE, SEED_Y, FACT = 122, 180, 15
"""Heights of the wire through the host, of the seeds, and of a line about one."""
LEFT, RIGHT, TOP = 82, 640, 346
BANDS_END, BAND = 578, 15
SIDE, TERM, MOST_NEWS = 676, 80, 3
LEGEND = 612


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@lru_cache(4096)
def _width(words: str, size: int) -> float:
    return _font(size).getlength(words)


@lru_cache(2048)
def _stamp(words: str, size: int, anchor: str, bold: bool) -> tuple[Image.Image, tuple[int, int]]:
    """Words as a mask, and where its corner lies from the anchor. Most words are the same in every frame."""
    font, stroke = _font(size), 0.35 if bold else 0
    left, top, right, bottom = font.getbbox(words, anchor=anchor, stroke_width=stroke)
    x, y = math.floor(left) - 1, math.floor(top) - 1
    stamp = Image.new("L", (math.ceil(right) - x + 1, math.ceil(bottom) - y + 1))
    ImageDraw.Draw(stamp).text((-x, -y), words, 255, font, anchor, stroke_width=stroke)
    return stamp, (x, y)


def _fitting(words: str, size: int, width: float) -> tuple[str, int]:
    """The words and the size at which they fit; where none that can be read does, they are cut."""
    while size > SMALLEST and _width(words, size) > width:
        size -= 1
    if _width(words, size) > width:
        while words and _width(words + "…", size) > width:
            words = words[:-1]
        words += "…"
    return words, size


def _wrapped(words: str, size: int, width: float) -> list[str]:
    """The words as lines that fit."""
    lines: list[str] = []
    for word in words.split():
        if lines and _width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _mix(colour: Colour, share: float, ground: Colour = PAPER) -> Colour:
    """A colour at an opacity."""
    r, g, b = (round(share * c + (1 - share) * p) for c, p in zip(colour, ground, strict=True))
    return r, g, b


def _ink(stage: Stage) -> Colour:
    """The colour of a stage, dark enough for words; those that no seed lives in are told apart by no colour."""
    return _mix(COLOURS[stage], 0.8, INK) if PRESENT[stage] else QUIET


class Canvas:
    """Shapes are drawn twice as large and halved, which smooths their edges; words are stamped on top of that."""

    def __init__(self) -> None:
        self._image = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self._words: list[tuple[Point, str, int, Colour, str, bool]] = []

    def box(
        self,
        corner: Point,
        size: Point,
        fill: Colour | None = None,
        outline: Colour | None = None,
        *,
        radius: float = 0,
        width: float = 1.5,
    ) -> None:
        """A rectangle, with round corners if asked for."""
        (x, y), (w, h) = corner, size
        if w < 1 or h < 1:
            return
        area = (round(2 * x), round(2 * y), round(2 * (x + w)) - 1, round(2 * (y + h)) - 1)
        self._draw.rounded_rectangle(area, 2 * radius, fill, outline, round(2 * width) if outline else 0)

    def dot(self, centre: Point, radius: float, fill: Colour, outline: Colour = PAPER) -> None:
        """A disc."""
        self._draw.circle((2 * centre[0], 2 * centre[1]), 2 * radius, fill, outline, 3)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """A line through points."""
        self._draw.line([(2 * x, 2 * y) for x, y in points], colour, round(2 * width), joint="curve")

    def words(
        self, at: Point, words: str, size: int = 14, colour: Colour = INK, anchor: str = "ls", *, bold: bool = False
    ) -> None:
        """A line of text; the anchor is Pillow's: l, m, r for the side, s for the baseline, m for the middle."""
        self._words.append((at, words, size, colour, anchor, bold))

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The picture."""
        image = self._image.reduce(2)
        for at, words, size, colour, anchor, bold in self._words:
            stamp, (x, y) = _stamp(words, size, anchor, bold)
            image.paste(colour, (round(at[0]) + x, round(at[1]) + y), stamp)
        return np.array(image)


def picture(frame: Frame) -> npt.NDArray[np.uint8]:
    """A frame as RGB, `[HEIGHT, WIDTH, 3]`."""
    canvas = Canvas()
    _heading(canvas, frame)
    _network(canvas, frame)
    _curves(canvas, frame)
    _last_step(canvas, frame)
    _key(canvas, frame)
    return canvas.pixels()


def _heading(canvas: Canvas, frame: Frame) -> None:
    canvas.words((MARGIN, 38), "A neural network grows while it trains", 22, bold=True)
    for row, line in enumerate(ABOUT):
        canvas.words((MARGIN, 61 + 16 * row), line, 13, QUIET)
    right, seeds = WIDTH - MARGIN, sum(slot.params for slot in frame.slots)
    canvas.words((right, 34), f"epoch {frame.now.number} of {frame.max_epochs}", 18, anchor="rs", bold=True)
    length, share = 220, min(frame.now.number / frame.max_epochs, 1.0)
    canvas.box((right - length, 41), (length, 8), FAINT, radius=4)
    canvas.box((right - length, 41), (length * share, 8), HOST, radius=min(4, length * share / 2))
    about = (f"task {frame.task}", f"{frame.host_params:,} parameters + {seeds:,} in seeds")
    for row, line in enumerate(about):
        canvas.words((right, 63 + 16 * row), *_fitting(line, 12, 320), QUIET, "rs")


# The network


def _network(canvas: Canvas, frame: Frame) -> None:
    """The host from left to right, a slot behind each of its parts, and what grows there."""
    first, last, count = MARGIN + 74, WIDTH - MARGIN - 104, len(frame.slots)
    pitch = (last - first) / count
    canvas.line([(MARGIN, WIRE), (WIDTH - MARGIN - 40, WIRE)], HOST, 3)
    canvas.box((MARGIN, WIRE - 20), (58, 40), FAINT, LINE, radius=6)
    canvas.words((MARGIN + 29, WIRE), "data", 13, QUIET, "mm")
    for number, slot in enumerate(frame.slots):
        left = first + number * pitch
        wide = min(pitch * 0.55, 114)
        canvas.box((left, WIRE - 24), (wide, 48), HOST, radius=7)
        begin, end = slot.blocks
        blocks = f"block {end}" if begin == end else f"blocks {begin}–{end}"
        canvas.words((left + wide / 2, WIRE - 7), *_fitting(blocks, 14, wide - 6), PAPER, "mm", bold=True)
        canvas.words((left + wide / 2, WIRE + 11), *_fitting(slot.width, 11, wide - 6), LINE, "mm")
        _seed(canvas, slot, number, left + wide + (pitch - wide) / 2, pitch - 10)
    left = WIDTH - MARGIN - 94
    canvas.box((left, WIRE - 24), (94, 48), _mix(ACCURACY, 0.12), ACCURACY, radius=7)
    canvas.words((left + 47, WIRE - 6), frame.measure.of(frame.now.value), 17, ACCURACY, "mm", bold=True)
    canvas.words((left + 47, WIRE + 13), frame.measure.meaning, 11, QUIET, "mm")


def _seed(canvas: Canvas, slot: SlotView, number: int, x: float, width: float) -> None:
    """A slot: its place on the wire, the seed below as large as it has grown and as opaque as alpha, and its facts."""
    stage, colour = slot.stage, COLOURS[slot.stage]
    size = SEED_SIZE.get(stage, GROWN)
    if stage != Stage.DORMANT:
        joined = _mix(colour, max(slot.alpha, 0.25))
        canvas.line([(x, WIRE), (x, SEED_Y)], joined, 1.5 + 4 * slot.alpha)
    canvas.dot((x, WIRE), 7, colour if BLENDED[stage] else PAPER, HOST)
    corner = (x - size / 2, SEED_Y - size / 2)
    if stage == Stage.DORMANT:
        for angle in range(0, 360, 30):
            turn = np.deg2rad(angle)
            canvas.dot((x + 15 * np.cos(turn), SEED_Y + 15 * np.sin(turn)), 1.8, LINE, LINE)
    else:
        canvas.box(corner, (size, size), _mix(colour, slot.alpha), colour, radius=min(9, size / 2), width=2.5)
    if COOLDOWN[stage]:
        reach = size / 2 + 5
        canvas.line([(x - reach, SEED_Y - reach), (x + reach, SEED_Y + reach)], colour, 3)
        canvas.line([(x - reach, SEED_Y + reach), (x + reach, SEED_Y - reach)], colour, 3)
    y = SEED_Y + 41

    def line(words: str, colour: Colour = QUIET, size: int = 12, *, bold: bool = False) -> None:
        nonlocal y
        canvas.words((x, y), *_fitting(words, size, width), colour, "ms", bold=bold)
        y += FACT

    line(f"slot {number}: {slot.blueprint or 'empty'}", INK, 14, bold=True)
    if stage == Stage.DORMANT:
        line("room for a seed")
        return
    line(stage.name, _ink(stage), 13, bold=True)
    line(slot.meaning)
    if BLENDED[stage]:
        bar = min(86.0, width - 74)
        start = x - (bar + 68) / 2 + 36
        canvas.words((start - 6, y), "alpha", 12, QUIET, "rs")
        canvas.box((start, y - 9), (bar, 9), LINE, radius=3)
        canvas.box((start, y - 9), (bar * slot.alpha, 9), colour, radius=min(3, bar * slot.alpha / 2))
        canvas.words((start + bar + 6, y), f"{slot.alpha:.2f}", 12, INK)
        if slot.moving:
            goal = start + bar * slot.target
            canvas.line([(goal, y - 12), (goal, y + 3)], INK, 2)
        y += FACT
    if slot.blend:
        line(f"blend {slot.blend}")
    if slot.contribution is not None:
        felt = QUIET if abs(slot.contribution) < 0.05 else ACCURACY if slot.contribution > 0 else ALARM
        line(f"worth {slot.worth} points", felt, 13)
    if slot.params:
        line(f"{slot.params:,} parameter{'s' if slot.params > 1 else ''}")


# The episode


def _curves(canvas: Canvas, frame: Frame) -> None:
    """Accuracy over the epochs, with what happened marked on it, and the life of every slot beneath."""
    bands = BANDS_END - len(frame.slots) * (BAND + 3)
    bottom = bands - 12

    def x(epoch: float) -> float:
        return LEFT + (RIGHT - LEFT) * epoch / frame.max_epochs

    def y(percent: float) -> float:
        return bottom - (bottom - TOP) * percent / 100

    canvas.words((LEFT, TOP - 14), f"{frame.measure.name.capitalize()} on the validation data", 14, bold=True)
    canvas.words((RIGHT, TOP - 14), frame.measure.scale, 12, QUIET, "rs")
    for percent in (0, 25, 50, 75, 100):
        canvas.line([(LEFT, y(percent)), (RIGHT, y(percent))], FAINT, 1)
        canvas.words((LEFT - 8, y(percent)), f"{percent}{frame.measure.unit}", 12, QUIET, "rm")
    first = frame.epochs[0].number
    for slot in range(len(frame.slots)):
        top = bands + slot * (BAND + 3)
        canvas.box((LEFT, top), (RIGHT - LEFT, BAND), FAINT)
        canvas.words((LEFT - 8, top + BAND / 2), f"slot {slot}", 12, QUIET, "rm")
        for stage, run in groupby(frame.epochs[1:], key=lambda epoch: epoch.stages[slot]):
            numbers = [epoch.number for epoch in run]
            if stage != Stage.DORMANT:
                start = x(numbers[0] - 1)
                canvas.box((start, top), (x(numbers[-1]) - start, BAND), COLOURS[stage])
    for line, colour, width in (("committed", PERMANENT, 2.0), ("value", ACCURACY, 3.0)):
        points = [(x(epoch.number), y(getattr(epoch, line))) for epoch in frame.epochs]
        if len(points) > 1:
            canvas.line(points, colour, width)
        canvas.dot(points[-1], 4, colour)
    for event in frame.events():
        _mark(canvas, event, (x(event.epoch - 1), y(frame.epochs[event.epoch - 1 - first].value)), bottom)
    for epoch in _ticks(frame.max_epochs):
        canvas.words((x(epoch), BANDS_END + 12), str(epoch), 12, QUIET, "ms")
    canvas.words((LEFT - 8, BANDS_END + 12), "epoch", 12, QUIET, "rs")


def _mark(canvas: Canvas, event: Event, at: Point, bottom: float) -> None:
    if event.stage is None:
        canvas.line([(at[0], TOP), (at[0], bottom)], ALARM, 2)
    elif event.stage in KEY:
        canvas.dot(at, 4.5, COLOURS[event.stage])


def _ticks(epochs: int) -> range:
    step = next(step for size in range(9) for step in (10**size, 2 * 10**size, 5 * 10**size) if epochs / step <= 10)
    return range(0, epochs + 1, step)


# The last step


def _last_step(canvas: Canvas, frame: Frame) -> None:
    """What the agent did, what came of it, and the reward by its terms."""
    y = TOP - 14.0
    right = WIDTH - MARGIN

    def paragraph(words: str, colour: Colour = INK, size: int = 13) -> None:
        nonlocal y
        for line in _wrapped(words, size, right - SIDE):
            y += 18
            canvas.words((SIDE, y), line, size, colour)

    canvas.words((SIDE, y), "The agent's last action", 14, bold=True)
    if not frame.action:
        paragraph("none yet", QUIET)
        return
    paragraph(frame.action)
    if not frame.executed:
        paragraph("not legal: it waited instead", ALARM)
    news = frame.news()
    for event in news[:MOST_NEWS]:
        paragraph(f"{event}", ALARM if event.stage is None else _ink(event.stage))
    if (more := len(news) - MOST_NEWS) > 0:
        paragraph(f"and {more} more slot{'s' if more > 1 else ''} changed", QUIET)
    y += 30
    canvas.words((SIDE, y), "Reward of this epoch", 14, bold=True)
    canvas.words((right, y), f"{frame.reward:+z.3f}", 14, anchor="rs", bold=True)
    end = BANDS_END if frame.verdict is None else BANDS_END - 50
    for name, value in _largest(frame.terms, int((end - y) / 17)).items():
        y += 17
        canvas.words((SIDE, y), *_fitting(name, 13, TERM - 4), QUIET)
        canvas.words((SIDE + TERM, y), PAYS[name].brief if name in PAYS else "", 11, QUIET)
        canvas.words((right, y), f"{value:+.3f}", 13, ACCURACY if value > 0 else ALARM, "rs")
    if frame.verdict is not None:
        canvas.box((SIDE - 8, BANDS_END - 44), (right - SIDE + 16, 44), _mix(PERMANENT, 0.1), PERMANENT, radius=7)
        canvas.words((SIDE + 4, BANDS_END - 25), f"The end: {frame.verdict}", 14, bold=True)
        canvas.words((SIDE + 4, BANDS_END - 9), "with the permanent seeds alone", 12, QUIET)


def _largest(terms: dict[str, float], room: int) -> dict[str, float]:
    """The terms that count, in order; where there is no room for all, the smallest are taken together."""
    felt = {name: value for name, value in terms.items() if abs(value) >= 0.0005}
    if len(felt) <= room:
        return felt
    kept = sorted(felt, key=lambda name: -abs(felt[name]))[: room - 1]
    return {name: felt[name] for name in felt if name in kept} | {
        "others": sum(felt[name] for name in felt if name not in kept)
    }


def _key(canvas: Canvas, frame: Frame) -> None:
    x = float(MARGIN + 10)

    def entry(words: str) -> None:
        nonlocal x
        canvas.words((x + 18, LEGEND + 5), words, 12, QUIET)
        x += 18 + _width(words, 12) + 13

    for stage in KEY:
        canvas.box((x, LEGEND - 6), (12, 12), COLOURS[stage], radius=3)
        entry(stage.name.lower())
    for words, colour in (
        (frame.measure.name, ACCURACY),
        ("with permanent seeds alone", PERMANENT),
        ("rollback", ALARM),
    ):
        canvas.line([(x, LEGEND), (x + 13, LEGEND)], colour, 3)
        entry(words)
