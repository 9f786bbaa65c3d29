"""A cluster of one GPU service around a controller: API server, kubelet, real Prometheus, the service's exporter."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from controller.process.settings import ControllerSettings, PrometheusSettings
from controller.resource.crd import crd_manifest
from controller.resource.saving import unpacked
from controller.runner import Controller
from controller.tick import TickReport
from tests import kinds
from tests.bundled import base_model
from tests.kube.api import ApiServer
from tests.kube.kubelet import Kubelet
from tests.prom.exporter import Exporter
from tests.prom.real import RealPrometheus, openmetrics

Json = dict[str, Any]
GROUP = "/apis/autoscaling.harmony-autoscaler.io/v1alpha1"
NAMESPACE = "serving"
NAME = "chat"
STEP_S = 5
PER_REPLICA = 25.0
# max, not sum: for some minutes Prometheus shows the end of the back-dated series beside the one that is scraped
WITHIN_S = 180.0  # what comes about on a machine that others use, too; nobody waits longer than it takes
DEMAND_QUERY = 'max(gpu_service_requests_running{service="chat"})'


def deployment(replicas: int = 4, **spec: Any) -> Json:
    labels = {"app": NAME}
    container = {"name": "server", "image": "example/server:1", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        }
        | spec,
    }


def autoscaler(mode: str = "Recommend", **spec: Any) -> Json:
    return {
        "apiVersion": "autoscaling.harmony-autoscaler.io/v1alpha1",
        "kind": "GPUAutoscaler",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
            "mode": mode,
            "minReplicas": 1,
            "maxReplicas": 40,
            "stepSeconds": STEP_S,
            "indicators": [{"name": "running", "query": DEMAND_QUERY, "level": 1, "unit": "requests"}],
            "objective": {"perReplica": PER_REPLICA, "epsilon": 0.05},
            "leadTime": {"source": "Measured", "seconds": 10},
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 10}},
        }
        | spec,
    }


def learned_of(status: Json) -> Any:
    """What a status says was learned."""
    return unpacked(status["memory"])


class World:
    """Everything but the controller; `controller()` runs one (or more) in it."""

    def __init__(self, api: ApiServer, folder: Path, *, start_up_s: float = 2.0, history_rows: int = 200) -> None:
        self.api = api
        self.folder = folder
        self.exporter = Exporter()
        self.prometheus = RealPrometheus(folder / "prometheus", targets={"service": self.exporter.address})
        self.history_rows = history_rows
        self.start_up_s: float | None = start_up_s
        self.kubelet = Kubelet(api, start_up_s=lambda _: self.start_up_s)
        self.prometheus_url = self.prometheus.url

    @contextlib.asynccontextmanager
    async def running(
        self, demand: Callable[[float], float] = lambda _: 80.0, *, replicas: int = 4
    ) -> AsyncIterator[World]:
        """Bring it all up: CRD, Deployment with ready pods, Prometheus with a past of ``demand`` (of Unix time)."""
        kinds.starting("cluster")
        self.api.define(crd_manifest())
        self.api.ensure_namespace(NAMESPACE)
        self.api.must("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", deployment(replicas))
        now = math.floor(time.time() / STEP_S) * STEP_S  # noqa: TID251  (data for a real Prometheus)
        times = [now - k * STEP_S for k in range(self.history_rows, 2, -1)]
        # the labels that a scrape gives: one series, so that a sum over it counts the past and the present once
        series = f'gpu_service_requests_running{{service="chat",instance="{self.exporter.address}",job="service"}}'
        self.prometheus.load(openmetrics([(series, t, f"{demand(t):.6g}") for t in times]))
        self.set_demand(demand(now))
        with self.exporter, self.prometheus:
            startup, self.start_up_s = self.start_up_s, 0.0
            async with self.kubelet:
                await self.kubelet.settled()
                self.start_up_s = startup
                await self.until(
                    lambda: self.prometheus_has('up{job="service"} == 1'), "Prometheus has scraped the service"
                )
                yield self

    def set_demand(self, value: float | None) -> None:
        """What the service exports from now on; None: its metric is gone."""
        self.exporter.set({} if value is None else {'gpu_service_requests_running{service="chat"}': value})

    def prometheus_has(self, query: str) -> bool:
        import json
        import urllib.parse
        import urllib.request

        url = f"{self.prometheus.url}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(url, timeout=30) as answer:
            return bool(json.load(answer)["data"]["result"])

    # ---- objects --------------------------------------------------------------------------------------------
    def create(self, obj: Json) -> Json:
        found: Json = self.api.must("POST", f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers", obj)
        return found

    def patch(self, spec: Json) -> Json:
        found: Json = self.api.must("PATCH", f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers/{NAME}", {"spec": spec})
        return found

    def annotate(self, notes: Json) -> None:
        body = {"metadata": {"annotations": notes}}
        self.api.must("PATCH", f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers/{NAME}", body)

    def autoscaler(self, name: str = NAME) -> Json:
        found: Json = self.api.must("GET", f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers/{name}")
        return found

    def status(self, name: str = NAME) -> Json:
        found: Json = self.autoscaler(name).get("status") or {}
        return found

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason of a condition; ("", "") while it does not stand there."""
        for condition in self.status().get("conditions", ()):
            if condition["type"] == kind:
                return condition["status"], condition["reason"]
        return "", ""

    @property
    def version(self) -> str:
        """The newest version of the object, for `told`."""
        found: str = self.autoscaler()["metadata"]["resourceVersion"]
        return found

    def told(self, since: str, kind: str, words: str) -> bool:
        """Whether a condition's message has held these words in any version of the object after ``since``.

        A watch from there gives all of them, so that what stood for one tick only is found by whoever comes late.
        """
        path = f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers?fieldSelector=metadata.name%3D{NAME}"
        written = self.api.watch(f"{path}&resourceVersion={since}", 10_000, within_s=1)
        conditions = [c for e in written for c in (e["object"].get("status") or {}).get("conditions", ())]
        return any(c["type"] == kind and words in c["message"] for c in conditions)

    @property
    def replicas(self) -> int:
        found = self.api.must("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}")
        return int(found["spec"]["replicas"])

    def ready(self) -> int:
        found = self.api.must("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")
        return sum(
            any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
            for pod in found["items"]
        )

    def scale_by_hand(self, replicas: int) -> None:
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}"
        self.api.must("PATCH", path, {"spec": {"replicas": replicas}})

    def events(self) -> list[Json]:
        found = self.api.must("GET", f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events")
        items: list[Json] = found["items"]
        return items

    def scale_calls(self) -> int:
        """Writes to /scale by the controller, successful ones."""
        return sum(
            c.subresource == "scale" and c.verb in ("update", "patch") and c.code < 300
            for c in self.api.calls_by("controller")
        )

    # ---- the controller -------------------------------------------------------------------------------------
    def settings(self, **changes: Any) -> ControllerSettings:
        return replace(
            ControllerSettings(
                prometheus=PrometheusSettings(self.prometheus_url, timeout_s=5.0),
                interval_s=0.5,
                leader_elect=False,
                kubeconfig=str(self.api.kubeconfig(self.folder / "kubeconfig")),
                metrics_address="127.0.0.1:0",
                health_address="127.0.0.1:0",
            ),
            **changes,
        )

    @contextlib.asynccontextmanager
    async def controller(self, **changes: Any) -> AsyncIterator[Running]:
        """A controller at work, stopped in order at the end."""
        made = await Controller.create(self.settings(**changes), model=base_model())
        running = Running(made)
        task = asyncio.create_task(made.run())
        try:
            yield running
            assert not task.done(), "the controller ended by itself"
        finally:
            made.stop()
            await asyncio.wait_for(task, WITHIN_S)

    async def until(
        self, holds: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str, timeout_s: float = WITHIN_S
    ) -> None:
        """Wait for something to be so (for what stays so: see `told`), without stopping the event loop."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            answer = await asyncio.to_thread(holds)
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"not so within {timeout_s} s: {what}; status {self._status_or_none()}")

    def _status_or_none(self) -> Json:
        code, found = self.api.request("GET", f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers/{NAME}")
        return found.get("status", {}) if code == 200 else {}


class Running:
    """A controller that runs, and what its ticks did."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.reports: list[TickReport] = []
        controller.on_tick = self.reports.append

    async def ticks(self, count: int, timeout_s: float = 2 * WITHIN_S) -> Sequence[TickReport]:
        """Wait for that many further ticks; returns them."""
        first = len(self.reports)
        async with asyncio.timeout(timeout_s):
            while len(self.reports) < first + count:
                await asyncio.sleep(0.02)
        return self.reports[first:]
