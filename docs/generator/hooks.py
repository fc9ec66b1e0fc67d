"""What MkDocs calls while it builds: adds pages of tasks, fills pages in, and lets none of them need a network."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from docs.generator.sections import fill
from docs.generator.tasks import pages, whole_page

TASKS = "Tasks"
"""The section of the navigation that gets a page for every task."""
_LOADED = re.compile(
    r"<(?:script|img|link rel=\"(?:stylesheet|preconnect|preload)\")[^>]*(?:src|href)=\"(https?://[^\"]*)"
)
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+((?:examples|tests|benchmarks)/[^)#]+)[^)]*\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of tasks into the navigation."""
    (section,) = (entry for entry in config.nav or [] if TASKS in entry)
    section[TASKS] += [f"tasks/{name}.md" for name in pages() if f"tasks/{name}.md" not in section[TASKS]]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for tasks that have none."""
    for name in pages():
        path = f"tasks/{name}.md"
        if files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, content=whole_page(name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what the page asks for; files beside the documentation are named, for a site cannot link to them."""
    return fill(_OUTSIDE.sub(r"`\2`", markdown))


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would load something from elsewhere when it is read."""
    loaded = _LOADED.findall(output)
    if loaded:
        raise PluginError(f"{page.file.src_path} loads {', '.join(loaded)}: pages must be whole without a network.")
    return output
