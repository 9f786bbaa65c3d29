"""THE LAW of learning: equal rows and an equal schedule give the same forecaster in replay, demo and cluster."""

from __future__ import annotations

import asyncio
import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from controller.learning import Learning
from controller.prometheus.feed import Feed
from controller.resource.group import Annotation
from controller.resource.settings import ServiceKey
from controller.service import Service
from forecasting.fleet import rounded
from forecasting.online import Online
from forecasting.panel import Panel
from forecasting.refreshing import Outcome, Schedule
from harmony.metrics import Metrics
from simulator.demo.demand import ROWS, DemoRows
from simulator.forecasts import Learning as InReplay
from simulator.traces.profiles import MONDAY_S
from tests.controller.lives import service, turn
from tests.forecasting.stand_ins import HOUR, Around, wave

STEP_S = 60.0
HOURS = range(1, 13)
DEMAND = wave(13 * 60)
NONE = ""


class Cluster:
    """A controller's services that learn, without the cluster: rows arrive, and time is what a test says."""

    def __init__(self, online: Online[ServiceKey], *services: Service) -> None:
        self.now_s = MONDAY_S
        self.metrics = Metrics(process=False)
        self.fleet: Any = SimpleNamespace(services={s.settings.key: s for s in services})
        clock: Any = SimpleNamespace(now_s=lambda: self.now_s)
        self.learning = Learning(online, self.fleet, clock, self.metrics)

    def until(self, hour: int) -> None:
        """All rows until then have been read, and everybody has learned what is to be learned."""
        rows = np.arange(hour * 60 + 1)
        self.now_s = MONDAY_S + hour * HOUR
        for one in self.fleet.services.values():
            one.history.write(0, MONDAY_S + rows * STEP_S, DEMAND[rows])
            turn(one, self.now_s, float(DEMAND[hour * 60]), 4, forecast=False)
        while asyncio.run(self.learning.step()) is not None:
            pass

    def version(self, one: Service) -> str:
        """What forecasts a service now."""
        model = self.learning.online.model(one.settings.key, self.now_s)
        return NONE if model is None else f"{model.name} {model.version}"


@pytest.fixture(autouse=True)
def _past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Feed, "has_past", True)


def online(**changes: Any) -> Online[Any]:
    return Online(Around(), "ridge", Schedule(**({"budget_s": math.inf} | changes)), lambda: 0.0)


def in_cluster(one: Service) -> list[str]:
    cluster, versions = Cluster(online(), one), []
    for hour in HOURS:
        cluster.until(hour)
        versions.append(cluster.version(one))
    return versions


def steps_ahead(one: Service) -> int:
    wanted = one.wants(one.clock_s)
    assert wanted is not None
    return rounded(wanted.horizon)


def test_equal_rows_and_schedule_give_the_same_forecaster_in_all_worlds() -> None:
    one = service()
    versions = in_cluster(one)
    horizon, indicator = steps_ahead(one), one.history.indicators[0]

    replay = InReplay(Panel(DEMAND[:, None], (indicator,), MONDAY_S, STEP_S), Around(), "ridge", HOUR, horizon)
    replayed = []
    for hour in HOURS:
        model = replay.model_at(hour * 60)
        replayed.append(NONE if model.name == "around" else f"{model.name} {model.version}")

    read = np.full((ROWS, 1), np.nan, dtype=np.float32)
    read[: DEMAND.size, 0] = DEMAND
    demo, shown = online(), []
    for hour in HOURS:
        now_s = MONDAY_S + hour * HOUR
        while (number := demo.due(0, now_s)) is not None:
            demo.refresh(0, DemoRows(read, (indicator,)), number, horizon)
        own = demo.model(0, now_s)
        shown.append(NONE if own is None else f"{own.name} {own.version}")

    assert versions == replayed == shown
    assert versions[0] == NONE
    assert versions[-1].startswith("ridge 1+")


def test_a_restarted_controller_goes_on_with_the_forecaster_that_was_in_force() -> None:
    one = service()
    versions = in_cluster(one)
    saved = json.loads(json.dumps(one.to_json()))
    assert saved["ownModel"]["version"] == versions[-1]
    again = service(saved=saved)
    cluster = Cluster(online(), again)
    cluster.until(HOURS[-1])
    assert cluster.version(again) == versions[-1]
    assert again.to_json()["ownModel"] == saved["ownModel"]


def test_who_is_read_otherwise_now_begins_anew() -> None:
    one = service()
    cluster = Cluster(online(), one)
    cluster.until(12)
    assert cluster.version(one).startswith("ridge")
    one.adopt(one.settings, one.feed)
    cluster.learning._meet()
    assert cluster.version(one).startswith("ridge"), "nothing changed"
    one._feed = service().feed
    cluster.learning._meet()
    assert cluster.version(one) == NONE
    assert one.own_model is None


def test_what_takes_longer_than_its_budget_changes_nothing_and_is_counted() -> None:
    one = service()
    ticks = iter(range(10**6))
    slow: Online[ServiceKey] = Online(Around(), "ridge", Schedule(budget_s=3.0), lambda: 2.0 * next(ticks))
    cluster = Cluster(slow, one)
    cluster.until(12)
    standing = slow.standing(one.settings.key)
    assert standing is not None
    assert (standing.outcome, cluster.version(one)) == (Outcome.LATE, NONE)
    assert b'harmony_forecaster_refreshes_total{outcome="Late"}' in cluster.metrics.exposition()[0]


def test_who_is_paused_does_not_learn() -> None:
    held = service(annotations={Annotation.PAUSED: "true"})
    cluster = Cluster(online(), held)
    cluster.until(12)
    assert cluster.learning.online.standing(held.settings.key) is None


def test_what_breaks_in_learning_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, asked = Cluster(online(), service()), list[int]()

    async def broken(self: Learning) -> None:
        asked.append(1)
        if len(asked) > 2:
            raise asyncio.CancelledError
        raise RuntimeError("poison")

    monkeypatch.setattr(Learning, "step", broken)
    monkeypatch.setattr("controller.learning.LOOK_S", 0.0)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cluster.learning.run())
    assert len(asked) == 3
    assert b'harmony_errors_total{component="refresh",type="RuntimeError"} 2.0' in cluster.metrics.exposition()[0]
