"""A controller with and without learning on line: the loop ticks, and says what it does not learn."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from controller.kube.client import Kube
from controller.process.clock import LiveClock
from controller.process.settings import ControllerSettings
from controller.resource.crd import crd_manifest
from controller.runner import Controller, load_model
from controller.tick import TickReport
from forecasting.forecaster import Forecaster
from tests.forecasting.stand_ins import Around
from tests.kube.server import FakeApiServer


async def _two_ticks(api: FakeApiServer, folder: Path, refresh_s: float) -> Controller:
    kube = await Kube.connect(api.kubeconfig(folder / "kubeconfig"))
    settings = dataclasses.replace(
        ControllerSettings(),
        refresh_s=refresh_s,
        forecaster="ridge",
        dry_run=True,
        metrics_address="",
        health_address="",
        interval_s=0.2,
    )
    controller = Controller(settings, kube, Around(), LiveClock())
    seen: list[TickReport] = []

    def count(report: TickReport) -> None:
        seen.append(report)
        if len(seen) == 2:
            controller.stop()

    controller.on_tick = count
    await asyncio.wait_for(controller.run(), 60.0)
    return controller


@pytest.mark.parametrize("refresh_s", [3600.0, 0.0])
def test_it_ticks_and_says_what_is_not_learned(
    refresh_s: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api = FakeApiServer()
    try:
        api.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd_manifest())
        controller = asyncio.run(_two_ticks(api, tmp_path, refresh_s))
    finally:
        api.stop()
    assert (controller.learning is not None) == (refresh_s > 0)
    warned = any("without --refresh" in r.getMessage() for r in caplog.records)
    assert warned == (refresh_s == 0)


def test_what_is_learned_on_line_begins_with_the_bundled_model() -> None:
    begun, bundled = load_model("ensemble"), Forecaster.base()
    assert begun.version == bundled.version
