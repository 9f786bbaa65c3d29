"""Acting: what stands in the cluster after a turn, when something of it fails, and that one keeps each minimum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controller.outputs.base import Neighbours, Standing
from controller.resource.group import Annotation
from controller.resource.parsing import parse_autoscaler
from harmony.model.authority import Mode
from tests.controller.e2e.test_rbac import crd
from tests.controller.lives import STEP_S, T0, feed_of, service
from tests.controller.outputs.stage import BUFFERS, CRDS, Stage, on_stage
from tests.controller.outputs.test_floor import HPAS, hpa
from tests.controller.resource.builders import autoscaler
from tests.kube.server import FakeApiServer

Json = dict[str, Any]
WANTS_NODES = {"enabled": True, "quantile": 0.9}


def test_a_buffer_that_cannot_be_written_does_not_hide_what_was_ordered(
    fake_api: FakeApiServer, tmp_path: Path
) -> None:
    async def work(stage: Stage) -> None:
        of = service(capacityBuffer=WANTS_NODES)
        acted = await stage.act(of, T0, 125.0)
        assert (acted.applied, acted.changed) == (5, True), "the count was accepted"
        assert "CapacityBuffer" in acted.error
        assert of.record is not None
        assert of.record.applied == 5

    on_stage(fake_api, tmp_path, work)  # CapacityBuffers are not installed


def test_a_buffer_is_put_right_held_by_a_pause_and_let_go(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        of = service(capacityBuffer=WANTS_NODES, maxReplicas=8, behavior={"scaleUp": {"selectPolicy": "Disabled"}})
        await stage.act(of, T0, 200.0)
        assert stage.buffers() == [7], "one of eight is there"
        stage.api.must("DELETE", f"{BUFFERS}/chat-harmony")
        await stage.act(of, T0 + 120, 200.0)
        assert stage.buffers() == [], "not asked about on every turn"
        await stage.act(of, T0 + 900, 200.0)
        assert stage.buffers() == [7], "somebody deleted it"

        def changed(**changes: Any) -> None:
            settings = parse_autoscaler(autoscaler(**({"mode": "Full", "capacityBuffer": WANTS_NODES} | changes)))
            of.adopt(settings, feed_of(settings))

        changed(paused=True)
        await stage.act(of, T0 + 1800, 25.0)
        assert stage.buffers() == [7], "paused: left as it is"
        changed(capacityBuffer={"enabled": False})
        await stage.act(of, T0 + 1860, 25.0)
        assert stage.buffers() == [], "not wanted any more: its nodes cost money"
        changed()
        await stage.act(of, T0 + 1920, 200.0)
        assert len(stage.buffers()) == 1
        changed(mode="Recommend")
        await stage.act(of, T0 + 1980, 200.0)
        assert stage.buffers() == [], "a mode that changes nothing"

    fake_api.must("POST", CRDS, crd("autoscaling.x-k8s.io", "v1beta1", "capacitybuffers", "CapacityBuffer"))
    on_stage(fake_api, tmp_path, work)


def test_a_minimum_has_one_keeper(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        owner = stage.api.must("POST", HPAS, hpa(2))
        of = service(mode="Floor")
        obj = autoscaler(mode="Floor")
        obj["metadata"]["name"] = "older"
        older = Standing(parse_autoscaler(obj), "2020", Mode.FLOOR, of.view, owner=owner)
        younger = Standing(of.settings, "2021", Mode.FLOOR, of.view, owner=owner)
        stage.actuator.survey([younger, older], Neighbours((owner,)))
        acted = await stage.act(of, T0, 200.0, owner)
        assert acted.error == (
            "GPUAutoscaler serving/older keeps the minimum of HorizontalPodAutoscaler chat too; not written"
        )
        assert stage.api.must("GET", f"{HPAS}/chat")["spec"]["minReplicas"] == 2
        stage.actuator.survey([younger], Neighbours((owner,)))
        acted = await stage.act(of, T0 + STEP_S, 125.0, owner)
        assert (acted.floor, acted.error) == (5, "")

    on_stage(fake_api, tmp_path, work)


def test_a_pause_leaves_the_floor_where_it_is(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        owner = stage.api.must("POST", HPAS, hpa(6, original="2", floor="6"))
        of = service(mode="Floor", annotations={Annotation.PAUSED_REPLICAS: "1"})
        acted = await stage.act(of, T0, 200.0, owner)
        assert (acted.floor, acted.changed) == (6, False)

    on_stage(fake_api, tmp_path, work)
