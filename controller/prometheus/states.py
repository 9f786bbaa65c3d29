"""What became of reading a service's indicators, in words that say what would help."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["FeedReason", "FeedState", "IndicatorState"]


class FeedReason(StrEnum):
    """How an indicator stands; a closed set."""

    FRESH = "Fresh"
    STALE = "Stale"
    EMPTY = "Empty"
    NAN = "NaN"
    MANY_SERIES = "ManySeries"
    UNREACHABLE = "Unreachable"
    TIMEOUT = "Timeout"
    QUERY_ERROR = "QueryError"
    INCOMPLETE = "Incomplete"
    SETTLING = "Settling"


@dataclass(frozen=True, slots=True)
class IndicatorState:
    """One indicator: the reason, a message for people (empty when fresh), and the age of its newest reading.

    `age_s` is infinite before the first reading. `notes` are Prometheus's own warnings and infos on the query.
    """

    name: str
    reason: FeedReason
    message: str
    age_s: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FeedState:
    """All indicators after a refresh at `now_s`, the demand first.

    `available` says that the newest demand is young enough to act on; an indicator can be unreadable this time (its
    reason says so) while what was read of it shortly before still counts. `incomplete` says why the newest answer does
    not cover all of the demand (empty: it does, or there is none): such a reading is no reason to lower a count and
    teaches nothing, but demand is `at_least` what it says.
    """

    now_s: float
    indicators: tuple[IndicatorState, ...]
    demand_age_s: float
    available: bool
    incomplete: str = ""
    at_least: float = math.nan

    @property
    def demand(self) -> IndicatorState:
        """The state of the demand."""
        return self.indicators[0]

    @property
    def message(self) -> str:
        """One line: what is wrong with which indicator; empty when all are fresh."""
        return "; ".join(f"{i.name}: {i.message}" for i in self.indicators if i.message)
