"""A cluster with one Deployment of one replica, and whoever acts on orders for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from controller.fleet.ordering import order_of
from controller.keda.board import Board
from controller.kube.client import Kube
from controller.kube.fenced import Fenced
from controller.observing.starts import PodStarts, Starts
from controller.observing.targets import Targets, TargetView
from controller.outputs.actuation import Actuator, make_outputs
from controller.outputs.base import Acted, Means, Order
from harmony.metrics import Metrics
from tests.controller.e2e.world import NAME, NAMESPACE, deployment
from tests.controller.lives import turn
from tests.kube.server import FakeApiServer

Json = dict[str, Any]
BUFFERS = f"/apis/autoscaling.x-k8s.io/v1beta1/namespaces/{NAMESPACE}/capacitybuffers"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
TARGET = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}"


class Stage:
    """All outputs over one API server, or only some of them; `leads` and `may_write` say what they are answered."""

    def __init__(self, api: FakeApiServer, kube: Kube, targets: Targets) -> None:
        self.api, self.targets = api, targets
        self.board, self.metrics = Board(), Metrics("test")
        self.leads = self.may_write = True
        self._means = Means(Fenced(kube, lambda: self.may_write), self.board, self.metrics)
        self.cast()

    def cast(self, *names: str, dry_run: bool = False) -> None:
        """Begin anew with these outputs (all of them without names)."""
        outputs = {name: output for name, output in make_outputs(self._means).items() if not names or name in names}
        self.actuator = Actuator(outputs, lambda: self.leads, dry_run=dry_run)

    async def look(self, of: Any, now_s: float) -> TargetView:
        """The target, once the watch has told what was ordered before."""
        stands = self.api.must("GET", TARGET)["metadata"]["resourceVersion"]
        async with asyncio.timeout(60):
            while True:
                seen = await self.targets.look(NAMESPACE, of.settings.target, PodStarts(), now_s)
                if seen.version == stands:
                    return seen
                await asyncio.sleep(0.01)

    async def order(self, of: Any, now_s: float, demand: float, owner: Json | None = None, **view: Any) -> Order:
        """What a service orders on the target as it stands, sure of this demand."""
        stands = self.api.must("GET", TARGET)["metadata"]["resourceVersion"]
        async with asyncio.timeout(60):
            while (
                seen := await self.targets.look(NAMESPACE, of.settings.target, PodStarts(), now_s)
            ).version != stands:
                await asyncio.sleep(0.01)  # the watch has yet to tell what was ordered before
        view = {"starts": Starts(pods=seen.ordered, ready=seen.ordered), "version": seen.version} | view
        turn(of, now_s, demand, seen.ordered, conclude=False, **view)
        return order_of(of, owner)

    async def act(self, of: Any, now_s: float, demand: float, owner: Json | None = None, **view: Any) -> Acted:
        """One turn, acted on and told."""
        order = await self.order(of, now_s, demand, owner, **view)
        acted = await self.actuator.act(order)
        self.actuator.tell(order, acted, of.conclude(acted.applied))
        return acted

    def buffers(self) -> list[int]:
        return [b["spec"]["replicas"] for b in self.api.must("GET", BUFFERS)["items"]]

    def writes(self) -> int:
        """Requests so far that changed something in the cluster, or would have."""
        return sum(c.verb in ("create", "update", "patch", "delete") for c in self.api.calls_by("controller"))


def on_stage(api: FakeApiServer, folder: Path, work: Callable[[Stage], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with await Kube.connect(api.kubeconfig(folder / "kubeconfig")) as kube:
            targets = Targets(kube, None, read_nodes=False)
            try:
                await targets.start()
                await work(Stage(api, kube, targets))
            finally:
                await targets.stop()

    api.ensure_namespace(NAMESPACE)
    api.must("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", deployment(1))
    asyncio.run(whole())
