"""Which services there are: kept equal to the objects in the cluster, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from controller.fleet import Fleet
from controller.kube.client import Kube
from controller.resource.crd import crd_manifest
from controller.resource.settings import ServiceKey
from controller.settings import PrometheusSettings
from controller.sources import Sources
from tests.controller.e2e.world import GROUP, NAMESPACE, autoscaler
from tests.kube.server import FakeApiServer

Json = dict[str, Any]
PREFIX = "autoscaling.harmony-autoscaler.io"
CHAT = ServiceKey("GPUAutoscaler", NAMESPACE, "chat")
HPA_PATH = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"


def hpa(name: str = "chat", **notes: str) -> Json:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": notes},
        "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 9},
    }


def in_fleet(
    api: FakeApiServer, folder: Path, work: Callable[[Fleet], Awaitable[None]], selector: str = "", crd: bool = True
) -> None:
    async def whole() -> None:
        async with await Kube.connect(api.kubeconfig(folder / "kubeconfig")) as kube:
            sources = Sources(PrometheusSettings("http://127.0.0.1:9"), lambda: 0.0)
            fleet = Fleet(kube, None, selector, sources.feed, interval_s=1.0)
            try:
                await fleet.start()
                await work(fleet)
            finally:
                await fleet.stop()
                await sources.close()

    api.ensure_namespace(NAMESPACE)
    if crd:
        api.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd_manifest())
    asyncio.run(whole())


async def until(fleet: Fleet, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.02)
            fleet.sync()


def test_services_come_change_and_go_with_their_objects(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(fleet: Fleet) -> None:
        path = f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers"
        fake_api.must("POST", path, autoscaler())
        await until(fleet, lambda: CHAT in fleet.services)
        service = fleet.services[CHAT]
        fake_api.must("PATCH", f"{path}/chat", {"spec": {"maxReplicas": 7}})
        await until(fleet, lambda: fleet.services[CHAT].settings.objective.max_replicas == 7)
        assert fleet.services[CHAT] is service, "what was learned stays"
        feed = service.feed
        fake_api.must("PATCH", f"{path}/chat", {"metadata": {"annotations": {f"{PREFIX}/paused": "true"}}})
        await until(fleet, lambda: fleet.services[CHAT].settings.pause.paused)
        assert service.feed is feed, "history stays while the queries do"
        fake_api.must("DELETE", f"{path}/chat")
        gone: list[ServiceKey] = []
        async with asyncio.timeout(10):
            while not gone:
                await asyncio.sleep(0.02)
                gone = fleet.sync()
        assert gone == [CHAT]
        assert not fleet.services

    in_fleet(fake_api, tmp_path, work)


def test_labels_choose_what_is_served_but_not_who_else_writes(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(fleet: Fleet) -> None:
        path = f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers"
        ours = autoscaler()
        ours["metadata"]["labels"] = {"shard": "a"}
        fake_api.must("POST", path, ours)
        theirs = autoscaler()
        theirs["metadata"] = {"name": "other", "namespace": NAMESPACE, "labels": {"shard": "b"}}
        theirs["spec"]["scaleTargetRef"]["name"] = "other"
        fake_api.must("POST", path, theirs)
        await until(fleet, lambda: CHAT in fleet.services and len(list(fleet.autoscalers())) == 2)
        assert set(fleet.services) == {CHAT}
        fake_api.must("POST", HPA_PATH, hpa())
        await until(fleet, lambda: fleet.services[CHAT].rival == f"HorizontalPodAutoscaler {NAMESPACE}/chat")
        owner = fleet.owner_of(fleet.services[CHAT])
        assert owner is not None
        assert owner["metadata"]["name"] == "chat"

    in_fleet(fake_api, tmp_path, work, selector="shard=a")


def test_annotated_autoscalers_need_no_crd_and_nonsense_keeps_the_last_good_settings(
    fake_api: FakeApiServer, tmp_path: Path
) -> None:
    notes = {f"{PREFIX}/managed": "true", f"{PREFIX}/demand-query": "sum(load)", f"{PREFIX}/per-replica": "10"}
    key = ServiceKey("HorizontalPodAutoscaler", NAMESPACE, "chat")

    async def work(fleet: Fleet) -> None:
        assert not fleet.has_crd
        fake_api.must("POST", HPA_PATH, hpa(**notes))
        await until(fleet, lambda: key in fleet.services)
        fake_api.must("PATCH", f"{HPA_PATH}/chat", {"metadata": {"annotations": {f"{PREFIX}/epsilon": "many"}}})
        await until(fleet, lambda: key in fleet.rejected)
        assert "epsilon" in fleet.rejected[key].why
        assert fleet.services[key].settings.objective.epsilon == 0.01
        fake_api.must("PATCH", f"{HPA_PATH}/chat", {"metadata": {"annotations": {f"{PREFIX}/epsilon": "0.02"}}})
        await until(fleet, lambda: key not in fleet.rejected)
        assert fleet.services[key].settings.objective.epsilon == 0.02
        fake_api.must("PATCH", f"{HPA_PATH}/chat", {"metadata": {"annotations": {f"{PREFIX}/managed": None}}})
        await until(fleet, lambda: not fleet.services)

    in_fleet(fake_api, tmp_path, work, crd=False)


def test_floors_that_nobody_keeps_are_found(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(fleet: Fleet) -> None:
        fake_api.must("POST", HPA_PATH, hpa(**{f"{PREFIX}/original-min-replicas": "1"}))
        await until(fleet, lambda: len(list(fleet.hpas())) == 1)
        assert [o["metadata"]["name"] for o in fleet.floors_left([])] == ["chat"]
        assert fleet.floors_left([(NAMESPACE, "chat")]) == []

    in_fleet(fake_api, tmp_path, work)
