"""`read_panel`: the past of a service as Prometheus kept it, as a `Panel` for replays and training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from controller.prometheus.answers import at_each_moment
from controller.prometheus.client import Prometheus
from controller.prometheus.feed import QueriedIndicator
from controller.prometheus.freshness import within
from forecasting.errors import DataError
from forecasting.panel import LARGEST, FloatArray, Panel

__all__ = ["PastPanel", "read_column", "read_panel"]

OnPart = Callable[[str, int, int], None]  # (what is read, parts done, of)


@dataclass(frozen=True, slots=True)
class PastPanel:
    """What was read: the panel from the first to the last known demand, and sentences on what was left out."""

    panel: Panel
    notes: tuple[str, ...] = ()


async def read_panel(
    prometheus: Prometheus,
    queries: Sequence[QueriedIndicator],
    end_s: float,
    span_s: float,
    step_s: float,
    *,
    name: str,
    on_part: OnPart | None = None,
) -> PastPanel:
    """The indicators (the demand first) of the ``span_s`` seconds up to ``end_s``, every ``step_s`` seconds.

    Counters become rates. Rows before the first and after the last known demand are cut off; an indicator without
    any value is left out with a note, and what Prometheus says is missing from its answers becomes one. Raises
    `DataError` for a demand without values or below zero and for a query with several series at most times, and the
    errors of `Prometheus.query_range`.
    """
    last = math.floor(end_s / step_s)
    first = last - round(span_s / step_s)
    columns = []
    missing: list[str] = []
    for query in queries:
        promql, what = query.promql, query.indicator.name
        if query.indicator.kind == "counter":
            promql = within(promql, step_s - 0.001)
        column, warnings = await read_column(prometheus, promql, first, last, step_s, what=what, on_part=on_part)
        columns.append(column)
        missing += (f"{what}: Prometheus says that its answer is incomplete ({warning})" for warning in warnings)
    indicators = tuple(q.indicator for q in queries)
    panel = Panel(np.stack(columns, axis=1), indicators, first * step_s, step_s, name=name).counters_as_rates()
    known = np.flatnonzero(~np.isnan(panel.values[:, 0]))
    if known.size == 0:
        raise DataError(
            f"the demand query gives no value in the last {span_s / 86_400:g} days; check metric name, label matchers "
            "and how long Prometheus keeps its data"
        )
    panel = panel.rows(int(known[0]), int(known[-1]) + 1)
    if np.nanmin(panel.values[:, 0]) < 0:
        raise DataError(f"the demand query gives {np.nanmin(panel.values[:, 0]):g}; a demand is 0 or more")
    kept = [n for n, share in zip(panel.names, panel.absent_share, strict=True) if share < 1]
    notes = tuple(f"{n}: no value in this time, left out" for n in panel.names if n not in kept)
    return PastPanel(panel.select(kept), notes + tuple(missing))


async def read_column(
    prometheus: Prometheus,
    promql: str,
    first: int,
    last: int,
    step_s: float,
    *,
    what: str,
    on_part: OnPart | None = None,
) -> tuple[FloatArray, tuple[str, ...]]:
    """(last - first + 1,) one query on the rows ``first .. last`` of the grid, NaN where absent, and what is missing.

    Absurdly large numbers are absent.

    ``what`` names it in messages. Rows for which several series have a value are absent; raises `DataError` if those
    are most.
    """
    report = None if on_part is None else lambda done, of: on_part(f"reading {what}", done, of)
    answer = await prometheus.answer(promql, first * step_s, last * step_s, step_s, on_part=report)
    times, values, count = at_each_moment(answer.series)
    if 2 * np.count_nonzero(count > 1) > count.size:
        most = int(count.max())
        raise DataError(f"{what}: the query gives {most} series at a time; wrap it in sum(...) or another aggregation")
    column = np.full(last - first + 1, np.nan)
    rows = np.rint(times / step_s).astype(np.int64) - first
    inside = (rows >= 0) & (rows < column.size)
    column[rows[inside]] = np.where(np.abs(values[inside]) <= LARGEST, values[inside], np.nan)
    return column, answer.warnings
