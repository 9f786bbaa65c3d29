"""`Dashboard`: what the pages are made of, and `add_dashboard`, which puts them into the API's application."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fastapi import FastAPI

from harmony.api.limits import Buckets
from harmony.api.state import ApiSettings, ApiState
from harmony.dashboard.assets import Assets
from harmony.dashboard.rendering import Renderer
from harmony.dashboard.reports import ReportShelf
from harmony.dashboard.sessions import SessionCookies, Sessions
from harmony.dashboard.states import Ages
from harmony.dashboard.trail import Trail

__all__ = ["LOGIN", "Dashboard", "add_dashboard", "dashboard_settings"]

LOGIN = "/login"
OPEN_PATHS = frozenset({LOGIN, "/logout", "/theme/auto", "/theme/light", "/theme/dark"})
OPEN_PREFIXES = ("/static/",)


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


def dashboard_settings(settings: ApiSettings) -> ApiSettings:
    """The API's settings with what the pages need: login and static files are open to everybody."""
    return dataclasses.replace(
        settings,
        open_paths=settings.open_paths | OPEN_PATHS,
        open_prefixes=(*settings.open_prefixes, *OPEN_PREFIXES),
        login_path="" if settings.is_open else LOGIN,
    )


def add_dashboard(app: FastAPI, dashboard: Dashboard) -> None:
    """Serve the pages from ``app``, which `harmony.api.app.create_app` made with `dashboard_settings`."""
    from harmony.dashboard.pages import router

    app.state.dashboard = dashboard
    app.include_router(router, include_in_schema=False)
    if not dashboard.state.settings.is_open:
        app.add_middleware(SessionCookies, sessions=dashboard.sessions, login_path=LOGIN)
