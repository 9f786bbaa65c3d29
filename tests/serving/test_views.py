"""Plain values of a snapshot: complete, without NaN, and in words that say why."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from forecasting.errors import DataError
from harmony.model.capacity import Capacity
from harmony.model.decision import Decision, Reason
from harmony.serving import decision_json, forecast_json, history_json, sentence, summary_json, utc
from tests.serving.builders import NOON_S, PATHS, record, seen, snapshot

NAN = float("nan")
PRICE = seen().objective.replica_price_per_hour


def strict(value: Any) -> Any:
    """Through JSON and back; NaN and infinity are refused."""
    return json.loads(json.dumps(value, allow_nan=False))


def test_summary_is_one_row_of_a_fleet_table() -> None:
    assert strict(summary_json(snapshot())) == {
        "service": "serving/chat",
        "kind": "GPUAutoscaler",
        "target": "Deployment chat",
        "gpu_type": "H100-80GB",
        "mode": "Full",
        "effective_mode": "Full",
        "ordered": 10,
        "ready": 10,
        "recommended": 12,
        "desired": 12,
        "held_by": "",
        "demand": 1000.0,
        "unit": "requests/s",
        # 200 paths from 700 to 1150, 10 more each step: with 12 replicas none exceeds 1200
        "violation_probability": 0.0,
        "paths": 200,
        "epsilon": 0.05,
        "reason": "Forecast",
        "realized": 0.03,
        "stated": 0.04,
        "stated_judgement": "Agrees",
        "real": {"steps": 400, "violated": 2, "rate": 0.005},
        "shadow": {"steps": 200, "violated": 9, "rate": 0.045},
        "bill_per_hour": 10.0 * PRICE,
        "idle_per_hour": 0.0,
        "currency": "USD",
        "gpu_hours_saved": 12.25,
        "misses": {"avoided_s": 120.0, "caused_s": 60.0},
        "coverage_80": 0.79,
        "at": "2026-01-05T12:00:00Z",
    }


def test_decision_has_every_candidate_and_says_why_not_one_fewer() -> None:
    shown = strict(decision_json(snapshot()))
    counts = [c["replicas"] for c in shown["candidates"]]
    assert counts == sorted(counts)
    assert {7, 8, 9, 10, 11, 12} <= set(counts)
    by_count = {c["replicas"]: c for c in shown["candidates"]}
    missed = float((PATHS > 1100.0).mean())  # what 11 replicas do not carry
    anything = float((PATHS.max(axis=1) > 1100.0).mean())
    assert by_count[11]["violation_probability"] == pytest.approx(missed)
    assert by_count[12]["violation_probability"] == 0.0
    assert shown["bound_by"] == "epsilon"
    assert shown["capacity"] == {"median": 100.0, "low": 100.0, "high": 100.0}
    assert shown["lead_time"] == {"p50_s": pytest.approx(300.0), "p90_s": pytest.approx(300.0)}
    assert shown["window_s"] == 300.0
    assert shown["quantiles"]["0.5"] == pytest.approx([925, 935, 945, 955, 965], abs=3)
    assert shown["sentence"] == (
        "Up from 10 to 12 replicas: "
        f"with 11 the expected share of violated time over the next 5 min would be {100 * missed:.2g} % "
        f"(any violation at all: {100 * anything:.2g} %). Stated risk < 0.5 %: expected share of violated time over "
        "the next 5 min; objective 5 % of the time. "
        f"12 replicas cost {12 * PRICE:.2f} USD per hour."
    )


def test_a_risk_of_no_path_is_no_zero_even_after_the_paths_are_gone() -> None:
    """Between turns a controller lets go of the paths, and writes the sentence into the status afterwards."""
    made = record()
    kept = replace(made, observation=replace(made.observation, forecast=None))
    assert "Stated risk < 0.5 %: expected share of violated time" in sentence(snapshot(record=kept))


def test_nothing_known_is_null_everywhere() -> None:
    blind = record(seen(demand=NAN, forecast=None, ordered=10))
    shown = snapshot(record=blind, coverage={0.8: NAN}, crps=NAN, realized=None, stated=None, history=np.full(5, NAN))
    row = strict(summary_json(shown))
    assert row["demand"] is row["violation_probability"] is row["realized"] is row["coverage_80"] is None
    assert row["reason"] == "AbsentData"
    decision = strict(decision_json(shown))
    assert decision["candidates"] == []
    assert decision["quantiles"] == {}
    assert decision["expected_cost"] is decision["violation_probability"] is decision["demand"] is None
    assert forecast_json(shown) is None
    assert strict(history_json(shown))["values"] == [None] * 5
    assert "never lowered" in decision["sentence"]


def test_nan_costs_and_learned_capacity_pass_through() -> None:
    looked = seen(capacity=Capacity.prior(100.0))
    made = record(looked)
    candidates = replace(made.decision.candidates, expected_cost=np.full(len(made.decision.candidates or ()), NAN))
    shown = strict(decision_json(snapshot(record=record(looked, replace(made.decision, candidates=candidates)))))
    assert shown["candidates"][0]["expected_cost"] is None
    assert shown["capacity"]["low"] < 50 < 200 < shown["capacity"]["high"]


def test_forecast_has_quantiles_per_step_and_paths_on_demand() -> None:
    shown = strict(forecast_json(snapshot()))
    assert shown["times"][0] == utc(NOON_S + 60.0) == "2026-01-05T12:01:00Z"
    assert len(shown["times"]) == shown["horizon"] == shown["lead_steps"] == 5
    demand = shown["indicators"]["requests"]
    assert list(demand["quantiles"]) == ["0.05", "0.25", "0.5", "0.75", "0.95", "0.99"]
    assert demand["quantiles"]["0.5"] == pytest.approx(np.median(PATHS, axis=0), rel=1e-5)
    assert demand["quantiles"]["0.99"] == pytest.approx(np.quantile(PATHS, 0.99, axis=0), rel=1e-5)
    assert "paths" not in demand
    with_paths = strict(forecast_json(snapshot(), paths=3))["indicators"]["requests"]["paths"]
    assert np.allclose(with_paths, PATHS[:3], rtol=1e-5)
    assert len(strict(forecast_json(snapshot(), paths=10_000))["indicators"]["requests"]["paths"]) == 200
    with pytest.raises(DataError, match="latency"):
        forecast_json(snapshot(), indicators=["latency"])


def test_history_keeps_its_holes() -> None:
    shown = strict(history_json(snapshot()))
    assert shown["values"] == [980.0, None, 990.0, 995.0, 1000.0]
    assert shown["times"][-1] == "2026-01-05T12:00:00Z"


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_sentence(reason: Reason) -> None:
    decision = Decision(7, 5, reason, 0.004, 14.0, unconstrained=9, bound_by="stages")
    text = sentence(snapshot(record=record(decision=decision), held_by="mode Recommend", desired=5, ordered=5))
    assert text.startswith("7 replicas recommended, currently 5: ")
    assert "Stated risk 0.4 %: expected share of violated time" in text
    assert "objective 5 % of the time. 7 replicas cost" in text
    assert text.endswith("Desired replicas: 5 (mode Recommend).")
    assert "nan" not in text.lower()
    assert len(text.split(": ", 1)[1].split(". ")[0]) > 4


def test_sentences_for_one_and_for_staying() -> None:
    stay = sentence(snapshot(record=record(decision=Decision(1, 1, Reason.FIXED))))
    assert stay.startswith("Stay at 1 replica:")
    down = sentence(snapshot(record=record(decision=Decision(3, 4, Reason.FORECAST))))
    assert down.startswith("Down from 4 to 3 replicas:")


def test_a_shadows_decision_is_told_beside_the_real_count() -> None:
    """ "Up from 5" would be read as the target's count, which is 10."""
    decision = Decision(7, 5, Reason.FORECAST)
    text = sentence(snapshot(record=record(decision=decision), held_by="mode Recommend", desired=10, ordered=10))
    assert text.startswith("7 replicas recommended, currently 10: ")
    assert text.endswith("Desired replicas: 10 (mode Recommend).")


def test_time_that_is_not_known() -> None:
    assert utc(math.inf) is utc(NAN) is None


def test_a_row_is_made_once() -> None:
    shown = [snapshot(f"serving/s{i}") for i in range(10)]
    rows = [summary_json(s) for s in shown]
    assert [r["service"] for r in rows] == [s.service for s in shown]
    assert summary_json(shown[0]) is rows[0]  # made once
