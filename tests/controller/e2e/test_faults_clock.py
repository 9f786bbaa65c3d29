"""Clocks that step: the machine's, Prometheus's, and that of the machine that a successor runs on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from controller.process.clock import LiveClock
from controller.prometheus.clock import ServerClock
from controller.resource.saving import packed
from controller.tick import TickReport
from tests.controller.e2e.leaping import LeapingWorld
from tests.controller.e2e.parts import SCALE_WRITES, codes, never_below, of, orders, ready
from tests.controller.e2e.parts import controller as a_controller
from tests.controller.e2e.world import GROUP, NAME, NAMESPACE, World, autoscaler, learned_of
from tests.kube.server import FakeApiServer

HOUR_S = 3600.0
STATUS_PATH = f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers/{NAME}/status"


class Wall:
    """A wall clock that somebody sets."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return time.time() + self.ahead_s  # noqa: TID251


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])
def test_the_machines_clock_is_set_while_it_runs(fake_api: FakeApiServer, tmp_path: Path, step_s: float) -> None:
    async def whole() -> None:
        world, wall = World(fake_api, tmp_path), Wall()
        clock = LiveClock(wall=wall)
        async with world.running():
            world.create(autoscaler("Full"))
            async with a_controller(world, clock=clock) as running, never_below(world, 4) as counts:
                await ready(world)
                asked = wall.asked
                before = clock.now_s()
                wall.ahead_s = step_s
                ticks = await running.ticks(4)
                assert all(r.decided == 1 and r.errors == 0 for r in ticks)
                assert 0.0 < clock.now_s() - before < 60.0, "the time of decisions goes on"
                assert wall.asked == asked, "the wall clock is looked at once, at the start"
                assert world.condition("MetricsAvailable")[0] == "True"
                assert set(counts) == {4}
                await orders(world, 6)

    asyncio.run(whole())


@pytest.mark.parametrize("wrong_s", [HOUR_S, -HOUR_S], ids=["ahead", "behind"])
def test_a_machine_whose_clock_is_wrong_takes_prometheuss_time(
    fake_api: FakeApiServer, tmp_path: Path, wrong_s: float
) -> None:
    async def whole() -> None:
        world, wall = World(fake_api, tmp_path), Wall()
        wall.ahead_s = wrong_s
        clock = LiveClock(wall=wall)
        async with world.running():
            world.create(autoscaler("Full"))
            async with a_controller(world, clock=clock) as running, never_below(world, 4):
                await ready(world)
                assert abs(clock.now_s() - time.time()) < 10.0  # noqa: TID251  (Prometheus runs on this machine)
                assert all(r.decided == 1 for r in await running.ticks(2))
                await orders(world, 6)

    asyncio.run(whole())


@pytest.mark.parametrize("step_s", [600.0, -600.0], ids=["forward", "back"])
def test_prometheuss_clock_is_set_while_it_runs(
    fake_api: FakeApiServer, tmp_path: Path, step_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says is believed when it says so for the third time; until the data follow, counts are held."""
    ahead_s = 0.0
    true_now = ServerClock.now_s
    monkeypatch.setattr(ServerClock, "now_s", lambda self: true_now(self) + ahead_s)

    async def whole() -> None:
        nonlocal ahead_s
        world = World(fake_api, tmp_path)
        clock = LiveClock()
        async with world.running():
            world.create(autoscaler("Full"))
            async with a_controller(world, clock=clock) as running, never_below(world, 4) as counts:
                await ready(world)
                after_ticks: list[float] = []  # the clock's lead over the machine's, at the end of each tick

                def note(report: TickReport) -> None:
                    running.reports.append(report)
                    after_ticks.append(clock.now_s() - time.monotonic())

                running.controller.on_tick = note
                await running.ticks(1)
                seen, before = len(after_ticks), after_ticks[-1]
                ahead_s = step_s
                await running.ticks(5)
                assert abs(after_ticks[seen + 1] - before) < 30.0, "not believed at once: it was asked twice at most"
                assert abs(after_ticks[-1] - before - step_s) < 30.0, "believed when it persists"
                if step_s > 0:  # the newest reading is ten minutes old by that clock: absent, held
                    await world.until(lambda: world.condition("MetricsAvailable")[0] == "False", "metrics are absent")
                assert all(r.errors == 0 for r in await running.ticks(2))
                ahead_s = 0.0
                await running.ticks(4)
                await world.until(lambda: world.condition("MetricsAvailable")[0] == "True", "metrics are back")
                await ready(world)
                assert set(counts) == {4}
                await orders(world, 6)

    asyncio.run(whole())


def test_what_was_learned_on_a_machine_whose_clock_was_ahead(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """Marks from the future hold for one window from now, and no longer; they never lower anything."""

    async def whole() -> None:
        world = LeapingWorld(fake_api, tmp_path)
        async with world.running(replicas=6):
            down = {"scaleDown": {"stabilizationWindowSeconds": 30}}
            world.create(autoscaler("Full", behavior=down, minReplicas=6))
            future = round(time.time() + 10 * HOUR_S)  # noqa: TID251
            async with world.controller():
                await ready(world)
            learned = learned_of(world.status())
            learned["loop"]["guards"] = {"highs": [[future, 6]], "ups": [[future, 2]], "downs": [[future, 1]]}
            learned["loop"]["learnedS"] = future
            learned["starts_since"] = future
            world.api.must("PATCH", STATUS_PATH, {"status": {"memory": packed(learned)}})
            world.patch({"minReplicas": 1})
            fake_api.clear_calls()
            async with world.controller() as running, never_below(world, 4) as counts:
                await running.ticks(4)
                await ready(world)
                assert world.replicas == 6, "the window is held, from now"
                world.leap(35)  # the last reading is still young enough to count
                await world.until(lambda: world.replicas == 4, "and no longer")
                assert set(counts) <= {6, 4}
                await orders(world, 8)
                await world.until(lambda: world.status()["leadTime"]["starts"] >= 2, "new starts are still counted")
            assert codes(of(world, SCALE_WRITES)) == [200, 200]

    asyncio.run(whole())


def test_a_first_look_is_no_reason_to_scale_down(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """Nothing is remembered of an object that is new: what is ordered is held for one window, as by an HPA."""

    async def whole() -> None:
        world = LeapingWorld(fake_api, tmp_path)
        async with world.running(replicas=6):
            world.create(autoscaler("Full", behavior={"scaleDown": {"stabilizationWindowSeconds": 30}}))
            async with world.controller() as running, never_below(world, 4):
                await ready(world)
                await running.ticks(3)
                assert world.replicas == 6
                assert world.status()["lastScaleDecision"]["boundBy"] == "stabilization"
                world.leap(35)  # the last reading is still young enough to count
                await world.until(lambda: world.replicas == 4, "after the window")

    asyncio.run(whole())
