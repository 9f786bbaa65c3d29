"""A dashboard over a hub that a test fills and moves by hand, served on a free port."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI

from harmony.api.app import create_app
from harmony.api.state import ApiSettings, ApiState
from harmony.dashboard import Dashboard, add_dashboard, dashboard_settings
from harmony.model.objective import Objective
from harmony.serving import Hub, Snapshot
from tests.api.memory import MemoryJournal
from tests.api.serving import serving
from tests.harmony.builders import forecast
from tests.serving import builders

STEP_S = 60.0
MARKUP = "<img src=x onerror=alert(1)>&\"'"
OPEN = ApiSettings(is_open=True, rate=1e6, burst=1e6)
CLOSED = ApiSettings(rate=1e6, burst=1e6, failed_rate=0.01, failed_burst=3.0)


@dataclass
class Clock:
    """Time that only a test moves."""

    now: float = builders.NOON_S
    monotonic: float = 1000.0

    def now_s(self) -> float:
        return self.now

    def monotonic_s(self) -> float:
        return self.monotonic


@dataclass
class Site:
    """A running dashboard and what is behind it."""

    hub: Hub = field(default_factory=Hub)
    clock: Clock = field(default_factory=Clock)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    turns: int = 0
    url: str = ""
    dashboard: Dashboard | None = None

    def tick(self, turns: int = 1, extra: tuple[Snapshot, ...] = ()) -> None:
        """Another turn of all services."""
        for _ in range(turns):
            self.turns += 1
            self.clock.now += STEP_S
            self.hub.publish([*self.fleet(), *extra])

    def fleet(self) -> list[Snapshot]:
        """One service for every kind of news."""
        return [
            self.chat(),
            self.absent(),
            snapshot(self, "batch/summaries", mode="Recommend", effective_mode="Recommend", held_by="mode Recommend",
                     ordered=14, ready=14, desired=14, target="Deployment summaries", gpu_type="A100-80GB"),
            snapshot(self, "serving/code", mode="Full", effective_mode="UpOnly", realized=0.12,
                     target="Deployment code", gpu_hours_saved=-3.5),
            snapshot(self, "research/lab", target=f"Deployment {MARKUP}", unit=MARKUP, gpu_type=MARKUP, held_by=MARKUP,
                     conditions=({"type": MARKUP, "status": "True", "reason": MARKUP, "message": MARKUP},)),
        ]  # fmt: skip

    def chat(self) -> Snapshot:
        return snapshot(self, "serving/chat", demand=1000.0 + 5 * self.turns, conditions=(
            {"type": "Ready", "status": "True", "reason": "Working", "message": ""},))  # fmt: skip

    def absent(self) -> Snapshot:
        """Nothing is known of it but how many replicas there are."""
        looked = builders.seen(now_s=self.clock.now, demand=float("nan"), forecast=None)
        return builders.snapshot(
            "search/rerank", record=builders.record(looked), coverage={}, crps=float("nan"), realized=None, stated=None,
            shadow_s=0.0, history_s=np.array([]), history=np.array([]), target="Deployment rerank", desired=10,
        )  # fmt: skip


def snapshot(site: Site, service: str, demand: float = 1000.0, **changes: Any) -> Snapshot:
    """A service whose forecast begins now."""
    made = replace(forecast(builders.PATHS + demand - 1000.0), origin_s=site.clock.now)
    promise = Objective(epsilon=0.05, demand="requests", max_replicas=20, price_per_gpu_hour=2.0)
    looked = builders.seen(now_s=site.clock.now, demand=demand, forecast=made, objective=promise)
    history = 900.0 + 100.0 * np.sin(np.arange(120) / 9.0 + site.turns / 9.0)
    history[-44:-40], history[-1] = np.nan, demand
    times = site.clock.now + STEP_S * np.arange(-119, 1)
    return builders.snapshot(
        service, **({"record": builders.record(looked), "history": history, "history_s": times} | changes)
    )


def application(site: Site, settings: ApiSettings, reports: Path | None = None) -> FastAPI:
    """The API with the dashboard in it."""
    state = ApiState(
        site.hub, journal=site.journal, settings=dashboard_settings(settings),
        now_s=site.clock.now_s, monotonic_s=site.clock.monotonic_s,
    )  # fmt: skip
    app = create_app(state)
    site.dashboard = Dashboard(state, reports=reports)
    add_dashboard(app, site.dashboard)
    return app


@contextlib.contextmanager
def running(settings: ApiSettings = OPEN, reports: Path | None = None, turns: int = 3) -> Iterator[Site]:
    """A site on a free port."""
    site = Site()
    app = application(site, settings, reports)
    assert site.dashboard is not None
    site.tick(turns)
    with serving(app) as url:
        site.url = url
        yield site
    site.dashboard.close()


def report_in(folder: Path, name: str = "two-weeks") -> Path:
    """A small report in the shape of a replay's."""
    (folder / name).mkdir(parents=True)
    path = folder / name / "report.html"
    path.write_text(
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>synthetic - HARMONY replay</title>"
        "<style>h1 { color: rgb(1, 2, 3); }</style></head><body><h1>HARMONY kept its promise &amp; saved</h1>"
        "<p id='said'></p><script>document.getElementById('said').textContent = 'script ran';"
        "try { parent.document.title = 'escaped'; } catch (error) { document.body.dataset.kept = 'in'; }</script>"
        "</body></html>",
        encoding="utf-8",
    )
    return path
