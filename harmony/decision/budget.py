"""`ErrorBudget`: what an objective of "at most epsilon of the time" allows over a rolling window, spent and left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
from scipy.special import bdtrik

from forecasting.errors import UsageError
from forecasting.panel import FloatArray
from harmony.decision.past.blocks import Blocks

__all__ = ["RARE", "ErrorBudget", "Hour", "chance_band"]

RARE = 0.003  # up to this objective a window holds a handful of violations, and chance weighs more than care
HOUR_S = 3600.0
DAY_S = 86_400.0
LARGEST = 1e12
BLOCK = 64  # hours that are kept together
BAND = np.array([0.025, 0.975])


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour's count: when it began (seconds), its known steps, those violated, and the sum of what was stated."""

    start_s: float
    steps: float = 0.0
    violated: float = 0.0
    stated: float = 0.0


@dataclass(frozen=True, slots=True)
class ErrorBudget:
    """Known and violated steps of the last `window_s` seconds, in hours.

    A whole window of steps allows ``epsilon`` of them to be violated. `pace` says at which share to go on, so that
    the budget is neither broken nor left unspent by the end of the next window.

    Attributes:
        epsilon: the violation rate allowed, 0..1.
        window_s: the rolling window, seconds.
        step_s: seconds of one step.
        newest: the hour that is being counted; None before any.
        earlier: (hours, 4) the numbers of those before it, oldest first, their start in hours.
        counted: sums over all of them.
    """

    epsilon: float
    window_s: float = 30 * 86_400.0
    step_s: float = 60.0
    newest: Hour | None = None
    earlier: Blocks = field(default_factory=lambda: Blocks.empty(4, np.float32, BLOCK))
    counted: Hour = Hour(0.0)

    SLOWEST: ClassVar[float] = 0.3  # the pace stays between these multiples of epsilon
    FASTEST: ClassVar[float] = 0.95  # "at most" wants a little room
    FASTEST_RARE: ClassVar[float] = 0.7  # ... and more where it is rare: one standard error of ten violations
    HOUR_SHARE: ClassVar[float] = 0.25  # one hour moves the pace by at most this share of a window's budget
    # What was violated so lately rescales what is stated, slows the pace at once ...
    RECENT_S: ClassVar[float] = 3 * DAY_S
    RECENT_MISSES: ClassVar[float] = 3.0  # (or in as many steps as allow so many violations)
    ROOM: ClassVar[float] = 1.5  # ... where it is more than so many times what the objective allows
    SCALE: ClassVar[float] = 4.0  # stated risks are rescaled by at most this factor
    PRIOR: ClassVar[float] = 1.0  # violations that "what is stated is realised" is worth

    def __post_init__(self) -> None:
        if not 0.0 <= self.epsilon < 1.0:
            raise UsageError(f"epsilon {self.epsilon}: a tolerated violation probability lies in 0 <= epsilon < 1")
        if not (math.isfinite(self.window_s) and self.window_s >= HOUR_S and self.step_s > 0.0):
            raise UsageError(
                f"error budget over {self.window_s} s in steps of {self.step_s} s: expected an hour or more"
            )

    @property
    def hours(self) -> tuple[Hour, ...]:
        """Every hour's counts, oldest first."""
        newest = () if self.newest is None else (self.newest,)
        return (*(_hour(row) for row in self.earlier.rows.tolist()), *newest)

    def anew(self) -> ErrorBudget:
        """With nothing counted yet."""
        return replace(self, newest=None, earlier=self.earlier.newest(0), counted=Hour(0.0))

    @property
    def total(self) -> float:
        """Violated steps that a whole window allows."""
        return self.epsilon * self.window_s / self.step_s

    @property
    def spent(self) -> float:
        """Violated steps in the window."""
        return self.counted.violated

    @property
    def left(self) -> float:
        """Share of a whole window's budget that is not spent; negative when overspent; 1 for an objective of 0 kept."""
        if self.total > 0.0:
            return 1.0 - self.spent / self.total
        return 1.0 if self.spent == 0.0 else -math.inf

    def band(self, steps_together: int) -> tuple[float, float]:
        """Least and most of what is `left` in 95 % of the services that keep the objective exactly; NaN for none seen.

        Violations come in runs of a lead time: ``steps_together`` of them count as one draw, and the draws that are
        violated are binomial.
        """
        draws = math.floor(self.counted.steps / max(1, steps_together))
        if self.total <= 0.0 or draws < 1:
            return math.nan, math.nan
        fewest, most = _violated_draws(draws, self.epsilon)
        share = max(1, steps_together) / self.total
        return 1.0 - most * share, 1.0 - fewest * share

    def burn_rate(self, last_s: float = HOUR_S) -> float:
        """Violated share of the last ``last_s`` seconds over epsilon: 1 spends the budget just in time."""
        if self.newest is None or self.epsilon == 0.0:
            return 0.0
        recent, since = [self.newest], self.newest.start_s + HOUR_S - last_s
        if last_s > HOUR_S:
            recent = [h for h in self.hours if h.start_s >= since]
        steps = sum(h.steps for h in recent)
        return sum(h.violated for h in recent) / steps / self.epsilon if steps else 0.0

    @property
    def pace(self) -> float:
        """The violated share to aim at now.

        What is left of the steps seen so far and of one whole window to come, spread over that window:
        (epsilon (seen + whole) - spent) / whole, within `SLOWEST`..`fastest` times epsilon. Where more than `ROOM`
        times epsilon was violated in the last days, it slows at once, by the same arithmetic over these days. No hour
        counts for more than `HOUR_SHARE` of either budget: an outage that lasts all night is not paid back with idle
        weeks.
        """
        hours = self.hours
        aim = self._aim(hours, self.window_s, 1.0)
        if self.epsilon > 0.0 and self.newest is not None:
            recent_s = self._recent_s
            since = self.newest.start_s + HOUR_S - recent_s
            slowed = self._aim([h for h in hours if h.start_s >= since], recent_s, self.ROOM)
            aim = min(aim, slowed) if slowed < self.epsilon else aim
        return min(max(aim, self.SLOWEST * self.epsilon), self.fastest * self.epsilon)

    @property
    def fastest(self) -> float:
        """The most that is aimed at, as a multiple of epsilon."""
        return self.FASTEST_RARE if self.epsilon <= RARE else self.FASTEST

    def _aim(self, hours: Sequence[Hour], window_s: float, room: float) -> float:
        """The share at which a window to come would spend what these hours left of ``room`` times their budget."""
        whole = window_s / self.step_s
        most = max(1.0, self.HOUR_SHARE * self.epsilon * whole)
        seen, spent = sum(h.steps for h in hours), sum(min(h.violated, most) for h in hours)
        return (self.epsilon * (room * seen + whole) - spent) / whole

    @property
    def realised_over_stated(self) -> float:
        """What stated risks are to be multiplied by: recent violations over the sum of what was stated for those steps.

        Recent, as for the pace: what was stated in a service's first hours, by residuals of little past, says nothing
        of what is stated weeks later.
        """
        if self.newest is None:
            return 1.0
        since = (self.newest.start_s + HOUR_S - self._recent_s) / HOUR_S
        lately = self.earlier.newest(math.ceil(self._recent_s / HOUR_S))
        recent = lately.column(0) >= since - 1e-6
        violated = self.newest.violated + float(lately.column(2)[recent].sum())
        stated = self.newest.stated + float(lately.column(3)[recent].sum())
        return min(max((violated + self.PRIOR) / (stated + self.PRIOR), 1.0 / self.SCALE), self.SCALE)

    @property
    def _recent_s(self) -> float:
        """The last days in seconds: longer where the objective allows few violations in them."""
        few = self.RECENT_MISSES / self.epsilon * self.step_s if self.epsilon > 0.0 else self.window_s
        return min(self.window_s, max(self.RECENT_S, few))

    def to_json(self) -> list[list[float]]:
        """Seconds by day, oldest first: when it began, known ones, violated ones, and the sum of what was stated."""
        days: dict[float, Hour] = {}
        for hour in self.hours:
            start = math.floor(hour.start_s / DAY_S) * DAY_S
            days[start] = _plus(days.get(start, Hour(start)), hour, 1.0)
        step_s = self.step_s
        return [
            [d.start_s, *(float(f"{x * step_s:.6g}") for x in (d.steps, d.violated, d.stated))] for d in days.values()
        ]

    def restored(self, rows: object) -> ErrorBudget:
        """With what `to_json` gave, anything at all may stand there: what cannot be read is left out."""
        hours: list[Hour] = []
        for row in rows if isinstance(rows, list) else ():
            numbers = [number_or_nan(x) for x in row] if isinstance(row, list) else []
            if len(numbers) == 4 and all(map(math.isfinite, numbers)):
                start, steps, violated, stated = numbers[0], *(x / self.step_s for x in numbers[1:])
                later = not hours or start > hours[-1].start_s
                if later and 0.0 <= violated <= steps and stated >= 0.0:
                    hours.append(Hour(start, steps, violated, stated))
        if not hours:
            return self.anew()
        counted = Hour(0.0)
        for hour in hours:
            counted = _plus(counted, hour, 1.0)
        earlier = self.earlier.newest(0).extended(_rows(hours[:-1]))
        return replace(self, newest=hours[-1], earlier=earlier, counted=counted)

    def learn(self, now_s: float, steps: float, violated: float, stated: float = 0.0) -> ErrorBudget:
        """After ``steps`` known steps up to ``now_s``, ``violated`` of them; ``stated`` is the sum of stated risks.

        A clock that is set back counts into the newest hour. Raises `UsageError` for counts that are impossible.
        """
        if not (0.0 <= violated <= steps and stated >= 0.0):
            raise UsageError(f"{violated} of {steps} steps violated (stated {stated}): expected 0 <= violated <= steps")
        if steps == 0.0:
            return self
        start = math.floor(now_s / HOUR_S) * HOUR_S
        earlier, newest, total = self.earlier, self.newest, self.counted
        if newest is None:
            newest = Hour(start)
        elif start > newest.start_s:
            earlier, newest = earlier.extended(_rows([newest])), Hour(start)
        since = newest.start_s + HOUR_S - self.window_s
        while len(earlier) and earlier.column(0, 0, 1)[0] * HOUR_S < since:
            oldest = _hour([float(earlier.column(at, 0, 1)[0]) for at in range(4)])
            total, earlier = _plus(total, oldest, -1.0), earlier.newest(len(earlier) - 1)
        more = Hour(0.0, steps, violated, stated)
        return replace(self, newest=_plus(newest, more, 1.0), earlier=earlier, counted=_plus(total, more, 1.0))


def chance_band(steps: FloatArray, epsilon: float, steps_together: int) -> tuple[FloatArray, FloatArray]:
    """Fewest and most of (n,) known ``steps`` that are violated in 95 % of the services that keep ``epsilon`` exactly.

    ``steps_together`` of them, a lead time, are violated together or not at all.
    """
    draws, at = np.unique(np.floor(steps / max(1, steps_together)), return_inverse=True)
    fewest, most = np.array([_violated_draws(int(d), epsilon) for d in draws]).reshape(-1, 2).T * max(1, steps_together)
    return fewest[at], most[at]


@lru_cache(maxsize=4096)
def _violated_draws(draws: int, epsilon: float) -> tuple[float, float]:
    """The central 95 % of a binomial count."""
    if draws < 1 or epsilon <= 0.0:
        return 0.0, 0.0
    found = np.nan_to_num(bdtrik(BAND, draws, epsilon))  # not a number where none at all is likelier than that
    fewest, most = np.maximum(0.0, np.ceil(found - 1e-6)).tolist()
    return fewest, most


def _rows(hours: list[Hour]) -> np.ndarray:
    """(hours, 4) their numbers, as they are kept."""
    return np.array([(h.start_s / HOUR_S, h.steps, h.violated, h.stated) for h in hours]).reshape(-1, 4)


def _hour(row: list[float]) -> Hour:
    """The hour of one row."""
    return Hour(row[0] * HOUR_S, *row[1:])


def number_or_nan(value: object) -> float:
    """A number of JSON; NaN for anything else."""
    plain = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if plain else math.nan  # type: ignore[arg-type]


def _plus(a: Hour, b: Hour, sign: float) -> Hour:
    return Hour(
        a.start_s,
        max(0.0, a.steps + sign * b.steps),
        max(0.0, a.violated + sign * b.violated),
        max(0.0, a.stated + sign * b.stated),
    )
