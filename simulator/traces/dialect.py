"""How a person's own file writes numbers and times: decimal commas, days first, local times of a zone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

from forecasting.errors import UsageError, suggest

__all__ = ["PLAIN", "Dialect"]

_COMMA = re.compile(r"\s*[-+]?\d*,\d+(e[-+]?\d+)?\s*", re.IGNORECASE)
_GROUPED = re.compile(r"\s*[-+]?\d{1,3}(\.\d{3})+(,\d+)?\s*")
_NUMBERED = re.compile(r"\s*(\d{1,2})([./-])(\d{1,2})\2(\d{4})(?:[ T]+(\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?))?\s*")


@dataclass(frozen=True)
class Dialect:
    """What a file does not say about itself; None where nobody said it either.

    Attributes:
        decimal: the sign before the decimals; None: commas, in a table that semicolons (or tabs) separate.
        dayfirst: whether 05/01/2026 is the fifth of January; None: where it is written with dots, or where another
            date of the column has more than twelve in its first place.
        timezone: IANA name of the zone that times without an offset are local to; empty: UTC.
    """

    decimal: Literal[".", ","] | None = None
    dayfirst: bool | None = None
    timezone: str = ""

    def __post_init__(self) -> None:
        if self.decimal not in (None, ".", ","):
            raise UsageError(f"decimal sign {self.decimal!r}: expected . or ,")
        if self.timezone and self.timezone not in available_timezones():
            raise UsageError(f"no time zone {self.timezone!r}; {suggest(self.timezone, sorted(available_timezones()))}")

    def number(self, cell: str, delimiter: str) -> float:
        """A cell as a number; `ValueError` for what is none."""
        commas = self.decimal == "," or (self.decimal is None and delimiter != ",")
        if commas and _COMMA.fullmatch(cell):
            return float(cell.replace(",", "."))
        if self.decimal == "," and _GROUPED.fullmatch(cell):  # 1.234,5: thousands are set apart
            return float(cell.replace(".", "").replace(",", "."))
        return float(cell)

    def stamps(self, cells: Sequence[str]) -> list[datetime]:
        """Cells as dates, ISO 8601 or with day and month in numbers; `ValueError` for what is neither.

        Raises `UsageError` where nothing tells the day from the month.
        """
        stripped = [cell.strip() for cell in cells]
        try:
            return [datetime.fromisoformat(cell) for cell in stripped]
        except ValueError:
            found = [_NUMBERED.fullmatch(cell) for cell in stripped]
        if not all(found):
            raise ValueError("not a date")
        parts = [m.groups() for m in found if m is not None]
        dayfirst = self._dayfirst(parts, stripped[0])
        out = []
        for first, _, second, year, clock in parts:
            day, month = (first, second) if dayfirst else (second, first)
            iso = f"{year}-{int(month):02}-{int(day):02}"
            text = "" if clock is None else f"T{clock.replace(',', '.').zfill(len(clock) + (clock[1] == ':'))}"
            out.append(datetime.fromisoformat(iso + text))
        return out

    def _dayfirst(self, parts: Sequence[tuple[str, ...]], example: str) -> bool:
        """Whether the day stands first."""
        if self.dayfirst is not None:
            return self.dayfirst
        if any(sign == "." or int(first) > 12 for first, sign, *_ in parts):
            return True
        if any(int(second) > 12 for _, _, second, *_ in parts):
            return False
        raise UsageError(f"{example!r}: is the day or the month first? Say --dayfirst or --no-dayfirst")

    def seconds(self, stamps: Sequence[datetime]) -> list[float]:
        """Dates as seconds since 1970; without an offset they are local to the zone.

        Where an hour comes twice, the second time is meant as soon as times would fall otherwise.
        """
        zone = ZoneInfo(self.timezone) if self.timezone else UTC
        out: list[float] = []
        for stamp in stamps:
            if stamp.tzinfo is not None:
                out.append(stamp.timestamp())
                continue
            at = stamp.replace(tzinfo=zone).timestamp()
            if out and at <= out[-1]:
                later = stamp.replace(tzinfo=zone, fold=1).timestamp()
                at = later if later > out[-1] else at
            out.append(at)
        return out


PLAIN = Dialect()
"""Nothing is said."""
