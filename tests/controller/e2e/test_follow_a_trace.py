"""The whole way: CRD, real Prometheus, a GPU service that replays a trace, the controller in Recommend, then Full."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from controller.resource.crd import crd_manifest
from simulator.traces.registry import load_trace
from tests.controller.e2e.world import NAME, NAMESPACE, PER_REPLICA, STEP_S, World, autoscaler, learned_of
from tests.kube.api import ApiServer

LEAD_S = 15.0
LIVE_S = 75.0
LEAST_DECISIONS = 25  # what is judged, however long a busy machine takes for them
PAST_ROWS = 240
ROW_MINUTES = 5


@dataclass
class Decided:
    """What was set at a moment, the demand then, and the demand that it has to carry once it is ready."""

    at_s: float
    demand: float
    later: float
    replicas: int


def morning_rise() -> np.ndarray:
    """The bundled trace, five minutes a row, around a morning: the past before it, the rise, and after."""
    demand = load_trace("synthetic").panel.values[:, 0]
    demand = np.nan_to_num(demand, nan=float(np.nanmean(demand)))
    rows = demand[: demand.size // ROW_MINUTES * ROW_MINUTES].reshape(-1, ROW_MINUTES).mean(axis=1)
    smooth = np.convolve(rows, np.ones(12) / 12, mode="same")
    rise = smooth[PAST_ROWS + 12 : -40] - smooth[PAST_ROWS:-52]
    first = int(np.argmax(rise)) + PAST_ROWS
    part = rows[first - PAST_ROWS : first + 40]
    return part / part.mean() * PER_REPLICA * 8


@pytest.mark.minute
def test_replicas_follow_a_replayed_trace_ahead_of_demand(api_server: ApiServer, tmp_path: Path) -> None:
    asyncio.run(follow(api_server, tmp_path))


async def follow(api: ApiServer, folder: Path) -> None:
    rows = morning_rise()
    world = World(api, folder, start_up_s=LEAD_S, history_rows=PAST_ROWS)
    began = math.floor(time.time() / STEP_S) * STEP_S  # noqa: TID251

    def demand(at_s: float) -> float:
        row = (at_s - began) / STEP_S + PAST_ROWS - 4
        return float(np.interp(row, np.arange(rows.size), rows))

    first = math.ceil(demand(began) / PER_REPLICA)
    async with world.running(demand, replicas=first + 1):
        playing = asyncio.create_task(play(world, demand))
        world.create(autoscaler(leadTime={"source": "Measured", "seconds": LEAD_S}))
        journal = folder / "journal.jsonl"
        async with world.controller(interval_s=1.0, journal=str(journal)) as running:
            await world.until(lambda: world.condition("Ready")[0] == "True", "Ready")
            await recommending(world)
            await running.ticks(3)
            assert world.replicas == first + 1
            assert world.scale_calls() == 0

            world.patch({"mode": "Full"})
            since = time.time()  # noqa: TID251
            end_s = (
                began + (rows.size - PAST_ROWS) * STEP_S - LEAD_S
            )  # of the trace, less what has to be known after it
            while (now := time.time()) < min(since + LIVE_S, end_s) or (  # noqa: TID251
                now < end_s and len(decided(journal, demand, since)) < LEAST_DECISIONS
            ):
                await asyncio.sleep(0.5)
            follows(decided(journal, demand, since))
            await told(world)
            await asyncio.to_thread(exported, running.controller.ports[1])
        playing.cancel()


async def play(world: World, demand) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    while True:
        world.set_demand(demand(time.time()))  # noqa: TID251
        await asyncio.sleep(0.25)


async def recommending(world: World) -> None:
    """In Recommend the object says what would be ordered, at which risk, and that nothing is."""
    await world.until(lambda: world.status().get("lastScaleDecision", {}).get("model", "") != "", "a forecast was used")
    status = world.status()
    decision = status["lastScaleDecision"]
    assert status["mode"] == status["effectiveMode"] == "Recommend"
    assert status["writer"] == f"GPUAutoscaler serving/{NAME}"
    assert decision["candidates"] or decision["setting"], "what was weighed, or which rule of thumb decided"
    assert {c["type"] for c in status["conditions"]} == {
        "AbleToScale",
        "ScalingActive",
        "ScalingLimited",
        "Ready",
        "ForecastCalibrated",
        "MetricsAvailable",
        "Fallback",
        "Paused",
        "TargetConflict",
    }
    served = world.api.must("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/" + crd_name())
    assert served["spec"]["names"]["shortNames"] == ["gpa"]


def crd_name() -> str:
    name: str = crd_manifest()["metadata"]["name"]
    return name


def decided(journal: Path, demand: Callable[[float], float], since_s: float) -> list[Decided]:
    """The decisions since a moment, each beside the demand of its own time, however late it was made."""
    records = [json.loads(line) for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [
        Decided(at := r["now_s"], demand(at), demand(at + LEAD_S), r["applied"])
        for r in records
        if r["now_s"] >= since_s and r["applied"] == r["decision"]["replicas"]
    ]


def follows(made: list[Decided]) -> None:
    """What is set carries the demand of one lead time later nearly always; what demand needs at the moment does not."""
    assert len(made) >= LEAST_DECISIONS / 2, f"only {len(made)} decisions"
    short = sum(d.later > d.replicas * PER_REPLICA for d in made) / len(made)
    late = sum(d.later > math.ceil(d.demand / PER_REPLICA) * PER_REPLICA for d in made) / len(made)
    counts = [d.replicas for d in made]
    assert max(counts) > counts[0], f"never scaled up: {counts}"
    assert late > 0.3, f"the trace is too easy: a rule without foresight is short in {late:.0%}"
    assert short < late / 2, f"short in {short:.0%} of the decisions; without foresight {late:.0%}: {made}"
    idle = np.mean([d.replicas * PER_REPLICA / d.later for d in made])
    assert idle < 1.8, f"ordered {idle:.2f} times the demand"


async def told(world: World) -> None:
    """Status and events say what was done."""
    status = world.status()
    assert status["effectiveMode"] == "Full"
    assert status["lastScaleTime"]
    assert status["leadTime"]["starts"] > 0
    took = starts(world)
    assert min(took) - 2 <= status["leadTime"]["p50Seconds"] <= max(took) + 2, took
    assert learned_of(status)["loop"]["leadTime"]
    await world.until(lambda: any(e["reason"] == "SuccessfulRescale" for e in world.events()), "a rescale event")
    rescales = [e for e in world.events() if e["reason"] == "SuccessfulRescale"]
    assert all(e["regarding"]["name"] == NAME and e["regarding"]["kind"] == "GPUAutoscaler" for e in rescales)
    assert re.search(r"\d+ -> \d+ replicas, reason \w+", rescales[0]["note"])


def starts(world: World) -> list[float]:
    """Seconds from creation to ready of the pods that started while the test ran."""
    pods = world.api.must("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
    took = [
        (_time(c["lastTransitionTime"]) - _time(pod["metadata"]["creationTimestamp"])).total_seconds()
        for pod in pods
        for c in pod["status"].get("conditions", ())
        if c["type"] == "Ready" and c["status"] == "True"
    ]
    return [t for t in took if t >= LEAD_S - 2]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def exported(port: int) -> None:
    """Prometheus can read what was decided."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    labels = f'{{kind="GPUAutoscaler",name="{NAME}",namespace="serving"}}'
    for name in ("current", "ready", "recommended", "desired"):
        found = re.search(rf"^harmony_{name}_replicas{{[^}}]*name=\"{NAME}\"[^}}]*}} (\d+)", text, re.MULTILINE)
        assert found, f"harmony_{name}_replicas{labels} is not exported"
        assert int(found[1]) >= 1
    assert "harmony_mode{" in text
    assert re.search(r'harmony_decisions_total{.*direction="Up"', text)
