"""`Schedule`: replica bounds for hours of the week, in the wall-clock time of a place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from forecasting.errors import UsageError

__all__ = ["Schedule", "bounds_in_force"]

DAY_MIN = 1440


def _zone(name: str) -> ZoneInfo:
    """The time zone of that IANA name; `UsageError` if there is none."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError; folders and odd keys raise others
        raise UsageError(f"time zone {name!r}: expected an IANA name such as Europe/Berlin or UTC") from None


@dataclass(frozen=True, slots=True)
class Schedule:
    """Bounds that hold from ``start_min`` to ``end_min`` (minutes after local midnight) on ``days``.

    A window whose end is not after its start runs into the next day (equal: 24 hours) and belongs to the day on
    which it began. Times are compared on the wall clock: where clocks go forward, a window that would begin in the
    hour that does not exist begins when it is over; where they go back, the repeated hour counts both times.

    Attributes:
        name: for people.
        timezone: IANA name.
        days: weekdays on which the window begins, 0 is Monday.
        start_min: 0..1439, first minute in the window.
        end_min: 0..1440, first minute after it.
        min_replicas, max_replicas: None leaves that bound alone; at least one must be given.
    """

    name: str
    timezone: str
    days: frozenset[int]
    start_min: int
    end_min: int
    min_replicas: int | None = None
    max_replicas: int | None = None

    def __post_init__(self) -> None:
        where = f"schedule {self.name!r}"
        _zone(self.timezone)
        if not self.days or not all(0 <= d <= 6 for d in self.days):
            raise UsageError(f"{where}: days {sorted(self.days)}: expected one or more of 0 (Monday) to 6 (Sunday)")
        if not (0 <= self.start_min < DAY_MIN and 0 <= self.end_min <= DAY_MIN):
            raise UsageError(f"{where}: times {self.start_min}..{self.end_min} min: expected 0..1439 and 0..1440")
        low, high = self.min_replicas, self.max_replicas
        if low is None and high is None:
            raise UsageError(f"{where}: expected minReplicas, maxReplicas or both")
        if (low is not None and low < 0) or (high is not None and high < max(1, low or 0)):
            raise UsageError(f"{where}: replica bounds {low}..{high}: expected 0 <= min <= max and max >= 1")

    def is_active(self, now_s: float) -> bool:
        """True when the moment ``now_s`` (seconds since the Unix epoch) lies in the window."""
        # arithmetic on the epoch rather than fromtimestamp(now_s, zone): the same for all platforms and signs
        local = (datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC")) + timedelta(seconds=now_s)).astimezone(
            _zone(self.timezone)
        )
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.start_min < self.end_min:
            return day in self.days and self.start_min <= minute < self.end_min
        began_today = day in self.days and minute >= self.start_min
        began_yesterday = (day - 1) % 7 in self.days and minute < self.end_min
        return began_today or began_yesterday


def bounds_in_force(schedules: Iterable[Schedule], low: int, high: int, now_s: float) -> tuple[int, int]:
    """Least and most replicas at ``now_s`` for a service with the bounds ``low..high`` of its own.

    Schedules only narrow: the highest minimum and the lowest maximum of all that are active and of the service
    itself count. Where these cross, the minimum wins, but never over the service's own maximum.
    """
    least, most = low, high
    for schedule in schedules:
        if schedule.is_active(now_s):
            least = max(least, low if schedule.min_replicas is None else schedule.min_replicas)
            most = min(most, high if schedule.max_replicas is None else schedule.max_replicas)
    least = min(least, high)
    return least, max(most, least)
