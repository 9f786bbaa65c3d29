"""`Trace`: what a reader hands over - the panel, which indicator is the demand, and what a person should know of it."""

from __future__ import annotations

from dataclasses import dataclass

from forecasting.panel import FloatArray, Panel
from simulator.traces.request_trace import RequestTrace

__all__ = ["Events", "Trace"]


@dataclass(frozen=True, eq=False)
class Events:
    """What happens to a simulated world that its metrics do not show.

    Attributes:
        demand: (steps,) what is really asked for, where the panel holds what was measured of it; None: the same.
        free: (steps,) replicas that can be had, as a multiple of what the mean demand needs; above it nothing more
            starts (what runs goes on running); None: no limit.
        slower: (steps,) factor on the start-up time of what is ordered in a step; None: 1.
    """

    demand: FloatArray | None = None
    free: FloatArray | None = None
    slower: FloatArray | None = None


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
        events: what happens in the world besides; None for a trace that was recorded.
    """

    panel: Panel
    demand: str
    requests: RequestTrace | None = None
    source: str = ""
    format: str = "tidy"
    licence: str = "not stated"
    notes: tuple[str, ...] = ()
    events: Events | None = None

    @property
    def name(self) -> str:
        """What the trace is called in reports: the panel's name."""
        return self.panel.name
