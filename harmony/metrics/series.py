"""Per-service series: plain numbers in one small record per service, turned into families when they are scraped.

One library child per series would cost about a kilobyte and a lock each; a fleet has dozens of series per service.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

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


class ServiceSeries(Collector):
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

    def collect(self) -> Iterator[Metric]:
        """One family per metric; values are copied under the lock, text is made outside of it."""
        with self._lock:
            rows = [(list(k), s, dict(s.gauges), dict(s.counters)) for k, s in self._services.items()]
            starts = [(k, s.start_counts.copy(), s.start_sum_s) for k, s, _, _ in rows if s.start_counts is not None]
            modes = [(k, s.mode) for k, s, _, _ in rows if s.mode is not None]
        for definition in SERVICE_GAUGES:
            yield _gauge_family(definition, [(labels, gauges) for labels, _, gauges, _ in rows])
        for definition in SERVICE_COUNTERS:
            yield _counter_family(definition, [(labels, counters) for labels, _, _, counters in rows])
        yield _starts_family(starts)
        mode_family = GaugeMetricFamily(MODE.name, MODE.help, labels=(*SERVICE_LABELS, *MODE.labels))
        for labels, pair in modes:
            mode_family.add_metric([*labels, *pair], 1.0)
        yield mode_family
        managed = GaugeMetricFamily(MANAGED.name, MANAGED.help, labels=MANAGED.labels)
        granted = [pair[0] for _, pair in modes]
        for mode in Mode:
            managed.add_metric([str(mode)], float(granted.count(mode)))
        yield managed

    def describe(self) -> Iterator[Metric]:
        """The families without values, so that a name cannot be registered twice."""
        return ServiceSeries().collect()


def _gauge_family(definition: Definition, rows: list[tuple[list[str], dict[Slot, float]]]) -> Metric:
    family = GaugeMetricFamily(definition.name, definition.help, labels=(*SERVICE_LABELS, *definition.labels))
    own: list[list[str]] = [[v] for v in definition.values] or [[]]
    slots = [(extra, (definition.name, tuple(extra))) for extra in own]
    for labels, gauges in rows:
        for extra, slot in slots:
            value = gauges.get(slot)
            if value is not None:
                family.add_metric(labels + extra, value)
    return family


def _counter_family(definition: Definition, rows: list[tuple[list[str], dict[Slot, float]]]) -> Metric:
    family = CounterMetricFamily(definition.name, definition.help, labels=(*SERVICE_LABELS, *definition.labels))
    for labels, counters in rows:
        for (name, extra), value in counters.items():
            if name == definition.name:
                family.add_metric([*labels, *extra], value)
    return family


def _starts_family(starts: list[tuple[list[str], list[int], float]]) -> Metric:
    family = HistogramMetricFamily(STARTS.name, STARTS.help, labels=SERVICE_LABELS)
    bounds = [*(str(b) for b in START_BUCKETS_S), "+Inf"]
    for labels, counts, total_s in starts:
        upto = 0
        buckets = []
        for bound, count in zip(bounds, counts, strict=True):
            upto += count
            buckets.append((bound, float(upto)))
        family.add_metric(labels, buckets, total_s)
    return family
