"""How each kind of contestant is trained and plays: one function per kind, found in a table.

A function does as much of a run as it can before the deadline and says whether the run is finished. What it has done
is in the run's folder, so that it goes on from there whatever happened to the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.suite import ablations
from benchmarks.suite.greedy import GROUP, play_greedily
from benchmarks.suite.playing import Played, play, tuned_returns
from benchmarks.suite.recordings import read_actions
from benchmarks.suite.runs import Run
from benchmarks.suite.script import Script
from benchmarks.suite.static import episodes, train_static, write_points
from esper_agent.checkpoint import LAST
from esper_agent.config import PPOConfig
from esper_agent.evaluate import read_episodes
from esper_agent.metrics import Metrics
from esper_agent.policies.registry import create_policy
from esper_agent.runs import TrainConfig, load_config, load_policy
from esper_agent.spec import EnvSpec
from esper_agent.train import progress_line, train
from esper_env.env import SeedEnv
from esper_env.options import resolve


@dataclass(frozen=True)
class Work:
    """What a session lends to a run."""

    threads: int = 1
    deadline: float = float("inf")
    """Of the monotonic clock."""
    show: Callable[[str], None] = print

    @property
    def late(self) -> bool:
        """Is time up?"""
        return time.monotonic() > self.deadline


def run_baseline(run: Run, work: Work) -> bool:
    """A policy that does not learn, or has not begun to."""
    name = run.settings.get("policy", run.contestant.name)
    return _play(run, work, create_policy(name, EnvSpec.of(SeedEnv(**run.env)), seed=0))


def run_script(run: Run, work: Work) -> bool:
    """The tuned script."""
    return _play(run, work, Script(EnvSpec.of(SeedEnv(**run.env)), **run.settings))


def run_greedy(run: Run, work: Work) -> bool:
    """Looking ahead on forks, a few episodes at a time."""
    found, progressed = Played([], []), False
    for first in range(0, len(run.evaluation_seeds), GROUP):
        seeds = run.evaluation_seeds[first : first + GROUP]
        part = Run(**{**_fields(run), "folder": run.folder / f"part{first:03d}"})
        if not part.finished:
            if progressed and work.late:
                return False
            progressed = True
            part.finish(play_greedily(run.env, seeds, agent=run.label, threads=work.threads, **run.settings))
            work.show(f"{first + len(seeds)} of {len(run.evaluation_seeds)} episodes")
        rows = read_episodes(part.folder / "episodes.csv")
        actions = read_actions(part.folder / "actions.csv.gz")
        found.episodes.extend(rows)
        found.actions.extend(actions[-1, row.evaluation_seed] for row in rows)
    run.finish(found)
    return True


def run_static(run: Run, work: Work) -> bool:
    """The network of the fully grown size."""
    points = train_static(run.env, run.evaluation_seeds, threads=work.threads, **run.settings)
    write_points(run.folder / "curve.csv.gz", points)
    rows = episodes(points, run.task, resolve(run.env)[0].max_epochs, agent=run.label)
    run.finish(Played(rows, []))
    return True


def run_esper(run: Run, work: Work) -> bool:
    """An agent of `esper_agent`."""
    last = run.training / "checkpoints" / LAST
    config, resume = training_config(run, work.threads), last.exists()
    if not resume or _steps(run) < run.steps:
        budget = max(0.0, work.deadline - time.monotonic())
        show: Callable[[Metrics, TrainConfig], None] = lambda metrics, config: work.show(  # noqa: E731
            progress_line(metrics, config.steps)
        )
        if not train(config, resume=resume, show=show, budget=budget):
            raise KeyboardInterrupt  # its checkpoint is written; no other run shall begin
        _keep_what_goes_on(run)
    if _steps(run) < run.steps:
        return False
    policy, _ = load_policy(run.training, "last")
    return _play_learned(run, work, policy)


def _keep_what_goes_on(run: Run) -> None:
    """Remove what a resumed run does not need, so that its folder is small enough to be carried elsewhere.

    Every decision of the training is tens of megabytes that nobody reads here, and `last.pt` has a second name.
    """
    (run.training / "episodes.jsonl").unlink(missing_ok=True)
    for numbered in (run.training / "checkpoints").glob("steps-*.pt"):
        numbered.unlink()


def training_config(run: Run, threads: int) -> TrainConfig:
    """The training of a run: the protocol's agent with the contestant's options."""
    options: dict[str, Any] = dict(run.settings)
    ppo = dict(options.pop("ppo", {}))
    if options.pop("even_entropy", False):
        ppo["entropy_weights"] = dict.fromkeys(PPOConfig().entropy_weights, 1.0)
    policy = options.pop("policy", "lstm")
    if policy in ablations.POLICIES:
        policy = f"{ablations.__name__}:{policy}"
    env = {name: value for name, value in run.env.items() if name != "task"} | dict(options.pop("env", {}))
    # The last checkpoint is what is evaluated: none is chosen, so that nothing is spent on choosing.
    config = {
        "run": str(run.training),
        "task": run.task,
        "env": env,
        "policy": policy,
        "ppo": PPOConfig.from_mapping("ppo", ppo),
        "steps": run.steps,
        "num_envs": run.num_envs,
        "seed": run.seed,
        "threads": threads,
        "evaluation_episodes": 0,
        "keep": 1,
    }
    if (run.training / "checkpoints" / LAST).exists():
        config["threads"] = load_config(run.training).threads  # bits do not depend on it, but a resumed run keeps it
    return TrainConfig(**config, **options)


def _steps(run: Run) -> int:
    from esper_agent.checkpoint import read

    return int(read(run.training / "checkpoints" / LAST)["counters"]["steps"])


def run_maskable(run: Run, work: Work) -> bool:
    """MaskablePPO."""
    from benchmarks.suite.maskable import load_maskable, train_maskable

    finished = train_maskable(
        run.training,
        run.settings,
        run.env,
        steps=run.steps,
        seed=run.seed,
        num_envs=run.num_envs,
        threads=work.threads,
        deadline=work.deadline,
        show=work.show,
    )
    return finished and _play_learned(run, work, load_maskable(run.training))


def _play_learned(run: Run, work: Work, policy: Any) -> bool:
    """Play at the temperature that returns most on tuning seeds: what helps to explore costs when it counts."""
    if len(run.temperatures) == 1:
        return _play(run, work, policy, run.temperatures[0])
    tried = tuned_returns(policy, run.env, run.tuning_seeds, run.temperatures, threads=work.threads)
    chosen = max(tried, key=lambda temperature: tried[temperature])
    run.note_temperature(chosen, tried)
    return _play(run, work, policy, chosen)


def _play(run: Run, work: Work, policy: Any, temperature: float = 1.0) -> bool:
    played = play(
        policy,
        run.env,
        run.evaluation_seeds,
        agent=run.label,
        training_seed=run.seed,
        temperature=temperature,
        threads=work.threads,
    )
    run.finish(played)
    return True


def _fields(run: Run) -> dict[str, Any]:
    return {name: getattr(run, name) for name in Run.__dataclass_fields__}


KINDS: Mapping[str, Callable[[Run, Work], bool]] = {
    "baseline": run_baseline,
    "script": run_script,
    "greedy": run_greedy,
    "static": run_static,
    "esper": run_esper,
    "maskable": run_maskable,
}
"""What a contestant's kind stands for."""
