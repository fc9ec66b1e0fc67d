"""Tasks: which page each belongs to, and the facts of its row.

A task has the page that bears its name, where somebody has written one, and otherwise the page of its data.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np

from docs.generator.diagrams import host_diagram
from docs.generator.markdown import attribute_docs, code, codes, table
from esper_env.config import EnvOptions, LifecycleConfig, TrainingConfig
from esper_env.network.blueprints import IMPLEMENTATIONS
from esper_env.registration import IDS
from esper_env.tasks import TASKS, Task
from esper_env.tasks.data import FileSource

FOLDER = Path(__file__).parents[1] / "tasks"
_DEFAULT = "digits"
_BESIDE = ("name", "summary", "source", "host")
"""Fields of a task that are not a row of its table of settings."""


def family(task: Task) -> str:
    """The name of its data: that of the source's class, in small letters."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(task.source).__name__).lower()


def page_of(task: Task) -> str:
    """The page on which a task is told of."""
    return task.name if (FOLDER / f"{task.name}.md").exists() else family(task)


def pages() -> dict[str, list[Task]]:
    """Every page of tasks, in the order of the table, with its tasks."""
    found: dict[str, list[Task]] = {}
    for task in TASKS.values():
        found.setdefault(page_of(task), []).append(task)
    return found


def index() -> str:
    """All tasks, with their ids and pages."""
    rows = (
        (f"[`{task.name}`]({page_of(task)}.md#task-{task.name})", task.summary, codes(ids_of(task)))
        for task in TASKS.values()
    )
    return table(("Task", "What it is", "Id"), rows)


def ids_of(task: Task) -> list[str]:
    """The registered ids that make this task."""
    return [name for name, kwargs in IDS.items() if kwargs.get("task", _DEFAULT) == task.name]


def sections(page: str) -> str:
    """The facts of every task of a page."""
    return "\n\n".join(facts(task) for task in pages()[page])


def facts(task: Task) -> str:
    """One task: how to make it, its host, its slots and its settings."""
    names = ids_of(task)
    make = f'"esper_env:{names[0]}"' if names else f'"esper_env:Esper-Seed-v0", task="{task.name}"'
    parts = [
        f"## Task `{task.name}`",
        task.summary,
        f"```py\nenv = gymnasium.make({make})\n```",
        f"<!-- built: host {task.name} -->",
        _summary(task),
        _slots(task),
        "Settings of the task; `training=`, `lifecycle=` and `max_epochs=` override most of them.",
        _settings(task),
    ]
    return "\n\n".join(parts)


def host(name: str) -> str:
    """The drawing of a task's host."""
    return host_diagram(TASKS[name].host)


def host_params(task: Task) -> int:
    """Parameters of the bare host."""
    return sum(array.size for array in task.host.init(np.random.default_rng(0)).values())


def budget(task: Task) -> int:
    """The parameter budget: its blueprint in every slot."""
    blueprint = IMPLEMENTATIONS[task.budget_blueprint, task.host.topology]
    return sum(blueprint.size(shape.channels) for shape in task.host.slots)


@cache
def splits(task: Task) -> tuple[int, int, int] | None:
    """Samples for training, validation and testing; None where that depends on files that may not be here."""
    if isinstance(task.source, FileSource):
        return None
    data = task.source.load(np.random.default_rng(0) if task.source.generated else None)
    return len(data.train), len(data.val), len(data.test)


def _summary(task: Task) -> str:
    rows = [
        ("Host", f"{task.host.topology}, {len(task.host.slots)} slots, {host_params(task):,} parameters"),
        ("Parameter budget", f"{budget(task):,}, a `{task.budget_blueprint}` in every slot"),
        ("Loss of guessing, L0", f"{task.chance_loss:.3f}"),
        ("Data", " ".join((inspect.getdoc(type(task.source)) or "").partition("\n\n")[0].split())),
    ]
    sizes = splits(task)
    if sizes is not None:
        rows.append(("Training / validation / test samples", " / ".join(f"{size:,}" for size in sizes)))
    return table(("Property", "Value"), rows)


def _slots(task: Task) -> str:
    shapes = task.host.slots
    heads = [field.name for field in fields(shapes[0])]
    rows = ((i, *(f"{getattr(shape, head):,}" for head in heads)) for i, shape in enumerate(shapes))
    return table(("Slot", *(head.capitalize() for head in heads)), rows)


def _settings(task: Task) -> str:
    told = attribute_docs(LifecycleConfig) | attribute_docs(TrainingConfig) | attribute_docs(EnvOptions)
    told |= attribute_docs(Task)
    rows = (
        (code(field.name), code(repr(getattr(task, field.name)).replace("'", '"')), told.get(field.name, ""))
        for field in fields(task)
        if field.name not in _BESIDE
    )
    return table(("Setting", "Value", "Meaning"), rows)
