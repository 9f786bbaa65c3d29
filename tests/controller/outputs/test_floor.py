"""Floors: whose minimum is it, and what is given back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.kube.client import Kube
from controller.kube.errors import Conflict
from controller.kube.fenced import Fenced, LeadershipLostError
from controller.outputs.floor import FLOOR, ORIGINAL, FloorState, floor_state, restore_floor, set_floor
from tests.kube.api import ApiServer

Json = dict[str, Any]
HPAS = "/apis/autoscaling/v2/namespaces/serving/horizontalpodautoscalers"


def hpa(minimum: int | None = 2, maximum: int = 10, **notes: str) -> Json:
    spec: Json = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"},
        "maxReplicas": maximum,
    }
    if minimum is not None:
        spec["minReplicas"] = minimum
    names = {"original": ORIGINAL, "floor": FLOOR}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {
            "name": "chat",
            "namespace": "serving",
            "annotations": {names[k]: v for k, v in notes.items()},
        },
        "spec": spec,
    }


@pytest.mark.parametrize(
    ("obj", "state"),
    [
        (hpa(2), FloorState(2, 2, 10, held=False)),
        (hpa(None), FloorState(1, 1, 10, held=False)),
        (hpa(6, original="2", floor="6"), FloorState(6, 2, 10, held=True)),
        (hpa(4, original="2", floor="6"), FloorState(4, 4, 10, held=True)),  # the user set 4 meanwhile
        (hpa(6, original="two", floor="6"), FloorState(6, 6, 10, held=False)),
        (hpa(6, original="-1", floor="6"), FloorState(6, 6, 10, held=False)),
        ({"kind": "ScaledObject", "metadata": {}, "spec": {}}, FloorState(0, 0, 100, held=False)),
        ({"metadata": {}, "spec": {"minReplicaCount": 3, "maxReplicaCount": 8}}, FloorState(3, 3, 8, held=False)),
    ],
)
def test_whose_minimum(obj: Json, state: FloorState) -> None:
    assert floor_state(obj) == state


@given(st.integers(0, 20), st.integers(1, 20), st.text(max_size=3), st.text(max_size=3))
def test_a_minimum_that_is_not_ours_is_the_users(minimum: int, maximum: int, original: str, floor: str) -> None:
    state = floor_state(hpa(minimum, maximum, original=original, floor=floor))
    assert state.minimum == minimum
    assert state.original == minimum or (floor == str(minimum) and original == str(state.original)) or state.held


def run(api: ApiServer, folder: Path, work: Any, leads: Callable[[], bool] = lambda: True) -> None:
    async def main() -> None:
        kube = await Kube.connect(str(api.kubeconfig(folder / "kubeconfig")))
        try:
            await work(Fenced(kube, leads))
        finally:
            await kube.close()

    api.ensure_namespace("serving")
    asyncio.run(main())


def test_held_and_given_back(api_server: ApiServer, tmp_path: Path) -> None:
    def now() -> Json:
        found: Json = api_server.must("GET", f"{HPAS}/chat")
        return found

    leads = [True]

    async def work(kube: Fenced) -> None:
        api_server.must("POST", HPAS, hpa(2))
        assert await set_floor(kube, now(), 6) == 6
        assert floor_state(now()) == FloorState(6, 2, 10, held=True)
        assert await set_floor(kube, now(), 1) == 2, "never below the user's own"
        assert await set_floor(kube, now(), 50) == 10, "never above the maximum"
        old = now()
        api_server.must("PATCH", f"{HPAS}/chat", {"spec": {"minReplicas": 4}})
        with pytest.raises(Conflict):
            await set_floor(kube, old, 7)
        assert now()["spec"]["minReplicas"] == 4, "an edit that was not seen is not overwritten"
        assert await set_floor(kube, now(), 7) == 7
        assert floor_state(now()).original == 4
        leads[0] = False
        with pytest.raises(LeadershipLostError):
            await set_floor(kube, now(), 9)
        leads[0] = True
        assert await restore_floor(kube, now()) == 4
        assert now()["spec"]["minReplicas"] == 4
        assert not {ORIGINAL, FLOOR} & set(now()["metadata"].get("annotations") or {})

    run(api_server, tmp_path, work, lambda: leads[0])


def test_notes_that_are_out_of_date_are_put_right(api_server: ApiServer, tmp_path: Path) -> None:
    """The user chose a minimum that happens to be the one wanted: a later choice of the old floor is theirs, too."""

    def now() -> Json:
        found: Json = api_server.must("GET", f"{HPAS}/chat")
        return found

    async def work(kube: Fenced) -> None:
        api_server.must("POST", HPAS, hpa(4, original="2", floor="6"))
        assert await set_floor(kube, now(), 4) == 4
        api_server.must("PATCH", f"{HPAS}/chat", {"spec": {"minReplicas": 6}})
        assert floor_state(now()).original == 6
        assert await restore_floor(kube, now()) == 6

    run(api_server, tmp_path, work)


def test_a_floor_below_the_users_minimum_leaves_no_trace(api_server: ApiServer, tmp_path: Path) -> None:
    async def work(kube: Fenced) -> None:
        made = api_server.must("POST", HPAS, hpa(5))
        assert await set_floor(kube, made, 3) == 5
        assert (
            api_server.must("GET", f"{HPAS}/chat")["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
        )

    run(api_server, tmp_path, work)
