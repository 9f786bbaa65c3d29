"""One row a time, one column an indicator: the shape of nearly every published series.

A `WideSource` says what a source's columns mean, in which unit, and which is the demand; `read_wide` applies it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from forecasting.errors import DataError
from forecasting.panel import FloatArray, Indicator, Kind, Panel
from simulator.traces.grid import Grid, bin_rows, mean_by_row, regular_grid
from simulator.traces.table import Located, ParsedTimes, Table, in_order, pick_column
from simulator.traces.trace import Trace

__all__ = ["SourceColumn", "WideSource", "read_wide", "stem"]


@dataclass(frozen=True)
class SourceColumn:
    """What a source's column means: unit after ``scale``, level, kind; it keeps its name."""

    name: str
    unit: str = ""
    level: int = 2
    kind: Kind = "gauge"
    scale: float = 1.0


@dataclass(frozen=True)
class WideSource:
    """A published series.

    Attributes:
        key, title, licence, address: how it is called, under which licence and where it is published.
        columns: the columns known, demand first.
        matches: whether a file is of this source, by header, first row and file name without suffixes.
        rest: how to read columns that are not listed (None: they are ignored).
        holes: (rows,) True for rows of the file that are no observation; they become absent.
        clean: turns values that the source records but that mean nothing into absent ones, and says so.
        demand: picks the default demand of a panel (None: the first column).
        tolerant: readings under one time are averaged and odd times fall to the nearest step.
    """

    key: str
    title: str
    licence: str
    address: str
    columns: tuple[SourceColumn, ...]
    matches: Callable[[tuple[str, ...], tuple[str, ...], str], bool]
    rest: Callable[[str], SourceColumn] | None = None
    holes: Callable[[Table], npt.NDArray[np.bool_]] | None = None
    clean: Callable[[FloatArray, Panel], tuple[FloatArray, tuple[str, ...]]] | None = None
    demand: Callable[[Panel], str] | None = None
    tolerant: bool = False
    time_names: tuple[str, ...] = ("timestamp", "time", "date", "datetime")


def stem(name: str) -> str:
    """A file name without .gz, .csv and the like."""
    return re.sub(r"(\.(csv|tsv|txt|parquet|pq|json|jsonl))?(\.gz)?$", "", name)


def read_wide(table: Table, source: WideSource, *, sort: bool = True) -> Trace:
    """The series as a trace, demand first; `DataError` if columns or times are not as the source has them."""
    time_name = next((c for c in source.time_names if c in table.header), None)
    if time_name is None:
        raise DataError(f"{table.name}: no column {source.time_names[0]!r}, which {source.title} has")
    known = {c.name: c for c in source.columns}
    chosen = [c for c in source.columns if c.name in table.header]
    if source.columns and source.columns[0].name not in table.header:
        pick_column(table, source.columns[0].name)
    if source.rest is not None:
        chosen += [source.rest(name) for name in table.header if name != time_name and name not in known]
    done = ""
    if sort:
        table, done = in_order(table, time_name)
    times = table.times(time_name)
    values = table.numbers([c.name for c in chosen]) * np.array([c.scale for c in chosen])
    notes: tuple[str, ...] = (done,) if done else ()
    if source.holes is not None and (holes := source.holes(table)).any():
        values[holes] = np.nan
        notes += (f"{int(holes.sum())} rows that the source marks as holes are absent, not zero",)
    if source.tolerant:
        grid = _tolerant_grid(times, table, len(chosen))
        values = mean_by_row(grid, values)
    else:
        grid = regular_grid(times, table, len(chosen))
        values = grid.place(values)
    notes += grid.notes
    panel = Panel(
        values=values,
        indicators=tuple(Indicator(c.name, c.unit, c.level, c.kind) for c in chosen),
        start_s=grid.start_s,
        step_s=grid.step_s,
        name=stem(table.name),
        calendar=times.calendar,
    )
    if source.clean is not None:
        cleaned, more = source.clean(panel.values, panel)
        panel, notes = panel.replace(values=cleaned), notes + more
    demand = panel.names[0] if source.demand is None else source.demand(panel)
    return Trace(panel, demand, format=source.key, licence=source.licence, notes=notes)


def _tolerant_grid(times: ParsedTimes, table: Located, columns: int) -> Grid:
    """The grid of the most frequent step: repeated times share a row, odd times fall to the nearest one."""
    gaps = np.diff(times.seconds)
    if not (gaps > 0).any():
        raise DataError(f"{table.name}: {len(times.seconds)} rows and no step; expected at least 2 times")
    grid = bin_rows(times, table, float(np.median(gaps[gaps > 0])), columns, average=False)
    shared = len(grid.rows) - len(np.unique(grid.rows))
    missing = grid.count - len(np.unique(grid.rows))
    notes = []
    if shared:
        notes.append(f"{shared} readings repeat the time of another; they are averaged with it")
    if missing:
        notes.append(f"{missing} of {grid.count} steps are missing in the file; their rows are absent")
    return replace(grid, notes=tuple(notes))
