"""The API server refuses, fails, forgets, freezes or is not there: nothing is lost, lowered or written twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import controller.runner
from controller.resource.settings import ServiceKey
from tests.controller.e2e.parts import (
    SCALE_WRITES,
    STATUS_WRITES,
    another,
    answers,
    calls_to,
    codes,
    health,
    never_below,
    of,
    orders,
    ready,
)
from tests.controller.e2e.parts import (
    controller as a_controller,
)
from tests.controller.e2e.world import GROUP, NAME, NAMESPACE, World, autoscaler, deployment
from tests.kube.api import Call
from tests.kube.server import FakeApiServer

NEEDED = 4  # replicas for the demand of 80 that every world here begins with
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
KEY = ServiceKey("GPUAutoscaler", NAMESPACE, NAME)


def run_in_world(
    api: FakeApiServer, folder: Path, test: Callable[[World], Coroutine[Any, Any, None]], *, mode: str = "Full"
) -> None:
    """A running world with one service in a mode, whose count must never fall below what its demand needs."""

    async def whole() -> None:
        world = World(api, folder)
        async with world.running():
            world.create(autoscaler(mode))
            async with never_below(world, NEEDED):
                await test(world)

    asyncio.run(whole())


# ---- 409 ----------------------------------------------------------------------------------------------------------
def test_a_conflict_on_scale_is_retried_on_the_fresh_version(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with a_controller(world):
            await ready(world)
            fake_api.fault(SCALE_WRITES, status=409)
            await orders(world, 6)
        assert codes(of(world, SCALE_WRITES)) == [409, 200]
        first, second = of(world, SCALE_WRITES)
        looked = [c for c in of(world, calls_to("deployments", "get", sub="scale")) if first.at <= c.at <= second.at]
        assert codes(looked) == [200], "the fresh version is read between the two attempts"

    run_in_world(fake_api, tmp_path, test)


def test_a_real_conflict_with_another_change_of_the_object(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """Somebody annotates the Deployment at the very moment of the write: its version moves, its count does not."""

    def annotate_first(call: Call) -> bool:
        if SCALE_WRITES(call) and not touched:
            touched.append(call)
            kind = fake_api._registry.find("apps", "v1", "deployments")
            assert kind is not None
            body = b'{"metadata":{"annotations":{"touched":"yes"}}}'
            fake_api._operations.patch(kind, NAMESPACE, NAME, "", body, {}, "application/merge-patch+json")
        return False

    touched: list[Call] = []

    async def test(world: World) -> None:
        fake_api.fault(annotate_first, times=None)
        async with a_controller(world):
            await orders(world, 6)
        assert codes(of(world, SCALE_WRITES)) == [409, 200]

    run_in_world(fake_api, tmp_path, test)


def test_a_count_that_was_changed_meanwhile_is_not_overwritten(fake_api: FakeApiServer, tmp_path: Path) -> None:
    def scale_first(call: Call) -> bool:
        if SCALE_WRITES(call) and not touched:
            touched.append(call)
            kind = fake_api._registry.find("apps", "v1", "deployments")
            assert kind is not None
            body = b'{"spec":{"replicas":9}}'
            fake_api._operations.patch(kind, NAMESPACE, NAME, "", body, {}, "application/merge-patch+json")
        return False

    touched: list[Call] = []

    async def test(world: World) -> None:
        world.patch({"behavior": {"scaleDown": {"selectPolicy": "Disabled"}}})
        fake_api.fault(scale_first, times=None)
        async with a_controller(world) as running:
            await ready(world)
            world.patch({"minReplicas": 6})
            await world.until(lambda: world.replicas == 9, "the other's count stands")
            await running.ticks(6)
            assert codes(of(world, SCALE_WRITES)) == [409], "given up, and nothing written on top of it"
            assert world.replicas == 9
            assert world.condition("Ready")[0] == "True", "the next tick decided on what is there"

    run_in_world(fake_api, tmp_path, test)


# ---- 429 ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "match",
    [
        pytest.param(calls_to("pods", "list"), id="read"),
        pytest.param(calls_to("gpuautoscalers", "patch", sub="status"), id="status"),
        pytest.param(SCALE_WRITES, id="scale"),
        pytest.param(calls_to("gpuautoscalers", "watch"), id="watch"),
    ],
)
def test_flow_control_is_obeyed(fake_api: FakeApiServer, tmp_path: Path, match: Callable[[Call], bool]) -> None:
    async def test(world: World) -> None:
        fault = fake_api.fault(match, status=429, times=2, headers={"Retry-After": "1"})
        async with a_controller(world):
            await orders(world, 6)
            await world.until(lambda: world.status().get("currentReplicas") == 6, "the status says so")
            await world.until(lambda: len(of(world, match)) >= 3, "asked for a third time")
        assert fault.hits == 2
        first, second, third = of(world, match)[:3]
        assert [first.code, second.code] == [429, 429]
        assert third.code == 200
        assert third.at - second.at >= 1.0
        assert second.at - first.at >= 1.0, "asked again too soon"
        assert codes(of(world, SCALE_WRITES)).count(200) == 1, "one order"

    run_in_world(fake_api, tmp_path, test)


# ---- 5xx and cut connections --------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [500, 503, 504])
def test_a_burst_of_server_errors(fake_api: FakeApiServer, tmp_path: Path, status: int) -> None:
    async def test(world: World) -> None:
        async with a_controller(world) as running:
            await ready(world)
            fault = fake_api.fault(lambda call: call.verb != "watch", status=status, times=None)
            fake_api.cut_watches()
            await asyncio.to_thread(world.patch, {"minReplicas": 6})
            await running.ticks(4)
            assert world.replicas == NEEDED
            assert (await health(running, "/healthz"))[0] == 200
            fault.cancel()
            await world.until(lambda: world.replicas == 6, "6 replicas are ordered after the burst")
            await ready(world)
        assert codes(of(world, SCALE_WRITES)).count(200) == 1

    run_in_world(fake_api, tmp_path, test)


@pytest.mark.parametrize("status", [500, 503])
def test_a_write_of_scale_that_fails_is_tried_again(fake_api: FakeApiServer, tmp_path: Path, status: int) -> None:
    async def test(world: World) -> None:
        async with a_controller(world) as running:
            await ready(world)
            fault = fake_api.fault(SCALE_WRITES, status=status, times=4)
            await orders(world, 6)
            assert fault.hits == 4
            await ready(world)
            assert all(r.errors == 0 for r in await running.ticks(2))
        assert codes(of(world, SCALE_WRITES)) == [status] * 4 + [200]

    run_in_world(fake_api, tmp_path, test)


def test_a_connection_dropped_before_the_write_took_effect(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with a_controller(world):
            await ready(world)
            fake_api.fault(SCALE_WRITES, drop=True)
            fake_api.fault(STATUS_WRITES, drop=True)
            await orders(world, 6)
            await world.until(lambda: world.status().get("currentReplicas") == 6, "the status says so")
        assert codes(of(world, SCALE_WRITES)) == [0, 200]

    run_in_world(fake_api, tmp_path, test)


def test_a_connection_dropped_after_the_write_took_effect(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """The answer is lost, the order stands: it is seen, and not given a second time."""

    def apply_first(call: Call) -> bool:
        if not SCALE_WRITES(call) or touched:
            return False
        touched.append(call)
        kind = fake_api._registry.find("apps", "v1", "deployments")
        assert kind is not None
        body = b'{"spec":{"replicas":6}}'
        fake_api._operations.patch(kind, NAMESPACE, NAME, "", body, {}, "application/merge-patch+json")
        return True

    touched: list[Call] = []

    async def test(world: World) -> None:
        fake_api.fault(apply_first, times=None, drop=True)
        async with a_controller(world) as running:
            await orders(world, 6)
            await world.until(lambda: world.status().get("readyReplicas") == 6, "all are ready")
            await ready(world)
            await running.ticks(3)
        assert codes(of(world, SCALE_WRITES)) == [0], "the order that took effect is not repeated"

    run_in_world(fake_api, tmp_path, test)


# ---- watches ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("clean", [False, True], ids=["reset", "ended"])
def test_watches_that_are_cut_go_on_where_they_were(fake_api: FakeApiServer, tmp_path: Path, clean: bool) -> None:
    async def test(world: World) -> None:
        async with a_controller(world):
            await ready(world)
            fake_api.clear_calls()
            for replicas in (5, 6, 7):
                assert fake_api.cut_watches(clean=clean) >= 4
                await orders(world, replicas)
            await world.until(lambda: world.status().get("readyReplicas") == 7, "pods are seen")
        assert codes(of(world, SCALE_WRITES)).count(200) == 3  # a 409 where a decision was made on what was seen before
        assert not of(world, calls_to("pods", "list")), "nothing is listed again"
        assert not of(world, calls_to("gpuautoscalers", "list"))

    run_in_world(fake_api, tmp_path, test)


@pytest.mark.parametrize("as_event", [False, True], ids=["status", "event"])
def test_a_version_that_is_gone_is_listed_again(fake_api: FakeApiServer, tmp_path: Path, as_event: bool) -> None:
    """What was deleted while nobody watched vanishes; what was changed is seen."""

    async def test(world: World) -> None:
        world.create(another(autoscaler(), "second", mode="Recommend"))
        async with a_controller(world) as running:
            await ready(world)
            second = ServiceKey("GPUAutoscaler", NAMESPACE, "second")
            await world.until(lambda: second in running.controller.fleet.services, "the second is served")
            fake_api.clear_calls()
            blocked = fake_api.fault(calls_to("gpuautoscalers", "watch", "list"), status=503, times=None)
            if as_event:
                fake_api.compact(expire_watches=True)
            else:
                fake_api.cut_watches()
            await world.until(lambda: blocked.hits > 0, "the watch is down")
            world.api.must("DELETE", f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers/second")
            world.patch({"minReplicas": 6})
            fake_api.compact()
            blocked.cancel()
            await world.until(lambda: world.replicas == 6, "the change is seen")
            await world.until(lambda: second not in running.controller.fleet.services, "the deleted one vanishes")
            assert KEY in running.controller.fleet.services
            listed = of(world, calls_to("gpuautoscalers", "list"))
            assert codes(listed)[-1] == 200

    run_in_world(fake_api, tmp_path, test)


# ---- the whole server ---------------------------------------------------------------------------------------------
def test_a_server_that_freezes_and_comes_back(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with a_controller(world, read_deadline_s=1.0) as running:
            await ready(world)
            world.patch({"minReplicas": 6})
            fake_api.freeze()
            try:
                ticks = await running.ticks(4)
                assert all(r.services == 1 for r in ticks), "the loop goes on"
                assert (await health(running, "/healthz"))[0] == 200
            finally:
                fake_api.thaw()
            await world.until(lambda: world.replicas == 6, "6 replicas are ordered")
            await ready(world)
            await running.ticks(3)
        assert codes(of(world, SCALE_WRITES)).count(200) == 1

    async def whole() -> None:  # a frozen server cannot be asked for counts: look only before and after
        world = World(fake_api, tmp_path)
        async with world.running():
            world.create(autoscaler("Full"))
            await test(world)

    asyncio.run(whole())


def test_a_server_that_is_not_there_at_the_start(tmp_path: Path) -> None:
    with FakeApiServer() as gone:
        port = int(gone.url.rpartition(":")[2])
    world = World(gone, tmp_path)

    async def whole() -> None:
        async with a_controller(world) as running:
            await world.until(lambda: bool(running.controller.ports), "health is served")

            async def says_why() -> bool:
                code, text = await health(running, "/readyz")
                assert code == 503
                return "refused" in text or "connect" in text.lower()

            await world.until(says_why, "readyz says what is waited for")
            assert (await health(running, "/healthz"))[0] == 200
            with FakeApiServer(port=port) as api:
                world.api = world.kubelet._server = api
                async with world.running():
                    world.create(autoscaler("Full"))
                    await ready(world)
                    await answers(world, running, "/readyz")
                    async with never_below(world, NEEDED):
                        await orders(world, 6)
                running.controller.stop()
                await asyncio.sleep(0.5)

    asyncio.run(whole())


def test_a_crd_that_is_installed_later(
    fake_api: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller.runner, "FIND_KINDS_S", 0.3)

    async def test(world: World) -> None:
        crd = world.api.must("GET", f"{CRD_PATH}/gpuautoscalers.autoscaling.harmony-autoscaler.io")
        world.api.must("DELETE", f"{CRD_PATH}/{crd['metadata']['name']}")
        async with a_controller(world) as running:
            await running.ticks(2)
            await answers(world, running, "/readyz")  # annotated objects can be served without
            assert not running.controller.fleet.has_crd
            fresh = {k: v for k, v in crd["metadata"].items() if k in ("name", "annotations", "labels")}
            world.api.must("POST", CRD_PATH, {**crd, "metadata": fresh})
            world.create(autoscaler("Full"))
            await orders(world, 6)  # a kind that was missing is asked for again after ten seconds

    run_in_world(fake_api, tmp_path, test)


# ---- one that is slow ---------------------------------------------------------------------------------------------
SLOW_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "workers.example.org"},
    "spec": {
        "group": "example.org",
        "scope": "Namespaced",
        "names": {"plural": "workers", "singular": "worker", "kind": "Worker", "listKind": "WorkerList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.replicas",
                        "statusReplicasPath": ".status.replicas",
                        "labelSelectorPath": ".status.selector",
                    },
                },
            }
        ],
    },
}


def test_a_slow_target_delays_nobody(fake_api: FakeApiServer, tmp_path: Path) -> None:
    interval_s, deadline_s = 0.5, 5.0

    async def test(world: World) -> None:
        world.api.must("POST", CRD_PATH, SLOW_CRD)
        worker = {
            "apiVersion": "example.org/v1",
            "kind": "Worker",
            "metadata": {"name": "slow", "namespace": NAMESPACE},
            "spec": {"replicas": 2},
            "status": {"replicas": 2, "selector": "app=slow"},
        }
        world.api.must("POST", f"/apis/example.org/v1/namespaces/{NAMESPACE}/workers", worker)
        ref = {"apiVersion": "example.org/v1", "kind": "Worker", "name": "slow"}
        world.create(another(autoscaler("Full"), "slow", scaleTargetRef=ref))
        never = fake_api.fault(calls_to("workers", "get", sub="scale"), times=None, held=True)
        async with a_controller(world, interval_s=interval_s, read_deadline_s=deadline_s) as running:
            await ready(world)
            await world.until(lambda: never.hits > 0, "the slow one was asked")
            ticks = await running.ticks(8)
            assert all(r.services == 2 for r in ticks)
            assert all(r.late >= 1 and r.decided == 1 for r in ticks), "the slow one sits out, the quick one never"
            assert never.hits == 1, "the slow one is asked and waited for once, not in every tick"
            await orders(world, 6)
            assert codes(of(world, SCALE_WRITES)) == [200]
            await world.until(lambda: "read took longer than 5 s" in message_of(world, "slow"), "its status says so")
            never.release()
            await world.until(lambda: "read took longer" not in message_of(world, "slow"), "it answers, and is served")

    run_in_world(fake_api, tmp_path, test)


def message_of(world: World, name: str) -> str:
    """What the Ready condition of an object says; empty while there is none."""
    conditions = world.status(name).get("conditions", ())
    return next((c["message"] for c in conditions if c["type"] == "Ready"), "")


def test_a_deployment_that_is_deleted_and_comes_back(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """A target that is gone is said to be gone; one that is made again is scaled again, from what it says."""

    async def whole() -> None:
        world = World(fake_api, tmp_path)
        async with world.running():
            world.create(autoscaler("Full"))
            async with a_controller(world):
                await ready(world)
                path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
                world.api.must("DELETE", f"{path}/{NAME}")
                await world.until(lambda: world.condition("AbleToScale") == ("False", "FailedGetScale"), "it is gone")
                assert not of(world, SCALE_WRITES)
                world.api.must("POST", path, deployment(2))
                await world.until(lambda: world.replicas >= NEEDED, "what demand needs is ordered again")
                await ready(world)

    asyncio.run(whole())
