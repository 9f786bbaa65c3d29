"""What the controller publishes after its ticks: what stands in the cluster and in the object's status."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from controller.kube.client import Kube
from controller.process.clock import LiveClock
from controller.runner import Controller
from harmony.decision.in_force import again
from harmony.decision.turn import decide_turn
from harmony.serving import Hub, Snapshot, decision_json, forecast_json, history_json, summary_json
from tests.controller.e2e.world import GROUP, NAME, NAMESPACE, Running, World, autoscaler, base_model
from tests.kube.api import ApiServer
from tests.prom.real import need_prometheus

SERVICE = f"{NAMESPACE}/{NAME}"


@contextlib.asynccontextmanager
async def publishing(world: World, publish: Callable[..., object]) -> AsyncIterator[Running]:
    """A controller at work that publishes to ``publish``."""
    settings = world.settings()
    kube = await Kube.connect(settings.kubeconfig)
    made = Controller(settings, kube, base_model(), LiveClock(), publish=publish)
    running = Running(made)
    task = asyncio.create_task(made.run())
    try:
        yield running
        assert not task.done(), "the controller ended by itself"
    finally:
        made.stop()
        await asyncio.wait_for(task, 60)


@pytest.mark.cluster
@pytest.mark.prometheus
def test_snapshots_say_what_the_status_says(api_server: ApiServer, tmp_path: Path) -> None:
    need_prometheus()
    asyncio.run(compare(api_server, tmp_path))


async def compare(api: ApiServer, folder: Path) -> None:
    hub = Hub()
    world = World(api, folder)
    async with world.running(lambda _: 80.0), publishing(world, hub.publish) as running:
        world.create(autoscaler("Recommend"))
        await world.until(lambda: hub.latest(SERVICE) is not None, "a snapshot is published")
        await world.until(lambda: bool(world.status().get("recommendedReplicas")), "the status is written")
        await running.ticks(2)
        shown = hub.latest(SERVICE)
        assert shown is not None
        check(world, shown)
        version = hub.version
        assert await asyncio.wait_for(hub.wait(version, 60.0), 61.0) > version  # a tick wakes who waits
        api.must("DELETE", f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers/{NAME}")
        await world.until(lambda: hub.latest(SERVICE) is None, "its snapshot is gone with it")


def check(world: World, shown: Snapshot) -> None:
    status = world.status()
    assert (shown.kind, shown.target) == ("GPUAutoscaler", f"Deployment {NAME}")
    assert (shown.mode, shown.effective_mode) == ("Recommend", "Recommend")
    assert (shown.ordered, shown.ready) == (4, 4) == (status["currentReplicas"], status["readyReplicas"])
    assert shown.recommended == status["recommendedReplicas"]
    assert shown.desired == 4
    assert (shown.demand_name, shown.unit) == ("running", "requests")
    assert {c["type"] for c in shown.conditions} == {c["type"] for c in status["conditions"]}
    known = np.isfinite(shown.history)
    assert 100 < known.sum() <= shown.history.size <= 288
    assert np.allclose(shown.history[known], 80.0, rtol=0.01)
    assert np.all(np.diff(shown.history_s) == shown.record.observation.step_s)
    said = shown.record.decision
    made, _ = decide_turn(
        shown.record.observation, lambda o: again(o, said, shown.record.before), shown.behavior, shown.record.before
    )
    assert json.dumps(made.to_json()) == json.dumps(shown.record.decision.to_json())
    assert shown.guards_before == shown.record.before.guards
    for view in (summary_json(shown), decision_json(shown), forecast_json(shown), history_json(shown)):
        json.dumps(view, allow_nan=False)
    assert forecast_json(shown) is not None


@pytest.mark.cluster
@pytest.mark.prometheus
def test_whatever_breaks_in_publishing_scaling_goes_on(api_server: ApiServer, tmp_path: Path) -> None:
    need_prometheus()
    asyncio.run(break_it(api_server, tmp_path))


async def break_it(api: ApiServer, folder: Path) -> None:
    calls: list[int] = []

    def refuse(snapshots: object, gone: object) -> None:
        calls.append(1)
        raise OSError("no space left on device")

    world = World(api, folder)
    async with world.running(lambda _: 180.0), publishing(world, refuse) as running:
        world.create(autoscaler("Full"))
        await world.until(lambda: world.replicas >= 8, "it is scaled for 180 at 25 a replica")
        reports = await running.ticks(2)
        assert all(report.decided == 1 and report.errors == 0 for report in reports)
        text = running.controller.metrics.exposition()[0].decode()
        assert 'harmony_errors_total{component="publish",type="OSError"}' in text
        await world.until(lambda: len(calls) > 2, "published turn by turn, in vain")
