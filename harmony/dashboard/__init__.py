"""The dashboard: server-rendered pages beside the API, live in the browser, readable without JavaScript."""

from harmony.dashboard.dashboard import Dashboard
from harmony.dashboard.mounting import add_dashboard, dashboard_settings

__all__ = ["Dashboard", "add_dashboard", "dashboard_settings"]
