"""What 1,000 services cost one controller: `python benchmarks/controller_scale.py [--objects N] [--idle N]`.

API server and Prometheus play in a process of their own, so that only the controller is measured. Writes the table to
`benchmarks/controller_scale.md`.
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
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from controller.kube.client import Kube
from controller.process.clock import LiveClock
from controller.process.settings import ControllerSettings, PrometheusSettings
from controller.runner import Controller
from controller.tick import TickReport
from forecasting.base import ForecastModel
from forecasting.forecaster import Forecaster

Json = dict[str, Any]
NAMESPACES = 20
PODS = 3
STEP_S = 60
STAGES = ("read", "forecast", "decide", "act", "status")
BAR_S, BAR_MB, BAR_IDLE_MB = 10.0, 700, 1000


# ---- the world, in its own process ----------------------------------------------------------------------------------
def value_at(scale: float, at_s: float) -> float:
    """Demand with a day's rhythm, the same whenever it is asked for."""
    return scale * (60.0 + 30.0 * math.sin(2 * math.pi * at_s / 86_400.0) + 3.0 * math.sin(at_s / 700.0))


def answer(form: dict[str, str]) -> str:
    """What Prometheus would say; a query names its service and indicator."""
    query = form["query"]
    if query == "time()":
        now = time.time()  # noqa: TID251
        return f'{{"resultType":"scalar","result":[{now},"{now}"]}}'
    found = re.search(r'(demand|kv|queue)\{service="(\d+)"\}', query)
    if found is None:
        return '{"resultType":"matrix","result":[]}'
    scale = {"demand": 1.0, "kv": 0.01, "queue": 0.1}[found[1]] * (0.8 + int(found[2]) % 40 / 100)
    return matrix(scale, *(float(form[k]) for k in ("start", "end", "step")))


@functools.lru_cache(512)
def matrix(scale: float, start: float, end: float, step: float) -> str:
    times = [start + k * step for k in range(round((end - start) / step) + 1)]
    points = ",".join(f'[{t},"{value_at(scale, t):.5g}"]' for t in times)
    return f'{{"resultType":"matrix","result":[{{"metric":{{}},"values":[{points}]}}]}}'


def obj_names(i: int) -> tuple[str, str]:
    return f"team-{i % NAMESPACES}", f"svc-{i}"


def autoscaler(i: int, mode: str, paused: bool) -> Json:
    namespace, name = obj_names(i)
    indicators = [
        {"name": n, "query": f'sum({n}{{service="{i}"}})', "level": level, "unit": "requests"}
        for level, n in ((1, "demand"), (2, "kv"), (2, "queue"))
    ]
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
            "indicators": indicators,
            "objective": {"demand": "demand", "perReplica": 40, "epsilon": 0.01},
            "leadTime": {"source": "Measured", "seconds": 240},
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
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-{k}", "namespace": namespace, "labels": {"app": name}},
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

    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 7200))  # noqa: TID251
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
        body = f'{{"status":"success","data":{answer(form)}}}'
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


async def measure(
    kubeconfig: str, url: str, model: ForecastModel, ticks: int, profile: str, between_s: float = STEP_S
) -> list[Json]:
    """Some ticks of a controller, one after the other; the clock goes on by one step between them."""
    ahead = 0.0
    clock = LiveClock(monotonic=lambda: time.monotonic() + ahead)
    settings = ControllerSettings(
        prometheus=PrometheusSettings(url, timeout_s=30.0),
        kubeconfig=kubeconfig,
        leader_elect=False,
        read_deadline_s=300.0,
        metrics_address="",
        health_address="",
    )
    kube = await Kube.connect(kubeconfig)
    controller = Controller(settings, kube, model, clock)
    rows: list[Json] = []
    try:
        began = time.monotonic()
        await controller.begin()
        controller._leading = True
        rows.append({"what": "sync", "seconds": {"sync": time.monotonic() - began}, "memory": memory()})
        for number in range(ticks):
            before, cpu = Counter(kube.calls), time.process_time()
            profiler = cProfile.Profile() if profile and number == ticks - 1 else None
            report = await _tick(controller.tick.run, profiler)
            calls = Counter(kube.calls) - before
            rows.append(
                {
                    "what": f"tick {number + 1}",
                    "seconds": dict(report.seconds),
                    "cpu": time.process_time() - cpu,
                    "calls": {
                        f"{c.verb} {c.resource}{'/' if c.subresource else ''}{c.subresource}": n
                        for c, n in calls.items()
                    },
                    "decided": report.decided,
                    "services": report.services,
                    "errors": report.errors,
                    "memory": memory(),
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr)
            if profiler is not None:
                pstats.Stats(profiler, stream=sys.stderr).sort_stats(profile).print_stats(45)
            ahead += between_s
    finally:
        controller.stop()
        await controller.close()
    return rows


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
) -> list[Json]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=play, args=(there, folder, count, mode, paused))
        process.start()
        try:
            kubeconfig, url = here.recv()
            return asyncio.run(measure(kubeconfig, url, model, ticks, profile, between_s))
        finally:
            here.send("stop")
            process.join(20)
            if process.is_alive():
                process.terminate()


# ---- the report -----------------------------------------------------------------------------------------------------
def table(rows: list[Json]) -> str:
    head = ["", *STAGES, "CPU", "decided", "resident MB", "API calls"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        if row["what"] == "sync":
            continue
        calls = ", ".join(f"{n} {what}" for what, n in sorted(row["calls"].items())) or "none"
        cells = [row["what"], *(f"{row['seconds'].get(s, 0.0):.2f} s" for s in STAGES)]
        cells += [f"{row['cpu']:.2f} s", str(row["decided"]), f"{row['memory'][0]:.0f}", calls]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def own(row: Json) -> float:
    return sum(row["seconds"][s] for s in ("forecast", "decide", "status"))


def run_part(pipe: Connection, part: tuple[int, str, bool, int, str]) -> None:
    """One measurement in a fresh process, so that memory is its own."""
    count, mode, paused, ticks, profile = part
    model = Forecaster.load("base")
    base = memory()[0]
    pipe.send((base, world_of(count, mode, paused, ticks, model, profile)))


def fresh(*part: Any) -> tuple[float, list[Json]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=run_part, args=(there, part))
    process.start()
    try:
        base, rows = here.recv()
    finally:
        process.join(30)
    return base, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--idle", type=int, default=5000, help="0 leaves the second part out")
    parser.add_argument("--ticks", type=int, default=4)
    parser.add_argument("--profile", default="", help="sort order of cProfile for the last tick, such as tottime")
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".md")), help="empty: print only")
    chosen = parser.parse_args()
    base, rows = fresh(chosen.objects, "Recommend", False, chosen.ticks, chosen.profile)
    steady, first = rows[-1], rows[1]
    parts = [
        f"# {chosen.objects:,} services and one controller",
        f"`python benchmarks/controller_scale.py`: {chosen.objects:,} GPUAutoscalers in {NAMESPACES} namespaces, three "
        f"indicators each, steps of {STEP_S} s, {PODS} pods per target, bundled model with 200 paths; API server and "
        "Prometheus in another process on the same two cores; one step passes between ticks. Seconds on the clock by "
        f"stage; CPU of the controller's process. With the model loaded and nothing else it takes {base:.0f} MB.",
        table(rows),
        f"- lists and first watch: {rows[0]['seconds']['sync']:.1f} s",
        f"- forecast + decide + status: first tick {own(first):.2f} s, steady {own(steady):.2f} s (bar: {BAR_S:g} s)",
        f"- resident at most: {steady['memory'][1]:.0f} MB (bar: {BAR_MB} MB)",
    ]
    if chosen.idle:
        _, idle = fresh(chosen.idle, "Observe", True, 3, "")
        parts += [
            f"## {chosen.idle:,} idle services",
            "Mode Observe, paused; still watched, read and decided.",
            table(idle),
            f"- resident at most: {idle[-1]['memory'][1]:.0f} MB (bar: {BAR_IDLE_MB} MB)",
        ]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if chosen.out:
        Path(chosen.out).write_text(text)


if __name__ == "__main__":
    main()
