"""The whole way: CRD, real Prometheus, a GPU service that replays a trace, the controller in Recommend, then Full."""

from __future__ import annotations

import asyncio
import math
import re
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from controller.resource.crd import crd_manifest
from simulator.traces.registry import load_trace
from tests.controller.e2e.world import NAME, PER_REPLICA, STEP_S, World, autoscaler, learned_of
from tests.kube.api import ApiServer

LEAD_S = 15.0
LIVE_S = 75.0
PAST_ROWS = 240
ROW_MINUTES = 5


@dataclass
class Seen:
    at_s: float
    demand: float
    ordered: int
    ready: int


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
        async with world.controller(interval_s=1.0) as running:
            await world.until(lambda: world.condition("Ready")[0] == "True", "Ready")
            await recommending(world)
            await running.ticks(3)
            assert world.replicas == first + 1
            assert world.scale_calls() == 0

            world.patch({"mode": "Full"})
            seen = await watch(world, demand, LIVE_S)
            follows(seen)
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


async def watch(world: World, demand, seconds: float) -> list[Seen]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    out: list[Seen] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ordered, ready = await asyncio.to_thread(lambda: (world.replicas, world.ready()))
        now = time.time()  # noqa: TID251
        out.append(Seen(now, demand(now), ordered, ready))
        await asyncio.sleep(0.5)
    return out


def follows(seen: list[Seen]) -> None:
    """Ready replicas carry the demand nearly always; what a rule without foresight orders comes too late."""
    settled = seen[int(LEAD_S / 0.5) :]  # before that nothing that was ordered can be ready
    short = sum(s.demand > s.ready * PER_REPLICA for s in settled) / len(settled)
    late = sum(s.demand > PER_REPLICA * reactive_ready(seen, s.at_s) for s in settled) / len(settled)
    counts = [s.ordered for s in seen]
    assert max(counts) > counts[0], f"never scaled up: {counts}"
    assert late > 0.3, f"the trace is too easy: a rule without foresight is short in {late:.0%}"
    assert short < late / 2, f"short in {short:.0%} of the time; without foresight {late:.0%}"
    idle = np.mean([s.ordered * PER_REPLICA / s.demand for s in settled])
    assert idle < 1.8, f"ordered {idle:.2f} times the demand"


def reactive_ready(seen: list[Seen], at_s: float) -> int:
    """Ready replicas of a rule that orders what demand needs at each moment: the least of the last lead time."""
    before = [math.ceil(s.demand / PER_REPLICA) for s in seen if at_s - LEAD_S <= s.at_s <= at_s]
    return min(before)


async def told(world: World) -> None:
    """Status and events say what was done."""
    status = world.status()
    assert status["effectiveMode"] == "Full"
    assert status["lastScaleTime"]
    assert status["leadTime"]["starts"] > 0
    assert abs(status["leadTime"]["p50Seconds"] - LEAD_S) < 5
    assert learned_of(status)["loop"]["leadTime"]
    await world.until(lambda: any(e["reason"] == "SuccessfulRescale" for e in world.events()), "a rescale event")
    rescales = [e for e in world.events() if e["reason"] == "SuccessfulRescale"]
    assert all(e["regarding"]["name"] == NAME and e["regarding"]["kind"] == "GPUAutoscaler" for e in rescales)
    assert re.search(r"\d+ -> \d+ replicas, reason \w+", rescales[0]["note"])


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
