"""What stands on the objects themselves: who is served as written, and what is wrong with who is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from controller.fleet.fleet import Fleet, saved_of
from controller.kube.client import Kube
from controller.kube.events import Events
from controller.outputs.base import Acted
from controller.process.settings import PrometheusSettings
from controller.prometheus.sources import Sources
from controller.reporting.writing import Reporter
from controller.resource.crd import crd_manifest
from controller.resource.group import Annotation
from controller.resource.parsing import parse_autoscaler
from controller.resource.saving import demand_mark, unpacked
from controller.resource.settings import ServiceKey
from controller.service import Service
from tests.controller.e2e.world import GROUP, NAMESPACE, autoscaler
from tests.kube.server import FakeApiServer

Json = dict[str, Any]
NOW_S = 1_700_000_000.0
CHAT_PATH = f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers/chat"
HPA_PATH = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
ODD = {"url": "http://prometheus:port"}
GOOD = {"url": "http://127.0.0.1:9"}


class Desk:
    """A fleet and its reporter on an API server; `round` is the status stage of a tick."""

    def __init__(self, api: FakeApiServer, fleet: Fleet, reporter: Reporter, events: Events) -> None:
        self.api, self.fleet, self.reporter, self.events = api, fleet, reporter, events
        self.now_s = NOW_S

    async def round(self) -> None:
        self.now_s += 30
        self.events.begin_cycle()
        self.fleet.sync()
        for service in self.fleet.services.values():
            await self.reporter.report(service, Acted(0), self.now_s)
        for key, rejected in self.fleet.rejected.items():
            await self.reporter.reject(key, rejected, self.now_s)
        for key in list(self.fleet.opted_out):
            await self.reporter.clear(key)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.02)
                self.fleet.sync()

    def ready(self) -> Json:
        status = self.api.must("GET", CHAT_PATH)["status"]
        found: Json = next(c for c in status["conditions"] if c["type"] == "Ready")
        return found

    def writes(self) -> int:
        return sum(c.verb == "patch" and c.user == "controller" and c.resource != "events" for c in self.api.calls)

    async def notes(self) -> list[str]:
        """What was told in events of InvalidSpec."""
        await self.events.stop()
        await self.events.start()
        found = self.api.must("GET", f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events")["items"]
        return [e["note"] for e in found if e["reason"] == "InvalidSpec"]


def learn(service: Service) -> None:
    """Something that only what is learned knows of."""
    managed = service._managed
    managed._state = managed.state._replace(finished_starts=managed.state.finished_starts + 1)


def at_a_desk(api: FakeApiServer, folder: Path, work: Callable[[Desk], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with await Kube.connect(api.kubeconfig(folder / "kubeconfig")) as kube:
            sources = Sources(PrometheusSettings(), lambda: 0.0)
            fleet = Fleet(kube, None, "", sources.feed, interval_s=1.0)
            events = Events(kube, "harmony-controller", lambda: NOW_S)
            await events.start()
            try:
                await fleet.start()
                await work(Desk(api, fleet, Reporter(kube, fleet, events, lambda: True), events))
            finally:
                await events.stop()
                await fleet.stop()
                await sources.close()

    api.ensure_namespace(NAMESPACE)
    api.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd_manifest())
    asyncio.run(whole())


def test_what_is_wrong_stands_in_the_status_and_is_told_once(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """Also while the last good settings are served: one of the two must not overwrite the other on every tick."""

    async def work(desk: Desk) -> None:
        fake_api.must("POST", CHAT_PATH.removesuffix("/chat"), autoscaler(prometheus=GOOD))
        await desk.until(lambda: bool(desk.fleet.services))
        await desk.round()
        assert desk.ready()["reason"] != "InvalidSpec"
        fake_api.must("PATCH", CHAT_PATH, {"spec": {"prometheus": ODD}})
        await desk.until(lambda: bool(desk.fleet.rejected))
        await desk.round()
        told = desk.ready()
        assert (told["status"], told["reason"]) == ("False", "InvalidSpec")
        assert told["message"].startswith("serving/chat: 'http://prometheus:port' is no address of Prometheus")
        written = desk.writes()
        for _ in range(4):
            await desk.round()
        assert desk.writes() == written, "nothing new, nothing written"
        assert desk.ready() == told
        assert len(await desk.notes()) == 1
        fake_api.must("PATCH", CHAT_PATH, {"spec": {"prometheus": {"url": "http://prometheus:other"}}})
        await desk.until(lambda: "other" in next(iter(desk.fleet.rejected.values())).why)
        await desk.round()
        await desk.round()
        assert "other" in desk.ready()["message"]
        assert desk.ready()["lastTransitionTime"] == told["lastTransitionTime"]
        assert len(await desk.notes()) == 2
        fake_api.must("PATCH", CHAT_PATH, {"spec": {"prometheus": GOOD}})
        await desk.until(lambda: not desk.fleet.rejected)
        await desk.round()
        assert desk.ready()["reason"] != "InvalidSpec"

    at_a_desk(fake_api, tmp_path, work)


def test_what_is_wrong_with_annotations_stands_in_the_annotations(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}
        notes = {Annotation.MANAGED: "true", Annotation.DEMAND_QUERY: "sum(load)", Annotation.PER_REPLICA: "plenty"}
        hpa = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "chat", "namespace": NAMESPACE, "annotations": notes},
            "spec": {"scaleTargetRef": target, "maxReplicas": 9},
        }
        fake_api.must("POST", HPA_PATH, hpa)
        for said, changes in (("plenty", {}), ("many", {Annotation.PER_REPLICA: "many"})):
            fake_api.must("PATCH", f"{HPA_PATH}/chat", {"metadata": {"annotations": changes}})
            await desk.until(lambda said=said: any(said in r.why for r in desk.fleet.rejected.values()))
            await desk.round()
            await desk.round()
            stands = json.loads(fake_api.must("GET", f"{HPA_PATH}/chat")["metadata"]["annotations"][Annotation.STATUS])
            assert (stands["ready"], stands["reason"]) == ("False", "InvalidSpec")
            assert said in stands["message"]
        assert desk.writes() == 2
        assert len(await desk.notes()) == 2

    at_a_desk(fake_api, tmp_path, work)


def test_what_an_earlier_version_learned_is_read_and_then_taken_away(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        fake_api.must("POST", CHAT_PATH.removesuffix("/chat"), autoscaler(prometheus=GOOD))
        mark = demand_mark(parse_autoscaler(autoscaler(prometheus=GOOD)))
        old = {"demand": mark, "starts": 7, "failed": 2}
        fake_api.must("PATCH", f"{CHAT_PATH}/status", {"status": {"learned": old}})
        await desk.until(lambda: bool(desk.fleet.objects and next(iter(desk.fleet.objects.values())).get("status")))
        (service,) = desk.fleet.services.values()
        if service.finished_starts != 7:  # it was met before its status was there
            desk.fleet.services.clear()
            desk.fleet._seen.clear()
            desk.fleet.sync()
            (service,) = desk.fleet.services.values()
        assert (service.finished_starts, service.failed_starts) == (7, 2)
        await desk.round()
        status = fake_api.must("GET", CHAT_PATH)["status"]
        assert unpacked(status["memory"])["starts"] == 7
        assert "learned" in status, "where the definition is older, the new field would be dropped"
        await desk.until(lambda: "memory" in next(iter(desk.fleet.objects.values()))["status"])
        learn(service)
        await desk.reporter.save_all()
        status = fake_api.must("GET", CHAT_PATH)["status"]
        assert "learned" not in status
        assert unpacked(status["memory"])["starts"] == 8
        assert saved_of(service.settings.key, fake_api.must("GET", CHAT_PATH))["starts"] == 8

    at_a_desk(fake_api, tmp_path, work)


@pytest.mark.parametrize("out", [None, "false"])
@pytest.mark.parametrize("per_replica", ["10", "plenty"])
def test_whoever_opts_out_keeps_nothing_of_ours(
    fake_api: FakeApiServer, tmp_path: Path, out: str | None, per_replica: str
) -> None:
    ours = {Annotation.STATUS, Annotation.RECOMMENDED_REPLICAS, Annotation.LEARNED}

    async def work(desk: Desk) -> None:
        theirs = {"example.com/owner": "sre", Annotation.DEMAND_QUERY: "sum(load)", Annotation.PER_REPLICA: per_replica}
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}
        hpa = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "chat", "namespace": NAMESPACE, "annotations": theirs | {Annotation.MANAGED: "true"}},
            "spec": {"scaleTargetRef": target, "maxReplicas": 9},
        }
        fake_api.must("POST", HPA_PATH, hpa)

        def notes() -> dict[str, str]:
            found: dict[str, str] = fake_api.must("GET", f"{HPA_PATH}/chat")["metadata"]["annotations"]
            return found

        await desk.until(lambda: bool(desk.fleet.services or desk.fleet.rejected))
        await desk.round()
        assert not ours.isdisjoint(notes())
        fake_api.must("PATCH", f"{HPA_PATH}/chat", {"metadata": {"annotations": {Annotation.MANAGED: out}}})
        await desk.until(lambda: bool(desk.fleet.opted_out))
        await desk.round()
        assert notes() == theirs | ({} if out is None else {Annotation.MANAGED: out})
        await desk.until(lambda: not desk.fleet.opted_out)
        written = desk.writes()
        await desk.round()
        assert desk.writes() == written, "once"

    at_a_desk(fake_api, tmp_path, work)


def test_what_was_learned_is_saved_at_moments_of_ones_own(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """However a fleet began, and while nothing changes: spread, seldom where there are many, never while paused."""

    async def work(desk: Desk) -> None:
        items = CHAT_PATH.removesuffix("/chat")
        for i in range(40):
            one = autoscaler(prometheus=GOOD, paused=i >= 30)
            fake_api.must("POST", items, one | {"metadata": one["metadata"] | {"name": f"chat-{i}"}})
        await desk.until(lambda: len(desk.fleet.services) == 40)
        await desk.round()
        assert desk.writes() == 40, "new objects get their first status at once"
        told, written = [], desk.writes()
        for _ in range(10):  # 300 s
            for service in desk.fleet.services.values():
                learn(service)
            await desk.round()
            told.append(desk.writes() - written)
            written = desk.writes()
        assert sum(told) == 30, "everybody once, but for those that are paused"
        assert max(told) <= 10, "and never many at once"
        for _ in range(10):  # what came after everybody's moment is saved at the next
            await desk.round()
        written = desk.writes()
        for _ in range(10):
            await desk.round()
        assert desk.writes() == written, "what is as it was is not written again"
        assert await desk.reporter.save_all() == 0
        assert desk.writes() == written + 40, "at the end everybody's, paused or not"

    at_a_desk(fake_api, tmp_path, work)


def test_many_are_saved_seldom(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        fake_api.must("POST", CHAT_PATH.removesuffix("/chat"), autoscaler(prometheus=GOOD))
        await desk.until(lambda: bool(desk.fleet.services))
        (one,) = desk.fleet.services.values()
        await desk.round()
        for i in range(5_999):  # stand-ins for the count of a large fleet: 3,000 s until everybody's turn
            desk.fleet.services[ServiceKey("GPUAutoscaler", "serving", f"more-{i}")] = one
        first = desk.writes()
        for _ in range(100):
            desk.now_s += 30
            learn(one)
            await desk.reporter.report(one, Acted(0), desk.now_s)
        assert desk.writes() == first + 1

    at_a_desk(fake_api, tmp_path, work)
