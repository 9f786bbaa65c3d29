"""Fills the parts of pages that are made from the code: ``<!-- generated: NAME -->`` becomes Markdown in the site.

Nothing generated is kept in the repository, so nothing can be old.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from from_chart import values_page
from from_cli import cli_page
from from_code import condition_table, example_pages, names_page, preset_tables, python_api
from from_runs import json_page
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

PLACE = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)
MAKERS: dict[str, Callable[[], str]] = {
    "cli": cli_page,
    "values": values_page,
    "presets": preset_tables,
    "conditions": condition_table,
    "python": python_api,
    "names": names_page,
    "json": json_page,
    "examples": example_pages,
}
# What these pages need on the site and nobody needs who reads them elsewhere.
APPENDED = {"runbooks/README": "```{toctree}\n:hidden:\n:glob:\n\nHarmony*\n```\n"}
SEVERAL = re.compile(r"^( +)((?:[a-z]\w*, )+[a-z]\w*): (.+)$")  # an entry of Attributes
NAMED = re.compile(r"^(?:[^<\n]*<)?/?([\w./-]+)>?$", re.MULTILINE)


def filled(text: str, makers: dict[str, Callable[[], str]] = MAKERS) -> str:
    """``text`` with every place filled; an unknown name is an error that says which there are."""

    def fill(found: re.Match[str]) -> str:
        if found[1] not in makers:
            raise ValueError(f"nothing generates {found[1]!r}; there are {', '.join(sorted(makers))}")
        return makers[found[1]]()

    return PLACE.sub(fill, text)


def other_pages(folder: Path) -> list[str]:
    """Pages directly in ``folder`` that the index does not name: they are listed too, so that none is lost."""
    index = (folder / "index.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```", index, re.MULTILINE | re.DOTALL)
    named = {name for block in blocks for name in NAMED.findall(block)} | {"index"}
    return [page.stem for page in sorted(folder.glob("*.md")) if page.stem not in named]


def _others_toctree(folder: Path) -> str:
    pages = other_pages(folder)
    if not pages:
        return ""
    return "```{toctree}\n:hidden:\n:caption: The service\n\n" + "\n".join(pages) + "\n```"


def _on_read(app: Sphinx, name: str, content: list[str]) -> None:
    folder = Path(app.srcdir)
    content[0] = filled(content[0], {**MAKERS, "others": lambda: _others_toctree(folder)})
    if name in APPENDED:
        content[0] += "\n" + APPENDED[name]


def _on_docstring(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    lines[:] = [out for line in lines for out in readable(line)]


def readable(line: str) -> list[str]:
    """A docstring's line as reStructuredText wants it: |x| is no substitution, "a, b: text" speaks of two fields."""
    parts = line.split("`")
    parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
    line = "`".join(parts)
    found = SEVERAL.match(line)
    if not found:
        return [line]
    indent, names, text = found.groups()
    *first, last = names.split(", ")
    return [*(f"{indent}{name}: see `{last}`." for name in first), f"{indent}{last}: {text}"]


def _on_outdated(_app: Sphinx, _env: object, added: set[str], _changed: set[str], removed: set[str]) -> list[str]:
    """The index lists pages that it does not name, so it is read again when pages come or go."""
    return ["index"] if added or removed else []


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_lexer("promql", TextLexer)  # Pygments' own does not know names with colons
    app.connect("source-read", _on_read)
    app.connect("env-get-outdated", _on_outdated)
    app.connect("autodoc-process-docstring", _on_docstring, priority=100)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
