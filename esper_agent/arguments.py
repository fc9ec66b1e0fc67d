"""Arguments of the command line: how numbers and mappings are written, and what is said of other words."""

from __future__ import annotations

import collections.abc
import json
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from esper_env.config import unknown_name

WIDEST = 40
"""Characters of a wrong value that are shown."""


def registry() -> ConstructorRegistry:
    """Teaches tyro that a mapping is one argument in JSON, and to say of what is no number that it is none."""
    known = ConstructorRegistry()

    @known.primitive_rule
    def number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[float | None] | None:
        kinds = set(get_args(info.type)) if get_origin(info.type) in (Union, UnionType) else {info.type}
        optional = NoneType in kinds
        if kinds - {NoneType} not in ({int}, {float}):
            return None
        (kind,) = kinds - {NoneType}
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=("{None}|" if optional else "") + kind.__name__.upper(),
            instance_from_str=lambda strings: _number(kind, strings[0], optional),
            is_instance=lambda value: isinstance(value, tuple(kinds | {int})) and not isinstance(value, bool),
            str_from_instance=lambda value: [str(value)],
        )

    @known.primitive_rule
    def choice(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[str] | None:
        allowed = get_args(info.type)
        if get_origin(info.type) is not Literal:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=f"{{{','.join(allowed)}}}",
            instance_from_str=lambda strings: _chosen(strings[0], allowed),
            is_instance=lambda value: value in allowed,
            str_from_instance=lambda value: [value],
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


def sentence(box: str) -> str:
    """The first part of what tyro says in a box, drawn in one of two ways, without its title."""
    plain = re.sub(r"\x1b\[[0-9;]*m|^[│╭╰]|[│╮╯] *$", "", box, flags=re.MULTILINE)
    _, _, inside = plain.partition("\n")
    parts = re.split(r"^ *[─-]{3,} *$", inside, flags=re.MULTILINE)
    first = next((part for part in parts if part.strip()), box)
    if missing := re.match(r"\s*Missing from (.+):\s+(\S+).*\n([^(]+)\(required\)", first):
        return f"{missing[1]} needs {missing[2]}: {' '.join(missing[3].split())}"
    first = " ".join(first.split())
    text = re.sub(r"^(Error parsing )?(__tyro-dummy-inner__[^:]*: |\[\{.*?\}\]: )?", "", first)
    text = re.sub(r"(?<=\.) Expected \d+ values\.$", "", text)
    text = text or "This is no command of esper."
    return text if text.endswith((".", ")")) else f"{text}."


def _shown(text: str) -> str:
    """What somebody wrote, in quotes, and not much of it."""
    return repr(text if len(text) <= WIDEST else f"{text[:WIDEST]}…")


def _number(kind: type[float], text: str, optional: bool) -> float | None:
    if optional and text == "None":
        return None
    try:
        return kind(text)
    except ValueError:
        what = f"a {'whole ' if kind is int else ''}number{' or None' if optional else ''}"
        raise ValueError(f"expected {what}, got {_shown(text)}") from None


def _chosen(text: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise ValueError(unknown_name("choice", text, allowed))
    return text


def _from_json(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(
            f"expected a JSON object such as '{{\"max_epochs\": 20}}', with its quotes, got {_shown(text)}"
        )
    return value
