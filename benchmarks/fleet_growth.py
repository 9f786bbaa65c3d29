"""How one controller's cost grows with its services: `python benchmarks/fleet_growth.py [--sizes 100,1000,3000,10000]`.

API server and Prometheus play in a process of their own, so that only the controller is measured; every size runs in a
fresh process, so that memory is its own. Every service has the own past of one that has run for weeks: reading and
replaying 10,000 of them would take hours, so a few are lived through and each service gets a copy of its own. Writes
the table to `benchmarks/fleet_growth.md`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import asyncio
import cProfile
import functools
import json
import math
import multiprocessing
import pstats
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import controller.kube.events
import controller.prometheus.feed
from controller.kube.client import Kube
from controller.process.clock import LiveClock
from controller.process.malloc import settle
from controller.process.settings import ControllerSettings, PrometheusSettings
from controller.prometheus.families import OWNER
from controller.resource.presets import PRESETS
from controller.runner import Controller
from controller.service import Service
from controller.tick import TickReport
from forecasting.base import ForecastModel
from forecasting.forecaster import Forecaster
from harmony.decision.past.own_past import PAST_SHARE, OwnPast
from harmony.journal import JournalStore
from harmony.policies.harmony import Replayed
from harmony.serving import Snapshot

Json = dict[str, Any]
SIZES = (100, 1_000, 3_000, 10_000)
NAMESPACES = 20
PODS = 3
STEP_S = 60
KEPT_S = 6 * 3600.0  # how much of the past the stand-in of Prometheus has
SHAPES = 40  # services differ in scale by so many steps
STAGES = ("read", "forecast", "decide", "act", "status")
MEASURED = 4  # steady ticks
MOST_TICKS = 10  # until the past is read
LIVES = 4  # own pasts that are lived through; every service has a copy of one of them
WEEK_ROWS = 10_080  # replayed at the start
LIVED_ROWS = 5_600  # turns with forecasts after it: then it is as long as kept
HASH, TAIL = "7d9f6c5b8", "x2k4"
INDICATORS = len(PRESETS["vllm"].templates)


# ---- the world, in its own process ----------------------------------------------------------------------------------
def value_at(scale: float, at_s: float) -> float:
    """Demand with a day's rhythm, the same whenever it is asked for."""
    return scale * (60.0 + 30.0 * math.sin(2 * math.pi * at_s / 86_400.0) + 3.0 * math.sin(at_s / 700.0))


def answer(form: dict[str, str], count: int) -> str:
    """What Prometheus would say to a query of the preset, for one service or for all in some namespaces."""
    query = form["query"]
    if query == "time()":
        now = time.time()  # noqa: TID251 - the stand-in tells real time
        return f'{{"resultType":"scalar","result":[{now},"{now}"]}}'
    if "start" not in form:
        return '{"resultType":"vector","result":[]}'
    metric = re.search(r"vllm:(\w+)", query)
    assert metric is not None, query
    start, end, step = (float(form[k]) for k in ("start", "end", "step"))
    if OWNER not in query:
        found = re.search(r'pod=~"svc-(\d+)-', query)
        assert found is not None, query
        own = points(metric[1], int(found[1]) % SHAPES, start, end, step)
        return f'{{"resultType":"matrix","result":[{{"metric":{{}},"values":[{own}]}}]}}'
    named = re.search(r'pod=~"\(\?:([^()]*)\)', query)
    wanted = range(count) if named is None else [int(name.rpartition("-")[2]) for name in named[1].split("|")]
    parts = ",".join(
        f'{{"metric":{{"namespace":"team-{i % NAMESPACES}","{OWNER}":"svc-{i}"}},'
        f'"values":[{points(metric[1], i % SHAPES, start, end, step)}]}}'
        for i in wanted
    )
    return f'{{"resultType":"matrix","result":[{parts}]}}'


@functools.lru_cache(SHAPES * 64)
def points(metric: str, shape: int, start: float, end: float, step: float) -> str:
    scale = (0.01 if "cache" in metric or "seconds" in metric else 1.0) * (0.8 + shape / 100)
    first = max(start, end - KEPT_S)
    times = (start + k * step for k in range(math.ceil((first - start) / step), round((end - start) / step) + 1))
    return ",".join(f'[{t:.0f},"{value_at(scale, t):.5g}"]' for t in times)


def obj_names(i: int) -> tuple[str, str]:
    return f"team-{i % NAMESPACES}", f"svc-{i}"


def autoscaler(i: int, mode: str, paused: bool) -> Json:
    namespace, name = obj_names(i)
    return {
        "apiVersion": "autoscaling.harmony-autoscaler.io/v1alpha1",
        "kind": "GPUAutoscaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "mode": mode,
            "paused": paused,
            "minReplicas": 1,
            "maxReplicas": 20,
            "stepSeconds": STEP_S,
            "preset": "vllm",
            "objective": {"perReplica": 40, "epsilon": 0.01},
            "leadTime": {"source": "Measured", "seconds": 240},
            # or all of them, begun at one moment, would come down at one moment
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 3600}},
        },
    }


def deployment(i: int) -> Json:
    namespace, name = obj_names(i)
    pod = {"containers": [{"name": "server", "image": "example/server:1"}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": PODS,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
        },
    }


def pod(i: int, k: int) -> Json:
    namespace, name = obj_names(i)
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{name}-{HASH}", "uid": f"rs-{i}"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-{HASH}-{TAIL}{'bcd'[k]}",
            "namespace": namespace,
            "labels": {"app": name, "pod-template-hash": HASH},
            "ownerReferences": [owner | {"controller": True}],
        },
        "spec": {"containers": [{"name": "server", "image": "example/server:1"}], "nodeName": "node-1"},
    }


def play(pipe: Connection, folder: str, count: int, mode: str, paused: bool) -> None:
    """An API server with the objects and a Prometheus with their figures, until the pipe says so."""
    from aiohttp import web

    from controller.resource.crd import crd_manifest
    from tests.kube.server import FakeApiServer

    api = FakeApiServer()
    ops, find = api._operations, api._registry.find
    api.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd_manifest())
    kinds = {
        "deployments": find("apps", "v1", "deployments"),
        "pods": find("", "v1", "pods"),
        "gpuautoscalers": find("autoscaling.harmony-autoscaler.io", "v1alpha1", "gpuautoscalers"),
        "namespaces": find("", "v1", "namespaces"),
    }

    def make(plural: str, namespace: str, obj: Json) -> None:
        ops.create(kinds[plural], namespace, json.dumps(obj).encode(), {})

    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 7200))  # noqa: TID251 - of the same real time
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": created}]}
    for n in range(NAMESPACES):
        make("namespaces", "", {"metadata": {"name": f"team-{n}"}})
    for i in range(count):
        namespace, _ = obj_names(i)
        make("deployments", namespace, deployment(i))
        for k in range(PODS):
            made = pod(i, k)
            make("pods", namespace, made)
            body = json.dumps({"status": status}).encode()
            kind, name = kinds["pods"], made["metadata"]["name"]
            ops.patch(kind, namespace, name, "status", body, {}, "application/merge-patch+json")
        make("gpuautoscalers", namespace, autoscaler(i, mode, paused))

    async def handle(request: web.Request) -> web.Response:
        form = {k: str(v) for k, v in (await request.post()).items()} | dict(request.query)
        body = f'{{"status":"success","data":{answer(form, count)}}}'
        return web.Response(text=body, content_type="application/json")

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/api/v1/{what}", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        pipe.send((str(api.kubeconfig(Path(folder) / "kubeconfig")), url))
        await asyncio.to_thread(pipe.recv)
        await runner.cleanup()

    asyncio.run(serve())
    api.stop()


# ---- the controller -------------------------------------------------------------------------------------------------
def memory() -> tuple[float, float]:
    """Resident now, and the most there was, MB."""
    text = Path("/proc/self/status").read_text()
    now, most = (int(re.search(rf"{name}:\s+(\d+)", text)[1]) / 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[index]
    return now, most


def week_past(now: OwnPast, life: int, weeks: int) -> OwnPast:
    """A past of its own rhythm and scale on the grid of ``now``: of a week alone, or of some weeks with forecasts."""
    rng = np.random.default_rng(life)
    at = np.arange(WEEK_ROWS + LIVED_ROWS)
    shape = np.exp(0.5 * np.sin(2 * np.pi * at * now.grid.step_s / 86_400.0) + 0.1 * rng.standard_normal(at.size))
    demand = (60.0 + 5.0 * life) * shape
    given = demand[:, None] * np.array([1.0, 1.2, 1.1, 1.3])
    past = now.anew(now.grid.lead_steps).backfilled(now.newest_s, demand[:WEEK_ROWS], 40.0, piece=PAST_SHARE)
    return past.backfilled(now.newest_s, demand[WEEK_ROWS:], 40.0, given[WEEK_ROWS:], piece=0.02) if weeks else past


def own_copy(value: Any, made: dict[int, Any] | None = None) -> Any:
    """A copy that shares no array with ``value``; what is one object in it is one in the copy (``made``)."""
    made = {} if made is None else made
    if id(value) not in made:
        made[id(value)] = _copied(value, made)
    return made[id(value)]


def _copied(value: Any, made: dict[int, Any]) -> Any:
    if isinstance(value, np.ndarray):
        if value.ndim and value.strides[0] == 0:  # rows that stand for many stay one
            return np.broadcast_to(value[:1].copy(), value.shape)
        return value.copy()
    if isinstance(value, bytes):
        return bytes(bytearray(value))
    if isinstance(value, dict):
        return {own_copy(k, made): own_copy(v, made) for k, v in value.items()}
    if isinstance(value, tuple):
        parts = [own_copy(v, made) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: own_copy(getattr(value, f.name), made) for f in fields(value)})
    if hasattr(value, "rows") and hasattr(value, "filled"):  # the open block
        return type(value)(own_copy(value.rows, made), value.filled)
    return value


def give_pasts(services: Sequence[Service], kind: str) -> None:
    """Every service gets an own past (``kind``: "week" or "weeks"), its next review at a moment of its own."""
    lives: list[OwnPast] = []
    shared = ("portfolio", "grid", "settings", "kept", "prices", "limits")
    for i, service in enumerate(services):
        learned = service._managed._state.learned
        memory = learned.memory
        if not lives:
            lives = [week_past(memory.past, life, kind == "weeks") for life in range(LIVES)]
        life = lives[i % LIVES]
        made: dict[int, Any] = {}
        whole = {f.name: own_copy(getattr(life, f.name), made) for f in fields(life) if f.name not in shared}
        due = len(life.history) + (i * 7919) % max(1, life.next_review - len(life.history))
        past = replace(life, **whole | {"newest_s": memory.past.newest_s, "next_review": due + 1})
        state = service._managed._state
        service._managed._state = state._replace(learned=replace(learned, memory=Replayed(past, recalled=True)))


async def measure(
    kubeconfig: str,
    url: str,
    model: ForecastModel,
    ticks: int,
    profile: str = "",
    between_s: float = STEP_S,
    journal: str = "",
    until_read: bool = False,
    pasts: str = "",
    still: bool = False,
) -> list[Json]:
    """Some ticks of a controller, one after the other; the clock goes on by one step between them.

    ``still``: it goes on by nothing else, however long a tick takes. ``until_read``: ticks are counted from when all
    of the past has been read. ``pasts``: of which kind services are given own pasts before the first of them.
    """
    ahead = 0.0
    born = time.monotonic()
    clock = LiveClock(monotonic=lambda: (born if still else time.monotonic()) + ahead)
    settings = ControllerSettings(
        prometheus=PrometheusSettings(url, timeout_s=120.0),
        kubeconfig=kubeconfig,
        leader_elect=False,
        read_deadline_s=600.0,
        metrics_address="",
        health_address="",
        journal=journal,
    )
    kube = await Kube.connect(kubeconfig)
    shown: list[Snapshot] = []

    def show(snapshots: Sequence[Snapshot], gone: Sequence[str]) -> None:
        shown[:] = snapshots

    made = Controller(settings, kube, model, clock, publish=show if journal else None)
    rows: list[Json] = []
    try:
        began, cpu = time.monotonic(), time.process_time()
        await made.begin()
        made._leading = True
        rows.append(
            {
                "what": "sync",
                "seconds": {"sync": time.monotonic() - began},
                "cpu": time.process_time() - cpu,
                "memory": memory(),
            }
        )
        left, tried = ticks, 0
        while left:
            past = until_read and any(
                s.feed.reads_past and s.feed._past is not None for s in made.fleet.services.values()
            )
            steady = tried > 0 and not (past and tried < MOST_TICKS)
            if steady and pasts:
                give_pasts(list(made.fleet.services.values()), pasts)
                pasts = ""
            before, asked, cpu = Counter(kube.calls), made.sources.requests, time.process_time()
            profiler = cProfile.Profile() if profile and left == 1 else None
            wall = time.monotonic()
            report = await _tick(made.tick.run, profiler)
            await made.events._queue.join()
            wall = time.monotonic() - wall
            calls = Counter(kube.calls) - before
            rows.append(
                {
                    "what": f"tick {tried + 1}" if steady or not until_read else "first" if not tried else "past",
                    "wall": wall,
                    "seconds": dict(report.seconds),
                    "cpu": time.process_time() - cpu,
                    "calls": {
                        f"{c.verb} {c.resource}{'/' if c.subresource else ''}{c.subresource}": n
                        for c, n in calls.items()
                    },
                    "queries": made.sources.requests - asked,
                    "decided": report.decided,
                    "services": report.services,
                    "errors": report.errors,
                    "memory": memory(),
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr)
            if profiler is not None:
                pstats.Stats(profiler, stream=sys.stderr).sort_stats(profile).print_stats(60)
            ahead += max(0.0, between_s - wall) if until_read else between_s
            tried += 1
            left -= steady or not until_read
    finally:
        made.stop()
        await made.close()
    if journal:
        rows.append({"what": "journal", **journal_bytes(shown, Path(journal), len(rows) - 1)})
    return rows


def journal_bytes(shown: Sequence[Snapshot], lines: Path, ticks: int) -> Json:
    """Bytes of one decision as a line of JSON, and as rows of a database."""
    store_at = lines.with_suffix(".db")
    sizes = []
    for kept in ([], list(shown)):
        with JournalStore.open(f"sqlite:///{store_at}") as store:
            store.append(kept)
        sizes.append(store_at.stat().st_size)
    row = (sizes[1] - sizes[0]) / len(shown)
    return {"line": lines.stat().st_size / (ticks * len(shown)), "row": row, "decisions": len(shown)}


async def _tick(run: Callable[[], Any], profiler: cProfile.Profile | None) -> TickReport:
    if profiler is None:
        return await run()
    from concurrent.futures import ThreadPoolExecutor

    class Profiled(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            def timed():
                inner = cProfile.Profile()
                try:
                    return inner.runcall(fn, *args, **kwargs)
                finally:
                    pstats.Stats(inner, stream=sys.stderr).sort_stats("tottime").print_stats(40)

            return super().submit(timed)

    asyncio.get_running_loop().set_default_executor(Profiled(1))
    profiler.enable()
    try:
        return await run()
    finally:
        profiler.disable()


def world_of(
    count: int,
    mode: str,
    paused: bool,
    ticks: int,
    model: ForecastModel,
    profile: str = "",
    between_s: float = STEP_S,
    journal: bool = False,
    until_read: bool = False,
    pasts: str = "",
    still: bool = False,
) -> list[Json]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=play, args=(there, folder, count, mode, paused))
        process.start()
        try:
            kubeconfig, url = here.recv()
            path = str(Path(folder) / "journal.jsonl") if journal else ""
            return asyncio.run(
                measure(kubeconfig, url, model, ticks, profile, between_s, path, until_read, pasts, still)
            )
        finally:
            here.send("stop")
            process.join(20)
            if process.is_alive():
                process.terminate()


def run_part(pipe: Connection, part: tuple[int, str, bool, int], options: Json) -> None:
    """One measurement in a fresh process, so that memory is its own."""
    model = Forecaster.load("base")
    controller.prometheus.feed.PAST_BUDGET_S = math.inf  # all of the past in the first tick: only the sum is told
    controller.kube.events._PER_S = 1e9  # and told at once
    settle()
    base = memory()[0]
    pipe.send((base, world_of(*part, model, **options)))


def fresh(*part: Any, **options: Any) -> tuple[float, list[Json]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=run_part, args=(there, part, options))
    process.start()
    try:
        base, rows = here.recv()
    finally:
        process.join(30)
    return base, rows


# ---- the report -----------------------------------------------------------------------------------------------------
def summed(base: float, rows: list[Json]) -> Json:
    """What one size costs: the mean of its steady ticks."""
    ticks = [row for row in rows if row["what"].startswith("tick")]
    past = [row for row in rows if row["what"] in ("first", "past")]
    mean = {k: float(np.mean([row[k] for row in ticks])) for k in ("wall", "cpu", "queries")}
    return mean | {
        "services": ticks[0]["services"],
        "stages": {s: float(np.mean([row["seconds"].get(s, 0.0) for row in ticks])) for s in STAGES},
        "calls": float(np.mean([sum(row["calls"].values()) for row in ticks])),
        "resident": ticks[-1]["memory"][0] - base,
        "whole": ticks[-1]["memory"][0],
        "most": ticks[-1]["memory"][1],
        "errors": sum(row["errors"] for row in rows if "errors" in row),
        "start_cpu": sum(row["cpu"] for row in [rows[0], *past]),
        "start_ticks": len(past),
        "first_queries": past[0]["queries"] if past else 0,
        "first": past[0]["cpu"] if past else math.nan,
    }


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The power of the number of services that a cost grows with (least squares on logarithms)."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(costs, 1e-9)), 1)[0])


def table(found: list[Json], wall: bool) -> str:
    """One row a size; ``wall``: with the seconds that passed, which other processes on the machine lengthen."""
    times = [*STAGES, "wall a tick"] if wall else []
    head = ["services", *times, "CPU a tick", "resident", "at most", "queries", "API calls"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
    for row in found:
        cells = [f"{row['services']:,}"]
        if wall:
            cells += [*(f"{row['stages'][s]:.2f} s" for s in STAGES), f"{row['wall']:.2f} s"]
        cells += [f"{row['cpu']:.2f} s", f"{row['whole']:.0f} MB", f"{row['most']:.0f} MB"]
        cells += [f"{row['queries']:.0f}", f"{row['calls']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def growth(found: list[Json]) -> list[str]:
    """How each cost grows, and what the largest size costs in smaller ones."""
    sizes = [row["services"] for row in found]
    names = {
        "cpu": "CPU a tick",
        "resident": "memory beyond the loaded model",
        "start_cpu": "CPU until the past is read",
        "queries": "Prometheus queries a tick",
        "calls": "API calls a tick",
    }
    out = []
    for key, name in names.items():
        costs = [row[key] for row in found]
        times = costs[-1] / costs[1] if len(found) > 2 and costs[1] else math.nan
        factor = "" if math.isnan(times) else f"; {sizes[-1]:,} cost {times:.1f} times what {sizes[1]:,} cost"
        out.append(f"- {name}: services to the power of {exponent(sizes, costs):.2f}{factor}")
    return out


def report(chosen: argparse.Namespace) -> str:
    sizes = [int(size) for size in chosen.sizes.split(",")]
    options = {"until_read": True, "profile": chosen.profile}
    measured = [fresh(size, "Recommend", False, chosen.ticks, pasts="weeks", **options) for size in sizes]
    base, found = measured[0][0], [summed(b, rows) for b, rows in measured]
    _, small = fresh(100, "Recommend", False, 2, journal=True)
    idle_base, idle = fresh(chosen.idle, "Observe", True, 3, until_read=True)
    quiet, kept = summed(idle_base, idle), small[-1]
    past = ", ".join(f"{r['services']:,}: {r['start_cpu']:.1f} s CPU in {r['start_ticks']} ticks" for r in found)
    parts = [
        "# One controller and 100 to 10,000 services",
        f"`python benchmarks/fleet_growth.py`: GPUAutoscalers of the preset `vllm` ({INDICATORS} indicators) in "
        f"{NAMESPACES} namespaces, steps of {STEP_S} s, {PODS} pods per target, bundled model with 200 paths, mode "
        "Recommend; one step passes between ticks. API server and Prometheus are stand-ins in another process on the "
        "same cores: their CPU does not count, and the time they take does count as wall. That answers for many are "
        "those for one is a test on a real Prometheus (`tests/controller/prometheus/test_together.py`). CPU is the "
        f"controller's process with all threads. Means of {chosen.ticks} ticks after the past has been read and every "
        f"service was given an own past: one of {WEEK_ROWS + LIVED_ROWS:,} minutes, the largest there is, under limits "
        "with a window of an hour on the way down, its reviews due at a moment of its own. These are copies: to read "
        "and replay 10,000 of them takes hours. With the "
        f"model loaded and nothing else the process takes {base:.0f} MB."
        + (
            " Made beside other work on the same cores: wall times are left out, and CPU is dearer."
            if chosen.busy
            else ""
        ),
        table(found, not chosen.busy),
        "## How it grows",
        "\n".join(growth(found)),
        "## The beginning",
        f"Lists, watches, the first lookback and {KEPT_S / 3600:g} h of demand (all that the stand-in has; read here "
        f"at once, in service within 5 s of each tick): {past}. "
        f"The first tick asks {found[-1]['first_queries']:,} queries at {found[-1]['services']:,} services.",
        f"## {quiet['services']:,} paused services",
        "Mode Observe, paused; still watched, read and decided. Means of ticks after the first.",
        table([quiet], not chosen.busy),
        "## The journal",
        f"One decision is {kept['line']:,.0f} bytes as a line of JSON and {kept['row']:,.0f} bytes in the database "
        f"(of {kept['decisions']} decisions with their inputs and indices).",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="services, smallest first")
    parser.add_argument("--idle", type=int, default=2_000, help="paused services")
    parser.add_argument("--ticks", type=int, default=MEASURED)
    parser.add_argument("--profile", default="", help="sort order of cProfile for the last tick, such as tottime")
    parser.add_argument("--busy", action="store_true", help="leave out wall times: the machine has other work to do")
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".md")), help="empty: print only")
    chosen = parser.parse_args()
    text = report(chosen)
    print(text)
    if chosen.out:
        Path(chosen.out).write_text(text)


if __name__ == "__main__":
    main()
