"""Putting the dashboard's pages into the API's application."""

from __future__ import annotations

import dataclasses

from fastapi import FastAPI

from harmony.api.state import ApiSettings
from harmony.dashboard.dashboard import LOGIN, Dashboard
from harmony.dashboard.pages import router
from harmony.dashboard.sessions import SessionCookies

__all__ = ["add_dashboard", "dashboard_settings"]

OPEN_PATHS = frozenset({LOGIN, "/logout", "/theme/auto", "/theme/light", "/theme/dark"})
OPEN_PREFIXES = ("/static/",)


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
    app.state.dashboard = dashboard
    app.include_router(router, include_in_schema=False)
    if not dashboard.state.settings.is_open:
        app.add_middleware(SessionCookies, sessions=dashboard.sessions, login_path=LOGIN)
