"""Per-service series: plain numbers in one small record per service, written as text when they are scraped.

The library's children would cost about a kilobyte and a lock per series, and its text a dozen microseconds per line; a
fleet has dozens of series per service. So the numbers are kept and written here, and only the registry's own metrics
(of the process) take the library's way.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from harmony.metrics.catalogue import (
    MANAGED,
    MODE,
    SERVICE_COUNTERS,
    SERVICE_GAUGES,
    SERVICE_LABELS,
    START_BUCKETS_S,
    STARTS,
    Definition,
)
from harmony.model.authority import Mode

__all__ = ["ServiceName", "ServiceSeries", "Slot"]

Slot = tuple[str, tuple[str, ...]]  # metric name, values of its own labels


class ServiceName(Protocol):
    """What names a service in labels; the controller's service key has this shape."""

    @property
    def namespace(self) -> str:
        """Namespace of the object."""
        ...

    @property
    def name(self) -> str:
        """Name of the object."""
        ...

    @property
    def kind(self) -> str:
        """Kind of the object, such as GPUAutoscaler."""
        ...


class _Service:
    """The numbers of one service."""

    __slots__ = ("counters", "gauges", "mode", "start_counts", "start_sum_s")

    def __init__(self) -> None:
        self.gauges: dict[Slot, float] = {}
        self.counters: dict[Slot, float] = {}
        self.mode: tuple[str, str] | None = None
        self.start_counts: list[int] | None = None  # one per bucket and one above; made by the first start
        self.start_sum_s = 0.0


class ServiceSeries:
    """All series that carry a service's labels; safe to update and to scrape from different threads."""

    def __init__(self) -> None:
        self._services: dict[tuple[str, str, str], _Service] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of services that have series."""
        return len(self._services)

    def _of(self, key: ServiceName) -> _Service:
        labels = (key.namespace, key.name, key.kind)
        service = self._services.get(labels)
        if service is None:
            service = self._services.setdefault(labels, _Service())
        return service

    def set(self, key: ServiceName, values: dict[Slot, float]) -> None:
        """Set gauges; a value that is NaN takes its series away, because absent is never a number."""
        with self._lock:
            gauges = self._of(key).gauges
            for slot, value in values.items():
                if value == value:
                    gauges[slot] = value
                else:
                    gauges.pop(slot, None)

    def add(self, key: ServiceName, amounts: dict[Slot, float]) -> None:
        """Raise counters."""
        with self._lock:
            counters = self._of(key).counters
            for slot, amount in amounts.items():
                counters[slot] = counters.get(slot, 0.0) + amount

    def set_mode(self, key: ServiceName, granted: str, effective: str) -> None:
        """Note the granted mode and the one in effect."""
        with self._lock:
            self._of(key).mode = (granted, effective)

    def observe_start(self, key: ServiceName, seconds: float) -> None:
        """Count one start in its bucket."""
        with self._lock:
            service = self._of(key)
            if service.start_counts is None:
                service.start_counts = [0] * (len(START_BUCKETS_S) + 1)
            service.start_counts[bisect.bisect_left(START_BUCKETS_S, seconds)] += 1
            service.start_sum_s += seconds

    def forget(self, key: ServiceName) -> None:
        """Take all series of a service away."""
        with self._lock:
            self._services.pop((key.namespace, key.name, key.kind), None)

    def clear(self) -> None:
        """Take all series of all services away."""
        with self._lock:
            self._services.clear()

    def text(self, *, openmetrics: bool) -> bytes:
        """All families in one of the two text formats; values are copied under the lock, text is made outside of it."""
        with self._lock:
            rows = [_Row.of(labels, service) for labels, service in self._services.items()]
        parts = [_gauge_text(definition, rows) for definition in SERVICE_GAUGES]
        parts += [_counter_text(definition, rows, openmetrics) for definition in SERVICE_COUNTERS]
        parts += [_starts_text(rows), *_mode_texts(rows)]
        return "".join(parts).encode()


@dataclass(frozen=True, slots=True)
class _Row:
    """Copy of one service's numbers with its labels as they are written."""

    labels: str
    gauges: dict[Slot, float]
    counters: dict[Slot, float]
    mode: tuple[str, str] | None
    starts: tuple[list[int], float] | None

    @classmethod
    def of(cls, labels: tuple[str, str, str], service: _Service) -> _Row:
        counts = service.start_counts
        starts = None if counts is None else (counts.copy(), service.start_sum_s)
        written = ",".join(_label(name, value) for name, value in zip(SERVICE_LABELS, labels, strict=True))
        return cls(written, service.gauges.copy(), service.counters.copy(), service.mode, starts)


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'{name}="{escaped}"'


def _number(value: float) -> str:
    if value in (math.inf, -math.inf):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))  # numpy writes its floats in words


def _head(name: str, definition: Definition) -> list[str]:
    return [f"# HELP {name} {definition.help}\n", f"# TYPE {name} {definition.type}\n"]


def _gauge_text(definition: Definition, rows: list[_Row]) -> str:
    name, lines = definition.name, _head(definition.name, definition)
    own: list[tuple[str, ...]] = [(v,) for v in definition.values] or [()]
    slots = [("".join("," + _label(definition.labels[0], v) for v in values), (name, values)) for values in own]
    for row in rows:
        for extra, slot in slots:
            value = row.gauges.get(slot)
            if value is not None:
                lines.append(f"{name}{{{row.labels}{extra}}} {_number(value)}\n")
    return "".join(lines)


def _counter_text(definition: Definition, rows: list[_Row], openmetrics: bool) -> str:
    """OpenMetrics calls the family by the name without `_total`, the older text by the name of its samples."""
    name = definition.name
    lines = _head(name.removesuffix("_total") if openmetrics else name, definition)
    for row in rows:
        for (counted, values), value in row.counters.items():
            if counted == name:
                extra = "".join("," + _label(n, v) for n, v in zip(definition.labels, values, strict=True))
                lines.append(f"{name}{{{row.labels}{extra}}} {_number(value)}\n")
    return "".join(lines)


def _starts_text(rows: list[_Row]) -> str:
    name, lines = STARTS.name, _head(STARTS.name, STARTS)
    bounds = [*map(str, START_BUCKETS_S), "+Inf"]
    for row in rows:
        if row.starts is None:
            continue
        counts, total_s = row.starts
        for bound, upto in zip(bounds, accumulate(counts), strict=True):
            lines.append(f'{name}_bucket{{{row.labels},le="{bound}"}} {upto}.0\n')
        lines.append(f"{name}_count{{{row.labels}}} {sum(counts)}.0\n")
        lines.append(f"{name}_sum{{{row.labels}}} {_number(total_s)}\n")
    return "".join(lines)


def _mode_texts(rows: list[_Row]) -> list[str]:
    lines, granted = _head(MODE.name, MODE), Counter(dict.fromkeys(map(str, Mode), 0))
    for row in rows:
        if row.mode is not None:
            granted[row.mode[0]] += 1
            extra = ",".join(_label(n, v) for n, v in zip(MODE.labels, row.mode, strict=True))
            lines.append(f"{MODE.name}{{{row.labels},{extra}}} 1.0\n")
    lines += _head(MANAGED.name, MANAGED)
    lines += [f"{MANAGED.name}{{{_label('mode', mode)}}} {count}.0\n" for mode, count in granted.items()]
    return lines
