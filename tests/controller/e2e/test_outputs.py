"""What comes out: floors of other autoscalers, annotations, buffers, KEDA's figure, regret, and what survives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from controller.keda import externalscaler_pb2 as pb
from controller.keda.answers import METRIC
from controller.resource.crd import crd_manifest
from controller.resource.group import Annotation
from controller.resource.parsing import parse_autoscaler
from controller.resource.saving import demand_mark
from tests.controller.e2e.leaping import LeapingWorld
from tests.controller.e2e.world import (
    DEMAND_QUERY,
    GROUP,
    NAME,
    NAMESPACE,
    PER_REPLICA,
    STEP_S,
    Running,
    World,
    autoscaler,
    learned_of,
)
from tests.kube.api import ApiServer

Json = dict[str, Any]
DEMAND = 200.0
NEED = math.ceil(DEMAND / PER_REPLICA)
HPAS = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
SCALED_OBJECTS = f"/apis/keda.sh/v1alpha1/namespaces/{NAMESPACE}/scaledobjects"
BUFFERS = f"/apis/autoscaling.x-k8s.io/v1beta1/namespaces/{NAMESPACE}/capacitybuffers"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
AUTOSCALER = f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers/{NAME}"
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}
OPTED_IN = {
    Annotation.MANAGED: "true",
    Annotation.MODE: "Floor",
    Annotation.DEMAND_QUERY: DEMAND_QUERY,
    Annotation.PER_REPLICA: f"{PER_REPLICA:g}",
}


def hpa(annotations: Mapping[str, str] | None = None) -> Json:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "theirs", "namespace": NAMESPACE, "annotations": dict(annotations or {})},
        "spec": {"scaleTargetRef": TARGET, "minReplicas": 2, "maxReplicas": 30},
    }


def open_crd(group: str, version: str, plural: str, kind: str) -> Json:
    """A definition of somebody else's kind that takes any spec."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    versions = [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]
    names = {"plural": plural, "kind": kind, "singular": kind.lower(), "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": versions},
    }


@contextlib.asynccontextmanager
async def at_work(
    api: ApiServer, folder: Path, mode: str, *, replicas: int = NEED, settings: Json | None = None, **spec: Any
) -> AsyncIterator[tuple[World, Running]]:
    """A service at work that has been given its first decision."""
    world = World(api, folder, start_up_s=0.5)
    async with world.running(lambda _: DEMAND, replicas=replicas):
        world.create(autoscaler(mode, **spec))
        async with world.controller(**(settings or {})) as running:
            await world.until(lambda: "lastScaleDecision" in world.status(), "decided")
            yield world, running


class Minimum:
    """Somebody's autoscaler: its minimum, and what we wrote beside it."""

    def __init__(self, world: World, path: str = f"{HPAS}/theirs", field: str = "minReplicas") -> None:
        self._world, self._path, self._field = world, path, field

    @property
    def value(self) -> int:
        return int(self._world.api.must("GET", self._path)["spec"][self._field])

    @property
    def notes(self) -> Json:
        found: Json = self._world.api.must("GET", self._path)["metadata"].get("annotations") or {}
        return found

    @property
    def original(self) -> str | None:
        return self.notes.get(Annotation.ORIGINAL_MIN_REPLICAS)

    def set(self, minimum: int) -> None:
        self._world.api.must("PATCH", self._path, {"spec": {self._field: minimum}})

    def annotate(self, notes: Mapping[str, str | None]) -> None:
        self._world.api.must("PATCH", self._path, {"metadata": {"annotations": dict(notes)}})

    async def held(self, original: int) -> None:
        await self._world.until(
            lambda: self.value >= NEED and self.original == str(original), f"a floor is held above {original}"
        )

    async def restored(self, minimum: int, why: str) -> None:
        await self._world.until(
            lambda: self.value == minimum and not any("replicas" in n for n in self.notes if "original" in n), why
        )


# ---- floors -------------------------------------------------------------------------------------------------
def test_floor_of_a_horizontal_pod_autoscaler(api_server: ApiServer, tmp_path: Path) -> None:
    """Held ahead of demand, never below the user's own; the user's edit becomes the one that is restored."""

    async def story() -> None:
        api_server.ensure_namespace(NAMESPACE)
        api_server.must("POST", HPAS, hpa())
        async with at_work(api_server, tmp_path, "Floor") as (world, running):
            theirs = Minimum(world)
            await theirs.held(2)
            floor = theirs.value
            assert NEED <= floor <= 2 * NEED
            await world.until(lambda: world.status().get("floorReplicas") == theirs.value, "the status tells the floor")
            assert world.condition("TargetConflict")[0] == "False", "in mode Floor the two are no rivals"
            assert world.status()["lastScaleDecision"]["candidates"]
            await running.ticks(2)
            assert world.scale_calls() == 0, "the target is theirs"
            await world.until(lambda: any(e["reason"] == "FloorSet" for e in world.events()), "an event tells it")

            theirs.set(3)
            await theirs.held(3)
            theirs.set(25)
            await running.ticks(3)
            assert theirs.value == 25, "never below the user's own minimum"
            theirs.set(4)
            await theirs.held(4)

            world.set_demand(None)
            await running.ticks(3)
            assert theirs.value >= NEED, "absent data leave the floor where it is"

            world.patch({"mode": "Recommend"})
            await theirs.restored(4, "the user's minimum is back after a change of mode")
            await world.until(lambda: any(e["reason"] == "FloorRestored" for e in world.events()), "an event tells it")
            world.set_demand(DEMAND)
            world.patch({"mode": "Floor"})
            await theirs.held(4)
            world.api.must("DELETE", AUTOSCALER)
            await theirs.restored(4, "the user's minimum is back after the GPUAutoscaler is gone")

    asyncio.run(story())


def test_floor_without_anybody_to_hold_says_so(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        async with at_work(api_server, tmp_path, "Floor") as (world, _):
            await world.until(lambda: world.condition("AbleToScale") == ("False", "FailedUpdateScale"), "it is told")
            message = next(c["message"] for c in world.status()["conditions"] if c["type"] == "Ready")
            assert "needs a HorizontalPodAutoscaler or ScaledObject" in message
            world.api.must("POST", HPAS, hpa())
            await Minimum(world).held(2)
            await world.until(lambda: world.condition("Ready")[0] == "True", "Ready with one")

    asyncio.run(story())


def test_annotated_autoscaler_without_our_definition(api_server: ApiServer, tmp_path: Path) -> None:
    """No GPUAutoscaler is installed: the annotations alone bring recommendations and a floor, and take them back."""

    async def story() -> None:
        world = World(api_server, tmp_path)
        async with world.running(lambda _: DEMAND, replicas=NEED):
            world.api.must("DELETE", f"{CRDS}/{crd_manifest()['metadata']['name']}")
            world.api.must("POST", HPAS, hpa(OPTED_IN))
            theirs = Minimum(world)
            async with world.controller() as running:
                await theirs.held(2)
                await world.until(lambda: Annotation.STATUS in theirs.notes, "the status is written beside it")
                status = json.loads(theirs.notes[Annotation.STATUS])
                assert status["ready"] == "True"
                assert status["mode"] == "Floor"
                assert int(theirs.notes[Annotation.RECOMMENDED_REPLICAS]) >= NEED
                assert json.loads(theirs.notes[Annotation.LEARNED])["loop"]["version"] == 1
                assert not running.controller.fleet.has_crd

                theirs.annotate({Annotation.PER_REPLICA: "plenty"})
                await world.until(
                    lambda: any(e["reason"] == "InvalidSpec" and "per-replica" in e["note"] for e in world.events()),
                    "an event names the annotation",
                )
                assert theirs.value >= NEED, "the last good settings stay in force"
                theirs.annotate({Annotation.PER_REPLICA: "25", Annotation.MODE: "Recommend"})
                await theirs.restored(2, "the user's minimum is back in mode Recommend")
                theirs.annotate({Annotation.MODE: "Floor"})
                await theirs.held(2)
                theirs.annotate({Annotation.MANAGED: None})
                await theirs.restored(2, "the user's minimum is back after opting out")

    asyncio.run(story())


def test_floor_of_a_scaled_object(api_server: ApiServer, tmp_path: Path) -> None:
    """KEDA's own object is held; the autoscaler that KEDA makes for it is the same writer and is left alone."""

    async def story() -> None:
        api_server.define(open_crd("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject"))
        api_server.ensure_namespace(NAMESPACE)
        scaled = {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": "theirs", "namespace": NAMESPACE},
            "spec": {"scaleTargetRef": {"name": NAME}, "maxReplicaCount": 30, "minReplicaCount": 0, "triggers": []},
        }
        made = api_server.must("POST", SCALED_OBJECTS, scaled)
        kedas = hpa()
        owner = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "theirs"}
        kedas["metadata"] |= {
            "name": "keda-hpa-theirs",
            "ownerReferences": [owner | {"uid": made["metadata"]["uid"], "controller": True}],
        }
        api_server.must("POST", HPAS, kedas)
        async with at_work(api_server, tmp_path, "Floor") as (world, _):
            theirs = Minimum(world, f"{SCALED_OBJECTS}/theirs", "minReplicaCount")
            await theirs.held(0)
            assert world.api.must("GET", f"{HPAS}/keda-hpa-theirs")["spec"]["minReplicas"] == 2
            world.patch({"mode": "Observe"})
            await theirs.restored(0, "the user's minimum is back")

    asyncio.run(story())


# ---- nodes --------------------------------------------------------------------------------------------------
def test_capacity_buffer_is_made_and_resized(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        api_server.define(open_crd("autoscaling.x-k8s.io", "v1beta1", "capacitybuffers", "CapacityBuffer"))
        buffer = {"enabled": True, "quantile": 0.99}
        async with at_work(
            api_server, tmp_path, "UpOnly", capacityBuffer=buffer, objective={"perReplica": 100, "epsilon": 0.5}
        ) as (world, running):

            def found() -> Json:
                code, answer = world.api.request("GET", f"{BUFFERS}/{NAME}-harmony")
                return answer if code == 200 else {}

            await world.until(lambda: bool(found()), "a buffer is made")
            made = found()
            (owner,) = made["metadata"]["ownerReferences"]
            assert (owner["kind"], owner["name"], owner["uid"]) == (
                "GPUAutoscaler",
                NAME,
                world.autoscaler()["metadata"]["uid"],
            )
            assert made["spec"]["scalableRef"] == {"apiGroup": "apps", "kind": "Deployment", "name": NAME}
            assert made["spec"]["replicas"] == 0, "8 replicas of 100 are more than any path needs"
            stays = {"scaleUp": {"selectPolicy": "Disabled"}}
            world.patch({"mode": "Full", "objective": {"perReplica": 10}, "maxReplicas": 30, "behavior": stays})
            await world.until(lambda: found()["spec"]["replicas"] >= 12, "it grows with what may be needed")
            before = found()["spec"]["replicas"]
            world.set_demand(None)
            await running.ticks(2)
            assert found()["spec"]["replicas"] == before, "absent data give no nodes back"

    asyncio.run(story())


# ---- KEDA ---------------------------------------------------------------------------------------------------
async def asked(port: int) -> int:
    """The replicas that KEDA would be told."""
    reference = pb.ScaledObjectRef(name=NAME, namespace=NAMESPACE, scalerMetadata={"autoscaler": NAME})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(
            "/externalscaler.ExternalScaler/GetMetrics",
            request_serializer=pb.GetMetricsRequest.SerializeToString,
            response_deserializer=pb.GetMetricsResponse.FromString,
        )
        answer = await call(pb.GetMetricsRequest(scaledObjectRef=reference, metricName=METRIC), timeout=30)
    return int(answer.metricValues[0].metricValueFloat)


def test_external_actuation_answers_keda_and_writes_nothing(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        settings = {"keda_address": "127.0.0.1:0"}
        async with at_work(api_server, tmp_path, "Full", replicas=5, actuation="External", settings=settings) as (
            world,
            running,
        ):
            port = running.controller.keda_port
            await world.until(lambda: world.status().get("desiredReplicas", 0) >= NEED, "a figure is decided")
            await running.ticks(2)
            assert NEED <= await asked(port) <= 2 * NEED
            assert world.scale_calls() == 0
            assert world.replicas == 5
            world.patch({"mode": "Recommend"})
            await world.until(lambda: world.status()["effectiveMode"] == "Recommend", "no authority")
            await running.ticks(1)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await asked(port)
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "Recommend" in (refused.value.details() or "")

    asyncio.run(story())


# ---- learning -----------------------------------------------------------------------------------------------
def test_what_was_learned_survives_a_restart(api_server: ApiServer, tmp_path: Path) -> None:
    """Starts, regret and risk are carried over; starts are counted once, whoever counts."""

    async def story() -> None:
        world = World(api_server, tmp_path, start_up_s=3.0)
        async with world.running(lambda _: 50.0, replicas=12):
            world.create(autoscaler("Recommend", cost={"gpusPerReplica": 8}))
            async with world.controller() as running:
                await running.ticks(1)
                (service,) = running.controller.fleet.services.values()
                world.scale_by_hand(15)
                await world.until(lambda: world.status()["leadTime"]["starts"] >= 3, "three starts were seen")
                await world.until(lambda: service.regret.gpu_hours_saved > 0, "too many replicas are money")
            before, saved = service.to_json(), world.status()
            assert learned_of(saved)["regret"] == before["regret"], "written once more before it ended"
            assert learned_of(saved)["regret"]["seconds"] == pytest.approx(before["regret"]["seconds"])
            assert 2 <= saved["leadTime"]["p50Seconds"] <= 9, "10 s were guessed, 3 s are true"

            async with world.controller() as second:
                await second.ticks(1)
                (service,) = second.controller.fleet.services.values()
                after = service.to_json()
                assert after["starts"] == before["starts"]
                assert after["shadow_since"] == before["shadow_since"]
                assert after["regret"]["gpu_hours_saved"] >= before["regret"]["gpu_hours_saved"]
                assert after["loop"]["feedback"]["level"] == pytest.approx(before["loop"]["feedback"]["level"], rel=0.1)
                assert after["loop"]["trust"]["steps"] >= before["loop"]["trust"]["steps"] * 0.99
                assert after["loop"]["leadTime"]["kappa"] == before["loop"]["leadTime"]["kappa"], "no start twice"
                assert service.notes == ()
                await world.until(lambda: service.regret.seconds > before["regret"]["seconds"], "and it goes on")

    asyncio.run(story())


def test_damaged_memory_is_told_and_begun_anew(api_server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        world = World(api_server, tmp_path)
        async with world.running(lambda _: DEMAND, replicas=NEED):
            world.create(autoscaler("Full"))
            loop = {"version": 1, "leadTime": "soon", "absentTurns": -4}
            mark = demand_mark(parse_autoscaler(world.autoscaler()))
            broken = {"demand": mark, "loop": loop, "regret": [1], "starts": {}, "scores": "good"}
            world.api.must("PATCH", f"{AUTOSCALER}/status", {"status": {"learned": broken}})
            async with world.controller():
                await world.until(lambda: world.condition("Ready")[0] == "True", "Ready all the same")
                await world.until(
                    lambda: any(e["reason"] == "LearnedStateNotRestored" for e in world.events()), "an event tells it"
                )
                note = next(e["note"] for e in world.events() if e["reason"] == "LearnedStateNotRestored")
                assert "leadTime" in note
                assert world.replicas >= NEED

    asyncio.run(story())


def test_capacity_is_learned_from_a_bound(api_server: ApiServer, tmp_path: Path) -> None:
    """Latency exceeds what was promised at 30 requests per replica: 60, as guessed, cannot be what one carries."""
    indicators = [
        {"name": "running", "query": DEMAND_QUERY, "level": 1, "unit": "requests"},
        {"name": "latency", "query": 'max(gpu_service_latency_seconds{service="chat"})', "level": 1, "unit": "s"},
    ]
    objective = {
        "demand": "running",
        "perReplica": 60,
        "bound": {"indicator": "latency", "atMost": 0.5},
        "epsilon": 0.05,
    }

    async def story() -> None:
        world = LeapingWorld(api_server, tmp_path)
        async with world.running(lambda _: 120.0, replicas=4):
            slow = {
                'gpu_service_requests_running{service="chat"}': 120,
                'gpu_service_latency_seconds{service="chat"}': 0.9,
            }
            world.exporter.set(slow)
            world.create(autoscaler("Recommend", indicators=indicators, objective=objective))
            async with world.controller() as running:
                await running.ticks(1)
                (service,) = running.controller.fleet.services.values()
                guessed = service.learned.capacity.median
                assert guessed == pytest.approx(60)
                world.leap(120 // STEP_S * STEP_S + STEP_S)  # cold replicas teach nothing; these are warm now
                await world.until(lambda: service.learned.capacity.median < 32, "less than 30 is learned")
                await world.until(lambda: world.status()["capacity"]["perReplica"] < 40, "and told")
                assert world.status()["recommendedReplicas"] > 4

    asyncio.run(story())
