"""Faults of targets and objects: hands, quotas, rivals, nonsense; the count is not wrongly lowered nor fought over."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from controller.resource.crd import crd_manifest
from controller.resource.group import Annotation
from tests.controller.e2e.leaping import watching
from tests.controller.e2e.parts import SCALE_WRITES
from tests.controller.e2e.world import (
    GROUP,
    NAME,
    NAMESPACE,
    PER_REPLICA,
    Running,
    World,
    autoscaler,
    deployment,
    learned_of,
)
from tests.kube.api import ApiServer
from tests.kube.server import FakeApiServer

Json = dict[str, Any]
DEMAND = 80.0
NEED = math.ceil(DEMAND / PER_REPLICA)
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
HPAS = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
AUTOSCALERS = f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers"
QUICK = {"scaleDown": {"stabilizationWindowSeconds": 0}}


@contextlib.asynccontextmanager
async def at_work(
    api: ApiServer, folder: Path, mode: str = "Full", *, replicas: int = NEED + 1, **spec: Any
) -> AsyncIterator[tuple[World, Running]]:
    """A service at work that has decided once."""
    world = World(api, folder, start_up_s=0.3)
    async with world.running(lambda _: DEMAND, replicas=replicas):
        world.create(autoscaler(mode, **spec))
        async with world.controller() as running:
            await world.until(lambda: "lastScaleDecision" in world.status(), "decided")
            yield world, running


def ready(world: World) -> bool:
    return world.condition("Ready")[0] == "True"


def patch_target(world: World, change: Json) -> None:
    world.api.must("PATCH", f"{DEPLOYMENTS}/{NAME}", change)


def test_target_deleted_and_recreated(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        async with at_work(api_server, tmp_path) as (world, running):
            await world.until(lambda: ready(world), "Ready")
            learned = learned_of(world.status())["loop"].get("leadTime")
            world.api.must("DELETE", f"{DEPLOYMENTS}/{NAME}")
            await world.until(lambda: world.condition("AbleToScale") == ("False", "FailedGetScale"), "it is missed")
            assert world.condition("Ready") == ("False", "FailedGetScale")
            message = next(c["message"] for c in world.status()["conditions"] if c["type"] == "AbleToScale")
            assert f"Deployment {NAMESPACE}/{NAME} does not exist" in message
            await world.until(lambda: any(e["reason"] == "FailedGetScale" for e in world.events()), "an event tells it")
            await running.ticks(2)

            world.api.must("POST", DEPLOYMENTS, deployment(1))
            await world.until(lambda: ready(world), "Ready again")
            await world.until(lambda: world.replicas >= NEED, "the new one is scaled as well")
            assert learned is None or learned_of(world.status())["loop"]["leadTime"]

    asyncio.run(story())


def test_paused_rollout_is_not_scaled_down(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        async with at_work(api_server, tmp_path, replicas=9, behavior=QUICK, paused=True) as (world, running):
            patch_target(world, {"spec": {"paused": True}})
            await running.ticks(1)
            world.patch({"paused": False})
            await world.until(
                lambda: world.status()["lastScaleDecision"].get("boundBy") == "its rollout is paused", "held, and told"
            )
            await running.ticks(2)
            assert world.replicas == 9
            assert world.status()["recommendedReplicas"] < 9
            world.scale_by_hand(1)
            await world.until(lambda: world.replicas >= NEED, "scaling up goes on in a paused rollout")
            held = world.replicas
            patch_target(world, {"spec": {"paused": False, "replicas": 9}})
            await world.until(lambda: world.replicas <= held + 1, "scaled down when the rollout goes on")
            assert world.replicas >= NEED

    asyncio.run(story())


def test_hands_are_not_fought_within_the_tick(api_server: ApiServer, tmp_path: Path) -> None:
    """Up and down by hand: the next decision starts from what is there, within the user's own rate limits."""
    slow = {
        "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}
    }

    async def story() -> None:
        async with at_work(api_server, tmp_path, replicas=NEED, behavior=slow) as (world, running):
            await running.ticks(2)
            world.scale_by_hand(12)
            await world.until(lambda: world.status()["currentReplicas"] >= 11, "the hand's count is seen")
            await running.ticks(3)
            assert world.replicas in (11, 12), "one pod a minute from what the hand left"
            world.scale_by_hand(1)
            await world.until(lambda: world.replicas >= NEED, "demand needs more than the hand left")
            decision = world.status()["lastScaleDecision"]
            assert decision["direction"] in ("Up", "None")

    asyncio.run(story())


def test_a_hand_between_decision_and_write_wins(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """The order is refused by the API server (conflict), seen to be about a moved count, and decided again."""

    only_up = {"scaleDown": {"selectPolicy": "Disabled"}}

    async def story() -> None:
        async with at_work(fake_api, tmp_path, "Recommend", replicas=1, behavior=only_up) as (world, running):
            writes = fake_api.fault(SCALE_WRITES, held=True)
            before = world.version
            world.patch({"mode": "Full"})
            await world.until(lambda: writes.hits == 1, "an order is on its way")
            world.scale_by_hand(11)
            writes.release()
            await world.until(
                lambda: world.told(before, "AbleToScale", "not overwritten"), "told that it was not overwritten"
            )
            conflicts = [c for c in fake_api.calls_by("controller") if c.subresource == "scale" and c.code == 409]
            assert len(conflicts) == 1
            await world.until(lambda: world.condition("AbleToScale")[0] == "True", "able to scale again")
            await running.ticks(2)
            assert world.replicas == 11
            assert world.status()["lastScaleDecision"]["fromReplicas"] == 11, "decided anew from 11"

    asyncio.run(story())


def test_another_change_of_the_target_is_no_conflict(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """A label written between decision and write: the order is repeated on the fresh version, in the same tick."""

    async def story() -> None:
        async with at_work(fake_api, tmp_path, "Recommend", replicas=1) as (world, _):
            writes = fake_api.fault(SCALE_WRITES, held=True)
            world.patch({"mode": "Full"})
            await world.until(lambda: writes.hits == 1, "an order is on its way")
            patch_target(world, {"metadata": {"labels": {"touched": "yes"}}})
            writes.release()
            await world.until(lambda: world.replicas >= NEED, "ordered all the same")
            codes = [c.code for c in fake_api.calls_by("controller") if c.subresource == "scale" and c.verb == "update"]
            assert codes[:2] == [409, 200]

    asyncio.run(story())


def test_scaled_to_zero_by_hand_stays_at_zero(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        async with at_work(api_server, tmp_path) as (world, running):
            world.scale_by_hand(0)
            await world.until(
                lambda: world.condition("ScalingActive") == ("False", "ScalingDisabled"), "switched off by hand"
            )
            await running.ticks(3)
            assert world.replicas == 0
            world.scale_by_hand(1)
            await world.until(lambda: world.condition("ScalingActive")[0] == "True", "switched on again")
            await world.until(lambda: world.replicas >= NEED, "and scaled")

    asyncio.run(story())


def test_pods_that_never_become_ready_bring_no_cascade(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        async with at_work(api_server, tmp_path, "Recommend", replicas=1) as (world, running):
            world.start_up_s = None
            world.kubelet.node_of = lambda pod: ""  # no GPU node is free
            world.patch({"mode": "Full"})
            await world.until(
                lambda: world.condition("AbleToScale") == ("True", "PodsNotReady"),
                "the status names what pods wait for",
            )
            message = next(c["message"] for c in world.status()["conditions"] if c["type"] == "AbleToScale")
            assert "Unschedulable" in message
            await running.ticks(8)
            assert NEED <= world.replicas <= 2 * NEED, "orders are bounded by demand, not by what is not ready"
            assert world.status()["leadTime"]["pending"] >= NEED - 1
            assert world.scale_calls() <= 3

    asyncio.run(story())


def limit_pods(api: ApiServer, most: int) -> None:
    """A quota that is in force: where real controllers run, once they have counted what is there."""
    quotas = f"/api/v1/namespaces/{NAMESPACE}/resourcequotas"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods"}}
    quota["spec"] = {"hard": {"pods": str(most)}}  # type: ignore[assignment]
    code, answer = api.request("POST", quotas, quota)
    if code == 409:
        api.must("PATCH", f"{quotas}/pods", {"spec": quota["spec"]})
    else:
        assert code == 201, answer
    until = time.monotonic() + 30
    while api.runs_controllers and (api.must("GET", f"{quotas}/pods").get("status") or {}).get("hard") != {
        "pods": str(most)
    }:
        assert time.monotonic() < until, "the quota is not counted"
        time.sleep(0.05)


def test_quota_is_told_in_the_api_servers_words(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        async with at_work(api_server, tmp_path, "Recommend", replicas=2) as (world, running):
            limit_pods(world.api, 3)
            world.patch({"mode": "Full"})
            await world.until(
                lambda: world.condition("AbleToScale") == ("False", "PodsNotCreated"), "pods cannot be made"
            )
            message = next(c["message"] for c in world.status()["conditions"] if c["type"] == "Ready")
            assert "exceeded quota" in message
            ordered = world.replicas
            await running.ticks(3)
            assert NEED <= world.replicas <= ordered + 1, "a refused pod is not ordered again and again"
            limit_pods(world.api, 50)
            await world.until(lambda: ready(world), "Ready when the quota allows it")
            assert world.replicas >= NEED

    asyncio.run(story())


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"minReplicas": 50}, "minReplicas"),
        ({"maxReplicas": 0}, "maxReplicas"),
        ({"objective": {"epsilon": 0.9}}, "should be at most 0.5: it is a share of 1, not percent"),
        ({"objective": {"epsilon": 1}}, "should be at most 0.5: it is a share of 1, not percent"),
        ({"capacityBuffer": {"quantile": 0}}, "should be at least 0.5: it is a share of 1, not percent"),
        ({"mode": "Sometimes"}, "Sometimes"),
        ({"stepSeconds": 1}, "stepSeconds"),
    ],
)
def test_nonsense_is_refused_by_the_api_server(api_server: ApiServer, spec: Json, said: str) -> None:
    api_server.define(crd_manifest())
    api_server.ensure_namespace(NAMESPACE)
    api_server.must("POST", AUTOSCALERS, autoscaler())
    code, answer = api_server.request("PATCH", f"{AUTOSCALERS}/{NAME}", {"spec": spec})
    assert code == 422
    assert said in answer["message"]


def test_nonsense_that_slips_past_the_schema_leaves_the_last_good_settings(
    api_server: ApiServer, tmp_path: Path
) -> None:
    """The schema was loosened by somebody: the object says which field is wrong, and what ran before runs on."""

    async def story() -> None:
        async with at_work(api_server, tmp_path) as (world, running):
            await world.until(lambda: ready(world), "Ready")
            loose = crd_manifest()
            loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
            }
            crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            present = world.api.must("GET", f"{crds}/{loose['metadata']['name']}")
            loose["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"]
            world.api.must("PUT", f"{crds}/{loose['metadata']['name']}", loose)
            world.patch({"maxReplicas": "many"})
            await world.until(lambda: world.condition("Ready") == ("False", "InvalidSpec"), "the object is told")
            message = next(c["message"] for c in world.status()["conditions"] if c["type"] == "Ready")
            assert "spec.maxReplicas" in message
            world.scale_by_hand(1)
            await world.until(lambda: world.replicas >= NEED, "the last good settings stay in force")
            await running.ticks(2)
            assert world.condition("Ready") == ("False", "InvalidSpec"), "what is wrong is not forgotten"
            world.patch({"maxReplicas": 30})
            await world.until(lambda: ready(world), "Ready when it makes sense again")

    asyncio.run(story())


def test_a_target_that_cannot_be_scaled(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        ref = {"apiVersion": "v1", "kind": "ConfigMap", "name": NAME}
        world = World(api_server, tmp_path)
        async with world.running(lambda _: DEMAND):
            world.create(autoscaler("Full", scaleTargetRef=ref))
            async with world.controller() as running:
                await world.until(
                    lambda: world.condition("Ready") == ("False", "FailedGetScale"), "the object says what is wrong"
                )
                message = next(c["message"] for c in world.status()["conditions"] if c["type"] == "Ready")
                assert f"ConfigMap {NAMESPACE}/{NAME}" in message
                await running.ticks(2)
                world.api.must("DELETE", f"{AUTOSCALERS}/{NAME}")
                world.create(autoscaler("Full"))
                await world.until(lambda: ready(world), "Ready with a target that can be scaled")

    asyncio.run(story())


def hpa(name: str = "theirs") -> Json:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
            "minReplicas": 2,
            "maxReplicas": 10,
        },
    }


def test_a_horizontal_pod_autoscaler_on_the_same_target(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        api_server.ensure_namespace(NAMESPACE)
        api_server.must("POST", HPAS, hpa())
        async with at_work(api_server, tmp_path, "Recommend", replicas=1) as (world, running):
            await world.until(lambda: ready(world), "beside another one to recommend is no conflict")
            assert world.condition("TargetConflict") == ("False", "NotWriting")
            world.patch({"mode": "Full"})
            await world.until(lambda: world.condition("TargetConflict")[0] == "True", "the conflict is told")
            assert world.condition("Ready") == ("False", "OwnedByAnother")
            assert world.status()["writer"] == f"HorizontalPodAutoscaler {NAMESPACE}/theirs"
            await world.until(lambda: any(e["reason"] == "TargetConflict" for e in world.events()), "an event tells it")
            assert not any(e["reason"] == "FailedGetScale" for e in world.events())
            await running.ticks(2)
            assert world.scale_calls() == 0
            assert world.replicas == 1
            world.api.must("DELETE", f"{HPAS}/theirs")
            await world.until(lambda: world.condition("TargetConflict")[0] == "False", "the conflict is over")
            await world.until(lambda: world.replicas >= NEED, "and the target is ours")
            assert ready(world)

    asyncio.run(story())


def test_of_two_autoscalers_the_older_writes(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        async with at_work(fake_api, tmp_path, minReplicas=5, maxReplicas=5) as (world, running):
            await world.until(lambda: world.replicas == 5, "the first one is in force")
            await asyncio.sleep(1.1)  # creation times have whole seconds
            second = autoscaler("Full", minReplicas=9, maxReplicas=9)
            second["metadata"]["name"] = "another"
            world.create(second)

            def other() -> Json:
                found: Json = world.api.must("GET", f"{AUTOSCALERS}/another").get("status") or {}
                return {c["type"]: c["status"] for c in found.get("conditions", ())}

            await world.until(lambda: other().get("TargetConflict") == "True", "the younger one is told")
            await running.ticks(2)
            assert world.replicas == 5
            assert ready(world), "the older one has no conflict"
            world.api.must("DELETE", f"{AUTOSCALERS}/{NAME}")
            await world.until(lambda: world.replicas == 9, "the younger one takes over")

    asyncio.run(story())


def test_pause_annotations(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        async with at_work(api_server, tmp_path, replicas=NEED, behavior=QUICK) as (world, running):

            async def told() -> None:
                await world.until(lambda: world.condition("Paused")[0] == "True", "Paused is told")

            async def unpaused(annotation: str) -> None:
                world.annotate({annotation: None})
                await world.until(lambda: world.condition("Paused")[0] == "False", f"{annotation} is over")

            world.annotate({Annotation.PAUSED: "true"})
            await told()
            assert world.condition("ScalingActive") == ("False", "ScalingDisabled")
            world.scale_by_hand(1)
            await running.ticks(3)
            assert world.replicas == 1, "paused holds"
            await unpaused(Annotation.PAUSED)
            await world.until(lambda: world.replicas >= NEED, "scaled again")

            world.annotate({Annotation.PAUSED_REPLICAS: "7"})
            await world.until(lambda: world.replicas == 7, "paused at 7")
            await told()
            await unpaused(Annotation.PAUSED_REPLICAS)
            await world.until(lambda: world.replicas < 7, "scaled again")

            world.annotate({Annotation.PAUSED_SCALE_IN: "true"})
            await told()
            world.scale_by_hand(8)
            await running.ticks(3)
            assert world.replicas == 8, "no scale-in"
            await unpaused(Annotation.PAUSED_SCALE_IN)
            await world.until(lambda: world.replicas < 8, "scaled in again")

            world.annotate({Annotation.PAUSED_SCALE_OUT: ""})
            await told()
            world.scale_by_hand(1)
            await running.ticks(3)
            assert world.replicas == 1, "no scale-out"
            world.annotate({Annotation.PAUSED_SCALE_OUT: "false"})
            await world.until(lambda: world.replicas >= NEED, 'scaled out again; "false" is no pause')
            await world.until(
                lambda: {"Paused", "Unpaused"} <= {e["reason"] for e in world.events()}, "pausing and its end are told"
            )

    asyncio.run(story())


def test_schedules_raise_the_bounds(api_server: ApiServer, tmp_path: Path) -> None:
    """A schedule of all days and hours sets the bounds; without it the forecast decides again."""
    days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    always = {
        "name": "always",
        "timezone": "Europe/Berlin",
        "daysOfWeek": days,
        "startTime": "12:00",
        "endTime": "12:00",
    }

    async def story() -> None:
        async with at_work(api_server, tmp_path, replicas=NEED, behavior=QUICK) as (world, _):
            halves = [
                always | {"name": "day", "startTime": "06:00", "endTime": "18:00", "minReplicas": 11},
                always | {"name": "night", "startTime": "18:00", "endTime": "06:00", "minReplicas": 11},
            ]
            world.patch({"schedules": halves})
            await world.until(lambda: world.replicas == 11, "the schedule's minimum")
            assert world.condition("ScalingLimited") == ("True", "TooFewReplicas")
            world.patch({"schedules": []})
            await world.until(lambda: NEED <= world.replicas < 11, "the forecast decides again")

    asyncio.run(story())


def test_up_only_never_lowers(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        async with at_work(api_server, tmp_path, "UpOnly", replicas=9, behavior=QUICK) as (world, running):
            with watching(world) as seen:
                await world.until(lambda: world.status()["recommendedReplicas"] < 9, "fewer are recommended")
                await running.ticks(4)
            assert seen.lowest == 9
            assert "mode UpOnly" in world.status()["lastScaleDecision"]["message"]
            world.scale_by_hand(1)
            await world.until(lambda: world.replicas >= NEED, "raised")

    asyncio.run(story())
