"""A forecaster that raises, for all or for one: others go on, whoever has no forecast holds and never lowers."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from forecasting.distribution import ForecastBatch
from forecasting.windows import WindowBatch
from tests.controller.e2e.parts import another, never_below, ready, status_of
from tests.controller.e2e.parts import controller as a_controller
from tests.controller.e2e.world import NAME, NAMESPACE, Running, World, autoscaler, base_model, deployment
from tests.kube.server import FakeApiServer

BROKEN = "the model file is damaged"


class Breaks:
    """The bundled model, which raises while ``when`` says so of a batch."""

    def __init__(self, when: Callable[[WindowBatch], bool]) -> None:
        self.when = when
        self.name, self.version = base_model().name, base_model().version

    def fit(self, *_: Any, **__: Any) -> Breaks:
        raise NotImplementedError

    update = fit

    def predict(self, windows: WindowBatch, horizon: int, **how: Any) -> ForecastBatch:
        if self.when(windows):
            raise RuntimeError(BROKEN)
        return base_model().predict(windows, horizon, **how)


def errors(running: Running, component: str) -> float:
    """`harmony_errors_total` of a component, as Prometheus reads it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{running.controller.ports[1]}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = re.findall(rf'^harmony_errors_total{{component="{component}"[^}}]*}} (\S+)', text, re.MULTILINE)
    return sum(map(float, found))


def condition(world: World, kind: str, name: str = NAME) -> tuple[str, str, str]:
    for c in status_of(world, name).get("conditions", ()):
        if c["type"] == kind:
            return c["status"], c["reason"], c["message"]
    return "", "", ""


def test_a_forecaster_that_raises_for_all(fake_api: FakeApiServer, tmp_path: Path) -> None:
    broken = False
    model = Breaks(lambda _: broken)

    async def whole() -> None:
        nonlocal broken
        world = World(fake_api, tmp_path)
        async with world.running(replicas=6):
            # without the guard of a window, a decision on nothing would show at once
            world.create(autoscaler("Full", behavior={"scaleDown": {"stabilizationWindowSeconds": 0}}, minReplicas=6))
            async with a_controller(world, model=model) as running, never_below(world, 4) as counts:
                await ready(world)
                broken = True
                await asyncio.to_thread(world.patch, {"minReplicas": 1})
                await running.ticks(6)
                assert set(counts) == {6}, "held, though demand needs only 4"
                status, reason, message = condition(world, "ForecastCalibrated")
                assert (status, reason) == ("Unknown", "ForecastFailed")
                assert BROKEN in message
                assert await asyncio.to_thread(errors, running, "forecast") >= 4
                broken = False
                await world.until(lambda: world.replicas == 4, "what is not needed goes, with a forecast")
                assert condition(world, "ForecastCalibrated")[1] != "ForecastFailed"
                await ready(world)

    asyncio.run(whole())


def test_demand_that_rises_while_there_is_no_forecast(fake_api: FakeApiServer, tmp_path: Path) -> None:
    async def whole() -> None:
        world = World(fake_api, tmp_path)
        broken = False
        async with world.running():
            world.create(autoscaler("Full"))
            async with a_controller(world, model=Breaks(lambda _: broken)) as running, never_below(world, 4):
                await ready(world)
                broken = True
                world.set_demand(200.0)
                await world.until(lambda: world.replicas >= 8, "the count follows demand without a forecast")
                await running.ticks(1)

    asyncio.run(whole())


def test_a_forecaster_that_raises_for_one_service(fake_api: FakeApiServer, tmp_path: Path) -> None:
    """The odd one has a demand of 500; whichever batch holds it breaks, and only it goes without."""

    def odd(windows: WindowBatch) -> bool:
        return broken and bool(np.nanmax(windows.values) > 300.0)

    broken = True

    async def whole() -> None:
        nonlocal broken
        world = World(fake_api, tmp_path)
        async with world.running():
            path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
            for name, scale in (("odd", 6.25), ("third", 1.0)):
                made = another(deployment(25 if name == "odd" else 4), name)
                made["spec"]["selector"]["matchLabels"]["app"] = name
                made["spec"]["template"]["metadata"]["labels"]["app"] = name
                world.api.must("POST", path, made)
                query = f'{scale} * max(gpu_service_requests_running{{service="chat"}})'
                indicators = [{"name": "running", "query": query, "level": 1, "unit": "requests"}]
                ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
                down = {"scaleDown": {"stabilizationWindowSeconds": 0}}
                spec = {"scaleTargetRef": ref, "indicators": indicators, "behavior": down}
                world.create(another(autoscaler("Full"), name, **spec))
            world.create(autoscaler("Full"))

            def ordered(name: str) -> int:
                return int(world.api.must("GET", f"{path}/{name}")["spec"]["replicas"])

            async with a_controller(world, model=Breaks(odd)) as running, never_below(world, 4):
                await ready(world)
                ticks = await running.ticks(5)
                assert all(r.decided == 3 for r in ticks)
                await world.until(lambda: condition(world, "ForecastCalibrated", "odd")[1] == "ForecastFailed", "told")
                for name in (NAME, "third"):
                    assert condition(world, "ForecastCalibrated", name)[1] != "ForecastFailed"
                    assert status_of(world, name)["lastScaleDecision"]["model"].startswith("harmony")
                assert ordered("odd") == 25, "held"
                broken = False
                await world.until(
                    lambda: condition(world, "ForecastCalibrated", "odd")[1] != "ForecastFailed", "it recovers"
                )
                await world.until(lambda: 20 <= ordered("odd") < 25, "and gives back what it does not need")

    asyncio.run(whole())
