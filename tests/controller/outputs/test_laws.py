"""What holds for every output: it acts once, on nothing but an order, and not at all where nothing may be done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from controller.resource.outputs import ACTUATIONS, OUTPUTS
from tests.controller.lives import T0, service
from tests.controller.outputs.cases import CASES, Case
from tests.controller.outputs.stage import CRDS, Stage, on_stage
from tests.controller.outputs.test_floor import HPAS
from tests.kube.server import FakeApiServer

Json = dict[str, Any]
DEMAND = 125.0  # five replicas of 25; one is there
LEADS = "another controller leads now"
Play = Callable[[Callable[[Case, Stage, Json | None], Awaitable[None]]], None]


@pytest.fixture(params=CASES.values(), ids=CASES)
def play(request: pytest.FixtureRequest, fake_api: FakeApiServer, tmp_path: Path) -> Play:
    """Every output in turn, alone on a stage with all that its case needs."""
    case: Case = request.param

    def perform(work: Callable[[Case, Stage, Json | None], Awaitable[None]]) -> None:
        async def alone(stage: Stage) -> None:
            stage.cast(case.name)
            owner = None if case.owner is None else stage.api.must("POST", HPAS, case.owner)
            await work(case, stage, owner)

        for definition in case.crds:
            fake_api.must("POST", CRDS, definition)
        on_stage(fake_api, tmp_path, alone)

    return perform


def fresh(stage: Stage, owner: Json | None) -> Json | None:
    return None if owner is None else stage.api.must("GET", f"{HPAS}/{owner['metadata']['name']}")


def test_every_output_has_a_case() -> None:
    assert set(OUTPUTS) == set(CASES)


def test_the_registry_names_modules_and_choices() -> None:
    assert all(listed.home == f"controller.outputs.{name}" for name, listed in OUTPUTS.items())
    assert all(way.says.startswith(name) for name, way in ACTUATIONS.items())
    assert next(iter(ACTUATIONS.values())).writes_count, "the default moves the count"


def test_an_order_is_carried_out_once(play: Play) -> None:
    async def work(case: Case, stage: Stage, owner: Json | None) -> None:
        of = service(**case.spec)
        acted = await stage.act(of, T0, DEMAND, owner)
        assert acted.error == ""
        assert stage.writes() == case.writes
        await stage.act(of, T0 + 30, DEMAND, fresh(stage, owner))
        assert stage.writes() == case.writes, "it stands: nothing is written again"

    play(work)


def test_a_dry_run_does_nothing(play: Play) -> None:
    async def work(case: Case, stage: Stage, owner: Json | None) -> None:
        stage.cast(case.name, dry_run=True)
        acted = await stage.act(service(**case.spec), T0, DEMAND, owner)
        assert (acted.applied, acted.changed, acted.error) == (1, False, "")
        assert stage.writes() == 0
        assert len(stage.board) == 0, "KEDA acts on a figure: there is none"

    play(work)


def test_without_the_lead_nothing_is_done(play: Play) -> None:
    async def work(case: Case, stage: Stage, owner: Json | None) -> None:
        stage.leads = False
        acted = await stage.act(service(**case.spec), T0, DEMAND, owner)
        assert (acted.applied, acted.changed) == (1, False)
        assert acted.error == f"GPUAutoscaler serving/chat: {LEADS}"
        assert stage.writes() == len(stage.board) == 0

    play(work)


def test_the_lead_is_asked_for_at_each_write(play: Play) -> None:
    """It goes between the question and the write: an output that never asks writes nothing all the same."""

    async def work(case: Case, stage: Stage, owner: Json | None) -> None:
        stage.may_write = False
        acted = await stage.act(service(**case.spec), T0, DEMAND, owner)
        assert acted.changed is False
        assert (LEADS in acted.error) == (case.writes > 0)
        assert stage.writes() == 0

    play(work)


def test_a_mode_without_authority_writes_nothing(play: Play) -> None:
    async def work(case: Case, stage: Stage, owner: Json | None) -> None:
        acted = await stage.act(service(**(case.spec | {"mode": "Recommend"})), T0, DEMAND, owner)
        assert (acted.applied, acted.changed, acted.error) == (1, False, "")
        assert stage.writes() == 0

    play(work)


def test_an_order_is_a_plain_value(play: Play) -> None:
    """The service that it came from has nothing left by the time it is carried out."""

    async def work(case: Case, stage: Stage, owner: Json | None) -> None:
        of = service(**case.spec)
        order = await stage.order(of, T0, DEMAND, owner)
        of.__dict__.clear()
        acted = await stage.actuator.act(order)
        assert acted.error == ""
        assert stage.writes() == case.writes

    play(work)


def test_what_is_forgotten_is_done_anew(play: Play) -> None:
    """Another object of the same name begins from nothing: what was remembered of the first must not hide its order."""

    async def work(case: Case, stage: Stage, owner: Json | None) -> None:
        await stage.act(service(**case.spec), T0, DEMAND, owner)
        posted = len(stage.board)
        stage.actuator.forget(service().settings.key)
        assert len(stage.board) == 0
        acted = await stage.act(service(**case.spec), T0 + 30, DEMAND, fresh(stage, owner))
        assert acted.error == ""
        assert len(stage.board) == posted

    play(work)
