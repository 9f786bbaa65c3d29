"""`spec.replicas` beside a GitOps tool that applies the Deployment from the server's side, as Argo CD and Flux do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.controller.e2e.world import deployment
from tests.controller.lives import T0, service
from tests.controller.outputs.stage import TARGET, Stage, on_stage
from tests.kube.patches import APPLY
from tests.kube.server import FakeApiServer

Json = dict[str, Any]
# The field managers of Argo CD's server-side apply and of Flux's kustomize-controller.
TOOLS = ("argocd-controller", "kustomize-controller")


def synced(stage: Stage, tool: str, replicas: int | None, force: bool = True) -> tuple[int, Json]:
    """One sync of the manifest in Git; both tools force conflicts."""
    body = deployment(1)
    body["spec"].pop("replicas", None)
    if replicas is not None:
        body["spec"]["replicas"] = replicas
    path = f"{TARGET}?fieldManager={tool}" + ("&force=true" if force else "")
    return stage.api.request("PATCH", path, body, content_type=APPLY[0])


def ordered(stage: Stage) -> int:
    return int(stage.api.must("GET", TARGET)["spec"]["replicas"])


@pytest.mark.parametrize("tool", TOOLS)
def test_a_count_that_is_not_in_git_is_left_alone(fake_api: FakeApiServer, tmp_path: Path, tool: str) -> None:
    async def work(stage: Stage) -> None:
        assert synced(stage, tool, None)[0] == 200
        acted = await stage.act(service(), T0, 125.0)
        assert (acted.applied, ordered(stage)) == (5, 5)
        before = stage.api.must("GET", TARGET)["metadata"]["resourceVersion"]
        for force in (False, True):
            code, after = synced(stage, tool, None, force)
            assert (code, after["spec"]["replicas"]) == (200, 5), "no conflict, and nothing put back"
        assert after["metadata"]["resourceVersion"] == before, "nothing written at all"

    on_stage(fake_api, tmp_path, work)


def test_a_count_in_git_is_put_back(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        synced(stage, TOOLS[0], 1)
        await stage.act(service(), T0, 125.0)
        code, status = synced(stage, TOOLS[0], 1, force=False)
        assert (code, status["details"]["causes"][0]["field"]) == (409, ".spec.replicas"), (
            "who does not force, hears it"
        )
        assert ordered(stage) == 5
        assert synced(stage, TOOLS[0], 1)[1]["spec"]["replicas"] == 1

    on_stage(fake_api, tmp_path, work)


def test_a_count_taken_out_of_git_stays_where_harmony_has_set_it(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        synced(stage, TOOLS[1], 3)
        await stage.act(service(), T0, 125.0)
        assert synced(stage, TOOLS[1], None)[1]["spec"]["replicas"] == 5

    on_stage(fake_api, tmp_path, work)


@pytest.mark.parametrize("handed_over", [False, True])
def test_a_count_that_nobody_else_owns_falls_to_one(fake_api: FakeApiServer, tmp_path: Path, handed_over: bool) -> None:
    """Why the how-to hands `replicas` over before it is taken out of Git."""

    async def work(stage: Stage) -> None:
        synced(stage, TOOLS[1], 3)
        if handed_over:
            of = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 3}}
            path = f"{TARGET}?fieldManager=replicas-to-harmony"
            assert stage.api.request("PATCH", path, of, content_type=APPLY[0])[0] == 200
        assert synced(stage, TOOLS[1], None)[1]["spec"]["replicas"] == (3 if handed_over else 1)

    on_stage(fake_api, tmp_path, work)
