"""Draw docs/episode.svg: one real episode, a host that a script grows beside its twin that only waits.

Both hosts have the same seed, so whatever separates their curves was grown. The script sees only what an agent
sees: it plants by a timetable, moves every seed on when that is legal, and keeps a seed only if its contribution
is worth a point.

    python docs/draw_episode.py
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from esper_env import ACTION_HEADS, FEATURES, Op, Stage

SEED = 5
TIMETABLE = [(3, 2, "norm"), (8, 1, "conv_light"), (16, 0, "conv_light"), (20, 2, "conv_light")]
"""Earliest epoch, slot and blueprint of each planting."""
TRAINING_EPOCHS, HOLDING_EPOCHS, WORTH_KEEPING = 6, 2, 0.1

HEAD = {head.name: i for i, head in enumerate(ACTION_HEADS)}
BLUEPRINT = {name: i for i, name in enumerate(ACTION_HEADS[HEAD["blueprint"]].choices)}
FEATURE = {feature.name: i for i, feature in enumerate(FEATURES)}

Info = dict[str, Any]


def act(observation: dict[str, Any], epoch: int, timetable: list[tuple[int, int, str]]) -> list[int]:
    """The script's next action; a planting that is carried out is struck from the timetable."""
    legal = observation["slot_by_op"].reshape(len(Op), -1) & observation["action_mask"][-len(Op) :, None]
    action = [head.canonical for head in ACTION_HEADS]

    def take(op: Op, slot: int, **heads: int) -> list[int]:
        for name, value in {"op": op, "slot": slot, **heads}.items():
            action[HEAD[name]] = int(value)
        return action

    for slot in range(legal.shape[1]):

        def sees(name: str, slot: int = slot) -> float:
            return float(observation["features"][FEATURE[f"slot{slot}_{name}"]])

        epochs_in_stage = round(50 * sees("epochs_in_stage"))
        if sees("stage_holding"):
            verdict = Op.FOSSILIZE if sees("contribution") > WORTH_KEEPING else Op.PRUNE
            if legal[verdict, slot] and epochs_in_stage >= HOLDING_EPOCHS:
                return take(verdict, slot, alpha_speed=1)
        elif legal[Op.ADVANCE, slot] and not (sees("stage_training") and epochs_in_stage < TRAINING_EPOCHS):
            return take(Op.ADVANCE, slot)
    for planting in timetable:
        earliest, slot, blueprint = planting
        if epoch >= earliest and legal[Op.GERMINATE, slot]:
            timetable.remove(planting)
            return take(Op.GERMINATE, slot, blueprint=BLUEPRINT[blueprint])
    return action


def play() -> list[Info]:
    """Info of every epoch, of the grown host (0) and of its waiting twin (1)."""
    torch.set_num_threads(1)
    envs = gymnasium.make_vec("esper_env:Esper-Seed-v0", num_envs=2, vectorization_mode="vector_entry_point")
    wait = [head.canonical for head in ACTION_HEADS]
    observation, info = envs.reset(seed=[SEED, SEED])  # type: ignore[arg-type]
    episode, timetable, over = [info | {"blueprint": observation["blueprint_index"]}], list(TIMETABLE), False
    while not over:
        grown = {name: array[0] for name, array in observation.items()}
        actions = np.array([act(grown, len(episode) - 1, timetable), wait])
        observation, _, ended, _, info = envs.step(actions)
        episode.append(info | {"blueprint": observation["blueprint_index"]})
        over = bool(ended[0])
    return episode


# The picture

WIDTH, HEIGHT = 840, 456
LEFT, RIGHT = 74, 690
TOP, BOTTOM = 66, 262
SLOTS, BAND, GAP, FIRST_BAND = 3, 30, 8, 290
PRUNED = "slot rests"
PHASES = {
    "germinated": ((Stage.GERMINATED,), "#93b53c"),
    "training": ((Stage.TRAINING,), "#d9902f"),
    "blending": ((Stage.BLENDING,), "#2f9fb3"),
    "holding": ((Stage.HOLDING,), "#3b74c4"),
    "fossilized": ((Stage.FOSSILIZED,), "#5b4b9e"),
    PRUNED: ((Stage.PRUNED, Stage.EMBARGOED, Stage.RESETTING), "#8f959d"),
}
PHASE = {stage: name for name, (stages, _) in PHASES.items() for stage in stages}
STYLE = """
text { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; font-size: 13px; fill: #30363d }
.card { fill: #ffffff; stroke: #d5dae0 } .title { font-size: 17px; font-weight: 600 }
.small { font-size: 11.5px; fill: #667079 } .on { font-size: 11.5px; fill: #ffffff } .alpha { stroke: #ffffff }
.centred { text-anchor: middle } .end { text-anchor: end } .strong { font-weight: 600 }
.grid { stroke: #e6e9ed } .empty { fill: #eef0f3 } .cue { stroke: #2f9fb3; stroke-dasharray: 2 3 }
.grown { stroke: #1f8a4c } .grown-fill { fill: #1f8a4c } .twin { stroke: #7d858e } .gain { fill: #1f8a4c; opacity: .09 }
line, path, polyline { fill: none } polyline { stroke-linejoin: round; stroke-linecap: round }
"""
DARK = """
text { fill: #dfe4ea } .card { fill: #14181d; stroke: #2d333b } .small { fill: #98a2ad } .grid { stroke: #262c34 }
.empty { fill: #20262d } .grown { stroke: #4cc883 } .grown-fill { fill: #4cc883 } .twin { stroke: #98a2ad }
.gain { fill: #4cc883; opacity: .12 } .on { fill: #ffffff }
"""


def x(epoch: float, epochs: int) -> float:
    """Where an epoch lies."""
    return LEFT + (RIGHT - LEFT) * epoch / epochs


def y(accuracy: float) -> float:
    """Where an accuracy in percent lies."""
    return BOTTOM - (BOTTOM - TOP) * accuracy / 100


def points(xs: list[float], ys: list[float]) -> str:
    """Coordinates as a polyline takes them."""
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys, strict=True))


def text(at_x: float, at_y: float, words: str, kind: str = "") -> str:
    """A line of text."""
    return f'<text x="{at_x:.1f}" y="{at_y:.1f}" class="{kind}">{words}</text>'


def curves(episode: list[Info]) -> list[str]:
    """The upper panel: accuracy of both hosts, with what was grown between them."""
    epochs = len(episode) - 1
    xs = [x(t, epochs) for t in range(epochs + 1)]
    grown, twin = ([y(info["val_accuracy"][env]) for info in episode] for env in (0, 1))
    parts = [text(LEFT, 50, "validation accuracy", "small")]
    for accuracy in range(0, 101, 25):
        parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y(accuracy)}" y2="{y(accuracy)}" class="grid"/>')
        parts.append(text(LEFT - 10, y(accuracy) + 4, f"{accuracy} %", "small end"))
    parts.append(f'<polygon points="{points(xs + xs[::-1], grown + twin[::-1])}" class="gain"/>')
    parts.append(f'<polyline points="{points(xs, twin)}" class="twin" stroke-width="2" stroke-dasharray="5 4"/>')
    parts.append(f'<polyline points="{points(xs, grown)}" class="grown" stroke-width="2.5"/>')
    last = episode[-1]
    kept = int(last["seeds_fossilized"][0])
    labels = ("grown", f"{kept} seeds kept"), ("its twin", "same seed, only waits")
    for accuracy, (name, explanation) in zip(last["val_accuracy"], labels, strict=True):
        parts.append(text(RIGHT + 12, y(accuracy) + 1, f"{accuracy:.0f} % {name}", "strong"))
        parts.append(text(RIGHT + 12, y(accuracy) + 16, explanation, "small"))
    return parts


def band_top(slot: int) -> float:
    """Where a slot's band begins."""
    return FIRST_BAND + slot * (BAND + GAP)


def stretches(values: list[Any]) -> list[tuple[Any, int, int]]:
    """Runs of equal values from epoch 1 on: the value, the first epoch and the last."""
    runs = [(value, list(group)) for value, group in groupby(range(1, len(values)), key=lambda t: values[t])]
    return [(value, run[0], run[-1]) for value, run in runs]


def phases(episode: list[Info], slot: int) -> list[tuple[str, int, int]]:
    """The phases of the seeds in a slot, with their first and last epochs."""
    names = [PHASE.get(Stage(int(info["stage"][0, slot]))) for info in episode]
    return [run for run in stretches(names) if run[0]]


def cues(episode: list[Info]) -> list[str]:
    """Lines from where a seed begins to count up to the curve."""
    parts = []
    for slot in range(SLOTS):
        for phase, first, _ in phases(episode, slot):
            if phase == "blending":
                at = x(first - 1, len(episode) - 1)
                parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{band_top(slot)}" class="cue"/>')
    return parts


def lives(episode: list[Info], slot: int) -> list[str]:
    """One slot's band: the phases of the seeds in it, and alpha as a line from 0 (bottom) to 1 (top)."""
    epochs, top = len(episode) - 1, band_top(slot)
    middle = top + BAND / 2 + 4
    parts = [
        f'<rect x="{LEFT}" y="{top}" width="{RIGHT - LEFT}" height="{BAND}" class="empty"/>',
        text(LEFT - 10, middle, f"slot {slot}", "end"),
    ]
    for phase, first, last in phases(episode, slot):
        start, stop = x(first - 1, epochs), x(last, epochs)
        colour = PHASES[phase][1]
        parts.append(f'<rect x="{start:.1f}" y="{top}" width="{stop - start:.1f}" height="{BAND}" fill="{colour}"/>')
    for phase, first, last in phases(episode, slot):
        if phase == "germinated":
            planted = int(episode[first]["blueprint"][0, slot])
            name = next(name for name, i in BLUEPRINT.items() if i == planted)
            parts.append(text(x(first - 1, epochs) + 7, middle, name, "on"))
        if phase in ("fossilized", PRUNED):
            words = "pruned" if phase == PRUNED else "kept"
            parts.append(text(x((first - 1 + last) / 2, epochs), middle, words, "on centred"))
    alphas = [float(info["alpha"][0, slot]) for info in episode]
    for blended, first, last in stretches([alpha > 0 for alpha in alphas]):
        if blended:
            ts = range(first - 1, min(last + 1, epochs) + 1)
            heights = [top + BAND - 3.5 - (BAND - 7) * alphas[t] for t in ts]
            line = points([x(t, epochs) for t in ts], heights)
            parts.append(f'<polyline points="{line}" class="alpha" stroke-width="1.8"/>')
    return parts


def key() -> list[str]:
    """What the colours mean, in the order of a seed's life, and the line."""
    parts, at, height = [], float(LEFT), band_top(SLOTS) + 36
    for name, (_, colour) in PHASES.items():
        parts.append(f'<rect x="{at:.1f}" y="{height - 10}" width="12" height="12" rx="2.5" fill="{colour}"/>')
        parts.append(text(at + 17, height, name, "small"))
        at += 17 + 6.1 * len(name) + 17
    colour = PHASES["blending"][1]
    parts.append(f'<rect x="{at:.1f}" y="{height - 10}" width="22" height="12" rx="2.5" fill="{colour}"/>')
    ramp = points([at + 3, at + 8, at + 14, at + 19], [height - 1, height - 1, height - 7, height - 7])
    parts.append(f'<polyline points="{ramp}" class="alpha" stroke-width="1.8"/>')
    parts.append(text(at + 27, height, "alpha: how much it counts", "small"))
    return parts


def draw(episode: list[Info]) -> str:
    """The whole picture."""
    epochs, axis = len(episode) - 1, band_top(SLOTS) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">',
        "<title>A network that is grown while it trains, beside its twin that is not</title>",
        f"<style>{STYLE}@media (prefers-color-scheme: dark) {{{DARK}}}</style>",
        f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10" class="card"/>',
        text(LEFT, 30, "One episode: a network grows while it trains", "title"),
        *cues(episode),
        *curves(episode),
    ]
    for slot in range(SLOTS):
        parts += lives(episode, slot)
    for epoch in range(0, epochs + 1, 10):
        parts.append(text(x(epoch, epochs), axis, f"{epoch}", "small centred"))
    parts.append(text(RIGHT + 16, axis, "epochs, one a step", "small"))
    return "\n".join([*parts, *key(), "</svg>", ""])


if __name__ == "__main__":
    Path(__file__).with_name("episode.svg").write_text(draw(play()), encoding="utf-8")
