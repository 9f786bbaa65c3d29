"""`Trace`: what a reader hands over - the panel, which indicator is the demand, and what a person should know of it."""

from __future__ import annotations

from dataclasses import dataclass

from forecasting.panel import Panel
from simulator.traces.request_trace import RequestTrace

__all__ = ["Trace"]


@dataclass(frozen=True)
class Trace:
    """A trace ready to be replayed.

    Attributes:
        panel: the indicators on a uniform grid, the demand first; NaN is absent.
        demand: name of the indicator that replicas are counted for (``panel.names[0]``).
        requests: the single requests, where the source records them.
        source: path or bundled name it was read from.
        format: name of the format it was read as.
        licence: licence of the data; "not stated" for a file of your own.
        notes: what a reader changed or left absent, one sentence each.
    """

    panel: Panel
    demand: str
    requests: RequestTrace | None = None
    source: str = ""
    format: str = "tidy"
    licence: str = "not stated"
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the trace is called in reports: the panel's name."""
        return self.panel.name
