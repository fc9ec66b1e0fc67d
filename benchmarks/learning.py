"""Does the agent learn? The default agent on `digits`, from several seeds, beside the policies that do not learn.

Each run is trained as `esper train --seed S` does, or continued, or taken as it is where it is finished. Its last
checkpoint plays held-out seeds, by drawing and by the mode. The results go to benchmarks/results/learning.json and
the picture to docs/learning.svg.

    python -m benchmarks.learning [--runs FOLDER] [--seeds N] [--steps N] [--episodes N] [--json FILE] [--picture FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reports import RESULTS, table, write_json
from esper_agent.checkpoint import LAST
from esper_agent.evaluate import Episode, estimate, evaluate_run, held_out_seeds, summarise
from esper_agent.loggers import read_metrics
from esper_agent.metrics import Metrics
from esper_agent.report import evaluate_baselines
from esper_agent.report.curve import COLOURS, curve
from esper_agent.runs import FIXED, TrainConfig, load_config
from esper_agent.train import train

PICTURE = Path(__file__).parents[1] / "docs" / "learning.svg"
TEMPERATURES = {"drawn": 1.0, "by the mode": 0.0}
DRAWN_EVERY = 2
"""Updates per point of the curves that are kept."""


def trained(folder: Path, seed: int, steps: int, threads: int) -> Path:
    """The folder of a finished run with the defaults and this seed, trained as far as it needs."""
    run = folder / f"seed{seed}"
    config = TrainConfig(run=str(run), seed=seed, steps=steps, threads=threads)
    resumed = (run / "checkpoints" / LAST).exists()
    if resumed:
        begun = load_config(run)
        if any(getattr(begun, name) != getattr(config, name) for name in FIXED if name != "threads"):
            raise SystemExit(f"{run} is not a run with the defaults and seed {seed}: choose another folder for --runs.")
        if steps_of(run) >= steps:
            return run
        config = replace(begun, steps=steps)
    train(config, resume=resumed, show=lambda metrics, _: print(f"seed {seed}: {metrics['steps']:,.0f} steps"))
    return run


def steps_of(run: Path) -> int:
    """Environment steps that a run was trained for."""
    return int(float(read_metrics(run / "metrics.csv")[-1]["steps"]))


def curves(runs: Iterable[Path]) -> list[list[Metrics]]:
    """Steps and objective return of the training episodes of every run, means over a few updates."""
    name = "episode/objective_return"
    lines = []
    for run in runs:
        points = np.array([(float(row["steps"]), float(row[name])) for row in read_metrics(run / "metrics.csv")])
        whole = points[: len(points) // DRAWN_EVERY * DRAWN_EVERY].reshape(-1, DRAWN_EVERY, 2)
        thinned = np.stack([whole[:, -1, 0], whole[..., 1].mean(1)], 1)
        lines.append([{"steps": float(steps), name: round(float(value), 3)} for steps, value in thinned])
    return lines


def row(agent: str, played: Sequence[Episode], steps: int) -> dict[str, Any]:
    """What one agent came to over its held-out episodes."""
    returns = [episode.objective_return for episode in played]
    interval = estimate(returns)
    return {
        "agent": agent,
        "training_seed": played[0].training_seed,
        "training_steps": steps,
        "episodes": len(played),
        "objective_return": round(interval.mean, 3),
        "interval": [round(interval.low, 3), round(interval.high, 3)],
        "test_accuracy": round(float(np.mean([episode.committed_test_accuracy for episode in played])), 2),
        "parameters": round(float(np.mean([episode.final_params for episode in played]))),
        "returns": [round(value, 3) for value in returns],
    }


def picture(lines: Sequence[Sequence[Metrics]], episodes: Sequence[Episode], agent: str) -> str:
    """The curves as an image that stands alone, in the colours of the reader's choice of light or dark."""
    drawing = curve(lines, summarise(episodes), agent)
    style = f"<style>{COLOURS}svg {{ background: var(--paper); }}\ntext {{ font: 13px sans-serif; fill: var(--soft); }}"
    head, rest = drawing.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).split(">", 1)
    return f"{head}>{style}</style>{rest}\n"


def main() -> None:
    """Train what is missing, play, and write."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS / "learning.json")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()

    runs = [trained(options.runs, seed, options.steps, options.threads) for seed in range(options.seeds)]
    config, seeds = load_config(runs[0]), held_out_seeds(options.episodes)
    lines = curves(runs)
    rows, drawn = [], []
    for run in runs:
        for mode, temperature in TEMPERATURES.items():
            played = evaluate_run(
                run, config.env_options, seeds, which="last", temperature=temperature, threads=options.threads
            )
            rows.append(row(f"{config.policy}, {mode}", played, steps_of(run)))
            drawn += played if temperature else []
    baselines = evaluate_baselines(config, options.episodes, threads=options.threads).rows
    for name in dict.fromkeys(episode.agent for episode in baselines):
        rows.append(row(name, [episode for episode in baselines if episode.agent == name], 0))

    head = ["agent", "seed", "objective return", "test accuracy", "parameters"]
    cells = [
        [
            r["agent"],
            "" if r["training_seed"] < 0 else str(r["training_seed"]),
            f"{r['objective_return']:.2f} [{r['interval'][0]:.2f}, {r['interval'][1]:.2f}]",
            f"{r['test_accuracy']:.1f}",
            f"{r['parameters']:,}",
        ]
        for r in rows
    ]
    print(table(head, cells))
    settings = {"task": config.task, "policy": config.policy, "steps": options.steps, "episodes": options.episodes}
    name = "episode/objective_return"
    learned = [{"training_seed": i, "curve": [[p["steps"], p[name]] for p in line]} for i, line in enumerate(lines)]
    write_json(options.json, "learning", settings, rows + learned)
    options.picture.write_text(picture(lines, [*drawn, *baselines], config.policy))


if __name__ == "__main__":
    main()
