"""The figure for Prometheus: what an autoscaler that reads our metrics follows (``actuation: External``)."""

from __future__ import annotations

from controller.outputs.base import Acted, Means, Order, Output, Standing
from harmony.model.record import Record

__all__ = ["OUTPUT", "Gauge"]


class Gauge(Output):
    """Exports `harmony_desired_replicas` and what was decided with it."""

    def __init__(self, means: Means) -> None:
        self._metrics = means.metrics

    def wants(self, standing: Standing) -> bool:
        """Every service: dashboards and alerts read the same figures."""
        return True

    def tell(self, order: Order, acted: Acted, record: Record) -> None:
        """Set the series of one service."""
        self._metrics.observe_decision(
            order.key,
            record,
            recommended=order.wanted,
            desired=acted.desired,
            floor=acted.floor,
            held_by=order.held_by,
            realized=order.realized,
        )


OUTPUT = Gauge
