"""Targets: looking at what is scaled, one target's trouble being nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from controller.kube.client import Kube
from controller.observing.starts import PodStarts
from controller.observing.targets import Targets
from controller.resource.settings import TargetRef
from tests.controller.e2e.world import NAMESPACE, deployment
from tests.kube.server import FakeApiServer

CHAT = TargetRef("apps/v1", "Deployment", "chat")


def with_targets(api: FakeApiServer, folder: Path, work: Callable[[Targets], Awaitable[Any]]) -> None:
    async def whole() -> None:
        async with await Kube.connect(api.kubeconfig(folder / "kubeconfig")) as kube:
            targets = Targets(kube, None, read_nodes=False)
            try:
                await targets.start()
                await work(targets)
            finally:
                await targets.stop()

    api.ensure_namespace(NAMESPACE)
    api.must("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", deployment(3))
    asyncio.run(whole())


def test_a_kind_that_is_not_installed_does_not_make_the_controller_unready(
    fake_api: FakeApiServer, tmp_path: Path
) -> None:
    async def work(targets: Targets) -> None:
        there = await targets.look(NAMESPACE, CHAT, PodStarts(), 0.0)
        assert (there.problem, there.ordered) == ("", 3)
        lws = TargetRef("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "chat")
        view = await targets.look(NAMESPACE, lws, PodStarts(), 0.0)
        assert "LeaderWorkerSet serving/chat" in view.problem
        assert {str(c.resource.plural) for c in targets.caches} == {"pods", "deployments"}
        assert all(cache.is_synced for cache in targets.caches)

    with_targets(fake_api, tmp_path, work)
