"""Features of the observation, and the keys of observation and info."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from docs.generator.markdown import code, table
from esper_env.env import SeedEnv
from esper_env.info import INFO
from esper_env.observation import BASE_FEATURES, SLOT_FEATURES, Feature

_SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", inspect.getdoc(SeedEnv) or "", re.MULTILINE | re.DOTALL))


def _features(features: Sequence[Feature]) -> str:
    rows = ((i, code(f.name), f.formula, f"{f.low:g} to {f.high:g}") for i, f in enumerate(features))
    return table(("Index", "Feature", "Formula", "Bounds"), rows)


def base_features() -> str:
    """The features of the training run."""
    return _features(BASE_FEATURES)


def slot_features() -> str:
    """The features that every slot has."""
    return _features(SLOT_FEATURES)


def info_keys() -> str:
    """Every key of info: what kind of value it has, and its meaning."""
    env = SeedEnv(max_epochs=1)
    _, info = env.reset(seed=0)
    told = dict(re.findall(r"^\| (\w+) \| (.+) \|$", _SECTIONS["Information"], re.MULTILINE))
    rows = ((code(key), _kind(value), INFO[key].meaning if key in INFO else told[key]) for key, value in info.items())
    return table(("Key", "Value", "Meaning"), rows)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"one {'float' if value.dtype.kind == 'f' else 'int'} per slot"
    return {"bool": "bool", "int": "int", "float": "float", "dict": "name → float", "tuple": "int8 array per head"}[
        type(value).__name__
    ]
