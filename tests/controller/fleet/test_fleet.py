"""Which services there are: kept equal to the objects in the cluster, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from controller.fleet.fleet import Fleet
from controller.fleet.ordering import standing_of
from controller.kube.client import Kube
from controller.observing.targets import TargetView
from controller.outputs.base import Standing
from controller.outputs.floor import floors_left, keepers
from controller.process.settings import PrometheusSettings
from controller.prometheus.sources import Sources
from controller.resource.crd import crd_manifest
from controller.resource.parsing import parse_autoscaler
from controller.resource.settings import ServiceKey
from harmony.model.authority import Mode
from tests.controller.e2e.world import GROUP, NAMESPACE, autoscaler
from tests.kube.server import FakeApiServer

Json = dict[str, Any]
PREFIX = "autoscaling.harmony-autoscaler.io"
CHAT = ServiceKey("GPUAutoscaler", NAMESPACE, "chat")
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBcDCCARegAwIBAgIUVTSN5A/2JReAMohrinufGX2QVyMwCgYIKoZIzj0EAwIw
DTELMAkGA1UEAwwCY2EwIBcNMjYxMTI0MDYxNTM5WhgPMjEyNjEwMzEwNjE1Mzla
MA0xCzAJBgNVBAMMAmNhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYMm6+Qy0
eAZFpYSMHztpch3G/iO83JmJ0um9FioPCJfw0PxCAnI2OlXEkKactmaZPbVQouV3
rcmImSFP42xNf6NTMFEwHQYDVR0OBBYEFDzta2sHTY25eJXohncO3mnkdvwRMB8G
A1UdIwQYMBaAFDzta2sHTY25eJXohncO3mnkdvwRMA8GA1UdEwEB/wQFMAMBAf8w
CgYIKoZIzj0EAwIDRwAwRAIgCWEF2vYqov6Tykjtho5k1YPWypMFpIWq1Mv6an53
tkACICotSLc5UlKZLNvXRbUam+aokON4of+oQBeIA80xKUo3
-----END CERTIFICATE-----
"""
THEIRS = PrometheusSettings("http://127.0.0.1:9")
GPUAUTOSCALERS = f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers"
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
    api: FakeApiServer,
    folder: Path,
    work: Callable[[Fleet], Awaitable[None]],
    selector: str = "",
    crd: bool = True,
    prometheus: PrometheusSettings = THEIRS,
) -> None:
    async def whole() -> None:
        async with await Kube.connect(api.kubeconfig(folder / "kubeconfig")) as kube:
            sources = Sources(prometheus, lambda: 0.0)
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
    async with asyncio.timeout(60):
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
        async with asyncio.timeout(60):
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


def named(name: str, **spec: Any) -> Json:
    """A GPUAutoscaler of a Deployment of the same name."""
    obj = autoscaler(**spec)
    obj["metadata"]["name"] = obj["spec"]["scaleTargetRef"]["name"] = name
    return obj


def test_an_object_that_cannot_be_served_is_in_nobodys_way(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """No Prometheus anywhere, and an address that only looks like one: rejected, and tried again when they change."""
    at = {"url": "http://prometheus:9090"}
    bare, odd, good = (ServiceKey("GPUAutoscaler", NAMESPACE, name) for name in ("bare", "odd", "good"))

    async def work(fleet: Fleet) -> None:
        fake_api.must("POST", GPUAUTOSCALERS, named("bare"))
        fake_api.must("POST", GPUAUTOSCALERS, named("odd", prometheus={"url": "http://prometheus:port"}))
        fake_api.must("POST", GPUAUTOSCALERS, named("good", prometheus=at))
        await until(fleet, lambda: len(fleet.services) + len(fleet.rejected) == 3)
        assert set(fleet.services) == {good}
        assert "serving/bare: no Prometheus: set spec.prometheus.url" in fleet.rejected[bare].why
        assert "'http://prometheus:port' is no address" in fleet.rejected[odd].why
        fleet.sync()
        assert set(fleet.rejected) == {bare, odd}, "not forgotten"
        for name in ("bare", "odd"):
            fake_api.must("PATCH", f"{GPUAUTOSCALERS}/{name}", {"spec": {"prometheus": at}})
        await until(fleet, lambda: len(fleet.services) == 3)
        assert not fleet.rejected
        fake_api.must("PATCH", f"{GPUAUTOSCALERS}/good", {"spec": {"prometheus": {"url": "http://prometheus:port"}}})
        await until(fleet, lambda: good in fleet.rejected)
        assert fleet.services[good].settings.prometheus_url == at["url"], "the last good settings stay"
        fake_api.must("PATCH", f"{GPUAUTOSCALERS}/good", {"spec": {"prometheus": at}})
        await until(fleet, lambda: good not in fleet.rejected)

    in_fleet(fake_api, tmp_path, work, prometheus=PrometheusSettings())


def test_what_was_missing_may_come_without_the_object_being_changed(fake_api: FakeApiServer, tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"

    async def work(fleet: Fleet) -> None:
        fake_api.must("POST", GPUAUTOSCALERS, autoscaler())
        await until(fleet, lambda: CHAT in fleet.rejected)
        assert "ca.crt" in fleet.rejected[CHAT].why
        ca.write_text(CERTIFICATE)
        fleet.sync()
        assert CHAT in fleet.services
        assert not fleet.rejected

    in_fleet(fake_api, tmp_path, work, prometheus=PrometheusSettings("https://127.0.0.1:9", ca_file=str(ca)))


def test_an_object_of_the_same_name_is_another_one(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """Deleted and made anew between two looks: what was known of the first is nothing of the second's."""

    async def work(fleet: Fleet) -> None:
        fake_api.must("POST", GPUAUTOSCALERS, autoscaler())
        await until(fleet, lambda: CHAT in fleet.services)
        first = fleet.services[CHAT]
        fake_api.must("DELETE", f"{GPUAUTOSCALERS}/chat")
        made = fake_api.must("POST", GPUAUTOSCALERS, autoscaler())
        await until_seen(fleet, made)
        assert fleet.sync() == [CHAT]
        assert fleet.services[CHAT] is not first
        fake_api.must("DELETE", f"{GPUAUTOSCALERS}/chat")
        bad = autoscaler(prometheus={"url": "http://prometheus:port"})
        await until_seen(fleet, fake_api.must("POST", GPUAUTOSCALERS, bad))
        assert fleet.sync() == [CHAT]
        assert CHAT in fleet.rejected
        assert not fleet.services, "the settings of an object that is gone are in force no more"

    in_fleet(fake_api, tmp_path, work)


async def until_seen(fleet: Fleet, made: Json) -> None:
    async with asyncio.timeout(60):
        while [o["metadata"]["uid"] for o in fleet.autoscalers()] != [made["metadata"]["uid"]]:
            await asyncio.sleep(0.02)


def standings(fleet: Fleet) -> list[Standing]:
    return [standing_of(s, fleet.owner_of(s), fleet.since(key)) for key, s in fleet.services.items()]


def left(fleet: Fleet, *held: Json) -> set[str]:
    """Names of the objects whose floor nobody keeps, while there is also a service that keeps those of ``held``."""
    settings = parse_autoscaler(named("keeps", mode="Floor"))
    kept = [Standing(settings, "", Mode.FLOOR, TargetView(), owner=owner) for owner in held]
    return {o["metadata"]["name"] for o in floors_left(kept, fleet.neighbours())}


def test_floors_that_nobody_keeps_are_found(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(fleet: Fleet) -> None:
        fake_api.must("POST", HPA_PATH, hpa(**{f"{PREFIX}/original-min-replicas": "1"}))
        await until(fleet, lambda: len(list(fleet.hpas())) == 1)
        assert left(fleet) == {"chat"}
        assert left(fleet, *fleet.hpas()) == set()

    in_fleet(fake_api, tmp_path, work)


def of_shard(shard: str, obj: Json) -> Json:
    obj["metadata"]["labels"] = {"shard": shard}
    return obj


def test_another_shards_autoscaler_is_a_rival(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """Two releases with disjoint selectors, one target: only the older object's controller writes."""
    seen: dict[str, str] = {}

    async def work(fleet: Fleet) -> None:
        fleet.sync()
        assert len(list(fleet.autoscalers())) == 2
        [(key, service)] = fleet.services.items()
        seen[key.name] = service.rival

    fake_api.ensure_namespace(NAMESPACE)
    fake_api.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd_manifest())
    fake_api.must("POST", GPUAUTOSCALERS, of_shard("a", autoscaler("Full")))
    second = of_shard("b", autoscaler("Full"))
    second["metadata"]["name"] = "chat-again"
    del second["spec"]["objective"]["perReplica"]  # nor does it matter whether we could serve it
    second["spec"]["objective"]["bound"] = {"indicator": "running", "atMost": 1}
    fake_api.must("POST", GPUAUTOSCALERS, second)
    in_fleet(fake_api, tmp_path, work, selector="shard=a", crd=False)
    in_fleet(fake_api, tmp_path, work, selector="shard=b", crd=False)
    assert seen == {"chat": "", "chat-again": f"GPUAutoscaler {NAMESPACE}/chat"}


def test_floors_of_another_shard_are_left_to_it(fake_api: FakeApiServer, tmp_path: Path) -> None:
    floor = {f"{PREFIX}/original-min-replicas": "1"}
    opted_in = floor | {f"{PREFIX}/managed": "true", f"{PREFIX}/mode": "Floor"}

    def of(name: str, notes: Json, shard: str = "") -> Json:
        obj = hpa(name, **notes)
        obj["spec"]["scaleTargetRef"]["name"] = name
        return of_shard(shard, obj) if shard else obj

    async def work(fleet: Fleet) -> None:
        fake_api.must("POST", HPA_PATH, of("theirs-by-annotation", opted_in, "b"))
        fake_api.must("POST", HPA_PATH, of("theirs-opted-out", opted_in | {f"{PREFIX}/managed": "false"}, "b"))
        fake_api.must("POST", HPA_PATH, of("theirs-by-object", floor))
        fake_api.must("POST", HPA_PATH, of("ours-left", floor, "a"))
        fake_api.must("POST", GPUAUTOSCALERS, of_shard("b", named("theirs-by-object", mode="Floor")))
        await until(fleet, lambda: len(list(fleet.hpas())) == 4 and len(list(fleet.autoscalers())) == 1)
        assert left(fleet) == {"ours-left", "theirs-opted-out"}
        fake_api.must("PATCH", f"{GPUAUTOSCALERS}/theirs-by-object", {"spec": {"mode": "Recommend"}})
        await until(fleet, lambda: "theirs-by-object" in left(fleet))

    in_fleet(fake_api, tmp_path, work, selector="shard=a")


def test_kedas_own_autoscaler_is_not_a_service_of_its_own(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """KEDA copies a ScaledObject's labels and annotations to the autoscaler that it makes, and undoes our changes."""
    notes = {f"{PREFIX}/managed": "true", f"{PREFIX}/demand-query": "sum(load)", f"{PREFIX}/per-replica": "10"}
    copy = hpa("keda-hpa-chat", **notes, **{f"{PREFIX}/original-min-replicas": "1"})
    owner = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "chat", "uid": "1"}
    copy["metadata"]["ownerReferences"] = [owner | {"controller": True}]

    async def work(fleet: Fleet) -> None:
        fake_api.must("POST", HPA_PATH, copy)
        await until(fleet, lambda: len(list(fleet.hpas())) == 1)
        assert not fleet.services
        assert not fleet.rejected
        assert left(fleet) == set()

    in_fleet(fake_api, tmp_path, work, crd=False)


def test_of_several_that_would_keep_one_minimum_only_one_does(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(fleet: Fleet) -> None:
        def kept() -> dict[str, str]:
            found = keepers(standings(fleet), fleet.neighbours())
            return {f"{key.kind[:3]} {key.name}": found.get(key, "") for key in fleet.services}

        fake_api.must("POST", HPA_PATH, hpa("of-chat"))
        fake_api.must("POST", GPUAUTOSCALERS, autoscaler("Floor"))
        second = autoscaler("Floor")
        second["metadata"]["name"] = "chat-again"
        fake_api.must("POST", GPUAUTOSCALERS, second)
        await until(fleet, lambda: len(fleet.services) == 2 and len(list(fleet.hpas())) == 1)
        fleet.sync()
        assert kept() == {"GPU chat": "", "GPU chat-again": f"GPUAutoscaler {NAMESPACE}/chat"}
        fake_api.must("PATCH", f"{GPUAUTOSCALERS}/chat", {"spec": {"mode": "Recommend"}})
        await until(fleet, lambda: kept() == {"GPU chat": "", "GPU chat-again": ""})
        notes = {f"{PREFIX}/managed": "true", f"{PREFIX}/demand-query": "sum(load)", f"{PREFIX}/per-replica": "10"}
        opted_in = {"metadata": {"annotations": notes | {f"{PREFIX}/mode": "Floor"}}}
        fake_api.must("PATCH", f"{HPA_PATH}/of-chat", opted_in)
        itself = f"HorizontalPodAutoscaler {NAMESPACE}/of-chat (by annotation)"
        await until(fleet, lambda: kept() == {"GPU chat": "", "Hor of-chat": "", "GPU chat-again": itself})

    in_fleet(fake_api, tmp_path, work)


def test_a_pause_works_whatever_else_is_wrong(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """A mistake in the same object, or in the pause itself, must not keep anybody from stopping a service."""
    notes = {f"{PREFIX}/managed": "true", f"{PREFIX}/demand-query": "sum(load)", f"{PREFIX}/per-replica": "10"}
    key = ServiceKey("HorizontalPodAutoscaler", NAMESPACE, "chat")

    async def work(fleet: Fleet) -> None:
        def pause(**changes: str | None) -> None:
            named = {f"{PREFIX}/{name.replace('_', '-')}": value for name, value in changes.items()}
            fake_api.must("PATCH", f"{HPA_PATH}/chat", {"metadata": {"annotations": named}})

        fake_api.must("POST", HPA_PATH, hpa(**notes))
        await until(fleet, lambda: key in fleet.services)
        pause(epsilon="many", paused="true")
        await until(fleet, lambda: fleet.services[key].settings.pause.paused)
        assert key in fleet.rejected
        pause(epsilon=None, paused=None)
        await until(fleet, lambda: not fleet.services[key].settings.pause.is_active)
        pause(paused_replicas="five")
        await until(fleet, lambda: fleet.services[key].settings.pause.paused)
        assert "paused-replicas" in fleet.rejected[key].why
        pause(paused_replicas=None)
        await until(fleet, lambda: not fleet.services[key].settings.pause.is_active)
        assert not fleet.rejected

    in_fleet(fake_api, tmp_path, work, crd=False)
