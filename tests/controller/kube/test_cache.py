"""Caches against an API server that cuts, expires, refuses and forgets: they hold what it holds, in the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from controller.kube.cache import Cache
from controller.kube.client import JSON, Kube
from controller.kube.errors import Expired, Forbidden, Unavailable
from controller.kube.resources import LEASES, NODES, PODS
from tests.controller.kube.scripted import kube_for
from tests.kube.api import ApiServer, Call
from tests.kube.server import FakeApiServer


def lease(name: str, labels: dict[str, str] | None = None, holder: str = "x") -> JSON:
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": {"holderIdentity": holder}}


def leases_path(namespace: str, name: str = "") -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases" + (f"/{name}" if name else "")


def using(server: ApiServer, folder: Path, use: Callable[[Kube], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        async with await Kube.connect(server.kubeconfig(folder / "config"), jitter=np.random.default_rng(1)) as kube:
            return await use(kube)

    return asyncio.run(inside())


async def soon(is_so: Callable[[], bool], within_s: float = 60.0) -> None:
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < within_s, "did not come about"
        await asyncio.sleep(0.01)


def names(objects: list[JSON]) -> list[str]:
    return sorted(obj["metadata"]["name"] for obj in objects)


async def running(cache: Cache, use: Callable[[], Awaitable[Any]]) -> Any:
    task = asyncio.create_task(cache.run())
    try:
        return await use()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_cache_follows_what_happens(api_server: ApiServer, tmp_path: Path) -> None:
    changes: list[tuple[str, str, bool]] = []
    for namespace in ("one", "two", "three"):
        api_server.ensure_namespace(namespace)
        api_server.must("POST", leases_path(namespace), lease("old"))

    async def use(kube: Kube) -> None:
        cache = Cache(
            kube,
            LEASES,
            namespaces=["one", "two"],
            on_change=lambda namespace, name, obj: changes.append((namespace, name, obj is not None)),
        )
        assert cache.stale_s(time.monotonic()) == float("inf")

        async def live() -> None:
            await cache.synced()
            assert names(cache.items()) == ["old", "old"]
            assert cache.get("three", "old") is None
            kept = cache.get("one", "old")
            assert kept is not None
            assert (kept["kind"], kept["apiVersion"]) == ("Lease", "coordination.k8s.io/v1")
            assert "managedFields" not in kept["metadata"]
            api_server.must("POST", leases_path("one"), lease("new"))
            await soon(lambda: cache.get("one", "new") is not None)
            changed = api_server.must("PATCH", leases_path("one", "new"), {"spec": {"holderIdentity": "y"}})
            assert changed["spec"]["holderIdentity"] == "y"
            await soon(lambda: (cache.get("one", "new") or {})["spec"]["holderIdentity"] == "y")
            api_server.must("DELETE", leases_path("two", "old"))
            await soon(lambda: cache.select("two", "") == [])
            assert names(cache.select("one", "")) == ["new", "old"]
            assert cache.last_error is None
            assert cache.stale_s(time.monotonic()) < 60.0

        await running(cache, live)

    using(api_server, tmp_path, use)
    assert sorted(changes[:2]) == [("one", "old", True), ("two", "old", True)]
    assert changes[2:] == [("one", "new", True), ("one", "new", True), ("two", "old", False)]


def test_bookmarks_move_the_version_on_a_quiet_watch(fake_api: FakeApiServer, tmp_path: Path) -> None:
    fake_api.bookmark_interval_s = 0.05
    fake_api.ensure_namespace("one")

    async def use(kube: Kube) -> None:
        cache = Cache(kube, LEASES, namespaces=["one"])

        async def live() -> None:
            await cache.synced()
            for i in range(20):  # in another namespace: only bookmarks tell of newer versions
                newest = fake_api.must("POST", leases_path("default"), lease(f"other{i}"))
            await soon(lambda: int(cache._parts[0].version) >= int(newest["metadata"]["resourceVersion"]))
            fake_api.compact()
            fake_api.cut_watches()
            fake_api.clear_calls()
            fake_api.must("POST", leases_path("one"), lease("new"))
            await soon(lambda: len(cache) == 1)
            assert [call.verb for call in fake_api.calls_by()] == ["watch"]

        await running(cache, live)

    using(fake_api, tmp_path, use)


@pytest.mark.parametrize("clean", [True, False])
def test_a_cut_watch_goes_on_where_it_was(fake_api: FakeApiServer, tmp_path: Path, clean: bool) -> None:
    async def use(kube: Kube) -> None:
        cache = Cache(kube, LEASES)

        async def live() -> None:
            await cache.synced()
            for i in range(3):
                await soon(lambda: fake_api.open_watches == 1)
                assert fake_api.cut_watches(clean=clean) == 1
                fake_api.must("POST", leases_path("default"), lease(f"l{i}"))
                await soon(lambda wanted=i + 1: len(cache) == wanted)  # type: ignore[misc]
            assert sum(call.verb == "list" for call in fake_api.calls_by()) == 1

        await running(cache, live)

    using(fake_api, tmp_path, use)


@pytest.mark.parametrize("in_the_stream", [True, False])
def test_an_expired_version_is_listed_anew_and_deletions_are_noticed(
    fake_api: FakeApiServer, tmp_path: Path, in_the_stream: bool
) -> None:
    gone: list[str] = []
    for name in ("stays", "goes", "comes-back"):
        fake_api.must("POST", leases_path("default"), lease(name))

    async def use(kube: Kube) -> None:
        cache = Cache(kube, LEASES, on_change=lambda _, name, obj: gone.append(name) if obj is None else None)

        async def live() -> None:
            await cache.synced()
            before = cache.get("default", "comes-back")
            await soon(lambda: fake_api.open_watches == 1)
            down = fake_api.fault(lambda call: call.verb in ("list", "watch"), status=503, times=None)
            fake_api.cut_watches()
            await soon(lambda: cache.last_error is not None)
            fake_api.must("DELETE", leases_path("default", "goes"))
            fake_api.must("DELETE", leases_path("default", "comes-back"))
            fake_api.must("POST", leases_path("default"), lease("comes-back"))
            assert len(cache) == 3  # in trouble, what is known stays
            fake_api.compact(expire_watches=in_the_stream)
            down.cancel()
            await soon(lambda: names(cache.items()) == ["comes-back", "stays"])
            await soon(lambda: cache.last_error is None)
            after = cache.get("default", "comes-back")
            assert before is not None
            assert after is not None
            assert before["metadata"]["uid"] != after["metadata"]["uid"]
            if in_the_stream:
                await soon(lambda: fake_api.open_watches == 1)
                fake_api.must("POST", leases_path("default"), lease("late"))
                fake_api.compact(expire_watches=True)
                await soon(lambda: len(cache) == 3)

        await running(cache, live)

    using(fake_api, tmp_path, use)
    assert gone == ["goes"]


def test_trouble_is_told_with_its_age_and_nothing_is_forgotten(fake_api: FakeApiServer, tmp_path: Path) -> None:
    fake_api.must("POST", leases_path("default"), lease("one"))

    async def use(kube: Kube) -> None:
        now = 0.0
        cache = Cache(kube, LEASES, monotonic=lambda: now)

        async def live() -> None:
            nonlocal now
            await cache.synced()
            await soon(lambda: fake_api.open_watches == 1)
            down = fake_api.fault(times=None, drop=True)
            fake_api.cut_watches()
            await soon(lambda: cache.last_error is not None)
            now = 100.0
            assert cache.stale_s(now) >= 99.0
            assert isinstance(cache.last_error, Unavailable)
            assert "watch leases" in str(cache.last_error)
            assert names(cache.items()) == ["one"]
            await cache.synced()  # it was, and still knows
            down.cancel()
            await soon(lambda: cache.last_error is None)
            assert cache.stale_s(now) == 0.0

        await running(cache, live)

    using(fake_api, tmp_path, use)


def test_waiting_for_a_list_that_is_refused_ends_with_the_reason(fake_api: FakeApiServer, tmp_path: Path) -> None:
    fake_api.enforce([])

    async def use(kube: Kube) -> None:
        cache = Cache(kube, PODS)

        async def live() -> None:
            with pytest.raises(Forbidden, match="list pods: HTTP 403"):
                await asyncio.wait_for(cache.synced(), 60)
            fake_api.enforce(None)
            await soon(lambda: cache.is_synced)

        await running(cache, live)

    using(fake_api, tmp_path, use)


def test_transform_trims_drops_and_its_failures_keep_the_rest_going(fake_api: FakeApiServer, tmp_path: Path) -> None:
    def trim(obj: JSON) -> JSON | None:
        if obj["spec"]["holderIdentity"] == "ignored":
            return None
        return {"metadata": {"name": obj["metadata"]["name"]}, "holder": int(obj["spec"]["holderIdentity"])}

    for name, holder in (("a", "1"), ("b", "ignored"), ("c", "not a number")):
        fake_api.must("POST", leases_path("default"), lease(name, holder=holder))

    def set_holder(name: str, holder: str) -> None:
        fake_api.must("PATCH", leases_path("default", name), {"spec": {"holderIdentity": holder}})

    async def use(kube: Kube) -> None:
        cache = Cache(kube, LEASES, transform=trim)

        async def live() -> None:
            await cache.synced()
            assert cache.items() == [{"metadata": {"name": "a"}, "holder": 1}]
            assert cache.rejected == 1
            set_holder("b", "2")
            await soon(lambda: len(cache) == 2)
            set_holder("a", "odd")
            set_holder("b", "ignored")
            await soon(lambda: len(cache) == 1)
            assert cache.get("default", "a") == {"metadata": {"name": "a"}, "holder": 1}
            assert cache.rejected == 2

        await running(cache, live)

    using(fake_api, tmp_path, use)


def test_cluster_wide_kinds_have_no_namespace(fake_api: FakeApiServer, tmp_path: Path) -> None:
    fake_api.must("POST", "/api/v1/nodes", {"metadata": {"name": "gpu-1", "labels": {"gpu": "h100"}}})

    async def use(kube: Kube) -> None:
        cache = Cache(kube, NODES, namespaces=["one", "two"])

        async def live() -> None:
            await cache.synced()
            assert names(cache.select(None, "")) == ["gpu-1"]
            assert names(cache.select(None, "gpu in (a100, h100)")) == ["gpu-1"]
            assert cache.get(None, "gpu-1") is cache.get("", "gpu-1")

        await running(cache, live)

    using(fake_api, tmp_path, use)


def test_selecting_by_index_follows_changes_of_labels(fake_api: FakeApiServer, tmp_path: Path) -> None:
    for i in range(30):
        labels = {"app": "chat" if i % 3 else "code", "tier": "gold" if i % 2 else "silver"}
        fake_api.must("POST", leases_path("default"), lease(f"l{i:02}", labels))

    async def use(kube: Kube) -> None:
        cache = Cache(kube, LEASES)

        async def live() -> None:
            await cache.synced()
            assert len(cache.select("default", "app=chat")) == 20
            assert len(cache.select("default", "app=chat,tier!=gold")) == 10
            assert len(cache.select("default", {"matchLabels": {"app": "code"}})) == 10
            assert len(cache.select("default", "!app")) == 0
            assert len(cache.select("default", "")) == 30
            assert cache.select("other", "app=chat") == []
            fake_api.must("PATCH", leases_path("default", "l00"), {"metadata": {"labels": {"app": "chat"}}})
            await soon(lambda: len(cache.select("default", "app=chat")) == 21)
            fake_api.must("PATCH", leases_path("default", "l00"), {"metadata": {"labels": None}})
            await soon(lambda: names(cache.select("default", "!app")) == ["l00"])
            fake_api.must("DELETE", leases_path("default", "l00"))
            await soon(lambda: len(cache.select("default", "!app")) == 0)

        await running(cache, live)

    using(fake_api, tmp_path, use)


def test_the_api_servers_own_selector_narrows_list_and_watch(fake_api: FakeApiServer, tmp_path: Path) -> None:
    fake_api.must("POST", leases_path("default"), lease("in", {"shard": "1"}))
    fake_api.must("POST", leases_path("default"), lease("out", {"shard": "2"}))

    async def use(kube: Kube) -> None:
        cache = Cache(kube, LEASES, selector="shard=1")

        async def live() -> None:
            await cache.synced()
            assert names(cache.items()) == ["in"]
            fake_api.must("PATCH", leases_path("default", "in"), {"metadata": {"labels": {"shard": "2"}}})
            fake_api.must("PATCH", leases_path("default", "out"), {"metadata": {"labels": {"shard": "1"}}})
            await soon(lambda: names(cache.items()) == ["out"])

        await running(cache, live)

    using(fake_api, tmp_path, use)


@pytest.mark.slow
def test_random_changes_under_random_faults_end_in_the_same_state(fake_api: FakeApiServer, tmp_path: Path) -> None:
    draw = np.random.default_rng(7)

    def happen(i: int) -> None:
        name = f"l{draw.integers(12)}"
        code, _ = fake_api.request("GET", leases_path("default", name))
        if code == 404:
            fake_api.must("POST", leases_path("default"), lease(name, {"n": str(i)}))
        elif draw.random() < 0.4:
            fake_api.must("DELETE", leases_path("default", name))
        else:
            fake_api.must("PATCH", leases_path("default", name), {"metadata": {"labels": {"n": str(i)}}})

    async def use(kube: Kube) -> None:
        cache = Cache(kube, LEASES, jitter=np.random.default_rng(3))

        async def live() -> None:
            for i in range(80):
                await asyncio.to_thread(happen, i)
                chance = draw.random()
                if chance < 0.05:
                    fake_api.cut_watches(clean=bool(i % 2))
                elif chance < 0.1:
                    fake_api.compact(expire_watches=bool(i % 2))
                elif chance < 0.15:
                    fake_api.fault(lambda call: call.verb in ("list", "watch"), status=500, times=2)
            truth = {
                item["metadata"]["name"]: item["metadata"]["resourceVersion"]
                for item in fake_api.must("GET", leases_path("default"))["items"]
            }
            await soon(
                lambda: {o["metadata"]["name"]: o["metadata"]["resourceVersion"] for o in cache.items()} == truth, 30
            )

        await running(cache, live)

    using(fake_api, tmp_path, use)


def test_a_watch_says_expired_whichever_way_the_server_says_it(fake_api: FakeApiServer, tmp_path: Path) -> None:
    fake_api.must("POST", leases_path("default"), lease("one"))
    version = fake_api.must("GET", leases_path("default"))["metadata"]["resourceVersion"]
    fake_api.must("POST", leases_path("default"), lease("two"))

    async def use(kube: Kube) -> None:
        fake_api.compact()
        with pytest.raises(Expired):
            async for _ in kube.watch(LEASES, "default", resource_version="1"):
                pass
        fake_api.fault(lambda call: call.verb == "watch", status=410)
        with pytest.raises(Expired, match="HTTP 410"):
            async for _ in kube.watch(LEASES, "default", resource_version=version):
                pass

    using(fake_api, tmp_path, use)


def test_a_stream_cut_in_the_middle_of_an_event_gives_no_half_event(tmp_path: Path) -> None:
    watches = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal watches
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "5"}, "items": []})
        watches += 1
        response = web.StreamResponse()
        await response.prepare(request)
        event = b'{"type":"ADDED","object":{"metadata":{"name":"a","namespace":"n","resourceVersion":"6"}}}'
        if watches == 1:
            await response.write(event[:40])
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.abort()
            return response
        if watches == 2:
            await response.write(b"<html>proxy</html>\n")
            return response
        for at in range(0, len(event), 7):  # in many pieces
            await response.write(event[at : at + 7])
            await asyncio.sleep(0)
        await response.write(b"\n\n")
        await asyncio.sleep(30)
        return response

    async def inside() -> None:
        async with kube_for(handler, tmp_path) as kube:
            cache = Cache(kube, PODS)

            async def live() -> None:
                await soon(lambda: len(cache) == 1)
                assert cache.get("n", "a") == {"metadata": {"name": "a", "namespace": "n", "resourceVersion": "6"}}

            await running(cache, live)

    asyncio.run(inside())
    assert watches == 3


@pytest.mark.slow
def test_a_version_that_can_never_be_watched_is_given_up(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def use(kube: Kube) -> None:
        cache = Cache(kube, LEASES)

        async def live() -> None:
            await cache.synced()
            await soon(lambda: fake_api.open_watches == 1)
            fault = fake_api.fault(lambda call: call.verb == "watch", status=504, times=None)
            fake_api.cut_watches()
            await soon(lambda: sum(_is_list(call) for call in fake_api.calls_by()) == 2)
            fault.cancel()
            await soon(lambda: cache.last_error is None)

        await running(cache, live)

    using(fake_api, tmp_path, use)


def _is_list(call: Call) -> bool:
    return call.verb == "list"
