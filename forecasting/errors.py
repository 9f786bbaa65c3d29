"""The error tree of the project; facts go in, a sentence for the person who made the mistake comes out.

    HarmonyError
    ├── InputError (also a ValueError)   a user's mistake: the command line prints one line, exit code 2
    │   ├── DataError                    a trace, panel, window or data file cannot be used as given
    │   ├── ArtefactError                a model file is missing, cut short, altered or of another version
    │   └── UsageError                   a name, option or setting that does not exist or does not fit
    └── (anything else is a bug and ends in a traceback)

It lives in the lowest package that needs it, so that every layer above can raise and catch the same classes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["ArtefactError", "DataError", "HarmonyError", "InputError", "UsageError", "suggest", "what_is"]


class HarmonyError(Exception):
    """Base of every error that the project raises on purpose."""


class InputError(HarmonyError, ValueError):
    """A mistake in what the user gave: says what, where, and what would be accepted."""


class DataError(InputError):
    """A trace, panel, window or data file that cannot be used as given."""


class ArtefactError(InputError):
    """A model file that is missing, cut short, altered or of another version."""


class UsageError(InputError):
    """A name, option or setting that does not exist or does not fit."""


def suggest(name: str, choices: Iterable[str], *, limit: int = 3) -> str:
    """Say what would be accepted instead of ``name``: near names first, else the first few of all.

    Returns a clause such as ``did you mean 'load'?`` or ``known: a, b, c``; empty when there is nothing to offer.
    """
    known = list(choices)
    near = difflib.get_close_matches(name, known, n=limit, cutoff=0.5)
    if not near:
        low = name.lower()
        near = [c for c in known if low and (low in c.lower() or c.lower() in low)][:limit]
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    if not known:
        return ""
    shown = ", ".join(known[:12])
    return f"known: {shown}{', ...' if len(known) > 12 else ''}"


def what_is(path: Path) -> str:
    """What stands at ``path``, in words such as ``a folder`` or ``a pipe``; empty where nothing does."""
    kinds = (
        (path.is_file, "a file"),
        (path.is_dir, "a folder"),
        (path.is_char_device, "a device"),
        (path.is_block_device, "a device"),
        (path.is_fifo, "a pipe"),
        (path.is_socket, "a socket"),
    )
    return next((words for holds, words in kinds if holds()), "")
