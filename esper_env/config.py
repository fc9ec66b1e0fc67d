"""Configuration: frozen dataclasses, built from plain keyword arguments and checked on the way in."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np


class ConfigError(ValueError):
    """A configuration that cannot work; the message says what to change."""


class MissingDataError(ConfigError):
    """Data that is not where it was looked for, with the options of an environment that would mend it."""

    def __init__(self, message: str, *remedies: tuple[str, ...]) -> None:
        super().__init__(message)
        self.remedies = remedies
        """Names of options that help if they are given together, and others that do so too."""


def unknown_name(kind: str, name: object, allowed: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest one that does."""
    options = sorted(allowed)
    near = difflib.get_close_matches(str(name), options, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {kind} {name!r}.{hint} Allowed: {', '.join(options)}."


def plain(value: Any) -> Any:
    """Numbers of NumPy as those of Python, which survive JSON, also inside of a dict; anything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    return {name: plain(part) for name, part in value.items()} if isinstance(value, dict) else value


class Options:
    """Mixin for a configuration dataclass: construction from a mapping, with unknown names refused.

    Whoever checks its fields in `__post_init__` calls this one first.
    """

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, f.name, plain(getattr(self, f.name)))

    @classmethod
    def from_mapping(cls, kind: str, values: Mapping[str, Any] | Self | None, beside: Iterable[str] = ()) -> Self:
        """Build from a mapping of field names (or pass an instance through); `beside` are names that others know."""
        if values is None:
            return cls()
        if isinstance(values, cls):
            return values
        if not isinstance(values, Mapping):
            raise ConfigError(f"{kind} must be a dict of options, got {type(values).__name__}: {values!r}.")
        allowed = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        for name in values:
            if name not in allowed:
                raise ConfigError(unknown_name(f"{kind} option", name, allowed | set(beside)))
        return cls(**values)


def check_number(name: str, value: object, low: float, high: float = float("inf"), *, whole: bool = False) -> None:
    """Raise a `ConfigError` unless `value` is a number (a whole one, if asked) in `[low, high]`."""
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        kind = "plain Python number" if isinstance(value, np.generic) else "number"
        raise ConfigError(f"{name} must be a {'whole ' if whole else ''}{kind}, got {value!r}.")
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise ConfigError(f"{name} must be a finite number, and this one has more than 300 digits.")
    if not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, got {value!r}.")
    if not low <= value <= high:
        bound = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
        raise ConfigError(f"{name} must be {bound}, got {value!r}.")


def check_flag(name: str, value: object) -> None:
    """Raise a `ConfigError` unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {value!r}.")


@dataclass(frozen=True)
class LifecycleConfig(Options):
    """When a seed may move on."""

    max_seeds: int = 3
    """Live and fossilized seeds allowed at once."""
    strict_gates: bool = False
    """Also ask for improvement (G2), ten epochs of blending (G3) and a contribution (G5)."""
    auto_advance: bool = False
    """ADVANCE happens by itself as soon as it is legal, and is masked."""
    embargo_epochs: int = 5
    """Epochs a pruned slot stays EMBARGOED."""
    min_prune_age: int = 1
    """Epochs a seed must have lived before it can be pruned."""
    min_training_epochs: int = 3
    """Epochs of TRAINING that gate G2 asks for."""
    min_fossilize_contribution: float = 1.0
    """Contribution in points that strict gate G5 asks for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("max_seeds", self.max_seeds, 0, whole=True)
        check_flag("strict_gates", self.strict_gates)
        check_flag("auto_advance", self.auto_advance)
        check_number("lifecycle.embargo_epochs", self.embargo_epochs, 1, whole=True)
        check_number("lifecycle.min_prune_age", self.min_prune_age, 1, whole=True)
        check_number("lifecycle.min_training_epochs", self.min_training_epochs, 1, whole=True)
        check_number("lifecycle.min_fossilize_contribution", self.min_fossilize_contribution, -100, 100)


@dataclass(frozen=True)
class TrainingConfig(Options):
    """How hosts and seeds are trained; what is None by default comes from the task."""

    host_lr: float | None = None
    """Learning rate of the host and of fossilized seeds."""
    seed_lr: float | None = None
    """Learning rate of live seeds; the host's when None."""
    momentum: float = 0.9
    """SGD momentum of hosts and seeds."""
    weight_decay: float = 5e-4
    """L2 decay of the host and of fossilized seeds; live seeds have none."""
    clip_norm: float = 1.0
    """Gradient norm at which the host, and each live seed on its own, is clipped."""
    proximal: float = 1.0
    """λ of the proximal term that keeps a seed in TRAINING from drifting; chosen in docs/training_length.md."""
    batch_size: int | None = None
    """Samples per training batch."""
    batches_per_epoch: int | None = None
    """Batches per epoch; the whole training set when None in the task as well."""
    val_samples: int | None = None
    """Validation samples used; all of them when None in the task as well."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for f in fields(self):
            value, whole = getattr(self, f.name), f.name in ("batch_size", "batches_per_epoch", "val_samples")
            if value is not None or f.default is not None:
                check_number(f"training.{f.name}", value, 1 if whole else 0, whole=whole)


@dataclass(frozen=True)
class RewardConfig(Options):
    """Weights of the reward terms, and the mode that says which of them are paid."""

    mode: str = "shaped"
    """`shaped`, `objective`, `simplified`, `sparse`, `minimal`, or a registered reward."""
    gamma: float = 0.995
    """Discount of the shaping potential; must equal the agent's."""
    progress: float = 0.1
    rent: float = 1.0
    shock: float = 0.2
    germinate_cost: float = 0.02
    set_alpha_cost: float = 0.005
    prune_cost: float = 0.005
    fossilize_cost: float = 0.01
    governor: float = 10.0
    attribution: float = 0.03
    stage: float = 0.1
    hindsight: float = 0.0
    """Credit for helping another seed; 0.1 is a weight to try. Off, because it is no potential."""
    hindsight_cap: float = 0.2
    """The most that one fossilization earns of it."""
    simplified_cost: float = 0.01
    minimal_prune_cost: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.mode, str):
            raise ConfigError(f"reward mode must be a name, got {self.mode!r}.")
        check_number("reward.gamma", self.gamma, 0, 1)
        for f in fields(self):
            if f.name not in ("mode", "gamma"):
                check_number(f"reward.{f.name}", getattr(self, f.name), 0)


@dataclass(frozen=True)
class EnvOptions(Options):
    """The keyword arguments of `gymnasium.make`: plain data, None for the task's own value."""

    task: str = "digits"
    """Name of a task; `esper_env.TASKS` lists them."""
    num_slots: int | None = None
    """Slots of the host."""
    max_epochs: int | None = None
    """Steps of an episode."""
    reward: Any = "shaped"
    """A reward mode, or a dict of weights (with `mode`, if not `shaped`)."""
    blueprints: Any = None
    """Names of the blueprints that may be planted; all that suit the host when None."""
    max_seeds: int | None = None
    """Live and fossilized seeds allowed at once; the number of slots when None."""
    strict_gates: bool = False
    """Also ask for improvement (G2), ten epochs of blending (G3) and a contribution (G5)."""
    auto_advance: bool = False
    """ADVANCE happens by itself as soon as it is legal, and is masked."""
    counterfactual_interval: int = 1
    """Coalitions are measured every so many epochs."""
    on_panic: str = "rollback"
    """What the governor does with a lost host: `rollback`, or `terminate` the episode after it."""
    lifecycle: Any = None
    """A dict of further lifecycle options."""
    training: Any = None
    """A dict of training options."""
    data_dir: str | None = None
    """Where tasks with data on disk find it; ESPER_DATA_DIR when None. Tasks that need no files ignore it."""
    download: bool = False
    """May missing data be fetched? Tasks that need no files ignore it."""
    device: str = "cpu"
    """Torch device of networks and data."""


@dataclass(frozen=True)
class EnvConfig:
    """The resolved configuration of an environment, as plain data."""

    task: str
    num_slots: int
    max_epochs: int
    blueprints: tuple[str, ...]
    """Blueprints that may be planted."""
    lifecycle: LifecycleConfig
    training: TrainingConfig
    """With every None replaced by the task's value, but for what means "all of the data"."""
    reward: RewardConfig
    counterfactual_interval: int = 1
    on_panic: str = "rollback"
    data_dir: str | None = None
    download: bool = False
    device: str = "cpu"

    def to_dict(self) -> dict[str, Any]:
        """Plain nested data that survives JSON."""
        plain = asdict(self)
        plain["blueprints"] = list(self.blueprints)
        return plain
