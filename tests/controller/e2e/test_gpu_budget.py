"""A budget of GPUs, cut and raised while the controller runs: it takes no replica away, and is over in one turn."""

from __future__ import annotations

import asyncio
from pathlib import Path

from harmony.app.gpu_budget import GpuBudget
from harmony.journal import JournalStore
from harmony.journal.stored import GPU_BUDGET_SET
from harmony.serving import Snapshot
from harmony.serving.words import sentence
from tests.controller.e2e.parts import controller as a_controller
from tests.controller.e2e.parts import never_below, ready
from tests.controller.e2e.world import World, autoscaler
from tests.kube.server import FakeApiServer


def test_a_budget_that_is_cut_and_raised_at_run_time(fake_api: FakeApiServer, tmp_path: Path) -> None:
    shown: list[Snapshot] = []

    async def whole() -> None:
        world = World(fake_api, tmp_path)
        with JournalStore.open(f"sqlite:///{tmp_path / 'journal.db'}") as store:
            budget = GpuBudget(6, store)
            async with world.running():
                world.create(autoscaler("Full"))
                async with (
                    a_controller(world, publish=lambda s, _: shown.extend(s), gpu_budget=budget) as running,
                    never_below(world, 4),
                ):
                    await ready(world)
                    world.set_demand(200.0)
                    await world.until(lambda: world.replicas == 6, "it grows as far as the budget goes")
                    store.audit("key:ops", GPU_BUDGET_SET, {"gpus": 2})
                    async with never_below(world, 6) as counts:
                        await running.ticks(3)
                    assert set(counts) == {6}, "a budget below what is in use stops growth and takes nothing away"
                    held = shown[-1]
                    assert (held.desired, held.held_by) == (6, "GPU budget")
                    assert held.recommended >= 8
                    assert "Desired replicas: 6 (GPU budget)." in sentence(held)
                    assert budget() == 2
                    store.audit("key:ops", GPU_BUDGET_SET, {"gpus": 40})
                    await running.ticks(2)  # one that may be under way, and a whole one
                    assert world.replicas >= 8
                    assert shown[-1].held_by == ""

    asyncio.run(whole())


def test_a_journal_that_cannot_be_read_leaves_the_last_budget_in_force(tmp_path: Path) -> None:
    with JournalStore.open(f"sqlite:///{tmp_path / 'journal.db'}") as store:
        budget = GpuBudget(6, store)
        assert (budget(), GpuBudget(0, store)(), GpuBudget(5, None)()) == (6, None, 5)
        store.audit("key:ops", GPU_BUDGET_SET, {"gpus": 3})
        store.audit("key:ops", "keys.create", {"gpus": 9})
        assert budget() == 3
        store.audit("key:ops", GPU_BUDGET_SET, {"gpus": "many"})
        assert budget() == 3
        store.audit("key:ops", GPU_BUDGET_SET, {"gpus": 4})
        assert budget() == 4
        store.retain(1.0, audit_days=0.0)
        assert budget() == 4, "what is in force is kept, however old"
    (tmp_path / "journal.db").write_bytes(b"no database")
    for extra in tmp_path.glob("journal.db-*"):
        extra.unlink()
    assert budget() == 4
