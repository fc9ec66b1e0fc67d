"""Arguments of the command line: how numbers and mappings are written, and what is said of other words."""

from __future__ import annotations

import collections.abc
import json
from collections.abc import Mapping
from typing import Any, get_origin

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo


def registry() -> ConstructorRegistry:
    """Teaches tyro that a mapping is one argument in JSON, and to say of what is no number that it is none."""
    known = ConstructorRegistry()

    @known.primitive_rule
    def number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[float] | None:
        kind = info.type
        if kind is not int and kind is not float:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=kind.__name__.upper(),
            instance_from_str=lambda strings: _number(kind, strings[0]),
            is_instance=lambda value: isinstance(value, int | float) and not isinstance(value, bool),
            str_from_instance=lambda value: [str(value)],
        )

    @known.primitive_rule
    def mapping(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Mapping[str, Any]] | None:
        if get_origin(info.type) is not collections.abc.Mapping:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="JSON",
            instance_from_str=lambda strings: _from_json(strings[0]),
            is_instance=lambda value: isinstance(value, Mapping),
            str_from_instance=lambda value: [json.dumps(dict(value))],
        )

    return known


def _number(kind: type[float], text: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"expected a {'whole ' if kind is int else ''}number, got {text}") from None


def _from_json(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object such as '{{\"max_epochs\": 20}}', with these quotes, got {text}")
    return value
