"""What MkDocs calls while it builds: adds what a file cannot show, and lets no page need a network."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError

from docs.generator.sections import build

_LOADED = re.compile(
    r"<(?:script|img|link rel=\"(?:stylesheet|preconnect|preload)\")[^>]*(?:src|href)=\"(https?://[^\"]*)"
)
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+((?:examples|tests|benchmarks)/[^)#]+)[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Add drawings and reference; files beside the documentation are named, for a site cannot link to them."""
    return build(_OUTSIDE.sub(r"`\2`", markdown))


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would load something from elsewhere when it is read."""
    loaded = _LOADED.findall(output)
    if loaded:
        raise PluginError(f"{page.file.src_path} loads {', '.join(loaded)}: pages must be whole without a network.")
    return output
