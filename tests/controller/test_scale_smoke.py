"""A hundred services: a tick in which nothing changes costs the API server nothing."""

from __future__ import annotations

import pytest

import controller.reporting.writing
from benchmarks.fleet_growth import world_of
from tests.controller.e2e.world import base_model

WRITES = ("create", "update", "patch", "delete")


@pytest.mark.slow
def test_a_steady_tick_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller.reporting.writing, "LEARNED_EVERY_S", 1e9)  # written on a schedule, not for a change
    rows = world_of(100, "Recommend", False, 4, base_model(), between_s=0.0, still=True)
    first, *_, steady = rows[1:]
    assert first["decided"] == steady["decided"] == 100
    assert first["calls"]["patch gpuautoscalers/status"] == 100
    assert steady["errors"] == 0
    assert not [what for what in steady["calls"] if what.startswith(WRITES)], steady["calls"]
    assert sum(steady["calls"].values()) == 0
