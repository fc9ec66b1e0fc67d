"""Markdown from data: tables, and the docstrings that stand below the fields of a class."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; what would end a cell or begin a tag is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def code(value: object) -> str:
    """In the letters of code."""
    return f"`{value}`"


def codes(values: Iterable[object], empty: str = "–") -> str:
    """Several of them, or a dash."""
    return ", ".join(code(value) for value in values) or empty


def first_line(thing: Any) -> str:
    """The first paragraph of its docstring, as one line with a full stop."""
    doc = inspect.getdoc(thing)
    if not doc:
        raise ValueError(f"{thing!r} has no docstring for the pages to show")
    line = " ".join(doc.partition("\n\n")[0].split())
    return line if line.endswith((".", "?", "!")) else line + "."


def attribute_docs(kind: type) -> dict[str, str]:
    """The docstring below each attribute of a class, by name; inherited ones are not looked for."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for attribute, below in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)):
            continue
        if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name):
            found[attribute.target.id] = inspect.cleandoc(str(below.value.value))
    return found


def default(field: Field[Any]) -> str:
    """A field's default as one would type it; a dash for one that must be given."""
    if field.default is not MISSING:
        return code(repr(field.default).replace("'", '"'))
    if field.default_factory is not MISSING:
        value = field.default_factory()
        return code(repr(value)) if isinstance(value, dict | tuple) else f"`{type(value).__name__}()`"
    return "–"


def options(kind: type) -> str:
    """The fields of a configuration: name, default and meaning."""
    meaning = attribute_docs(kind)
    rows = ((code(field.name), default(field), meaning.get(field.name, "")) for field in fields(kind))
    return table(("Option", "Default", "Meaning"), rows)
