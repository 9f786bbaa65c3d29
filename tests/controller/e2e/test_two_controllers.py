"""Two controllers on one API server: one writes at a time; the other takes over, and goes on where the first was."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from controller.resource.settings import ServiceKey
from controller.runner import Controller
from tests.controller.e2e.parts import SCALE_WRITES, calls_to, never_below, orders, ready
from tests.controller.e2e.parts import controller as a_controller
from tests.controller.e2e.world import NAME, NAMESPACE, Running, World, autoscaler
from tests.kube.api import Call
from tests.kube.server import FakeApiServer

A, B = "harmony-controller/a", "harmony-controller/b"
QUICK = (6.0, 4.0, 0.5)  # lease duration, renew deadline, retry
LONG = (3600.0, 3000.0, 0.5)
KEY = ServiceKey("GPUAutoscaler", NAMESPACE, NAME)


def writes(calls: Sequence[Call]) -> list[Call]:
    """What changes anything but the lease itself, and was let through."""
    return [
        c
        for c in calls
        if c.verb in ("create", "update", "patch", "delete")
        and c.group not in ("coordination.k8s.io", "authorization.k8s.io")
        and c.code < 300
        and c.code > 0
    ]


def by(calls: Sequence[Call], agent: str) -> list[Call]:
    return [c for c in calls if c.user_agent == agent]


@contextlib.asynccontextmanager
async def two(world: World, lease: tuple[float, float, float]) -> AsyncIterator[tuple[Running, Running]]:
    """The first leads, the second stands by."""
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(a_controller(world, agent=A, elect=lease))
        await first.ticks(2)
        second = await stack.enter_async_context(
            a_controller(world, agent=B, elect=lease, keda_address="127.0.0.1:0", prepare=lambda _: None)
        )
        await world.until(lambda: second.controller._synced, "the second watches")
        yield first, second


def in_world(
    api: FakeApiServer, folder: Path, test: Callable[[World], AsyncIterator[None] | object], replicas: int = 4
) -> None:
    async def whole() -> None:
        world = World(api, folder)
        async with world.running(replicas=replicas):
            world.create(autoscaler("Full"))
            async with never_below(world, 4):
                await test(world)  # type: ignore[misc]

    asyncio.run(whole())


def test_one_writes_and_hands_over_when_it_stops(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with two(world, LONG) as (first, second):
            await ready(world)
            await orders(world, 6)
            await world.until(lambda: world.status().get("leadTime", {}).get("starts", 0) >= 2, "starts were learned")
            await first.ticks(1)
            starts = world.status()["leadTime"]["starts"]
            assert not second.reports, "the second does not tick"
            assert not writes(by(fake_api.calls, B))
            first.controller.stop()
            await second.ticks(1)  # far sooner than the lease runs out
            last = max(c.at for c in writes(by(fake_api.calls, A)))
            learned = second.controller.fleet.services[KEY]
            assert learned.finished_starts >= starts, "what the first learned is known"
            assert learned.notes == ()
            await orders(world, 8)
            begun = min(c.at for c in writes(by(fake_api.calls, B)))
            assert last < begun, "the first had written its last when the second began"
            assert [c.code for c in by(fake_api.calls, B) if SCALE_WRITES(c)] == [200]
            saved = [c for c in by(fake_api.calls, A) if c.subresource == "status"]
            assert saved[-1].at >= last - 0.001, "its last words were what it has learned"

    in_world(fake_api, tmp_path, test)


def test_a_leader_that_cannot_renew_stops_before_the_other_begins(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with two(world, QUICK) as (first, second):
            await ready(world)
            fault = fake_api.fault(calls_to("leases", agent=A), status=503, times=None)
            await second.ticks(1)
            assert not first.controller.may_act()
            await orders(world, 6)
            await orders(world, 7)
            last = max(c.at for c in writes(by(fake_api.calls, A)))
            begun = min(c.at for c in writes(by(fake_api.calls, B)))
            assert last < begun
            fault.cancel()
            await world.until(lambda: first.controller.election.holder == second.controller.identity, "it is back")
            assert not [c for c in writes(by(fake_api.calls, A)) if c.at > begun], "as the one that stands by"

    in_world(fake_api, tmp_path, test)


def test_a_frozen_leaders_write_comes_too_late(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """The old one has an order under way when it loses the lease: it meets a newer version, and changes nothing."""

    async def test(world: World) -> None:
        async with two(world, QUICK) as (first, second):
            await ready(world)

            def old_write(call: Call) -> bool:
                return call.user_agent == A and SCALE_WRITES(call)

            held = fake_api.fault(old_write, held=True)
            fake_api.fault(calls_to("leases", agent=A), status=503, times=None)
            await asyncio.to_thread(world.patch, {"minReplicas": 6})
            await world.until(lambda: held.hits == 1, "the order is under way")
            await second.ticks(1)
            await world.until(lambda: world.replicas == 6, "the new leader orders")
            await orders(world, 9)
            held.release()
            await world.until(lambda: held.waiting == 0, "the old order arrives, if its sender has not hung up")
            await second.ticks(1)
            assert world.replicas == 9, "the old order has not undone the new ones"
            assert 200 not in [c.code for c in by(fake_api.calls, A) if SCALE_WRITES(c)]
            assert first.controller.may_act() is False

    in_world(fake_api, tmp_path, test)


def test_at_any_time_one_writes_while_leadership_goes_to_and_fro(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with two(world, QUICK) as (first, second):
            await ready(world)
            replicas = 4
            for agent, other in ((A, second), (B, first), (A, second)):
                fault = fake_api.fault(calls_to("leases", agent=agent), status=503, times=None)
                await other.ticks(2)
                replicas += 1
                await orders(world, replicas)
                fault.cancel()
        order = [c.user_agent for c in sorted(writes(fake_api.calls_by("controller")), key=lambda c: c.at)]
        changes = sum(x != y for x, y in itertools.pairwise(order))
        assert set(order) == {A, B}
        # three were brought about; a busy machine may miss a renewal besides, but mixed writes would alternate
        assert 3 <= changes <= 5, f"turns are taken, never mixed: {order}"
        scaled = [c for c in fake_api.calls_by("controller") if SCALE_WRITES(c) and c.code == 200]
        assert len(scaled) == 3, "each order once"

    in_world(fake_api, tmp_path, test)


def test_who_stands_by_answers_keda_from_the_leaders_figures(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def whole() -> None:
        world = World(fake_api, tmp_path)
        async with world.running():
            world.create(autoscaler("Full", actuation="External", minReplicas=6))
            async with two(world, QUICK) as (first, second):
                await ready(world)

                def told(controller: Controller) -> int | None:
                    posting = controller.board.read(KEY)
                    return None if posting is None else posting.desired_replicas

                await world.until(lambda: told(first.controller) == 6, "the leader's figure")
                await world.until(lambda: told(second.controller) == 6, "the other says the same")
                await asyncio.to_thread(world.patch, {"minReplicas": 8})
                await world.until(lambda: told(second.controller) == 8, "and follows")
                assert not second.reports, "without deciding itself"
                await asyncio.to_thread(world.annotate, {"autoscaling.harmony-autoscaler.io/paused": "true"})
                await world.until(lambda: told(second.controller) is None, "a paused service has no figure")
                assert not writes(by(fake_api.calls, B))

    asyncio.run(whole())


# ---- killed -------------------------------------------------------------------------------------------------------
def process(world: World, log: Path) -> subprocess.Popen[bytes]:
    """A controller in a process of its own, as a pod runs it, without leader election."""
    command = [
        sys.executable,
        "-c",
        "from harmony.cli.main import main; main()",
        "controller",
        f"--prometheus-url={world.prometheus_url}",
        f"--kubeconfig={world.api.kubeconfig(world.folder / 'kubeconfig')}",
        "--interval=1s",
        "--no-leader-elect",
        "--metrics-address=127.0.0.1:0",
        "--health-address=127.0.0.1:0",
        "--log-level=info",
    ]
    with log.open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.minute
@pytest.mark.slow
def test_killed_between_deciding_and_writing(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """SIGKILL before, while and after an order is on its way: the next one makes it once, from what is there."""
    moments = (0.0, 0.4, 0.9, 1.1)  # seconds after the order was sent; the server takes 1 s to do it

    async def test(world: World) -> None:
        log = tmp_path / "controller.log"
        replicas = 4
        running = process(world, log)
        try:
            await world.until(lambda: world.condition("Ready")[0] == "True", f"Ready: see {log}", 180.0)
            for moment in moments:
                replicas += 2
                fake_api.clear_calls()
                held = fake_api.fault(SCALE_WRITES, delay_s=1.0, times=1)
                await asyncio.to_thread(world.patch, {"minReplicas": replicas})
                await world.until(lambda held=held: held.hits == 1, "the order is under way")  # type: ignore[misc]
                await asyncio.sleep(moment)
                running.send_signal(signal.SIGKILL)
                await asyncio.to_thread(running.wait, 60)
                held.cancel()
                running = process(world, log)
                await world.until(lambda n=replicas: world.replicas == n, f"{replicas} replicas", 180.0)  # type: ignore[misc]
                await world.until(
                    lambda n=replicas: (
                        world.status().get("readyReplicas") == n  # type: ignore[misc]
                        and world.status().get("desiredReplicas") == n
                    ),
                    "the status is right",
                )
                done = [c for c in fake_api.calls_by("controller") if SCALE_WRITES(c) and c.code == 200]
                assert len(done) == 1, f"killed {moment} s after it was sent: ordered {len(done)} times"
                assert not world.status()["conditions"][0]["message"].startswith("Error")
        finally:
            running.kill()
            await asyncio.to_thread(running.wait, 60)
        assert "Traceback" not in log.read_text()

    in_world(fake_api, tmp_path, test)
