"""What there is to choose from, as text: ids, tasks, blueprints, policies, metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from esper_agent.metrics import METRICS
from esper_env.actions import BLUEPRINTS
from esper_env.registration import IDS

LEARNING = {
    "lstm": "learns; a memory, a head per part of the action, a critic of state and op",
    "lstm-v1": "learns; half as wide, judges states alone, blueprints beside the slot: what `lstm` is compared with",
    "mlp": "learns; `lstm` without memory",
}


def ids() -> dict[str, str]:
    """Environment ids and what they stand for."""
    return {f"esper_env:{name}": f"task {kwargs.get('task', 'digits')}" for name, kwargs in IDS.items()}


def tasks() -> dict[str, str]:
    """Tasks and what they are about."""
    from esper_env.tasks import TASKS

    return {name: task.summary for name, task in TASKS.items()}


def blueprints() -> dict[str, str]:
    """Blueprints and the hosts they suit."""
    return {row.name: f"for {' and '.join(row.topologies)} hosts" for row in BLUEPRINTS if row.topologies}


def policies() -> dict[str, str]:
    """Policies and what they do."""
    from esper_agent.policies.baselines import BASELINES
    from esper_agent.policies.registry import policy_names

    meaning = LEARNING | {name: (kind.__doc__ or "").splitlines()[0] for name, kind in BASELINES.items()}
    return {name: meaning.get(name, "registered by you") for name in policy_names()}


def metrics() -> dict[str, str]:
    """Columns of `metrics.csv` and their meaning."""
    return METRICS


SECTIONS: dict[str, Callable[[], Mapping[str, str]]] = {
    "ids": ids,
    "tasks": tasks,
    "blueprints": blueprints,
    "policies": policies,
    "metrics": metrics,
}


def listing(section: str) -> str:
    """A section as lines of name and meaning."""
    entries = SECTIONS[section]()
    width = max(map(len, entries))
    return "\n".join(f"{name:<{width}}  {meaning}" for name, meaning in entries.items())
