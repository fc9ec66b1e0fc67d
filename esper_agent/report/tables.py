"""Tables as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(lines: Sequence[str]) -> str:
    """Rows as a table that scrolls by itself where the page is narrow."""
    return f"<div class=wide><table>{''.join(lines)}</table></div>"


def row(kind: str, cells: Iterable[str]) -> str:
    """Cells, `td` or `th`, as a row."""
    return f"<tr>{''.join(f'<{kind}>{cell}</{kind}>' for cell in cells)}</tr>"
