"""Electors over real HTTP under faults: never two that may act, and a hand-over that does not wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from controller.kube.client import Kube
from controller.kube.lease import LeaseElection
from controller.kube.times import boot_s
from tests.kube.api import ApiServer, Call
from tests.kube.server import FakeApiServer

PATH = "/apis/coordination.k8s.io/v1/namespaces/default/leases/lead"
QUICK: dict[str, Any] = {"duration_s": 3.0, "renew_deadline_s": 2.0, "retry_s": 0.3}
# For whoever is put into trouble while leading, and not before: a busy machine may stand still for a while.
STEADY: dict[str, Any] = {"duration_s": 5.0, "renew_deadline_s": 3.5, "retry_s": 0.3}
# For whoever must not lose the lease: it outlasts all waiting.
PATIENT: dict[str, Any] = {"duration_s": 600.0, "renew_deadline_s": 500.0, "retry_s": 0.3}


class Elector:
    """One controller process: its own thread, event loop, connection and clock."""

    def __init__(self, server: ApiServer, folder: Path, name: str, **options: Any) -> None:
        self.name = name
        self.config = server.kubeconfig(folder / f"{name}.json")
        self.options = {**QUICK, **options}
        self.election: LeaseElection | None = None
        self.lost = 0
        self.led = 0
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.main()), daemon=True)

    def start(self) -> Elector:
        self.thread.start()
        assert self.ready.wait(60)
        return self

    async def main(self) -> None:
        self.loop = asyncio.get_running_loop()
        async with await Kube.connect(self.config, user_agent=self.name) as kube:
            self.election = LeaseElection(kube, "default", "lead", self.name, **self.options)
            self.ready.set()
            await self.election.run(self.work, self.on_lost)

    async def work(self) -> None:
        self.led += 1
        await asyncio.Event().wait()

    async def on_lost(self) -> None:
        self.lost += 1

    @property
    def may_act(self) -> bool:
        return self.election is not None and self.election.may_act()

    def stop(self) -> None:
        assert self.election is not None
        if self.thread.is_alive():
            asyncio.run_coroutine_threadsafe(self.election.stop(grace_s=0.0), self.loop).result(60)
            self.thread.join(60)

    def block(self, seconds: float) -> None:
        self.loop.call_soon_threadsafe(time.sleep, seconds)


class Watcher:
    """Looks every two milliseconds who may act."""

    def __init__(self, *electors: Elector) -> None:
        self.electors = electors
        self.both = 0
        self.looks = 0
        self.order: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(0.002):
            acting = [elector.name for elector in self.electors if elector.may_act]
            self.looks += 1
            self.both += len(acting) > 1
            if acting and (not self.order or self.order[-1] != acting[0]):
                self.order.append(acting[0])

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def eventually(is_so: Callable[[], bool], within_s: float = 60.0) -> float:
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < within_s, "did not come about"
        time.sleep(0.005)
    return time.monotonic() - began


def looks_on(server: ApiServer, *electors: Elector, times: int = 4) -> None:
    """Wait until each has been answered so many times more: it has seen what there is, and acted on it."""

    def answered(elector: Elector) -> int:
        return sum(c.user_agent == elector.name and c.resource == "leases" and c.code > 0 for c in server.calls)

    before = {elector.name: answered(elector) for elector in electors}
    eventually(lambda: all(answered(e) >= before[e.name] + times for e in electors))


def from_agent(name: str) -> Callable[[Call], bool]:
    return lambda call: call.user_agent == name


Trouble = Callable[[FakeApiServer, Elector], Callable[[], object]]


def down(server: FakeApiServer, elector: Elector) -> Callable[[], object]:
    return server.fault(from_agent(elector.name), status=503, times=None).cancel


def cut_off(server: FakeApiServer, elector: Elector) -> Callable[[], object]:
    return server.fault(from_agent(elector.name), drop=True, times=None).cancel


def slow(server: FakeApiServer, elector: Elector) -> Callable[[], object]:
    # Writes take effect, but long after the leader has given up on them.
    return server.fault(from_agent(elector.name), delay_s=4.0, times=None).cancel


def throttled(server: FakeApiServer, elector: Elector) -> Callable[[], object]:
    return server.fault(from_agent(elector.name), status=429, headers={"Retry-After": "3"}, times=None).cancel


def paused(server: FakeApiServer, elector: Elector) -> Callable[[], object]:
    elector.block(8.0)
    return lambda: None


@pytest.mark.parametrize("trouble", [down, cut_off, slow, throttled, paused], ids=lambda f: f.__name__)
def test_a_leader_in_trouble_stops_before_the_other_acts(
    fake_api: FakeApiServer, tmp_path: Path, trouble: Trouble
) -> None:
    a, b = Elector(fake_api, tmp_path, "a", **STEADY), Elector(fake_api, tmp_path, "b", **PATIENT)
    with Watcher(a, b) as watcher:
        a.start()
        eventually(lambda: a.may_act)
        b.start()
        looks_on(fake_api, b)
        heal = trouble(fake_api, a)
        eventually(lambda: b.may_act)
        assert not a.may_act
        heal()
        eventually(lambda: a.lost == 1)
        looks_on(fake_api, a, b)
        assert b.may_act
        assert not a.may_act
        b.stop()
        eventually(lambda: watcher.order == ["a", "b", "a"])
        a.stop()
    assert watcher.both == 0
    assert watcher.looks > 200
    assert watcher.order == ["a", "b", "a"]
    assert (a.led, a.lost, b.led, b.lost) == (2, 1, 1, 0)


def test_a_short_outage_costs_nobody_the_lease(fake_api: FakeApiServer, tmp_path: Path) -> None:
    a, b = (Elector(fake_api, tmp_path, name, **PATIENT) for name in "ab")
    with Watcher(a, b) as watcher:
        a.start()
        eventually(lambda: a.may_act)
        b.start()
        for _ in range(3):
            fault = fake_api.fault(lambda call: call.resource == "leases", drop=True, times=None)
            eventually(lambda fault=fault: fault.hits >= 4)  # type: ignore[misc]
            fault.cancel()
            looks_on(fake_api, a, b)
        a.stop()
        b.stop()
    assert watcher.order[0] == "a"
    assert (a.led, a.lost, watcher.both) == (1, 0, 0)


def test_a_step_of_the_wall_clock_changes_nothing(fake_api: FakeApiServer, tmp_path: Path) -> None:
    ahead, behind = (lambda: time.time() + 3600.0), (lambda: time.time() - 3600.0)  # noqa: TID251 (the clock in question)
    a = Elector(fake_api, tmp_path, "a", wall=behind, **PATIENT)
    b = Elector(fake_api, tmp_path, "b", wall=ahead, **PATIENT)
    with Watcher(a, b) as watcher:
        a.start()
        eventually(lambda: a.may_act)
        b.start()
        looks_on(fake_api, a, b)  # by its own wall clock the lease ran out two hours ago
        assert a.may_act
        a.stop()
        b.stop()
    assert watcher.both == 0
    assert "b" not in watcher.order[:1]
    assert a.lost == 0


def test_a_graceful_stop_hands_over_at_once(api_server: ApiServer, tmp_path: Path) -> None:
    # A lease that outlasts all waiting: who waits until it runs out, waits for ever.
    long = {"duration_s": 3600.0, "renew_deadline_s": 3000.0, "retry_s": 0.5}
    a, b = (Elector(api_server, tmp_path, name, **long) for name in "ab")
    with Watcher(a, b) as watcher:
        a.start()
        eventually(lambda: a.may_act)
        b.start()
        looks_on(api_server, b)
        assert b.election is not None
        assert b.election.leader_is_alive()
        assert b.election.holder == "a"
        a.stop()
        spec = api_server.must("GET", PATH)["spec"]
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) in [
            ("", 1, 0),
            ("b", 3600, 1),
        ]
        eventually(lambda: b.may_act)
        spec = api_server.must("GET", PATH)["spec"]
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("b", 3600, 1)
        assert b.election.transitions == 1
        b.stop()
    assert watcher.both == 0


def test_a_crashed_leader_is_followed_after_its_time(fake_api: FakeApiServer, tmp_path: Path) -> None:
    spec = {"holderIdentity": "crashed", "leaseDurationSeconds": 2, "renewTime": "1999-01-01T00:00:00.000000Z"}
    fake_api.must("POST", PATH.rpartition("/")[0], {"metadata": {"name": "lead"}, "spec": spec})
    b = Elector(fake_api, tmp_path, "b").start()
    assert eventually(lambda: b.may_act) > 1.8  # its renewTime says long dead; only what b sees counts
    b.stop()


def test_deleting_the_record_deposes_nobody_early(fake_api: FakeApiServer, tmp_path: Path) -> None:
    a, b = (Elector(fake_api, tmp_path, name, **PATIENT) for name in "ab")
    with Watcher(a, b) as watcher:
        a.start()
        eventually(lambda: a.may_act)
        b.start()
        looks_on(fake_api, b)
        fake_api.must("DELETE", PATH)
        looks_on(fake_api, a, b)
        assert a.may_act
        assert fake_api.must("GET", PATH)["spec"]["holderIdentity"] == "a", "it is written anew"
        a.stop()
        b.stop()
    assert watcher.both == 0


def test_many_start_at_once_and_one_leads(fake_api: FakeApiServer, tmp_path: Path) -> None:
    electors = [Elector(fake_api, tmp_path, f"e{i}", **PATIENT) for i in range(5)]
    with Watcher(*electors) as watcher:
        for elector in electors:
            elector.start()
        eventually(lambda: sum(elector.may_act for elector in electors) == 1)
        looks_on(fake_api, *electors)
        assert sum(elector.may_act for elector in electors) == 1
        for elector in electors:
            elector.stop()
    assert watcher.both == 0


def in_one_loop(
    server: ApiServer, folder: Path, use: Callable[[LeaseElection], Awaitable[object]], **options: Any
) -> None:
    async def inside() -> None:
        async with await Kube.connect(server.kubeconfig(folder / "config")) as kube:
            await use(LeaseElection(kube, "default", "lead", "me", **{**QUICK, **options}))

    asyncio.run(inside())


async def never(*_: object) -> object:
    raise AssertionError("must not be called")


def test_work_that_ends_or_fails_gives_the_lease_back(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def ends(election: LeaseElection) -> None:
        async def work() -> None:
            assert election.may_act()

        await election.run(work, never)
        assert not election.may_act()

    async def fails(election: LeaseElection) -> None:
        async def work() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await election.run(work, never)
        assert not election.may_act()

    for use in (ends, fails):
        in_one_loop(fake_api, tmp_path, use)
        assert fake_api.must("GET", PATH)["spec"]["holderIdentity"] == ""


def test_stop_leaves_the_work_time_to_finish_and_renews_meanwhile(fake_api: FakeApiServer, tmp_path: Path) -> None:
    finished = []

    async def use(election: LeaseElection) -> None:
        asked = asyncio.Event()

        def renewals() -> int:
            return sum(call.verb == "update" and call.code == 200 for call in fake_api.calls)

        async def work() -> None:
            await asked.wait()
            before = renewals()
            while renewals() < before + 4:
                await asyncio.sleep(0.01)
            finished.append(election.may_act())

        run = asyncio.create_task(election.run(work, never))
        while not election.may_act():
            await asyncio.sleep(0.01)
        asked.set()
        await election.stop(grace_s=60.0)
        await run

    in_one_loop(fake_api, tmp_path, use, **PATIENT)
    assert finished == [True]


def test_stop_before_leading_and_stop_without_run(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def use(election: LeaseElection) -> None:
        await election.stop()
        await election.run(never, never)
        assert not election.may_act()

    in_one_loop(fake_api, tmp_path, use)
    assert fake_api.calls_by() == []


def test_no_permission_is_said_and_tried_again(fake_api: FakeApiServer, tmp_path: Path) -> None:
    fake_api.enforce([])

    async def use(election: LeaseElection) -> None:
        led = asyncio.Event()

        async def work() -> None:
            led.set()
            await asyncio.Event().wait()

        run = asyncio.create_task(election.run(work, never))
        while (error := election.last_error) is None:
            await asyncio.sleep(0.01)
        assert "leases default/lead: HTTP 403" in str(error)
        fake_api.enforce(None)
        await asyncio.wait_for(led.wait(), 60)
        assert election.last_error is None
        await election.stop(grace_s=0.0)
        await run

    in_one_loop(fake_api, tmp_path, use)


@pytest.mark.parametrize("spec", [{}, {"holderIdentity": None}, {"holderIdentity": "x", "leaseDurationSeconds": 1}])
def test_records_of_any_make_are_read(fake_api: FakeApiServer, tmp_path: Path, spec: dict[str, Any]) -> None:
    fake_api.must("POST", PATH.rpartition("/")[0], {"metadata": {"name": "lead"}, "spec": spec})
    b = Elector(fake_api, tmp_path, "b").start()
    eventually(lambda: b.may_act)
    b.stop()


def test_settings_that_cannot_be_safe_are_refused(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def use() -> None:
        async with await Kube.connect(fake_api.kubeconfig(tmp_path / "config")) as kube:
            for bad in ({"renew_deadline_s": 15.0}, {"retry_s": 9.0}):
                with pytest.raises(ValueError, match="renew_deadline_s"):
                    LeaseElection(kube, "n", "l", "i", **bad)  # type: ignore[arg-type]

    asyncio.run(use())


def test_the_boot_clock_only_grows() -> None:
    seen = [boot_s() for _ in range(1000)]
    assert seen == sorted(seen)
    assert seen[0] >= time.monotonic() - 3600.0
