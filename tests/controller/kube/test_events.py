"""Events as a user sees them: few, counted, and never in the way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from controller.kube.client import Kube
from controller.kube.events import Events
from tests.kube.api import ApiServer
from tests.kube.server import FakeApiServer

PATH = "/apis/events.k8s.io/v1/namespaces/default/events"


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now


def pod(name: str = "a", **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": f"u-{name}"},
        **more,
    }


def using(server: ApiServer, folder: Path, use: Callable[[Events, Clock], Awaitable[Any]]) -> Events:
    async def inside() -> Events:
        clock = Clock()
        async with await Kube.connect(server.kubeconfig(folder / "config")) as kube:
            events = Events(kube, "harmony-controller", clock, instance="pod-1")
            await events.start()
            await use(events, clock)
            await events.stop()
            return events

    return asyncio.run(inside())


async def until(is_so: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < 60, "did not come about"
        await asyncio.sleep(0.01)


def written(server: ApiServer) -> list[dict[str, Any]]:
    return [e for e in server.must("GET", PATH)["items"] if e["reportingController"] == "harmony-controller"]


def test_an_event_says_what_happened_to_what(api_server: ApiServer, tmp_path: Path) -> None:
    async def use(events: Events, clock: Clock) -> None:
        events.record(pod(), "Normal", "ScaledUp", "3 -> 5 replicas", action="Scale")

    assert using(api_server, tmp_path, use).written == 1
    (event,) = written(api_server)
    assert event["regarding"] == {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "a", "uid": "u-a"}
    assert (event["type"], event["reason"], event["note"]) == ("Normal", "ScaledUp", "3 -> 5 replicas")
    assert (event["action"], event["reportingInstance"]) == ("Scale", "pod-1")
    assert event["eventTime"] == "2023-11-14T22:13:20.250000Z"
    assert event.get("series") is None
    assert event["metadata"]["name"].startswith("a.")


def test_the_same_again_is_counted_not_repeated(api_server: ApiServer, tmp_path: Path) -> None:
    async def use(events: Events, clock: Clock) -> None:
        # The first is new, the second is told at once, then at most one a minute.
        for expected in (1, 2, 2, 3, 3, 4, 4, 5, 5, 6):
            events.begin_cycle()
            events.record(pod(), "Warning", "MetricsUnavailable", "no data")
            await until(lambda: events.written == expected)  # noqa: B023 (awaited before it changes)
            clock.now += 30.0
        clock.now += 601.0
        events.begin_cycle()
        events.record(pod(), "Warning", "MetricsUnavailable", "no data")
        await until(lambda: events.written == 7)

    using(api_server, tmp_path, use)
    first, second = sorted(written(api_server), key=lambda event: str(event["eventTime"]))
    assert first["series"] == {"count": 10, "lastObservedTime": "2023-11-14T22:17:50.250000Z"}
    assert second.get("series") is None


def test_one_new_event_per_object_and_cycle(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def use(events: Events, clock: Clock) -> None:
        events.record(pod("a"), "Normal", "ScaledUp", "1 -> 2")
        events.record(pod("a"), "Normal", "ScaledUp", "2 -> 3")
        events.record(pod("b"), "Normal", "ScaledUp", "1 -> 2")
        events.begin_cycle()
        events.record(pod("a"), "Normal", "ScaledUp", "3 -> 4")

    events = using(fake_api, tmp_path, use)
    assert (events.written, events.dropped) == (3, 0)
    assert sorted((e["regarding"]["name"], e["note"]) for e in written(fake_api)) == [
        ("a", "1 -> 2"),
        ("a", "3 -> 4"),
        ("b", "1 -> 2"),
    ]


def test_an_event_that_the_api_server_forgot_is_made_again(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def use(events: Events, clock: Clock) -> None:
        events.record(pod(), "Normal", "Paused", "by hand")
        await until(lambda: events.written == 1)
        fake_api.must("DELETE", f"{PATH}/{written(fake_api)[0]['metadata']['name']}")
        events.begin_cycle()
        events.record(pod(), "Normal", "Paused", "by hand")
        await until(lambda: events.written == 2)

    using(fake_api, tmp_path, use)
    assert [event["series"]["count"] for event in written(fake_api)] == [2]


def test_what_cannot_be_written_is_counted_and_said_once(
    fake_api: FakeApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake_api.enforce([])

    async def use(events: Events, clock: Clock) -> None:
        for i in range(5):
            events.record(pod(f"p{i}"), "Normal", "ScaledUp", "1 -> 2")
        await until(lambda: events.dropped == 5)
        fake_api.enforce(None)
        events.begin_cycle()
        events.record(pod("p0"), "Normal", "ScaledUp", "1 -> 2")
        await until(lambda: events.written == 1)

    with caplog.at_level(logging.WARNING, logger="controller.kube.events"):
        using(fake_api, tmp_path, use)
    assert len(caplog.records) == 1
    assert "403" in caplog.text
    assert [event["series"]["count"] for event in written(fake_api)] == [2]


def test_a_flood_is_bounded_and_recording_never_waits(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def use(events: Events, clock: Clock) -> None:
        for i in range(3000):  # nothing is awaited, so that nothing can wait
            events.record(pod(f"p{i}"), "Normal", "ScaledUp", "1 -> 2")
        assert (events.written, events.dropped) == (0, 2000)

    events = using(fake_api, tmp_path, use)
    assert 50 <= events.written <= 90  # the burst, and what stop waits for
    assert events.written + events.dropped == 3000
    assert len(written(fake_api)) == events.written


@pytest.mark.parametrize("obj", [{}, {"metadata": None}, {"kind": "Node", "metadata": {"name": "n"}}])
def test_odd_objects_and_long_texts_do_not_raise(fake_api: FakeApiServer, tmp_path: Path, obj: dict[str, Any]) -> None:
    async def use(events: Events, clock: Clock) -> None:
        events.record(obj, "Normal", "R" * 200, "ü" * 2000)

    events = using(fake_api, tmp_path, use)
    assert events.written + events.dropped == 1
    for event in written(fake_api):
        assert len(event["note"].encode()) <= 1024
        assert len(event["reason"]) <= 128
