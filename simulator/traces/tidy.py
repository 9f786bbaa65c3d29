"""Tables of one's own: one column an indicator (wide), or a column of names and one of values (long).

What a column means can be said in a map, ``NAME=COLUMN:UNIT:LEVEL:KIND`` (all but the column may be left out), or
stands in the file if `write_trace` made it. Unsaid, the first column is the demand (level 1) and the rest are level 2.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from forecasting.errors import DataError, suggest
from forecasting.panel import KINDS, FloatArray, Indicator, Kind, Panel
from simulator.traces.grid import Grid, bin_rows, mean_by_row, regular_grid
from simulator.traces.limits import check_size
from simulator.traces.table import ParsedTimes, Table, check_names, in_order, pick_column
from simulator.traces.trace import Trace
from simulator.traces.wide import stem

__all__ = ["ColumnEntry", "map_panel", "parse_column", "read_tidy", "time_column_of"]

_TIME_NAMES = (
    "timestamp",
    "time",
    "datetime",
    "date",
    "ts",
    "ds",
    "t",
    "timestamps",
    "date_time",
    "unixtime",
    "epoch",
    "when",
)
COUNTERS = ("_total", "_count", "_sum")
"""How Prometheus names what only rises."""

RESETS = 0.05
"""Share of a counter's steps that may fall: whoever counts is restarted now and then."""

_SERIES_NAMES = ("indicator", "metric", "series", "variable", "name", "unique_id")


def time_column_of(table: Table, wanted: str | None = None) -> str:
    """The time column: the one wanted, else the first with a usual name; `DataError` if there is none."""
    if wanted is not None:
        return pick_column(table, wanted)
    for usual in _TIME_NAMES:
        for column in table.header:
            if column.strip().lower() == usual:
                return column
    raise DataError(
        f"{table.name}: no time column ({', '.join(_TIME_NAMES[:4])}, ...); name it, such as --time-column "
        f"{shlex.quote(table.header[0]) if table.header else 'NAME'}; the columns are: {', '.join(table.header[:12])}"
    )


@dataclass(frozen=True)
class ColumnEntry:
    """One entry of a column map; what is None was not said."""

    column: str
    name: str
    unit: str | None = None
    level: int | None = None
    kind: Kind | None = None

    def indicator(self, known: Indicator) -> Indicator:
        """The indicator: what the entry says, and for the rest what is known of the column."""
        return Indicator(
            self.name,
            known.unit if self.unit is None else self.unit,
            known.level if self.level is None else self.level,
            known.kind if self.kind is None else self.kind,
        )


def parse_column(spec: str, header: Sequence[str]) -> ColumnEntry:
    """An entry ``NAME=COLUMN:UNIT:LEVEL:KIND`` of a column map; the name and any part of the tail may be left out.

    Column names may hold ``:`` and ``=``; the longest one that the header has is taken. `DataError` for a column
    that is not there (with near names), a level outside 1..3 or an unknown kind.
    """
    named, sep, rest = spec.partition("=")
    readings = [("", spec), *([(named, rest)] if sep and named else [])]
    for name, text in readings:
        pieces = text.split(":")
        for take in range(len(pieces), 0, -1):
            column = ":".join(pieces[:take])
            if column in header and len(pieces) - take <= 3:
                return _entry(spec, column, name or column, pieces[take:])
    wanted = readings[-1][1].split(":")[0]
    raise DataError(f"column map {spec!r}: no column {wanted!r}; {suggest(wanted, header)}")


def _entry(spec: str, column: str, name: str, tail: list[str]) -> ColumnEntry:
    """The entry of a column, its name and its ``[unit, level, kind]``."""
    unit, level, kind = (*tail, *("", "", "")[len(tail) :])
    if level and level not in ("1", "2", "3"):
        raise DataError(f"column map {spec!r}: level {level!r} is not one of 1 (demand), 2 (resource), 3 (system)")
    if kind and kind not in KINDS:
        raise DataError(f"column map {spec!r}: kind {kind!r} is not one of {', '.join(KINDS)}")
    known: Kind | None = next((k for k in KINDS if k == kind), None)
    return ColumnEntry(column, name, unit or None, int(level) if level else None, known)


def map_panel(panel: Panel, columns: Sequence[str]) -> Panel:
    """The panel with only the mapped indicators, renamed and described as the map says."""
    entries = [parse_column(spec, panel.names) for spec in columns]
    picked = panel.select([entry.column for entry in entries])
    return picked.replace(indicators=tuple(e.indicator(i) for e, i in zip(entries, picked.indicators, strict=True)))


def read_tidy(
    table: Table,
    *,
    columns: Sequence[str] | None = None,
    time_column: str | None = None,
    step_s: float | None = None,
    sort: bool = True,
    levels: bool = False,
) -> Trace:
    """A table as a trace; times that keep no step are refused, or averaged into ``step_s`` if it is given.

    Rows out of order are sorted, or refused without ``sort``. A column that only rises and is named as Prometheus names
    counters is one, unless something else is said of its kind; ``levels``: nothing is taken for a counter unsaid.
    """
    time_name = time_column_of(table, time_column)
    done = ""
    if sort and _series_column([c for c in table.header if c != time_name]) is None:
        table, done = in_order(table, time_name)
    others = [c for c in table.header if c != time_name]
    series = _series_column(others)
    times = table.times(time_name)
    if series is not None:
        times, names, values = _pivot(table, times, series)
        entries = [parse_column(spec, names) for spec in columns] if columns else [ColumnEntry(n, n) for n in names]
        values = values[:, [names.index(entry.column) for entry in entries]]
    elif others:
        entries = [parse_column(spec, others) for spec in columns] if columns else [ColumnEntry(c, c) for c in others]
        values = table.numbers([entry.column for entry in entries])
    else:
        raise DataError(f"{table.name}: no column besides the time; expected at least one indicator")
    known = _described(table)
    indicators = [
        entry.indicator(known.get(entry.column, Indicator(entry.column, level=1 if first == 0 else 2)))
        for first, entry in enumerate(entries)
    ]
    notes: tuple[str, ...] = (done,) if done else ()
    unsaid = {entry.name for entry in entries if entry.kind is None and entry.column not in known}
    if not levels:
        found = [
            i.name for i, column in zip(indicators, values.T, strict=True) if i.name in unsaid and _counts(i, column)
        ]
        indicators = [replace(i, kind="counter") if i.name in found else i for i in indicators]
        if found:
            notes += (
                f"read as counters, from which rates are made: {', '.join(found)} (--column NAME:::gauge if not)",
            )
    grid, values = _on_grid(times, table, values, indicators, step_s)
    start_s, calendar = _said_start(table, grid, times)
    name = str(table.meta.get("name") or stem(table.name))
    panel = Panel(values, tuple(indicators), start_s, grid.step_s, name=name, calendar=calendar)
    licence = str(table.meta.get("licence") or "not stated")
    return Trace(panel, panel.names[0], licence=licence, notes=notes + grid.notes)


def _counts(indicator: Indicator, values: FloatArray) -> bool:
    """Whether a column is a cumulative counter by its name, and rises but for resets."""
    seen = values[~np.isnan(values)]
    if not indicator.name.endswith(COUNTERS) or len(seen) < 3 or (seen < 0).any():
        return False
    steps = np.diff(seen)
    return bool((steps > 0).any() and (steps < 0).sum() <= RESETS * len(steps))


def _series_column(others: list[str]) -> str | None:
    """The column of series names if the table is long: a usual name, and ``value`` as the only other column."""
    low = {c.strip().lower(): c for c in others}
    if len(others) == 2 and ("value" in low or "y" in low):
        return next((low[name] for name in _SERIES_NAMES if name in low), None)
    return None


def _pivot(table: Table, times: ParsedTimes, series: str) -> tuple[ParsedTimes, list[str], FloatArray]:
    """A long table as (sorted times, names in order of appearance, (times, names) values)."""
    labels = table.texts(series)
    value_name = next(c for c in table.header if c.strip().lower() in ("value", "y"))
    column = table.numbers([value_name])[:, 0]
    names = list(dict.fromkeys(labels))
    if "" in names:
        raise DataError(f"{table.name}, {table.where(labels.index(''))}: no name in column {series!r}")
    check_names(table.name, names)
    stamps, at = np.unique(times.seconds, return_inverse=True)
    where = {name: i for i, name in enumerate(names)}
    which = np.array([where[label] for label in labels])
    flat = at * len(names) + which
    if len(np.unique(flat)) < len(flat):
        first = np.unique(flat, return_index=True)[1]
        row = int(np.setdiff1d(np.arange(len(flat)), first)[0])
        raise DataError(f"{table.name}, {table.where(row)}: a second value of {labels[row]!r} at the same time")
    check_size(table.name, len(stamps), len(names))
    values = np.full((len(stamps), len(names)), np.nan)
    values[at, which] = column
    return ParsedTimes(stamps, times.calendar), names, values


def _described(table: Table) -> dict[str, Indicator]:
    """Indicators as the file's own metadata describes them."""
    entries = table.meta.get("indicators", [])
    try:
        found = [Indicator(str(e["name"]), str(e["unit"]), int(e["level"]), e["kind"]) for e in entries]
    except (TypeError, KeyError, ValueError) as exc:
        raise DataError(f"{table.name}: the metadata of the indicators is damaged ({exc})") from exc
    return {indicator.name: indicator for indicator in found}


def _said_start(table: Table, grid: Grid, times: ParsedTimes) -> tuple[float, bool]:
    """(start, calendar): as the metadata says where it agrees with the times, else as the times say."""
    said: Any = table.meta.get("start_s")
    exact = isinstance(said, (int, float)) and abs(said - grid.start_s) <= 1e-3 * min(grid.step_s, 1.0)
    calendar = table.meta.get("calendar", times.calendar)
    return (float(said) if exact else grid.start_s), bool(calendar)


def _on_grid(
    times: ParsedTimes, table: Table, values: FloatArray, indicators: list[Indicator], step_s: float | None
) -> tuple[Grid, FloatArray]:
    """(grid, values on it): the file's own step, or ``step_s`` where the file keeps none."""
    said: Any = table.meta.get("step_s")
    try:
        grid = regular_grid(
            times, table, len(indicators), meta_step=float(said) if isinstance(said, (int, float)) else None
        )
        return grid, grid.place(values)
    except DataError:
        if step_s is None or len(times.seconds) < 2:
            raise
    counter = next((i.name for i in indicators if i.kind == "counter"), None)
    if counter is not None:
        raise DataError(f"{table.name}: times keep no step, and the counter {counter!r} cannot be averaged into one")
    grid = bin_rows(times, table, step_s, len(indicators), average=True)
    empty = grid.count - len(np.unique(grid.rows))
    note = f"times keep no step: averaged into steps of {step_s:g} s, of which {empty} are absent"
    return replace(grid, notes=(note,)), mean_by_row(grid, values)
