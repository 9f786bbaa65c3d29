"""`TimeRange`: the part of time that the charts of a service show, as the address says it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode

from forecasting.errors import UsageError
from harmony.durations import format_duration, parse_duration
from harmony.serving import Snapshot, utc

__all__ = ["RECENT", "TimeRange"]

LEAST_S, MOST_S = 60.0, 400 * 86_400.0
USUAL_S = 21_600.0  # where only an end is given
LENGTHS = (("1 h", "1h"), ("6 h", "6h"), ("24 h", "24h"), ("7 d", "7d"))


@dataclass(frozen=True, slots=True)
class Link:
    """A link to another range; `url` is empty where there is none, `is_current` for the one that is shown."""

    label: str
    url: str
    is_current: bool = False


@dataclass(frozen=True, slots=True)
class TimeRange:
    """`length_s` seconds up to `until_s` (since the epoch).

    Without an end it goes with the newest turn and shows the forecast, too; without a length it is as long as the
    charts are by themselves.
    """

    length_s: float | None = None
    until_s: float | None = None

    @classmethod
    def of(cls, params: Mapping[str, str]) -> TimeRange:
        """Read from an address: ``range=6h``, ``to=2026-03-01T12:00:00Z``; `UsageError` for what is neither."""
        length, end = params.get("range", ""), params.get("to", "")
        length_s = None
        if length:
            try:
                length_s = parse_duration(length[:40])
            except UsageError as error:
                raise UsageError(f"range: {error}") from None
            if not LEAST_S <= length_s <= MOST_S:
                raise UsageError(f"range: {length[:40]!r}: expected from 1m to {MOST_S / 86_400:.0f}d")
        if not end:
            return cls(length_s)
        try:
            moment = datetime.fromisoformat(end[:40])
            until_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            until_s = -1.0
        if until_s < 0.0:
            raise UsageError(f"to: {end[:40]!r} is no time; expected one such as 2026-03-01T12:00:00Z")
        return cls(length_s or USUAL_S, until_s)

    @property
    def key(self) -> str:
        """The range in an address, without "?"; empty for what the charts show by themselves."""
        values = {"range": "" if self.length_s is None else format_duration(self.length_s)}
        values["to"] = "" if self.until_s is None else utc(self.until_s) or ""
        return urlencode({k: v for k, v in values.items() if v})

    def span_s(self, snapshot: Snapshot, usual: tuple[float, float]) -> tuple[float, float]:
        """First and last moment; ``usual`` is what the charts show by themselves."""
        if self.until_s is not None:
            return self.until_s - (self.length_s or USUAL_S), self.until_s
        return (usual[0] if self.length_s is None else snapshot.at_s - self.length_s), usual[1]

    def links(self, snapshot: Snapshot, usual: tuple[float, float], path: str) -> tuple[list[Link], list[Link]]:
        """Links to lengths, and to what was before and after."""

        def url(to: TimeRange) -> str:
            return f"{path}?{to.key}" if to.key else path

        lengths = [Link("Recent", path, self == RECENT)]
        for label, text in LENGTHS:
            length_s = parse_duration(text)
            lengths.append(Link(label, url(TimeRange(length_s, self.until_s)), length_s == self.length_s))
        first = self.span_s(snapshot, usual)[0]
        end_s = snapshot.at_s if self.until_s is None else self.until_s
        step_s = max(LEAST_S, math.ceil(end_s - first))
        earlier = TimeRange(step_s, math.floor(end_s - step_s))
        moves = [Link("Earlier", url(earlier) if end_s - step_s > 0.0 else "")]
        if self.until_s is not None:
            after_s = self.until_s + step_s
            later = TimeRange(self.length_s, after_s if after_s < snapshot.at_s else None)
            moves += [Link("Later", url(later)), Link("Now", url(TimeRange(self.length_s)))]
        return lengths, moves


RECENT = TimeRange()
