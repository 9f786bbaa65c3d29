"""From times as recorded to a uniform grid: steps found, jitter forgiven, missing steps absent, the rest refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from forecasting.errors import DataError
from forecasting.panel import FloatArray
from simulator.traces.limits import absurd_gap, check_size
from simulator.traces.table import Located, ParsedTimes

__all__ = ["Grid", "bin_rows", "mean_by_row", "refuse_absurd_gap", "regular_grid", "time_text"]

JITTER = 0.01
"""Largest deviation of one step from a whole number of steps, as a share of the step."""

_LOCAL = (
    "; these times have no offset and were read as UTC: if they are local times, an hour comes twice when daylight "
    "saving ends, so name their zone (--timezone Europe/Berlin) or write them with their offset "
    "(2026-10-25T02:30:00+02:00)"
)
_REPEATS = "; give a step to average rows of one time into (--step), or choose the rows of one service (--where)"
_CHANGES = (3, 4, 9, 10)
"""Months in which daylight saving begins, north or south."""


@dataclass(frozen=True)
class Grid:
    """A uniform grid and the place of each recorded row on it: ``rows`` (recorded,) row numbers, ``count`` rows."""

    start_s: float
    step_s: float
    rows: npt.NDArray[np.int64]
    count: int
    notes: tuple[str, ...] = ()

    def place(self, values: FloatArray) -> FloatArray:
        """(count, indicators) the recorded rows on the grid, NaN in rows that were not recorded."""
        if self.count == len(self.rows):
            return values
        out = np.full((self.count, *values.shape[1:]), np.nan)
        out[self.rows] = values
        return out


def time_text(seconds: float, calendar: bool) -> str:
    """A time for messages: ISO 8601 where there is a calendar, else seconds."""
    if calendar and 0 <= seconds < 4e9:
        return datetime.fromtimestamp(seconds, tz=UTC).isoformat().replace("+00:00", "Z")
    return f"{seconds:.10g} s"


def regular_grid(times: ParsedTimes, table: Located, columns: int, *, meta_step: float | None = None) -> Grid:
    """The uniform grid that the times lie on, for a table of so many ``columns``.

    One step may deviate by 1 % of it; a gap of several whole steps becomes absent rows, which the notes count.

    Raises:
        DataError: fewer than two rows; times that repeat, fall or keep no step (with the row and both steps); a gap
            that is absurd beside the step; more cells than are held.
    """
    seconds = times.seconds
    if len(seconds) < 2:
        raise DataError(f"{table.name}: {len(seconds)} row; expected at least 2 to know the step")
    gaps = np.diff(seconds)
    if (gaps <= 0).any():
        row = int(np.argmax(gaps <= 0)) + 1
        here = time_text(float(seconds[row]), times.calendar)
        what = "repeats the time of" if gaps[row - 1] == 0 else "is earlier than"
        raise DataError(
            f"{table.name}, {table.where(row)}: {here} {what} the row before it; "
            f"expected times in ascending order, one row each{_LOCAL if times.local else ''}"
            f"{_REPEATS if gaps[row - 1] == 0 else ''}"
        )
    step, multiples = _find_step(gaps, times, table, columns)
    position = np.concatenate([[0], np.cumsum(multiples)])
    count = int(position[-1]) + 1
    span = float(seconds[-1] - seconds[0])
    if meta_step is not None and abs(meta_step * position[-1] - span) <= 1e-5:  # times are written to a microsecond
        step = meta_step
    else:
        step = _refine_step(seconds, position, step)
    drift = np.abs(seconds - seconds[0] - step * position)
    if drift.max() > 0.5 * step:
        row = int(np.argmax(drift > 0.5 * step))
        raise DataError(f"{table.name}, {table.where(row)}: the times drift off a step of {step:.6g} s")
    notes: tuple[str, ...] = ()
    if count > len(seconds):
        notes = (f"{count - len(seconds)} of {count} steps are missing in the file; their rows are absent",)
        notes += _hour_left_out(times, gaps, step)
    return Grid(float(seconds[0]), step, position, count, notes)


def _hour_left_out(times: ParsedTimes, gaps: FloatArray, step: float) -> tuple[str, ...]:
    """What to say where times without an offset leave out the hour that daylight saving takes; nothing elsewhere."""
    if not times.local:
        return ()
    for row in np.flatnonzero(np.abs(gaps - step - 3600.0) < 1.0).tolist():
        missing = datetime.fromtimestamp(float(times.seconds[row]) + step, tz=UTC)
        if missing.month in _CHANGES and missing.weekday() == 6 and missing.hour < 4:  # a Sunday, in the night
            return (
                f"no times between {missing:%Y-%m-%d %H:%M} and an hour later, as when daylight saving begins; they "
                "have no offset and were read as UTC: if they are local, name their zone (--timezone Europe/Berlin)",
            )
    return ()


def _find_step(
    gaps: FloatArray, times: ParsedTimes, table: Located, columns: int
) -> tuple[float, npt.NDArray[np.int64]]:
    """(step, whole steps of each gap): the typical gap, or the least if it is frequent; `DataError` if none fits."""
    typical, least = float(np.median(gaps)), float(gaps.min())
    frequent = (gaps <= least * (1.0 + JITTER)).sum() >= max(3.0, 0.25 * len(gaps))
    for step in (typical, least) if frequent else (typical,):
        with np.errstate(over="ignore"):  # a gap of infinitely many steps is refused below
            multiples = np.maximum(np.round(gaps / step), 1.0)
        off = np.abs(gaps - multiples * step) > JITTER * step + 1e-6
        refuse_absurd_gap(times, table, step)
        check_size(table.name, float(multiples.sum()) + 1, columns, step)
        if not off.any():
            return step, multiples.astype(np.int64)
    row = int(np.argmax(np.abs(gaps - np.maximum(np.round(gaps / typical), 1.0) * typical) > JITTER * typical)) + 1
    here = time_text(float(times.seconds[row]), times.calendar)
    raise DataError(
        f"{table.name}, {table.where(row)}: a step of {gaps[row - 1]:.6g} s to {here}"
        f" where the others are {typical:.6g} s; expected one step throughout, or give a step to average into"
        f"{_LOCAL if times.local and abs(abs(gaps[row - 1] - typical) - 3600.0) < 1.0 else ''}"
    )


def refuse_absurd_gap(times: ParsedTimes, table: Located, step_s: float) -> None:
    """`DataError` that names the row after a gap which makes up nearly all of the span: one wrong time, most likely."""
    row = absurd_gap(times.seconds, step_s)
    if row is not None:
        before, here = (time_text(float(times.seconds[at]), times.calendar) for at in (row - 1, row))
        raise DataError(
            f"{table.name}, {table.where(row)}: a gap from {before} to {here} beside steps of {step_s:.6g} s; is "
            "one of the times wrong? Expected no gap that makes up nearly all of the file's time"
        )


def _refine_step(seconds: FloatArray, position: npt.NDArray[np.int64], step: float) -> float:
    """The step over the whole span, to a round number where that is as good."""
    if np.allclose(np.diff(seconds), np.diff(position) * step, rtol=0.0, atol=1e-6):
        return step
    mean = float((seconds[-1] - seconds[0]) / position[-1])
    for digits in (0, 1, 3):
        nice = round(mean, digits)
        if nice > 0 and abs(nice - mean) * position[-1] <= JITTER * mean:
            return nice
    return mean


def bin_rows(times: ParsedTimes, table: Located, step_s: float, columns: int, *, average: bool) -> Grid:
    """A grid of the wanted step for rows that keep none: every row goes to the step that its time falls into.

    With ``average`` False rows go to the nearest step instead (for sources known to repeat or shift a few times).
    Several rows may share a place; the caller averages them. `DataError` for falling times or fewer than two steps.
    """
    seconds = times.seconds
    if len(seconds) > 1 and (np.diff(seconds) < 0).any():
        row = int(np.argmax(np.diff(seconds) < 0)) + 1
        raise DataError(
            f"{table.name}, {table.where(row)}: earlier than the row before it; expected ascending times"
            f"{_LOCAL if times.local else ''}"
        )
    refuse_absurd_gap(times, table, step_s)
    check_size(table.name, float(seconds[-1] - seconds[0]) / step_s + 1, columns, step_s)
    offset = (seconds - seconds[0]) / step_s
    position = (np.floor(offset + 1e-9) if average else np.floor(offset + 0.5)).astype(np.int64)
    count = int(position[-1]) + 1
    if count < 2:
        raise DataError(f"{table.name}: {count} step of {step_s:.6g} s; expected at least 2")
    return Grid(float(seconds[0]), step_s, position, count)


def mean_by_row(grid: Grid, values: FloatArray) -> FloatArray:
    """(count, indicators) means of the rows that share a place on the grid, absent readings left out."""
    seen = ~np.isnan(values)
    total = np.zeros((grid.count, values.shape[1]))
    number = np.zeros((grid.count, values.shape[1]))
    np.add.at(total, grid.rows, np.where(seen, values, 0.0))
    np.add.at(number, grid.rows, seen)
    return np.where(number > 0, total / np.maximum(number, 1.0), np.nan)
