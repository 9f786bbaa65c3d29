"""The seams between a managed service and its world: a cluster or a simulation stands behind these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from forecasting.distribution import ForecastDistribution
from harmony.model.record import Record

__all__ = ["Clock", "ForecastSource", "RecordSink", "Replicas"]


class Clock(Protocol):
    """Where the loop takes the time from: the wall clock, or a simulated one."""

    def now_s(self) -> float:
        """Seconds since the Unix epoch."""
        ...


class ForecastSource(Protocol):
    """Who makes the forecast of this turn: the model on the live panel, or one batch prepared for a replay."""

    def latest(self, now_s: float) -> ForecastDistribution | None:
        """The forecast from ``now_s`` on, made of nothing later than that; None when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Replicas:
    """Replicas asked for, and how many of them serve."""

    ordered: int
    ready: int


class RecordSink(Protocol):
    """Where the records of the loop's turns go: a log, a report, the package `harmony.journal`."""

    def append(self, record: Record) -> None:
        """Keep one turn."""
        ...
