"""What the pages say, taken apart: fenced blocks, and the commands and queries in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if not {"_ext", "_static"} & set(p.parts))]
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?(?P<indent> *)```(?P<language>[a-z]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
INLINE = re.compile(r"`(harmony(?: [^`\n]+))`")
ENDS = {"|", "||", "&&", ";", ">", ">>"}


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, its text, and why it is not run (empty: it is)."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str

    @property
    def id(self) -> str:
        return f"{name(self.page)}:{self.line}"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@lru_cache(maxsize=1)
def blocks() -> tuple[Block, ...]:
    return tuple(block for page in PAGES for block in _blocks(page))


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        inner = "".join(line.removeprefix(found["indent"]) for line in found["text"].splitlines(keepends=True))
        yield Block(page, text.count("\n", 0, found.start()) + 1, found["language"], inner, found["why"] or "")


def of_language(language: str) -> list[Block]:
    return [block for block in blocks() if block.language == language]


# ---- commands ---------------------------------------------------------------------------------------------------
def lines_of(block: Block) -> Iterator[str]:
    """The command lines of a block, continued lines joined; in a console those after a prompt."""
    text = re.sub(r"\\\n\s*", "", block.text)
    for line in text.splitlines():
        if block.language == "console":
            if line.startswith("$ "):
                yield line[2:]
        elif block.language in {"", "sh", "bash", "shell"}:
            yield line


@dataclass(frozen=True)
class Command:
    """A `harmony` command of a page, its words without the first."""

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return "harmony " + shlex.join(self.words)


@lru_cache(maxsize=1)
def commands() -> tuple[Command, ...]:
    """Every `harmony` command of every block, also behind ``kubectl exec ... --`` and in pipes."""
    out = []
    for block in blocks():
        for line in lines_of(block):
            if re.match(r"(harmony|kubectl|helm) \S", line):  # a table of results begins with more blanks
                out += [Command(block.id, words) for words in harmony_in(line)]
    for page in PAGES:
        outside = re.sub(r"\\\n\s*", "", FENCE.sub("", page.read_text(encoding="utf-8")))
        for line in re.findall(r"^ {4}(harmony \S.*)", outside, re.MULTILINE):
            out += [Command(name(page), words) for words in harmony_in(line)]
    return tuple(out)


def harmony_in(line: str) -> list[tuple[str, ...]]:
    """The words of the `harmony` commands in a shell line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|>;&")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for token in lexer:
        if token == "...":  # and what else there is to say
            continue
        if token in ENDS:
            parts.append([])
        else:
            parts[-1].append(token)
    found = []
    for part in parts:
        if "--" in part[:-1] and part[0] != "harmony":
            part = part[part.index("--") + 1 :]
        if part and part[0] == "harmony":
            found.append(tuple(part[1:]))
    return found


def mentions() -> list[tuple[str, str]]:
    """(page, text) of commands within sentences, such as `harmony replay TRACE`."""
    return [(name(page), text) for page in PAGES for text in INLINE.findall(page.read_text(encoding="utf-8"))]
