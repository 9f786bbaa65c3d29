"""A demo cluster after a few turns, and an API over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx2 as httpx
import numpy as np
import pytest
from fastapi import FastAPI

from forecasting.baselines.last_value import LastValue
from forecasting.distribution import ForecastDistribution
from forecasting.explaining import Explanation
from forecasting.panel import Panel
from forecasting.windows import WindowBatch
from harmony.api.app import create_app
from harmony.api.jobs import Jobs
from harmony.api.state import ApiSettings, ApiState
from harmony.metrics import Metrics
from harmony.serving import Hub
from simulator.demo import DemoCluster
from tests.api.memory import MemoryJournal
from tests.api.serving import key_for, serving

TURNS = 3


@dataclass
class World:
    """A running API and what is behind it."""

    url: str
    app: FastAPI
    state: ApiState
    journal: MemoryJournal
    keys: dict[str, str]

    def client(self, role: str = "admin", **options: object) -> httpx.Client:
        """An HTTP client with a key of that role."""
        return httpx.Client(base_url=self.url, headers={"x-api-key": self.keys[role]}, timeout=30, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def cluster() -> DemoCluster:
    """Five services after an hour and some turns; advanced by nobody else."""
    made = DemoCluster(past_hours=1.0, metrics=Metrics(process=False))
    return made


@pytest.fixture(scope="session")
def lived(cluster: DemoCluster) -> tuple[Hub, MemoryJournal]:
    """Its hub, and a journal with every turn."""
    journal = MemoryJournal()
    for _ in range(TURNS):
        cluster.advance()
        journal.append(cluster.hub.all())
    return cluster.hub, journal


def forecast(panel: Panel, horizon: int, samples: int) -> ForecastDistribution:
    """A real and fast forecaster for posted histories."""
    model, windows = last_value(panel, horizon)
    return model.predict(windows, horizon, samples=samples)[0]


def explain_forecast(panel: Panel, horizon: int) -> Explanation:
    """What moved its forecasts."""
    model, windows = last_value(panel, horizon)
    return model.explain(windows, horizon)


def last_value(panel: Panel, horizon: int) -> tuple[LastValue, WindowBatch]:
    """The rule and the window that it reads."""
    lookback = max(1, len(panel) // 2)
    model = LastValue(scaled=False).fit([panel], lookback=lookback, horizon=horizon)
    return model, WindowBatch.of(panel, np.array([len(panel) - 1]), lookback, horizon=horizon)


def cards() -> list[dict[str, object]]:
    return [{"name": "base", "version": "0123456789ab", "kind": "flow", "in_use": True, "lookback": 144}]


GENEROUS = ApiSettings(rate=1e6, burst=1e6, failed_rate=1e6, failed_burst=1e6)


def make_state(hub: Hub, journal: MemoryJournal, settings: ApiSettings = GENEROUS) -> ApiState:
    return ApiState(
        gpu_budget=20,
        hub=hub,
        journal=journal,
        explain=journal.explain,
        forecast=forecast,
        explain_forecast=explain_forecast,
        jobs=Jobs("tests.api.work:work"),
        models=cards,
        metrics=Metrics(process=False),
        settings=settings,
    )


@pytest.fixture(scope="session")
def world(lived: tuple[Hub, MemoryJournal]) -> Iterator[World]:
    """The API as it is served, with a key for every role."""
    hub, journal = lived
    keys = {role: key_for(journal, role) for role in ("read", "operate", "admin")}
    state = make_state(hub, journal)
    app = create_app(state)
    with serving(app) as url:
        yield World(url, app, state, journal, keys)
