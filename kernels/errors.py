"""The error of this package: what was given, what was expected, and which names come near."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["KernelError", "near"]


class KernelError(ValueError):
    """A method, option, shape or mask that an attention kernel cannot use."""


def near(name: str, known: Iterable[str]) -> str:
    """A clause that names the nearest of ``known`` (or all of them) instead of the unknown ``name``."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return f"known: {', '.join(choices)}" if choices else "it takes none"
