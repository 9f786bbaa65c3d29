"""`Feed`: keeps one service's `History` current from Prometheus, reading only what is new."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from controller.prometheus.answers import Answer, Moments, Series, at_each_moment
from controller.prometheus.client import Prometheus
from controller.prometheus.coverage import Coverage, Reporting
from controller.prometheus.errors import PrometheusError, QueryRefused, Slow
from controller.prometheus.families import Kin
from controller.prometheus.freshness import selectors, within
from controller.prometheus.history import History
from controller.prometheus.states import FeedReason, FeedState, IndicatorState
from controller.prometheus.together import Portion, Want
from forecasting.errors import DataError
from forecasting.panel import LARGEST, FloatArray, Indicator
from forecasting.windows import WEEK_S

__all__ = ["Feed", "FeedReason", "FeedState", "IndicatorState", "QueriedIndicator"]

OVERLAP_ROWS = 2  # read again: late samples, and the level before a counter's next reading
LATE_ROWS = 30  # how far back a series that has ended is still looked for
BACKFILL_S = WEEK_S + 3600.0
STALE_ROWS = 3
STALE_AT_LEAST_S = 120.0
SHORTEST_PIECE_ROWS = 60
PAST_BUDGET_S = 5.0  # of a tick, for all services of one Prometheus together
RETRY_PIECE_S = 300.0  # after a piece of the past failed
REFUSALS = 3  # in a row until a query is known to bear no age limit; one alone may be a passing overload
PARTS_S = 300.0  # between looks at the parts of a query that gives nothing
MOST_PARTS = 8
REFUSED_S = 3600.0  # and then it is tried again after so long


class QueriedIndicator(Protocol):
    """An indicator and the PromQL that gives it."""

    @property
    def indicator(self) -> Indicator:
        """What is read."""
        ...

    @property
    def promql(self) -> str:
        """How it is read: one series."""
        ...

    @property
    def kin(self) -> Kin | None:
        """With whom it can be asked together; None: alone."""
        ...

    @property
    def reporting(self) -> Reporting | None:
        """How the pods that report it are counted; None where it is not theirs."""
        ...


@dataclass(slots=True)
class _Cursor:
    """How far one indicator has been read: rows up to `read` (an answer came), `newest` time of a reading."""

    promql: str
    limited: str = ""  # the query with an age limit, once it was asked alone
    read: int | None = None
    newest_s: float = -math.inf
    refusals: int = 0  # in a row of the query with an age limit where it was taken as it is
    as_given_until_s: float = -math.inf  # until then it is asked as it is at once
    incomplete: str = ""  # why the newest answer does not say all
    settles: bool = False  # because pods have just become ready
    at_least: float = math.nan  # the newest reading of an incomplete answer
    absent: tuple[str, ...] = ()  # parts of the query that have no series while others have
    parts_until_s: float = -math.inf  # until then they are not asked for again


class Feed:
    """Reads a service's queries (the demand first) into its history.

    The column after the last is no indicator: it counts the pods that report the demand.

    Args:
        prometheus: whom to ask; feeds may share one.
        queries: one per column of ``history``, in its order.
        history: what is kept current.
        stale_after_s: how old the newest reading may be and still count as fresh, and how old a sample may be to
            make a reading; three steps, at least 2 min, by default. Set it above the scrape interval.

    Raises `DataError` if queries and history do not fit together.
    """

    def __init__(
        self,
        prometheus: Prometheus,
        queries: Sequence[QueriedIndicator],
        history: History,
        *,
        stale_after_s: float | None = None,
    ) -> None:
        if len(queries) != len(history.indicators):
            raise DataError(f"{len(queries)} queries for a history of {len(history.indicators)} indicators")
        self.prometheus = prometheus
        self.queries = tuple(queries)
        self.history = history
        self.stale_after_s = stale_after_s or max(STALE_ROWS * history.step_s, STALE_AT_LEAST_S)
        reporting = self.queries[0].reporting
        self._coverage = None if reporting is None else Coverage()
        self._kin = [q.kin for q in self.queries] + ([] if reporting is None else [reporting.kin])
        promql = [q.promql for q in self.queries] + ([] if reporting is None else [reporting.promql])
        self._cursors = [_Cursor(text) for text in promql]
        self._past: _Past | None = None
        self.portions: dict[int, Portion] = {}  # what is asked for many services together in this tick, by column
        self.reads_past = True  # False while nobody decides: the week of demand is dropped, and read when it is needed

    def expect(self, now_s: float, pods: int, ready: int, settled: int) -> None:
        """So many pods are there, ready, and have been ready for long: a reading that covers fewer is incomplete."""
        if self._coverage is not None:
            self._coverage.expect(now_s, pods, ready, settled)

    def kin(self, column: int) -> Kin | None:
        """With whom a column can be asked together; None: alone."""
        return self._kin[column]

    async def refresh(self, now_s: float) -> FeedState:
        """Read what is new up to ``now_s`` (Prometheus's time); never raises for Prometheus's faults.

        The first call reads the past: the lookback of all, then a week and an hour of the demand. If that is too much
        for Prometheus, too much for one tick, or the call is cancelled, it goes on with later calls.
        """
        self.prometheus.tick_cache.begin(now_s)
        if self.history.forget_after(now_s):
            for cursor in self._cursors:
                cursor.read = None
                cursor.newest_s = min(cursor.newest_s, now_s)
        answers = await self._answers(now_s)
        if self._coverage is not None:
            counted = answers[len(self.queries)][1]
            found = None if isinstance(counted, PrometheusError) or counted.warnings else at_each_moment(counted.series)
            self._coverage.learn(now_s, found)
        states = [self._told(column, now_s, *answers[column]) for column in range(len(self.queries))]
        states = [await self._explained(column, state, now_s) for column, state in enumerate(states)]
        self._follow_past(now_s)
        if self._past is not None and self.reads_past:
            await self._piece_of_past(now_s)
        age = now_s - self.history.newest(0)[0]
        demand = self._cursors[0]
        available = abs(age) <= self.stale_after_s
        return FeedState(now_s, tuple(states), age, available, demand.incomplete, demand.at_least)

    @property
    def has_past(self) -> bool:
        """True once all of the demand's past has been read, as far as there is any."""
        return self.history.keeps_past and self._past is None and self._cursors[0].read is not None

    def wants(self, now_s: float) -> list[Want]:
        """The rows that a refresh at ``now_s`` will read of the indicators that can be asked for many at once."""
        now = self.history.row_at(now_s)
        return [
            Want(column, self._first(column, now), now, self._shown_s(column))
            for column, kin in enumerate(self._kin)
            if kin is not None
        ]

    # ---- sums with an absent part -------------------------------------------------------------------------------
    async def _explained(self, column: int, state: IndicatorState, now_s: float) -> IndicatorState:
        """Of a query of one's own that gives nothing, with the part of it that has no series, if others have."""
        cursor = self._cursors[column]
        parts = selectors(cursor.promql) if state.reason is FeedReason.EMPTY and self._kin[column] is None else []
        if len(parts) < 2:
            return state
        if now_s >= cursor.parts_until_s:
            cursor.absent, cursor.parts_until_s = await self._absent_of(parts, now_s), now_s + PARTS_S
        if not cursor.absent:
            return state
        said = (
            f"{state.message}; of its parts, {' and '.join(cursor.absent)} gives no series while others do, and a sum "
        )
        return replace(state, message=said + "with an absent part is absent (`or 0 * ...` where that part means 0)")

    async def _absent_of(self, parts: list[str], now_s: float) -> tuple[str, ...]:
        """The selectors that give no series, if some do; as far as Prometheus answers."""
        try:
            there = [bool(await self.prometheus.query(f"group({part})", now_s)) for part in parts[:MOST_PARTS]]
        except PrometheusError:
            return ()
        return tuple(part for part, found in zip(parts, there, strict=False) if not found) if any(there) else ()

    # ---- one indicator ------------------------------------------------------------------------------------------
    async def _answers(self, now_s: float) -> dict[int, tuple[int, Answer | PrometheusError]]:
        """The first row that was asked for, and the answer, of every column."""
        now = self.history.row_at(now_s)
        found = await self._shared(now)
        alone = [column for column in range(len(self._cursors)) if column not in found]
        asked = await asyncio.gather(*(self._alone(column, now, now_s) for column in alone))
        return found | dict(zip(alone, asked, strict=True))

    async def _shared(self, now: int) -> dict[int, tuple[int, Answer | PrometheusError]]:
        """Of the columns that were asked for many services together, as far as that went well."""
        portions, self.portions = self.portions, {}
        out: dict[int, tuple[int, Answer | PrometheusError]] = {}
        for column, portion in portions.items():
            first = self._first(column, now)
            if (portion.want.first, portion.want.last) != (first, now):
                continue  # asked at another time than this
            try:
                found: Answer | PrometheusError | None = await portion.answer()
            except PrometheusError as error:
                found = error
            if found is not None:
                out[column] = first, found
        return out

    async def _alone(self, column: int, now: int, now_s: float) -> tuple[int, Answer | PrometheusError]:
        first = self._first(column, now)
        try:
            return first, await self._range(column, first, now, now_s)
        except PrometheusError as error:
            return first, error

    def _told(self, column: int, now_s: float, first: int, found: Answer | PrometheusError) -> IndicatorState:
        """How an indicator stands after what was found; what can be used of it is in the history."""
        if isinstance(found, PrometheusError):
            return self._state(column, now_s, _reason(found), str(found))
        return self._taken(column, now_s, first, found)

    def _first(self, column: int, now: int) -> int:
        """The first row that is new; at first the lookback."""
        column = column if column < len(self.queries) else 0  # pods are counted where demand is read
        cursor, step_s = self._cursors[column], self.history.step_s
        earliest = now - self.history.lookback - OVERLAP_ROWS
        if cursor.read is None:
            return earliest
        seen = max(cursor.newest_s / step_s, min(cursor.read, now) - LATE_ROWS)
        oldest = earliest if column or cursor.incomplete else now - math.ceil(BACKFILL_S / step_s)
        return max(oldest, min(math.floor(seen), now) - OVERLAP_ROWS)

    def _taken(self, column: int, now_s: float, first: int, answer: Answer) -> IndicatorState:
        """An answer is there; what lies before the first one of the demand is noted as the past to be read.

        Of an incomplete one nothing is kept: its rows are read again until they are whole.
        """
        cursor, now = self._cursors[column], self.history.row_at(now_s)
        cursor.incomplete, cursor.at_least = _missing(answer), math.nan
        if cursor.incomplete:
            cursor.at_least = self._newest_of(column, answer.series, now_s)
            return self._state(column, now_s, FeedReason.INCOMPLETE, cursor.incomplete, answer.notes)
        if column == 0:
            self._note_past(first, now)
        cursor.read = now
        reason, message = self._keep(column, answer.series, now_s)
        return self._state(column, now_s, reason, message, answer.notes)

    def _note_past(self, first: int, now: int) -> None:
        """What lies before the first complete answer of the demand, or was missed since the last one, is to be read."""
        read = self._cursors[0].read
        until = now - math.ceil(BACKFILL_S / self.history.step_s)
        if read is not None:
            until = max(until, read - OVERLAP_ROWS)
        if self._past is not None:
            until = min(until, self._past.until)
        if first > until and (read is None or first > read + 1):
            self._past = _Past(before=first, until=until, rows=first - until)

    async def _range(self, column: int, first: int, last: int, tick: float) -> Answer:
        """The rows ``first .. last`` of an indicator, none made of samples older than it may show."""
        cursor = self._cursors[column]
        promql = cursor.promql
        if tick < cursor.as_given_until_s:
            return await self._asked(promql, first, last, tick)
        try:
            cursor.limited = cursor.limited or within(cursor.promql, self._shown_s(column))
            answer = await self._asked(cursor.limited, first, last, tick)
        except QueryRefused:
            answer = await self._asked(promql, first, last, tick)  # raises in words about the query as given
            cursor.refusals += 1
            if cursor.refusals >= REFUSALS:
                cursor.as_given_until_s = tick + REFUSED_S
        else:
            cursor.refusals = 0
        return answer

    async def _asked(self, promql: str, first: int, last: int, tick: float) -> Answer:
        step_s = self.history.step_s
        start_s, end_s = first * step_s, last * step_s
        return await self.prometheus.tick_cache.get(
            tick,
            (promql, start_s, end_s, step_s),
            lambda: self.prometheus.answer(promql, start_s, end_s, step_s),
        )

    def _shown_s(self, column: int) -> float:
        """How long a sample may be shown for: a counter's only in its own step, or it would look like a rate of 0."""
        column = column if column < len(self.queries) else 0
        if self.queries[column].indicator.kind == "counter":
            return self.history.step_s - 0.001
        return self.stale_after_s

    def _keep(self, column: int, series: list[Series], now_s: float) -> tuple[FeedReason, str]:
        """Write an answer into the history; returns how the indicator stands after it."""
        times, values, count = self._readings(column, series, now_s)
        if not any(map(len, series)):
            newest = self._cursors[column].newest_s
            before = f", the last reading was {_ago(now_s - newest)} ago" if math.isfinite(newest) else ""
            return FeedReason.EMPTY, f"the query returns no series{before}; check metric name and label matchers"
        below = float(values[-1]) if column == 0 and values.size else 0.0
        cursor = self._cursors[column]
        if column == 0:
            values = np.where(values < 0, np.nan, values)
            values = self._covered(cursor, times, values, now_s)
        self.history.write(column, times, values)
        known = np.flatnonzero(np.isfinite(values))
        if known.size:
            cursor.newest_s = max(cursor.newest_s, float(times[known[-1]]))
        if below < 0:
            return FeedReason.QUERY_ERROR, f"the query returns {below:g}; a demand is 0 or more, so this is absent"
        if cursor.incomplete:
            return FeedReason.SETTLING if cursor.settles else FeedReason.INCOMPLETE, cursor.incomplete
        if count.size and count[-1] > 1:
            return FeedReason.MANY_SERIES, f"the query returns {count[-1]} series; wrap it in sum(...)"
        shown = times.size > 0 and cursor.newest_s < times[-1] and now_s - times[-1] <= self.stale_after_s
        if shown and not np.isfinite(values[-1]) and self.queries[column].indicator.kind != "counter":
            return FeedReason.NAN, (
                "the query returns NaN, infinity (as a division by zero does) or an absurd number; it counts as absent"
            )
        if now_s - cursor.newest_s <= self.stale_after_s:
            return FeedReason.FRESH, ""
        if not math.isfinite(cursor.newest_s):
            return FeedReason.STALE, (
                "no reading that can be used yet; a counter needs two steps with a scrape in each, so a step that is "
                "no shorter than the scrape interval"
            )
        return (
            FeedReason.STALE,
            f"the newest reading is {_ago(now_s - cursor.newest_s)} old; is its exporter up and being scraped?",
        )

    def _covered(self, cursor: _Cursor, times: FloatArray, values: FloatArray, now_s: float) -> FloatArray:
        """The demand without the readings that cover fewer pods than should report, and a word on the newest."""
        coverage = self._coverage
        known = np.flatnonzero(np.isfinite(values))
        if coverage is None or known.size == 0:
            return values
        lacks = coverage.lacking(times)
        newest = known[-1]
        if lacks[newest] and now_s - times[newest] <= self.stale_after_s:
            cursor.at_least = float(values[newest])
            reported = coverage.reported(float(times[newest]))
            cursor.settles = reported >= coverage.expected
            cursor.incomplete = _lacking(reported, coverage.ready, settles=cursor.settles)
        out: FloatArray = np.where(lacks, np.nan, values)
        return out

    def _readings(self, column: int, series: Sequence[Series], now_s: float) -> Moments:
        """What the series say at each moment up to now, a counter as its per-second rate."""
        counter = self.queries[column].indicator.kind == "counter"
        if counter:
            series = [Series(s.labels, s.times_s, _rates(s.times_s, s.values, self.history.step_s)) for s in series]
        found = at_each_moment(series)
        inside = found.times_s <= now_s + self.history.step_s
        inside[:1] &= not counter  # there is nothing before it to have grown from
        values = found.values[inside]
        return Moments(found.times_s[inside], np.where(np.abs(values) <= LARGEST, values, np.nan), found.series[inside])

    def _newest_of(self, column: int, series: Sequence[Series], now_s: float) -> float:
        """The newest reading of an answer, if it is young enough; NaN otherwise."""
        times, values, _ = self._readings(column, series, now_s)
        known = np.flatnonzero(np.isfinite(values) & (now_s - times <= self.stale_after_s))
        return float(values[known[-1]]) if known.size else math.nan

    def _state(
        self, column: int, now_s: float, reason: FeedReason, message: str, notes: tuple[str, ...] = ()
    ) -> IndicatorState:
        age = now_s - self.history.newest(column)[0]
        return IndicatorState(self.queries[column].indicator.name, reason, message, age, notes)

    def _follow_past(self, now_s: float) -> None:
        """Drop the week of demand, or begin to read it again, as `reads_past` says."""
        history = self.history
        if history.keeps_past and not self.reads_past:
            history.drop_past()
        elif self.reads_past and not history.keeps_past:
            history.keeps_past = True
            now = history.row_at(now_s)
            until = now - math.ceil(BACKFILL_S / history.step_s)
            self._past = _Past(before=now, until=until, rows=now - until)

    # ---- the past in pieces -------------------------------------------------------------------------------------
    async def _piece_of_past(self, now_s: float) -> None:
        """One more piece of the demand's past, if this tick still has time for it.

        After a failure it is a smaller one, some minutes later.
        """
        past = self._past
        assert past is not None
        if now_s < past.not_before_s:
            return
        first = max(past.until, past.before - past.rows)
        try:
            async with self.prometheus.past_gate:
                if self.prometheus.tick_cache.age_s > PAST_BUDGET_S:
                    return
                answer = await self._range(0, first, past.before, now_s)
        except PrometheusError:
            past.rows = max(SHORTEST_PIECE_ROWS, past.rows // 4)
            past.not_before_s = now_s + RETRY_PIECE_S
            return
        if _missing(answer):
            past.not_before_s = now_s + RETRY_PIECE_S
            return
        times, values, _ = self._readings(0, answer.series, now_s)
        self.history.write(0, times, np.where(values < 0, np.nan, values))
        past.before = first
        if first <= past.until:
            self._past = None


@dataclass(slots=True)
class _Past:
    """What is left of the past: rows from `until` up to `before`, asked for `rows` at a time."""

    before: int
    until: int
    rows: int
    not_before_s: float = -math.inf


def _rates(times: FloatArray, levels: FloatArray, step_s: float) -> FloatArray:
    """(points,) per-second rates of a counter, absent where either end is or a row lies between them, and at first.

    A counter falls when it restarts, a sum of counters when one of its parts leaves. What it rose by until then is
    unknown, and absent: the new level alone may be next to nothing, which would look like a loss of demand.
    """
    rise = np.where(levels[1:] >= levels[:-1], levels[1:] - levels[:-1], np.nan)
    apart = np.diff(times)
    rates = np.full(times.shape, np.nan)
    rates[1:] = np.where(np.abs(apart - step_s) <= 0.01 * step_s, rise / step_s, np.nan)
    return rates


def _lacking(reported: float, ready: int, *, settles: bool) -> str:
    """What a reading lacks that does not cover all pods, for people."""
    if math.isnan(reported):
        return f"how many of {ready} ready pods report is not known; such a reading lowers no count, teaches nothing"
    who = "the others have just become ready, and until then it" if settles else "their reading"
    return f"{reported:g} of {ready} ready pods report; {who} lowers no count and teaches nothing"


def _missing(answer: Answer) -> str:
    """Why an answer does not say all, for people; empty where it does."""
    if not answer.warnings:
        return ""
    first, others = answer.warnings[0][:300], len(answer.warnings) - 1
    more = f" and {others} more" if others else ""
    return f"Prometheus warns that its answer is incomplete ({first}{more}); it lowers no count and teaches nothing"


def _reason(error: PrometheusError) -> FeedReason:
    if isinstance(error, Slow):
        return FeedReason.TIMEOUT
    return FeedReason.QUERY_ERROR if isinstance(error, QueryRefused) else FeedReason.UNREACHABLE


def _ago(seconds: float) -> str:
    """An age as people say it: 45 s, 12 min, 3.4 h, 2.1 d."""
    for unit, size, below in (("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 172_800.0)):
        if seconds < below:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400.0:.3g} d"
