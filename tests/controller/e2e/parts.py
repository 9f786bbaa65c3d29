"""Controllers made with parts of a test's own, and what must hold whatever breaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from controller.kube.client import Kube
from controller.kube.lease import LeaseElection
from controller.process.clock import LiveClock
from controller.reporting.publishing import Publish
from controller.runner import Controller
from forecasting.base import ForecastModel
from tests.controller.e2e.world import GROUP, NAME, NAMESPACE, WITHIN_S, Running, World, base_model
from tests.kube.api import Call

Json = dict[str, Any]
Match = Callable[[Call], bool]


def calls_to(resource: str, *verbs: str, sub: str = "", agent: str = "") -> Match:
    """Matches requests to one resource (all verbs unless some are named), of one user agent if given."""
    return lambda call: (
        call.resource == resource
        and call.subresource == sub
        and (not verbs or call.verb in verbs)
        and call.user_agent.startswith(agent)
    )


SCALE_WRITES = calls_to("deployments", "update", "patch", sub="scale")
STATUS_WRITES = calls_to("gpuautoscalers", "update", "patch", sub="status")


@contextlib.asynccontextmanager
async def controller(
    world: World,
    *,
    model: ForecastModel | None = None,
    clock: LiveClock | None = None,
    agent: str = "harmony-controller/test",
    elect: tuple[float, float, float] | None = None,
    prepare: Callable[[Controller], None] = lambda _: None,
    publish: Publish | None = None,
    gpu_budget: Callable[[], int | None] | None = None,
    **changes: Any,
) -> AsyncIterator[Running]:
    """A controller with its own model, clock, user agent and lease times (duration, renew deadline, retry)."""
    settings = world.settings(leader_elect=elect is not None, **changes)
    kube = await Kube.connect(settings.kubeconfig, user_agent=agent)
    made = Controller(
        settings, kube, model or base_model(), clock or LiveClock(), publish=publish, gpu_budget=gpu_budget
    )
    if elect is not None:
        duration_s, deadline_s, retry_s = elect
        made.election = LeaseElection(
            kube,
            NAMESPACE,
            settings.lease_name,
            made.identity,
            duration_s=duration_s,
            renew_deadline_s=deadline_s,
            retry_s=retry_s,
        )
    prepare(made)
    running = Running(made)
    task = asyncio.create_task(made.run())
    try:
        yield running
        assert not task.done() or made._stop.is_set(), "the controller ended by itself"
    finally:
        made.stop()
        await asyncio.wait_for(task, WITHIN_S)


@contextlib.asynccontextmanager
async def never_below(world: World, floor: int, seen: list[int] | None = None) -> AsyncIterator[list[int]]:
    """The target's count, looked at all the time, is never below ``floor``; gives the counts in their order."""
    counts: list[int] = [] if seen is None else seen

    async def look() -> None:
        while True:
            counts.append(await asyncio.to_thread(lambda: world.replicas))
            await asyncio.sleep(0.03)

    watching = asyncio.create_task(look())
    try:
        yield counts
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert counts
    assert min(counts) >= floor, f"the count fell below {floor}: {counts}"


def of(world: World, match: Match) -> list[Call]:
    """The controller's requests that match, in their order."""
    return [call for call in world.api.calls_by("controller") if match(call)]


def codes(calls: Sequence[Call]) -> list[int]:
    return [call.code for call in calls]


async def orders(world: World, replicas: int, timeout_s: float = WITHIN_S) -> None:
    """Ask for at least ``replicas`` and wait until the controller has ordered them."""
    await asyncio.to_thread(world.patch, {"minReplicas": replicas})
    await world.until(lambda: world.replicas == replicas, f"{replicas} replicas are ordered", timeout_s)


async def ready(world: World) -> None:
    await world.until(lambda: world.condition("Ready")[0] == "True", "Ready")


async def health(running: Running, path: str) -> tuple[int, str]:
    """HTTP status and text of a health endpoint."""

    def ask() -> tuple[int, str]:
        url = f"http://127.0.0.1:{running.controller.ports[0]}{path}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


async def answers(world: World, running: Running, path: str) -> None:
    """Wait for 200: what changes is heard a moment later."""

    async def fine() -> bool:
        return (await health(running, path))[0] == 200

    await world.until(fine, f"{path} answers 200")


def status_of(world: World, name: str = NAME) -> Json:
    found: Json = world.api.must("GET", f"{GROUP}/namespaces/{NAMESPACE}/gpuautoscalers/{name}")
    return found.get("status") or {}


def another(obj: Json, name: str, **spec: Any) -> Json:
    """A copy of an object under another name."""
    copy: Json = json.loads(json.dumps(obj))
    copy["metadata"]["name"] = name
    copy["spec"].update(spec)
    return copy
