"""What can go wrong between us and Prometheus, told apart by who has to act.

HarmonyError
└── PrometheusError
    ├── PrometheusUnreachable   nobody answers, or what answers is not (yet) Prometheus: look at address and access
    ├── QueryRefused            Prometheus read the query and refused it: look at the PromQL
    └── Slow                    no answer in time: look at Prometheus's load, or record the query as a rule
"""

from __future__ import annotations

from forecasting.errors import HarmonyError

__all__ = ["PrometheusError", "PrometheusUnreachable", "QueryRefused", "Slow"]


class PrometheusError(HarmonyError):
    """No usable answer from Prometheus."""


class PrometheusUnreachable(PrometheusError):  # noqa: N818 - reads as what happened
    """Nobody answers, or what answers is no Prometheus; `transient` when asking again at once may help."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class QueryRefused(PrometheusError):  # noqa: N818
    """Prometheus refused the query; carries its own words."""


class Slow(PrometheusError):  # noqa: N818
    """No answer within the time allowed."""
