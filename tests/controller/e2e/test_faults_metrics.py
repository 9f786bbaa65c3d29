"""Faults of metrics: whatever Prometheus says or does not say, replicas are never taken away because of it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from controller.process.settings import PrometheusSettings
from controller.service import Service
from tests.controller.e2e.leaping import LeapingWorld, watching
from tests.controller.e2e.world import DEMAND_QUERY, PER_REPLICA, WITHIN_S, Running, World, autoscaler, learned_of
from tests.kube.api import ApiServer

DEMAND = 400.0
NEED = math.ceil(DEMAND / PER_REPLICA)
STALE = 150.0  # demand of more than 60 s ago is absent, readings of more than 120 s ago are stale


@contextlib.asynccontextmanager
async def settled(
    api: ApiServer, folder: Path, *, timeout_s: float = 2.0, **spec: Any
) -> AsyncIterator[tuple[LeapingWorld, Running]]:
    """A service in mode Full that has what it needs, far more than any faulty reading would suggest."""
    world = LeapingWorld(api, folder)
    async with world.running(lambda _: DEMAND, replicas=NEED + 3):
        world.create(autoscaler("Full", **spec))
        async with world.controller(
            prometheus=PrometheusSettings(world.prometheus_url, timeout_s=timeout_s)
        ) as running:
            await world.until(lambda: world.condition("Ready")[0] == "True", "Ready")
            await world.until(
                lambda: world.status().get("lastScaleDecision", {}).get("reason") in ("Forecast", "ReactiveFloor"),
                "decided from a forecast",
            )
            assert world.replicas >= NEED
            yield world, running


async def endure(
    world: LeapingWorld,
    running: Running,
    name: str,
    reason: str,
    begin: Callable[[], object],
    end: Callable[[], object],
    *,
    seconds: float = STALE,
) -> None:
    """Begin a fault, let time pass, see that it is told and nothing is taken away; end it, see that all is well."""
    before, learned = world.replicas, learned_of(world.status())
    with watching(world) as seen:
        begin()
        world.leap(seconds)
        await world.until(
            lambda: world.condition("MetricsAvailable") == ("False", reason), f"{name}: MetricsAvailable is {reason}"
        )
        await world.until(
            lambda: world.condition("ScalingActive") == ("False", "MetricsAbsent"), f"{name}: scaling is not active"
        )
        assert world.condition("Ready") == ("False", reason), name
        await running.ticks(2)
        assert seen.lowest >= before, f"{name}: replicas were taken away: {seen.counts}"
        end()
        await world.until(lambda: world.condition("MetricsAvailable")[0] == "True", f"{name}: metrics are back")
        await world.until(lambda: world.condition("ScalingActive")[0] == "True", f"{name}: scaling is active again")
        await world.until(lambda: world.condition("Ready")[0] == "True", f"{name}: Ready again")
    assert seen.lowest >= min(before, NEED), f"{name}: replicas were taken away: {seen.counts}"
    assert learned_of(world.status())["loop"].get("leadTime") == learned["loop"].get("leadTime"), name
    assert not any(report.errors for report in running.reports), name


def proxied(world: LeapingWorld, fault: str) -> Callable[[], None]:
    def begin() -> None:
        world.proxy.fault = fault  # type: ignore[assignment]

    return begin


@pytest.mark.parametrize(
    "faults",
    [
        [("500", "MetricsUnreachable"), ("503", "MetricsUnreachable")],
        [("429", "MetricsUnreachable"), ("401", "MetricsUnreachable")],
        [("html", "MetricsUnreachable"), ("cut", "MetricsUnreachable")],
        [("nan", "MetricsNaN"), ("empty", "MetricsEmpty")],
        [("replay", "MetricsStale"), ("many", "MetricsManySeries")],
    ],
    ids=lambda faults: "-".join(name for name, _ in faults),
)
def test_bad_answers_of_prometheus_take_no_replica_away(
    api_server: ApiServer, tmp_path: Path, faults: list[tuple[str, str]]
) -> None:
    async def story() -> None:
        async with settled(api_server, tmp_path) as (world, running):
            for fault, reason in faults:
                await endure(world, running, fault, reason, proxied(world, fault), proxied(world, "pass"))

    asyncio.run(story())


@pytest.mark.parametrize("fault", ["killed", "stopped", "hanging"])
def test_prometheus_that_is_gone_or_slow_takes_no_replica_away(
    api_server: ApiServer, tmp_path: Path, fault: str
) -> None:
    async def story() -> None:
        async with settled(api_server, tmp_path, timeout_s=1.0) as (world, running):
            begin, end, reason = {
                "killed": (world.prometheus.kill, world.prometheus.start, "MetricsUnreachable"),
                "stopped": (world.prometheus.pause, world.prometheus.resume, "MetricsTimeout"),
                "hanging": (proxied(world, "hang"), proxied(world, "pass"), "MetricsTimeout"),
            }[fault]
            await endure(world, running, fault, reason, begin, end)

    asyncio.run(story())


def test_a_short_outage_of_prometheus_is_bridged(api_server: ApiServer, tmp_path: Path) -> None:
    """Killed and back within a minute: the last reading still counts, scaling stays active, and it is said."""

    async def story() -> None:
        world = World(api_server, tmp_path)
        async with world.running(lambda _: DEMAND, replicas=NEED + 3):
            world.create(autoscaler("Full"))
            async with world.controller() as running:
                await world.until(lambda: world.condition("Ready")[0] == "True", "Ready")
                with watching(world) as seen:
                    await asyncio.to_thread(world.prometheus.kill)
                    await running.ticks(3)
                    state = (await served(running)).feed_state
                    assert state is not None
                    assert state.demand.reason == "Unreachable"
                    assert world.condition("ScalingActive")[0] == "True"
                    await asyncio.to_thread(world.prometheus.start)
                    await running.ticks(3)
                    assert world.condition("MetricsAvailable")[0] == "True"
                assert seen.lowest >= NEED, seen.counts

    asyncio.run(story())


@pytest.mark.parametrize(
    ("fault", "other"),
    [
        ("exporter gone", {}),
        ("renamed", {'vllm_requests_running{service="chat"}': 5.0}),
        ("other labels", {'gpu_service_requests_running{service="chat-v2"}': 5.0}),
        ("not a number", {'gpu_service_requests_running{service="chat"}': math.nan}),
    ],
)
def test_an_exporter_that_says_nothing_usable_takes_no_replica_away(
    api_server: ApiServer, tmp_path: Path, fault: str, other: dict[str, float]
) -> None:
    async def story() -> None:
        async with settled(api_server, tmp_path) as (world, running):
            query = 'gpu_service_requests_running{service="chat"} > 0'

            def begin() -> None:
                world.exporter.set(other)
                deadline = time.monotonic() + WITHIN_S
                while world.prometheus_has(query):
                    assert time.monotonic() < deadline
                    time.sleep(0.05)

            reason = "MetricsNaN" if fault == "not a number" else "MetricsStale"
            await endure(world, running, fault, reason, begin, lambda: world.set_demand(DEMAND))
            told = [e for e in world.events() if e["reason"] in ("MetricsUnavailable", "MetricsAvailable")]
            assert {e["reason"] for e in told} == {"MetricsUnavailable", "MetricsAvailable"}, fault
            assert {e["type"] for e in told if e["reason"] == "MetricsUnavailable"} == {"Warning"}

    asyncio.run(story())


def test_a_counter_that_restarts_is_no_dip_in_demand(api_server: ApiServer, tmp_path: Path) -> None:
    """The exporter restarts: its counter goes on from 0, and demand is never negative nor near zero."""
    indicator = {"name": "rate", "query": "chat_requests_total", "level": 1, "kind": "Counter", "unit": "requests"}

    async def story() -> None:
        world = World(api_server, tmp_path, history_rows=3)
        async with world.running(lambda _: DEMAND, replicas=NEED + 4):
            counting = asyncio.create_task(count(world, restarts_after_s=(8.0,)))
            world.create(autoscaler("Full", indicators=[indicator], objective={"perReplica": PER_REPLICA}))
            async with world.controller(journal=str(tmp_path / "journal")) as running:
                service = await served(running)
                await world.until(lambda: not math.isnan(service.history.newest(0)[1]), "a rate is known")
                with watching(world) as seen:
                    await counting
                demand = [v for v in service.history.demand_between(0, service.clock_s)[1] if not math.isnan(v)]
                assert len(demand) >= 2
                assert min(demand) > DEMAND / 4, demand
                assert max(demand) < DEMAND * 2, demand
                assert seen.lowest >= NEED, seen.counts

    asyncio.run(story())


async def count(world: World, restarts_after_s: tuple[float, ...], seconds: float = 21.0) -> None:
    """Export a counter that grows by the demand, and starts anew at these times."""
    began = since = time.monotonic()
    pending = list(restarts_after_s)
    while time.monotonic() - began < seconds:
        if pending and time.monotonic() - began > pending[0]:
            since = began + pending.pop(0)
        world.exporter.set({"chat_requests_total": DEMAND * (time.monotonic() - since)})
        await asyncio.sleep(0.05)


async def served(running: Running) -> Service:
    """The one service of a controller."""
    await running.ticks(1)
    (service,) = running.controller.fleet.services.values()
    return service


def test_zero_demand_scales_down_and_absent_demand_does_not(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        world = LeapingWorld(api_server, tmp_path)
        async with world.running(lambda _: 0.0, replicas=6):
            world.set_demand(None)
            # before the leap: what Prometheus still shows after it would count as read just now
            await world.until(lambda: not world.prometheus_has(DEMAND_QUERY), "Prometheus shows no demand")
            world.leap(STALE)
            world.create(autoscaler("Full", minReplicas=2))
            async with world.controller() as running:
                await world.until(lambda: world.condition("MetricsAvailable")[0] == "False", "demand is absent")
                world.leap(STALE)  # longer than the stabilisation window
                await running.ticks(3)
                assert world.replicas == 6, "absent demand was taken for zero"
                assert world.status()["lastScaleDecision"]["reason"] == "AbsentData"

                world.set_demand(0.0)
                await world.until(lambda: world.condition("MetricsAvailable")[0] == "True", "demand is 0")
                world.leap(15)
                await world.until(lambda: world.replicas == 2, "zero demand needs the minimum only")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("behavior", "replicas", "expected"),
    [("currentReplicasIfHigher", 30, 30), ("currentReplicasIfHigher", 3, NEED), ("currentReplicas", 30, NEED)],
)
def test_half_an_hour_without_metrics(
    api_server: ApiServer, tmp_path: Path, behavior: str, replicas: int, expected: int
) -> None:
    """The fallback may raise the count, and nothing ever lowers it; afterwards the service is itself again."""
    fallback = {"failureThreshold": 3, "replicas": replicas, "behavior": behavior}

    async def story() -> None:
        async with settled(api_server, tmp_path, fallback=fallback, stepSeconds=15) as (world, running):
            before = world.replicas
            with watching(world) as seen:
                world.proxy.fault = "503"
                for _ in range(6):
                    world.leap(300)
                    await running.ticks(1)
                await world.until(lambda: world.condition("MetricsAvailable")[0] == "False", "absence is told")
                raised = expected > NEED
                if raised:
                    await world.until(lambda: world.replicas == expected, "the fallback's replicas are ordered")
                    await world.until(lambda: world.condition("Fallback") == ("True", "DataAbsent"), "it is told")
                    assert "FallbackActivated" in {e["reason"] for e in world.events()}
                else:
                    assert world.replicas == before
                    assert world.condition("Fallback")[0] == "False"
                assert seen.lowest >= before, seen.counts

                world.proxy.fault = "pass"
                await world.until(lambda: world.condition("ScalingActive")[0] == "True", "scaling is active again")
                await world.until(lambda: world.condition("Fallback")[0] == "False", "the fallback ends")
            assert seen.lowest >= NEED, seen.counts

    asyncio.run(story())
