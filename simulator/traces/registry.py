"""`load_trace`: any trace by path or bundled name, its format recognised by what stands in the file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from forecasting.errors import DataError, UsageError, suggest
from forecasting.panel import LARGEST, Panel
from forecasting.synthetic import synthetic_service
from simulator.traces.dialect import Dialect
from simulator.traces.grid import time_text
from simulator.traces.prometheus import read_prometheus
from simulator.traces.requests import read_mooncake_lines, read_requests, request_columns
from simulator.traces.scenarios import PREFIX, SCENARIOS, scenario
from simulator.traces.sources import FISHER_RAW, SOURCES
from simulator.traces.table import FilteredTable, Table, TextTable, decode, read_bytes
from simulator.traces.tidy import map_panel, read_tidy
from simulator.traces.trace import Trace
from simulator.traces.wide import read_wide, stem

__all__ = ["BUNDLED", "Trace", "TraceInfo", "list_traces", "load_trace"]

_DATA = Path(__file__).resolve().parent.parent / "data"

BUNDLED: dict[str, Path] = {"synthetic": _DATA / "synthetic_two_weeks.parquet"}
"""Traces that come with the project, by name."""

_BUNDLED_LICENCE = "Apache-2.0"
SERVICE = "synthetic-service:"
"""Before the seed of a synthetic service (`forecasting.synthetic`)."""


@dataclass(frozen=True)
class TraceInfo:
    """One line of `list_traces`: a bundled trace (``kind`` "bundled") or a format that is recognised ("format")."""

    name: str
    kind: str
    title: str
    licence: str
    address: str = ""


_OWN_FORMATS: tuple[TraceInfo, ...] = (
    TraceInfo(
        "requests",
        "format",
        "One row a request: Azure LLM inference 2023, BurstGPT, Mooncake, or timestamp, prompt_tokens, output_tokens",
        "CC-BY-4.0 (Azure, BurstGPT), Apache-2.0 (Mooncake)",
        "https://github.com/Azure/AzurePublicDataset",
    ),
    TraceInfo("prometheus", "format", "Saved answer of Prometheus query_range (JSON)", "your own"),
    TraceInfo("tidy", "format", "CSV or Parquet of your own, wide or long", "your own"),
)


def list_traces() -> tuple[TraceInfo, ...]:
    """The bundled traces and every format that `load_trace` recognises, each with its licence."""
    bundled = tuple(
        TraceInfo(name, "bundled", "Two weeks of a synthetic chat service, 1 min, twelve indicators", _BUNDLED_LICENCE)
        for name in BUNDLED
    )
    known = {s.key: TraceInfo(s.key, "format", s.title, s.licence, s.address) for s in SOURCES}
    drawn = TraceInfo(f"{SERVICE}SEED", "bundled", "A synthetic service drawn at random, by its seed", _BUNDLED_LICENCE)
    scenarios = (TraceInfo(PREFIX + s.name, "bundled", s.title, _BUNDLED_LICENCE) for s in SCENARIOS.values())
    return (*bundled, *scenarios, drawn, *known.values(), *_OWN_FORMATS)


def load_trace(
    source: str | Path,
    *,
    demand: str | None = None,
    step_s: float | None = None,
    columns: Sequence[str] | None = None,
    time_column: str | None = None,
    where: Mapping[str, str] | None = None,
    format: str | None = None,
    raw: bool = False,
    sort: bool = True,
    timezone: str = "",
    decimal: Literal[".", ","] | None = None,
    dayfirst: bool | None = None,
) -> Trace:
    """A trace from a file or a bundled name, checked, with the demand first and counters as rates.

    Args:
        source: path of a CSV, Parquet or JSON file (gzip or not), or a bundled name (``"synthetic"``,
            ``"scenario:flash-crowd"``, ``"synthetic-service:7"``).
        demand: indicator that replicas are counted for; the source's own by default, else the first column.
        step_s: a coarser step to average into; request-level traces are counted in it (15 s by default), and a table
            whose times keep no step is averaged into it.
        columns: keep only these, the first as demand, each ``"NAME=COLUMN:UNIT:LEVEL:KIND"`` (all but the column
            may be left out): columns of a tidy table, indicators of any other format.
        time_column: the time column of a tidy table, if its name is not a usual one.
        where: keep only the rows in which these columns have these texts (for tables of many services).
        format: read as this format instead of the recognised one (see `list_traces`).
        raw: keep cumulative counters as recorded levels and columns in file order.
        sort: put rows in the order of their times, and say so in the notes; False refuses what is out of order.
        timezone: IANA name of the zone that times without an offset are local to; empty: UTC.
        decimal: the sign before decimals; None: a comma where semicolons or tabs separate, else a point.
        dayfirst: whether 05/01/2026 is in January; None: as the dates themselves tell.

    Raises:
        DataError: the file is missing, damaged or not usable: says where, and what would be accepted.
        UsageError: an unknown format or time zone, or a step that is no positive number.
    """
    if str(source).startswith(PREFIX):
        return _scenario(str(source).removeprefix(PREFIX), demand, step_s)
    if str(source).startswith(SERVICE):
        return _finish(_service(str(source).removeprefix(SERVICE)), demand, step_s, raw)
    if step_s is not None and not (math.isfinite(step_s) and step_s > 0):
        raise UsageError(f"step {step_s} s: expected a positive number of seconds")
    formats = [info.name for info in list_traces() if info.kind == "format"]
    if format is not None and format not in formats:
        raise UsageError(f"no trace format {format!r}; {suggest(format, formats)}")
    if time_column is not None:
        format = format or "tidy"
    path = _resolve(source)
    dialect = Dialect(decimal, dayfirst, timezone)
    trace = _read(path, columns, time_column, where, format, step_s, raw, sort, dialect)
    if columns and trace.format != "tidy":
        panel = map_panel(trace.panel, columns)
        trace = replace(trace, panel=panel, demand=panel.names[0])
    if str(source) in BUNDLED:
        trace = replace(trace, licence=_BUNDLED_LICENCE)
    return _finish(replace(trace, source=str(source)), demand, step_s, raw)


def _scenario(name: str, demand: str | None, step_s: float | None) -> Trace:
    trace = scenario(name)
    if demand not in (None, trace.demand):
        raise DataError(f"{PREFIX}{name}: no indicator {demand!r}; its demand is {trace.demand!r}")
    if step_s not in (None, trace.panel.step_s):
        raise DataError(f"{PREFIX}{name}: a scenario has steps of {trace.panel.step_s:g} s; leave out --step")
    return trace


def _service(seed: str) -> Trace:
    """The synthetic service of that seed as a trace, and what was drawn of it; `UsageError` for what is no seed."""
    if not (seed.isascii() and seed.isdecimal() and len(seed) <= 18):
        raise UsageError(f"{SERVICE}{seed[:40]}: expected a whole number after the colon, such as {SERVICE}7")
    service = synthetic_service(int(seed))
    story = service.story
    seasons = ", ".join(f"{p / 3600:g} h" for p in story.periods_s) or "none"
    return Trace(
        service.panel, service.panel.names[0], source=f"{SERVICE}{seed}", format="synthetic-service",
        licence=_BUNDLED_LICENCE, notes=(f"drawn: {story.family}, read as {story.readings}; seasons: {seasons}",),
    )  # fmt: skip


def _resolve(source: str | Path) -> Path:
    """The path of a bundled name or a file; a name that is neither is answered with near ones of both."""
    name = str(source)
    if name in BUNDLED:
        return BUNDLED[name]
    if name == "-" or "://" in name:
        what = "the standard input" if name == "-" else "an address"
        raise DataError(f"{name}: {what} is not read as a trace; save it in a file first, and name that")
    path = Path(source)
    if isinstance(source, str) and path.name == name and not path.suffix and not path.exists():
        folder = [p.name for p in Path.cwd().iterdir() if p.is_file() and not p.name.startswith(".")]
        raise DataError(
            f"no trace {name!r}: neither a bundled trace nor a file here; {suggest(name, [*BUNDLED, *folder])}"
        )
    return path


def _read(
    path: Path,
    columns: Sequence[str] | None,
    time_column: str | None,
    where: Mapping[str, str] | None,
    format: str | None,
    step_s: float | None,
    raw: bool,
    sort: bool,
    dialect: Dialect,
) -> Trace:
    """The file as a trace in the given or the recognised format."""
    data = read_bytes(path)
    if data[:4] == b"PAR1":
        from simulator.traces.parquet import ParquetTable  # polars takes a moment to import

        table: Table = ParquetTable(path.name, data, dialect)
        first: tuple[str, ...] = ()
    else:
        text = decode(path.name, data)
        if text.lstrip()[:1] in ("{", "["):
            if where:
                raise DataError(f"{path.name}: a JSON file has no rows to choose; leave out where")
            return _read_json(path.name, text, format, step_s)
        table = TextTable(path.name, text, dialect)
        first = table.first_row()
    if where:
        table = FilteredTable(table, where)
    if format == "prometheus":
        raise DataError(f"{path.name}: not JSON; expected a saved answer of Prometheus query_range")
    if format == "requests" or (format is None and not table.meta and request_columns(table.header)):
        return read_requests(table, step_s=step_s, sort=sort)
    if format is None and table.meta:
        format = "tidy"
    if format != "tidy":
        known = (FISHER_RAW, *SOURCES) if raw else SOURCES
        fitting = [s for s in known if format in (None, s.key) and s.matches(table.header, first, stem(path.name))]
        named = [s for s in known if s.key == format]
        if fitting or named:
            return read_wide(table, (fitting or named[-1:])[0], sort=sort)
    return read_tidy(table, columns=columns, time_column=time_column, step_s=step_s, sort=sort, levels=raw)


def _read_json(name: str, text: str, format: str | None, step_s: float | None) -> Trace:
    """A JSON file: Mooncake's lines, or an answer of Prometheus."""
    if format not in (None, "prometheus", "requests"):
        raise DataError(f"{name}: a JSON file cannot be read as {format!r}; expected prometheus or requests")
    if format == "requests" or (format is None and '"input_length"' in text.lstrip().partition("\n")[0]):
        return read_mooncake_lines(name, text, step_s=step_s)
    return read_prometheus(name, text)


def _finish(trace: Trace, demand: str | None, step_s: float | None, raw: bool) -> Trace:
    """Demand first, counters as rates, the wanted step; and the checks that hold for every trace."""
    panel = trace.panel
    chosen = demand or trace.demand
    panel.position(chosen)
    _refuse_absurd(panel)
    if not raw:
        panel = panel.with_demand(chosen).counters_as_rates()
    panel = _coarsened(panel, step_s)
    values = panel.column(chosen)
    if (values < 0).any():
        row = int(np.argmax(values < 0))
        here = time_text(float(panel.times_s[row]), panel.calendar)
        raise DataError(
            f"{panel.name}: demand {chosen!r} is {values[row]:g} at row {row + 1} ({here}); "
            "expected numbers of at least 0, or another demand"
        )
    if np.isnan(values).all():
        others = [n for n, share in zip(panel.names, panel.absent_share, strict=True) if share < 1]
        raise DataError(
            f"{panel.name}: demand {chosen!r} has no value at all; with values: {', '.join(others) or 'none'}"
        )
    return replace(trace, panel=panel, demand=chosen)


def _refuse_absurd(panel: Panel) -> None:
    """`DataError` that names a number which is too large to be meant."""
    with np.errstate(invalid="ignore"):
        large = np.abs(panel.values) > LARGEST
    if large.any():
        row, column = (int(i) for i in np.argwhere(large)[0])
        here = time_text(float(panel.times_s[row]), panel.calendar)
        raise DataError(
            f"{panel.name}: {panel.names[column]!r} is {panel.values[row, column]:g} at row {row + 1} ({here}); "
            f"expected numbers of at most {LARGEST:.2g}"
        )


def _coarsened(panel: Panel, step_s: float | None) -> Panel:
    """The panel averaged into the wanted step; `DataError` unless that is a multiple of its own."""
    if step_s is None or abs(step_s - panel.step_s) <= 1e-9 * panel.step_s:
        return panel
    factor = round(step_s / panel.step_s)
    if factor < 1 or abs(factor * panel.step_s - step_s) > 1e-6 * step_s:
        raise DataError(
            f"{panel.name}: a step of {step_s:g} s cannot be made from one of {panel.step_s:g} s; "
            f"expected a multiple, such as {max(factor, 2) * panel.step_s:g} s"
        )
    coarse = panel.coarsened(factor)
    if len(coarse) < 2:
        raise DataError(
            f"{panel.name}: {len(panel)} rows of {panel.step_s:g} s make {len(coarse)} of {step_s:g} s; "
            "expected 2 or more"
        )
    return coarse
