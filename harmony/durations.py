"""Durations as people write them: ``90``, ``15s``, ``5m``, ``1h30m``, ``2d``, ``1w``."""

from __future__ import annotations

import math
import re

from forecasting.errors import UsageError

__all__ = ["format_duration", "parse_duration"]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ms|s|m|h|d|w)", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+", re.ASCII)


def parse_duration(text: str, *, zero: bool = False) -> float:
    """Seconds of a duration: a number of seconds, or numbers with ms, s, m, h, d or w, largest unit first or not.

    ``zero``: whether 0 is one, for "never".

    Raises:
        UsageError: anything else, negative, or zero where that is none.
    """
    cleaned = text.strip().lower().replace(" ", "")
    seconds = math.nan
    if _NUMBER.fullmatch(cleaned):
        seconds = float(cleaned)
    elif _WHOLE.fullmatch(cleaned):
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(cleaned))
    if zero and seconds == 0:
        return 0.0
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"{text!r} is no duration; expected a positive one such as 15s, 5m, 1h30m or 2d")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest exact writing of a duration: 90 is "1m30s", 1209600 is "2w"."""
    rest, parts = round(seconds, 3), []
    for unit in ("w", "d", "h", "m"):
        count, rest = divmod(rest, _SECONDS[unit])
        if count:
            parts.append(f"{int(count)}{unit}")
    if rest or not parts:
        parts.append(f"{round(rest, 3):g}s")
    return "".join(parts)
