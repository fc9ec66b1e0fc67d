"""Tables as HTML, and the small bars in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells, HTML each, as a table that scrolls by itself where the page is narrow.

    Args:
        caption: what the table tells, as text; for those who do not see it in its place.
        head: the columns.
        rows: the cells of every row; the first one names it.
    """
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    return scrolling(
        caption,
        f'<table><caption class="unseen">{escape(caption)}</caption><thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table>",
    )


def scrolling(label: str, content: str, kind: str = "") -> str:
    """Content that may be wider or longer than its place, and that a keyboard can scroll."""
    return f'<div class="wide {kind}" role="region" tabindex="0" aria-label="Table: {escape(label)}">{content}</div>'


def bar(share: float, *, loss: bool = False) -> str:
    """A bar as long as a share of the widest."""
    return f'<i class="bar{" loss" * loss}" style="width:{8 * share:.2f}em"></i>'


def shares(parts: Sequence[float]) -> str:
    """Shares of a whole as one bar; the cells beside it say them in numbers."""
    pieces = "".join(f'<i class="part part{i}" style="width:{100 * part:.1f}%"></i>' for i, part in enumerate(parts))
    return f'<span class="shares" aria-hidden="true">{pieces}</span>'


def line(values: Sequence[float], low: float, high: float, *, width: int = 120, height: int = 24) -> str:
    """Values as a small line between two bounds; empty where there are none."""
    if not values:
        return ""
    step = width / max(1, len(values) - 1)
    places = (height - 2 - (height - 4) * (min(max(v, low), high) - low) / (high - low) for v in values)
    points = " ".join(f"{i * step:.1f},{y:.1f}" for i, y in enumerate(places))
    return (
        f'<svg class="spark" width="{width}" height="{height}" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f'<polyline points="{points}"/></svg>'
    )
