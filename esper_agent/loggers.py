"""Where metrics go: always a CSV file, and by name whatever else TorchRL can log to."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper_agent.files import replacing
from esper_env.config import ConfigError, unknown_name

if TYPE_CHECKING:
    from tensordict import TensorDictBase
    from torch import Tensor

RECORDED = (
    "is_init",
    "action",
    "action_log_prob",
    "state_action_value",
    ("next", "done"),
    ("next", "info"),
    ("next", "blueprint_index"),
)
"""What an episode's line is made of."""

SERVICES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""Loggers by name, and the package each needs."""


class LogError(ValueError):
    """A file of a run that something else has written to; the message says where."""


class MetricsFile:
    """`metrics.csv`: one row per update, columns in the order of their first appearance.

    What is not a number, because there was nothing to measure, is left empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []

    def resume(self, updates: int) -> None:
        """Drop the rows after `updates`: they belong to a future that will be lived again."""
        rows = read_metrics(self.path) if self.path.exists() else []
        rows = [row for row in rows if float(row["updates"]) <= updates]
        self.columns = list(rows[0]) if rows else []
        self._rewrite(rows)

    def write(self, metrics: Mapping[str, float]) -> None:
        """Append a row."""
        known = {name: value for name, value in metrics.items() if not math.isnan(value)}
        new = [name for name in known if name not in self.columns]
        if new:
            rows = read_metrics(self.path) if self.columns else []
            self.columns += new
            self._rewrite(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, restval="").writerow(known)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with replacing(self.path) as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics file."""
    return list(csv.DictReader(_whole_lines(path)))


def read_accounts(path: Path, latest: int) -> list[dict[str, Any]]:
    """The latest lines of an episodes file; none where there is no file."""
    lines = _whole_lines(path) if path.exists() else []
    return [_read_account(path, number, line) for number, line in list(enumerate(lines, 1))[-latest:]]


def _whole_lines(path: Path) -> list[str]:
    """Killed while it wrote, a process leaves a line that is cut short, and one that is writing may just have."""
    with path.open(newline="") as file:
        return [line for line in file if line.endswith("\n")]


def _read_account(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        account: dict[str, Any] = json.loads(line)
        int(account["update"])
    except (ValueError, KeyError, TypeError) as error:
        raise LogError(f"{path} is damaged: line {number} is no episode. Remove that line to go on.") from error
    return account


class EpisodesFile:
    """`episodes.jsonl`: one line per finished episode with every decision; a resumed run continues it.

    Episodes may run on from one rollout into the next; `unfinished` holds the steps so far of each environment's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unfinished: dict[int, TensorDictBase] = {}

    def resume(self, updates: int) -> None:
        """Drop the episodes after `updates`, which will be lived again."""
        lines = _whole_lines(self.path) if self.path.exists() else []
        with replacing(self.path) as file:
            for number, line in enumerate(lines, 1):
                if _read_account(self.path, number, line)["update"] <= updates:
                    file.write(line)

    def write(self, rollout: TensorDictBase, update: int) -> None:
        """Append the episodes that ended in a rollout `[envs, time]`."""
        recorded = rollout.select(*RECORDED)
        with self.path.open("a") as file:
            for env in range(len(rollout)):
                for episode in self._finished(env, recorded[env]):
                    file.write(json.dumps({"update": update, "env": env} | _account(episode)) + "\n")

    def _finished(self, env: int, steps: TensorDictBase) -> Iterator[TensorDictBase]:
        """The episodes of one environment that ended in `steps [time]`, whole; what has begun is kept for later."""
        import torch

        begins, ends = (steps[key].squeeze(-1).tolist() for key in ("is_init", ("next", "done")))
        parts: list[TensorDictBase] | None = [self.unfinished.pop(env)] if env in self.unfinished else None
        start = 0
        for t, (first, last) in enumerate(zip(begins, ends, strict=True)):
            if first:
                parts, start = [], t
            if last and parts is not None:
                yield torch.cat([*parts, steps[start : t + 1]])
                parts = None
        if parts is not None:
            self.unfinished[env] = torch.cat([*parts, steps[start:]]).clone()


def _account(episode: TensorDictBase) -> dict[str, Any]:
    """The decisions of an episode `[time]` and what came of each, as plain data."""
    after, info = episode["next"], episode["next", "info"]
    return {
        "objective_return": float(info["objective_return"][-1]),
        "committed_test_accuracy": float(info["test_accuracy"][-1]),
        "action": episode["action"].tolist(),
        "log_prob": _rounded(episode["action_log_prob"]),
        "value": _rounded(episode["state_action_value"].squeeze(-1)),
        "executed": info["action_executed"].squeeze(-1).int().tolist(),
        "val_accuracy": _rounded(info["val_accuracy"].squeeze(-1)),
        "stage": info["stage"].tolist(),
        "alpha": _rounded(info["alpha"]),
        "blueprint": after["blueprint_index"].tolist(),
        "reward_terms": {name: _rounded(term.squeeze(-1)) for name, term in info["reward_terms"].items()},
    }


def _rounded(x: Tensor) -> Any:
    return x.double().round(decimals=4).tolist()


class Services:
    """Loggers of other packages, found by name.

    Args:
        names: keys of `SERVICES`.
        folder: of the run; one that is resumed continues in it.
        steps: environment steps that were trained before; what was logged after them is lived, and logged, again.
    """

    def __init__(self, names: Iterable[str], folder: Path, steps: int = 0) -> None:
        self._loggers = {name: _service(name, folder) for name in names}
        if steps and "tensorboard" in self._loggers:
            writer = self._loggers["tensorboard"].experiment
            writer.close()
            writer.purge_step = steps + 1  # read when it opens its next file, with the first number it is given

    def send(self, metrics: Mapping[str, float], steps: int) -> None:
        """Log what is a number, at a number of environment steps, as one row."""
        known = {name: value for name, value in metrics.items() if not math.isnan(value)}
        for logger in self._loggers.values():
            logger.log_metrics(known, step=steps)

    def close(self) -> None:
        """Write out what is still in memory."""
        for name, logger in self._loggers.items():
            logger.close()
            if name == "mlflow":  # TorchRL leaves its run open, beside which no other could begin
                import_module(name).end_run()


def require_services(names: Iterable[str]) -> None:
    """Refuse names of loggers that are unknown, or whose package is not installed."""
    for name in names:
        if name not in SERVICES:
            raise ConfigError(unknown_name("logger", name, SERVICES))
        try:
            import_module(SERVICES[name])
        except ImportError as error:
            package = SERVICES[name]
            raise ConfigError(f"Logger {name!r} needs a package that is not here: pip install {package}") from error


def _service(name: str, folder: Path) -> Any:
    """One of TorchRL's loggers."""
    require_services((name,))
    from torchrl.record.loggers.mlflow import MLFlowLogger
    from torchrl.record.loggers.tensorboard import TensorboardLogger
    from torchrl.record.loggers.wandb import WandbLogger

    if name == "tensorboard":
        return TensorboardLogger(exp_name=name, log_dir=str(folder))
    if name == "wandb":
        return WandbLogger(exp_name=folder.name, log_dir=str(folder), project="esper")
    # MLflow refuses plain folders since its version 3.
    return MLFlowLogger(exp_name=folder.name, tracking_uri=f"sqlite:///{folder.resolve() / 'mlflow.db'}")
