"""The hub under threads and event loops: nothing torn, nothing lost by who keeps up, nobody held up."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from harmony.serving import Hub, Snapshot
from harmony.serving.hub import QUEUE
from tests.serving.builders import NOON_S, record, seen, snapshot

TURN = record()


def fleet(number: int, size: int = 20) -> list[Snapshot]:
    """A tick of the fleet: every service was decided at the same moment."""
    turn = replace(TURN, observation=replace(TURN.observation, now_s=NOON_S + number))
    return [snapshot(f"serving/s{i:02}", record=turn) for i in range(size)]


def test_newest_by_name() -> None:
    hub = Hub()
    assert (hub.version, hub.all(), hub.latest("serving/s00")) == (0, (), None)
    first = fleet(0, 3)
    assert hub.publish(reversed(first)) == hub.version == 1
    assert hub.all() == tuple(first)
    assert hub.all() is hub.all()  # no copy for a reader
    newer = fleet(1, 1)
    hub.publish(newer, gone=["serving/s02", "serving/never-was"])
    assert hub.view() == (2, (newer[0], first[1]))
    assert hub.latest("serving/s02") is None


def test_readers_see_all_of_a_tick_or_nothing_of_it() -> None:
    hub = Hub()
    hub.publish(fleet(0))
    torn: list[tuple[float, ...]] = []
    behind: list[int] = []
    stop = threading.Event()

    def read() -> None:
        version = 0
        while not stop.is_set():
            now, snapshots = hub.view()
            moments = {s.at_s for s in snapshots}
            if len(moments) != 1 or len(snapshots) != 20:
                torn.append(tuple(moments))
            if now < version:
                behind.append(now)
            version = now

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    writers = [threading.Thread(target=lambda: [hub.publish(fleet(k)) for k in range(100)]) for _ in range(2)]
    for writer in writers:
        writer.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert torn == []
    assert behind == []
    assert hub.version == 201


def test_subscribers_get_every_publication_in_order() -> None:
    hub = Hub()
    got: list[float] = []
    unsubscribe = hub.subscribe(lambda snapshots: got.append(snapshots[0].at_s))
    for k in range(100):
        hub.publish(fleet(k, 1))
    unsubscribe()
    assert got == [NOON_S + k for k in range(100)]  # stopping delivers what was published before
    hub.publish(fleet(100, 1))
    assert len(got) == 100


def test_a_slow_subscriber_loses_its_own_oldest_and_delays_nobody() -> None:
    hub = Hub()
    hold, entered = threading.Event(), threading.Event()
    slow: list[float] = []
    quick: list[float] = []

    def stuck(snapshots: Sequence[Snapshot]) -> None:
        entered.set()
        hold.wait(30)
        slow.append(snapshots[0].at_s)

    leave = hub.subscribe(stuck)
    hub.publish(fleet(0, 1))
    assert entered.wait(30)
    leave_quick = hub.subscribe(lambda s: quick.append(s[0].at_s))
    for k in range(1, QUEUE + 11):
        hub.publish(fleet(k, 1))
    assert slow == []  # nobody has waited for it
    assert hub.dropped >= 10
    leave_quick()
    hold.set()
    leave()
    assert slow == [NOON_S, *(NOON_S + k for k in range(11, QUEUE + 11))]
    assert quick[-1] == NOON_S + QUEUE + 10


def test_a_failing_subscriber_is_logged_and_called_again(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    got: list[float] = []

    def fails_once(snapshots: Sequence[Snapshot]) -> None:
        got.append(snapshots[0].at_s)
        if len(got) == 1:
            raise ValueError("no room")

    unsubscribe = hub.subscribe(fails_once)
    with caplog.at_level(logging.ERROR):
        hub.publish(fleet(0, 1))
        hub.publish(fleet(1, 1))
        unsubscribe()
    assert got == [NOON_S, NOON_S + 1]
    assert [r.exc_info[1].args for r in caplog.records if r.exc_info] == [("no room",)]  # type: ignore[union-attr]


def test_a_subscriber_may_leave_from_within() -> None:
    hub = Hub()
    left = threading.Event()

    def once(_: Sequence[Snapshot]) -> None:
        unsubscribe()
        left.set()

    unsubscribe = hub.subscribe(once)
    hub.publish(fleet(0, 1))
    assert left.wait(60)


def test_waiting_from_several_event_loops_at_once() -> None:
    hub = Hub()
    hub.publish(fleet(0, 1))
    woken: list[int] = []
    ready = threading.Barrier(4)

    async def wait() -> None:
        waiting = asyncio.create_task(hub.wait(1, 30.0))
        await asyncio.sleep(0.05)
        ready.wait()
        woken.append(await waiting)

    threads = [threading.Thread(target=lambda: asyncio.run(wait())) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    hub.publish(fleet(1, 1))
    for thread in threads:
        thread.join(60)
    assert woken == [2, 2, 2]


def test_waiting_ends_without_a_publication_and_leaves_nothing_behind() -> None:
    hub = Hub()

    async def wait() -> None:
        assert await hub.wait(0, 0.05) == 0
        hub.publish(fleet(0, 1))
        assert await asyncio.wait_for(hub.wait(0, 3600.0), 60.0) == 1  # there already: no waiting
        given_up = asyncio.create_task(hub.wait(1, 30.0))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up

    asyncio.run(wait())
    assert hub._waiters == []


def test_a_waiter_whose_loop_has_ended_does_no_harm() -> None:
    hub = Hub()
    loop = asyncio.new_event_loop()
    task = loop.create_task(hub.wait(0, 30.0))
    loop.run_until_complete(asyncio.sleep(0.01))
    assert len(hub._waiters) == 1
    task.cancel()
    hub._waiters.append((loop, asyncio.Event()))
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    assert hub.publish(fleet(0, 1)) == 1
    assert hub.version == 1


def test_snapshots_know_their_names() -> None:
    shown = snapshot("serving/chat", record=record(seen(now_s=NOON_S + 5)))
    assert (shown.namespace, shown.name, shown.at_s, shown.recommended) == ("serving", "chat", NOON_S + 5, 12)
