"""Where metrics go: always a CSV file, and by name whatever else TorchRL can log to."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensordict import TensorDictBase

from esper_agent.metrics import METRICS
from esper_env.config import ConfigError, unknown_name

SERVICES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""Loggers by name, and the package each needs."""


class MetricsFile:
    """`metrics.csv`: one row per update, columns as they first appear; a resumed run continues it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []

    def resume(self, updates: int) -> None:
        """Drop the rows after `updates`: they belong to a future that will be lived again."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if float(row["updates"]) <= updates]
        self.columns = list(rows[0]) if rows else []
        self._rewrite(rows)

    def write(self, metrics: Mapping[str, float]) -> None:
        """Append a row."""
        missing = [name for name in metrics if name not in self.columns]
        if missing:
            rows = read_metrics(self.path) if self.columns else []
            self.columns += missing
            self._rewrite(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(dict(metrics))

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class EpisodesFile:
    """`episodes.jsonl`: one line per finished episode with every decision; a resumed run continues it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resume(self, updates: int) -> None:
        """Drop the episodes of updates that will be lived again."""
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if json.loads(line)["update"] <= updates]
            self.path.write_text("".join(f"{line}\n" for line in kept))

    def write(self, rollout: TensorDictBase, update: int) -> None:
        """Append the episodes that lie whole within a rollout `[envs, time]`."""
        done = rollout["next", "done"].squeeze(-1)
        begun = rollout["is_init"].squeeze(-1)
        info = rollout["next", "info"]
        lines = []
        for env in done.any(1).nonzero().flatten().tolist():
            end = int(done[env].nonzero()[-1])
            starts = begun[env, : end + 1].nonzero().flatten()
            if not len(starts):
                continue
            span = slice(int(starts[-1]), end + 1)
            steps = info[env, span]
            episode = {
                "update": update,
                "env": env,
                "objective_return": float(steps["objective_return"][-1]),
                "committed_test_accuracy": float(steps["test_accuracy"][-1]),
                "action": rollout["action"][env, span].tolist(),
                "log_prob": _rounded(rollout["action_log_prob"][env, span]),
                "value": _rounded(rollout["state_action_value"][env, span].squeeze(-1)),
                "val_accuracy": _rounded(steps["val_accuracy"].squeeze(-1)),
                "stage": steps["stage"].tolist(),
                "alpha": _rounded(steps["alpha"]),
                "blueprint": rollout["next", "blueprint_index"][env, span].tolist(),
                "reward_terms": {name: _rounded(term.squeeze(-1)) for name, term in steps["reward_terms"].items()},
            }
            lines.append(json.dumps(episode) + "\n")
        with self.path.open("a") as file:
            file.writelines(lines)


def _rounded(x: Any) -> Any:
    return json.loads(json.dumps((x.float() * 1e4).round().div(1e4).tolist()), parse_float=lambda t: round(float(t), 4))


def service(name: str, folder: Path, run: str) -> Any:
    """One of TorchRL's loggers.

    Raises:
        ConfigError: for an unknown name, or a package that is not installed.
    """
    if name not in SERVICES:
        raise ConfigError(unknown_name("logger", name, SERVICES))
    try:
        __import__(SERVICES[name])
    except ImportError as error:
        raise ConfigError(f"Logger {name!r} needs a package that is not here: pip install {SERVICES[name]}") from error
    from torchrl.record.loggers import get_logger

    extra = {"wandb_kwargs": {"project": "esper"}} if name == "wandb" else {}
    return get_logger(name, logger_name=str(folder), experiment_name=run, **extra)


def send(logger: Any, metrics: Mapping[str, float], steps: int) -> None:
    """Log every metric at a number of environment steps."""
    for name, value in metrics.items():
        if name in METRICS or "/" in name:
            logger.log_scalar(name, value, step=steps)
