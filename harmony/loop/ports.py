"""The seams between the loop and its world: the same loop lives in a cluster or in a simulation behind these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from forecasting.distribution import ForecastDistribution
from harmony.model.observation import Outcome
from harmony.model.record import Record

__all__ = ["Clock", "ForecastSource", "Journal", "MetricSource", "Reading", "Replicas", "ScaleTarget"]


class Clock(Protocol):
    """Where the loop takes the time from: the wall clock, or a simulated one."""

    def now_s(self) -> float:
        """Seconds since the Unix epoch."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """Newest demand (NaN when absent) and what came of the steps since the last reading."""

    demand: float
    outcome: Outcome


class MetricSource(Protocol):
    """History of a service's indicators: Prometheus, or a trace."""

    def read(self) -> Reading:
        """The newest demand, and the outcome of the steps since the previous call."""
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


class ScaleTarget(Protocol):
    """What is scaled: a Kubernetes `/scale` subresource, or a simulated pool with cold starts."""

    def replicas(self) -> Replicas:
        """The present counts."""
        ...

    def started_s(self) -> Sequence[float]:
        """How long the starts took (order to ready, seconds) that finished since the previous call."""
        ...

    def scale(self, replicas: int) -> int:
        """Ask for ``replicas``; returns the count that was accepted."""
        ...


class Journal(Protocol):
    """Append-only record of the loop's turns."""

    def append(self, record: Record) -> None:
        """Keep one turn."""
        ...
