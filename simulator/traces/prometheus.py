"""A saved answer of Prometheus' ``/api/v1/query_range``: every series is an indicator.

The indicator is named by the metric, and by the labels that tell its series apart. A sample that is not there is
absent, and so are ``NaN`` and ``+Inf``/``-Inf``, which Prometheus writes for an undefined expression. Metrics that end
in ``_total``, ``_count``, ``_sum`` or ``_bucket`` are counters and become rates (a fall is a restart).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np

from forecasting.errors import DataError
from forecasting.panel import Indicator, Kind, Panel
from simulator.traces.grid import regular_grid
from simulator.traces.limits import check_columns
from simulator.traces.table import ParsedTimes, check_names
from simulator.traces.trace import Trace
from simulator.traces.wide import stem

__all__ = ["read_prometheus"]

_COUNTER_TAILS = ("_total", "_count", "_sum", "_bucket")
_UNITS = {"seconds": "seconds", "bytes": "bytes", "ratio": "fraction", "celsius": "celsius", "watts": "watts"}


def read_prometheus(name: str, text: str) -> Trace:
    """The answer as a trace, the first series as demand.

    Raises:
        DataError: not JSON, an error answer, another result type than ``matrix``, no series, values that are no
            numbers, or times that lie on no common step.
    """
    series = _series(name, text)
    check_columns(name, len(series))
    labels = [entry["metric"] for entry in series]
    varying = _varying(labels)
    check_names(name, [_title(metric, varying) for metric in labels])
    columns = [
        _samples(name, _title(metric, varying), entry["values"]) for metric, entry in zip(labels, series, strict=True)
    ]
    stamps = np.unique(np.concatenate([times for times, _ in columns]))
    where = _Where(name)
    grid = regular_grid(ParsedTimes(stamps, calendar=True), where, len(columns))
    values = np.full((grid.count, len(columns)), np.nan)
    for column, (times, numbers) in enumerate(columns):
        values[grid.rows[np.searchsorted(stamps, times)], column] = numbers
    indicators = [_indicator(m, varying, first=i == 0) for i, m in enumerate(labels)]
    calendar = bool(stamps[0] >= 1e8)
    panel = Panel(values, tuple(indicators), grid.start_s, grid.step_s, name=stem(name), calendar=calendar)
    return Trace(panel, panel.names[0], format="prometheus", notes=grid.notes)


class _Where:
    """Says which sample time is meant."""

    def __init__(self, name: str) -> None:
        self.name = name

    def where(self, row: int) -> str:
        return f"sample time {row + 1}"


def _series(name: str, text: str) -> list[dict[str, Any]]:
    """The list of series of an answer, its structure checked."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{name}: not JSON ({exc})") from exc
    if not isinstance(answer, dict):
        raise DataError(f"{name}: expected a Prometheus answer, an object with 'status' and 'data'")
    if answer.get("status", "success") != "success":
        raise DataError(f"{name}: Prometheus answered with an error: {str(answer.get('error', 'unknown'))[:160]}")
    data = answer.get("data", answer)
    kind = data.get("resultType") if isinstance(data, dict) else None
    if not isinstance(data, dict) or kind not in (None, "matrix"):
        raise DataError(f"{name}: result type {kind!r}; expected 'matrix', the answer to query_range")
    series = data.get("result")
    if not isinstance(series, list) or not series:
        raise DataError(f"{name}: the answer holds no series; check the query and the time range")
    for number, entry in enumerate(series, 1):
        metric = entry.get("metric") if isinstance(entry, dict) else None
        if not isinstance(metric, dict) or not isinstance(entry.get("values"), list) or not entry["values"]:
            raise DataError(f"{name}: series {number} has no 'metric' or no 'values' as query_range gives them")
        entry["metric"] = {str(k): str(v) for k, v in metric.items()}
    return series


def _samples(name: str, title: str, values: list[Any]) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[float]]:
    """(times, numbers) of one series; text such as "NaN" or "+Inf" is absent."""
    times, numbers = [], []
    for number, sample in enumerate(values, 1):
        try:
            stamp, text = sample
            times.append(float(stamp))
            value = float(text)
        except (TypeError, ValueError, OverflowError) as exc:
            raise DataError(f'{name}: {title}, sample {number}: {str(sample)[:60]} is not [time, "number"]') from exc
        numbers.append(value if math.isfinite(value) else math.nan)
    stamps = np.array(times)
    if not np.isfinite(stamps).all() or (np.diff(stamps) <= 0).any():
        raise DataError(f"{name}: {title}: sample times must be finite and ascending")
    return stamps, numbers


def _varying(labels: list[dict[str, str]]) -> list[str]:
    """The labels that tell series apart, in order; in one pass: each series may have labels that no other has."""
    seen = Counter(key for metric in labels for key in metric)
    first = labels[0]
    other = {key for metric in labels for key, value in metric.items() if first.get(key) != value}
    return sorted(key for key in seen if key != "__name__" and (seen[key] < len(labels) or key in other))


def _title(metric: dict[str, str], varying: list[str]) -> str:
    """Indicator name: the metric and the labels that tell series apart, as PromQL writes them."""
    shown = ",".join(f'{k}="{metric[k]}"' for k in varying if k in metric)
    base = metric.get("__name__", "")
    return f"{base}{{{shown}}}" if shown else base or "value"


def _indicator(metric: dict[str, str], varying: list[str], *, first: bool) -> Indicator:
    """The indicator of a series: kind and unit by the naming rules of Prometheus."""
    base = metric.get("__name__", "")
    counter = base.endswith(_COUNTER_TAILS)
    words = [w for w in base.split("_") if w not in ("total", "sum")]
    unit = _UNITS.get(words[-1], "") if words else ""
    kind: Kind = "counter" if counter else "gauge"
    return Indicator(_title(metric, varying), unit, 1 if first else 2, kind)
