"""`Dashboard`: what the pages are made of."""

from __future__ import annotations

from pathlib import Path

from harmony.api.limits import Buckets
from harmony.api.state import ApiState
from harmony.dashboard.assets import Assets
from harmony.dashboard.history import History
from harmony.dashboard.rendering import Renderer
from harmony.dashboard.reports import ReportShelf
from harmony.dashboard.sessions import Sessions
from harmony.dashboard.states import Ages
from harmony.dashboard.trail import Trail

__all__ = ["LOGIN", "Dashboard"]

LOGIN = "/login"


class Dashboard:
    """Everything that the pages use.

    ``reports`` is a folder of replay reports. ``speed`` is how many seconds of the snapshots' time pass in one of life;
    of a demo the present is counted on from the newest snapshot.
    """

    def __init__(
        self,
        state: ApiState,
        *,
        speed: float = 1.0,
        reports: Path | None = None,
    ) -> None:
        self.state = state
        self.hub = state.hub
        self.speed = speed
        self.assets = Assets()
        self.renderer = Renderer(self.assets)
        self.reports = ReportShelf(reports)
        self.trail = Trail(state.hub, state.monotonic_s)
        self.history = History(self.trail, state.journal)
        self.sessions = Sessions(state.monotonic_s)
        self.guesses = Buckets(state.settings.failed_rate, state.settings.failed_burst)

    def ages(self) -> Ages:
        """How to tell how old snapshots are at this moment."""
        if not self.trail.is_simulated:
            return Ages(self.state.now_s())
        return Ages(self.trail.now_s(self.speed), self.speed)

    def close(self) -> None:
        """Take no more of the hub's news."""
        self.trail.close()
