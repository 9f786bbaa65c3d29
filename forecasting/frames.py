"""Panels from data frames: pandas, polars, or whatever has `columns` and columns by name; none of them is imported.

A *wide* frame has one column an indicator and is one service. A *long* one, as Nixtla's libraries take it, has the
columns ``unique_id, ds, y`` and is a service per ``unique_id``; columns beside them are further indicators.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from forecasting.errors import DataError, suggest
from forecasting.panel import FloatArray, Indicator, IntArray, Level, Panel

__all__ = ["Frame", "is_long", "panel_of", "panels_of"]

_TIMES = ("ds", "timestamp", "time", "datetime", "date", "ts")
_SERVICE, _READING = "unique_id", "y"
_MOST_EMPTY = 100
"""Rows of the grid per row of the frame at most: a wrong date would make a panel of millions of absent rows."""
_HOW = 'dates such as pandas.to_datetime(..., unit="s") or polars.from_epoch(...) make'


class Frame(Protocol):
    """What is needed of a data frame: its columns' names, and each column by its name."""

    @property
    def columns(self) -> Iterable[str]:
        """Names of the columns."""
        ...

    def __getitem__(self, name: str, /) -> Any:  # noqa: ANN401 - a pandas or polars series
        """One column."""
        ...


def is_long(frame: Frame) -> bool:
    """Whether the frame has a row per service and time (``unique_id``), not one per time."""
    return _SERVICE in _names(frame)


def panel_of(frame: Frame, *, demand: str | None = None, step_s: float | None = None, name: str = "frame") -> Panel:
    """One service's panel from a wide frame, or from a long one that holds a single service.

    Args:
        frame: rows in any order; the times are in a column of dates (``ds``, ``timestamp``, ``time``, ... or the only
            one of that kind) or in the index (pandas). Dates without an offset are UTC; absent readings stay absent.
        demand: the column that replicas are counted for; the first by default. It comes first, at level 1; others are
            at level 2.
        step_s: seconds between rows; the commonest distance by default. Rows that are missing are absent.
        name: what the panel is called in reports and messages.

    Raises `DataError` for a frame without times or numbers, a time that comes twice or lies between two steps.
    """
    if is_long(frame):
        found = panels_of(frame, demand=demand, step_s=step_s)
        if len(found) != 1:
            raise DataError(f"the frame holds {len(found)} services (unique_id); expected one, or use panels_of")
        return next(iter(found.values()))
    names = _names(frame)
    stamps, used = _times(frame, names)
    wanted = [c for c in names if c != used]
    return _panel(stamps, _numbers(frame, wanted), _demand_first(wanted, demand), wanted, step_s, name)


def panels_of(
    frame: Frame,
    *,
    demand: str | None = None,
    step_s: float | None = None,
    left_out: dict[str, DataError] | None = None,
) -> dict[str, Panel]:
    """The panel of every service of a long frame, by its ``unique_id`` in the order in which they appear.

    ``y`` is the demand unless ``demand`` names another column; otherwise as `panel_of`. ``left_out`` takes the services
    whose own rows cannot be read, and why; without it they raise.
    """
    names = _names(frame)
    if _SERVICE not in names:
        raise DataError(f"no column {_SERVICE!r}: expected unique_id, ds, y; the columns are: {', '.join(names[:12])}")
    stamps, used = _times(frame, names)
    column = frame[_SERVICE]
    if (column.is_null() if hasattr(column, "is_null") else column.isna()).any():
        raise DataError(f"column {_SERVICE!r} has a row without a service; name it or drop it first")
    services = np.asarray([str(s) for s in column.to_numpy()])
    wanted = [c for c in names if c not in (used, _SERVICE)]
    if demand is None and _READING in wanted:
        demand = _READING
    values, order = _numbers(frame, wanted), _demand_first(wanted, demand)
    found = {}
    for service in dict.fromkeys(services.tolist()):
        own = services == service
        try:
            found[service] = _panel(stamps[own], values[own], order, wanted, step_s, service)
        except DataError as error:
            if left_out is None:
                raise
            left_out[service] = error
    return found


def _names(frame: Frame) -> list[str]:
    """The columns' names; `DataError` for a frame that is not there yet, and for names by which no column is found."""
    if hasattr(frame, "collect"):
        raise DataError(f"a {type(frame).__name__} holds no rows yet; give what its collect() makes")
    names = list(frame.columns)
    for at, name in enumerate(names):
        if not isinstance(name, str):
            raise DataError(f"column {at + 1} is named {name!r}; expected text: rename it")
        if name in names[:at]:
            raise DataError(f"two columns are named {name!r}; names must be unique")
    return names


def _demand_first(names: Sequence[str], demand: str | None) -> list[str]:
    """The columns with the demand in front."""
    if not names:
        raise DataError("the frame has no column besides the time; expected at least one indicator")
    if demand is None:
        return list(names)
    if demand not in names:
        raise DataError(f"the frame has no column {demand!r}; {suggest(demand, names)}")
    return [demand, *(n for n in names if n != demand)]


def _panel(
    stamps: IntArray,
    values: FloatArray,
    order: Sequence[str],
    names: Sequence[str],
    step_s: float | None,
    name: str,
) -> Panel:
    """Rows put on a grid by their times (nanoseconds)."""
    at, start_s, step = _grid(stamps, step_s, name)
    placed = np.full((int(at.max()) + 1, len(order)), np.nan)
    placed[at] = values[:, [list(names).index(n) for n in order]]
    levels = (Level.DEMAND, *(Level.RESOURCE,) * (len(order) - 1))
    indicators = tuple(Indicator(n, level=int(level)) for n, level in zip(order, levels, strict=True))
    return Panel(placed, indicators, start_s, step, name=name)


def _grid(stamps: IntArray, step_s: float | None, name: str) -> tuple[IntArray, float, float]:
    """Each row's number on the grid, the time of the first and the step, seconds."""
    ordered = np.unique(stamps)
    if len(ordered) < len(stamps):
        sorted_, counts = np.unique(stamps, return_counts=True)
        raise DataError(
            f"{name}: {_text(sorted_[counts > 1][0])} comes {counts.max()} times; expected one row a time, "
            "or a column unique_id where there are several services"
        )
    if step_s is None and len(ordered) < 2:
        raise DataError(f"{name}: {len(ordered)} rows do not say what the step is; expected 2 or more, or step_s")
    if step_s is None:
        gaps, counts = np.unique(np.diff(ordered), return_counts=True)
        step = int(gaps[np.argmax(counts)])
    else:
        step = round(step_s * 1e9)
    if step <= 0:
        raise DataError(f"{name}: step {step_s} s is not a positive number of seconds")
    first = int(ordered[0])
    numbers = np.rint((stamps - first) / step).astype(np.int64)
    off = np.abs(stamps - first - numbers * step) > max(1_000, step // 1_000_000)
    if off.any():
        raise DataError(
            f"{name}: {_text(stamps[np.argmax(off)])} lies between two steps of {step / 1e9:g} s; resample the frame "
            "to one step first"
        )
    if numbers.max() >= _MOST_EMPTY * (len(stamps) + 1):
        raise DataError(
            f"{name}: {len(stamps)} rows from {_text(ordered[0])} to {_text(ordered[-1])} leave nearly all of the "
            f"steps of {step / 1e9:g} s empty; expected times close together"
        )
    return numbers, first / 1e9, step / 1e9


def _text(stamp: Any) -> str:  # noqa: ANN401 - any integer
    return f"{np.datetime64(int(stamp), 'ns').astype('datetime64[s]')}Z"


# ---- columns ----------------------------------------------------------------------------------------------------
def _times(frame: Frame, names: Sequence[str]) -> tuple[IntArray, str | None]:
    """(rows,) nanoseconds since the Unix epoch and the column they stand in; None where it is the index (pandas)."""
    usual = [c for wanted in _TIMES for c in names if c.strip().lower() == wanted]
    dated = [c for c in names if _is_date(frame[c])]
    index = getattr(frame, "index", None)
    if not usual and not dated and index is not None and _is_date(index):
        return _nanoseconds(index, "the index"), None
    if not usual and len(dated) != 1:
        raise DataError(
            f"the frame has {len(dated) or 'no'} columns of dates; expected one, named "
            f"{', '.join(_TIMES[:4])}, ...; the columns are: {', '.join(names[:12])}"
        )
    column = (usual or dated)[0]
    if not _is_date(frame[column]):
        raise DataError(f"column {column!r} is of type {frame[column].dtype}; expected {_HOW}")
    return _nanoseconds(frame[column], f"column {column!r}"), column


def _is_date(series: Any) -> bool:  # noqa: ANN401
    """Whether a column (or an index) holds dates, in pandas' words or in polars'."""
    return str(getattr(series, "dtype", "")).lower().startswith(("datetime", "date"))


def _nanoseconds(series: Any, where: str) -> IntArray:  # noqa: ANN401
    """(rows,) int64; `DataError` where a time is absent."""
    if hasattr(series, "dt") and hasattr(series.dt, "epoch"):  # polars
        counted = series.dt.epoch("ns")
        absent = counted.is_null().any()
        stamps = counted.fill_null(0).to_numpy()
    else:
        dates = series.to_numpy(dtype="datetime64[ns]")
        absent, stamps = np.isnat(dates).any(), dates.astype(np.int64)
    if absent:
        raise DataError(f"{where} has a row without a time; drop it first")
    out: IntArray = np.asarray(stamps, dtype=np.int64)
    return out


def _numbers(frame: Frame, names: Sequence[str]) -> FloatArray:
    """(rows, columns) float64, NaN where absent; `DataError` for a column that is no number."""
    out = []
    for name in names:
        series = frame[name]
        kind = str(series.dtype).lower()
        if not kind.startswith(("int", "uint", "float", "double", "bool", "decimal", "null")):
            raise DataError(f"column {name!r} is of type {series.dtype}; expected numbers: convert it or leave it out")
        if hasattr(series, "fill_null"):  # polars
            out.append(series.cast(float).to_numpy())
        else:
            out.append(series.to_numpy(dtype=float, na_value=np.nan))
    return np.column_stack(out) if out else np.empty((0, 0))
