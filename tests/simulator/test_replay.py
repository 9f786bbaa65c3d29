"""Replays: what is promised about figures, fairness, absent data and repeatability."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import DataError, UsageError
from harmony.model.objective import Objective
from harmony.model.observation import Observation
from harmony.model.record import Record
from harmony.policies.hpa import HpaPolicy
from harmony.policies.quantile import QuantilePolicy
from simulator.output import write_replicas
from simulator.pool import StartUp
from simulator.replaying import ReplaySettings, replay
from simulator.result import ReplayResult
from simulator.service_model import ServiceModel
from simulator.traces.request_trace import RequestTrace
from simulator.traces.trace import Trace
from tests.simulator.worlds import make_trace, waves

RIVALS = ("hpa", "reactive", "static", "oracle")
RIDGE = ReplaySettings(forecaster="last_value", samples=50, lookback=48)


@pytest.fixture(scope="module")
def result() -> ReplayResult:
    return replay(make_trace(waves()), ["harmony", *RIVALS], RIDGE)


def test_figures_can_be_recounted_from_the_csv(result: ReplayResult, tmp_path: Path) -> None:
    write_replicas(result, tmp_path / "replicas.csv")
    table = pl.read_csv(tmp_path / "replicas.csv")
    scored = table.filter(pl.col("scored") == 1)
    assert len(scored) == 240
    k = 5
    for name, run in result.policies.items():
        ordered, ready = table[f"{name}_ordered"].to_numpy(), table[f"{name}_ready"].to_numpy()
        assert all(ready[t] == ordered[max(0, t - k) : t + 1].min() for t in range(len(table)))
        assert scored[f"{name}_ordered"].sum() / 60 == pytest.approx(run.gpu_hours)
        missed = scored.filter(pl.col("demand") > pl.col(f"{name}_ready") * result.replica_capacity)
        assert len(missed) / 240 == pytest.approx(run.violation_rate)
        assert len(missed) * 60.0 == run.violated_seconds


def test_capacity_makes_the_mean_demand_need_the_wanted_replicas(result: ReplayResult) -> None:
    assert np.nanmean(result.demand) / result.replica_capacity == pytest.approx(20.0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.0, 0.3]))
def test_the_oracle_misses_nothing_and_none_without_misses_is_cheaper(seed: int, lead: int, holes: float) -> None:
    rng = np.random.default_rng(seed)
    demand = rng.gamma(2.0, 50.0, 200)
    demand[rng.random(200) < holes] = np.nan
    demand[0] = 300.0
    made = replay(make_trace(demand), RIVALS, ReplaySettings(start_up=StartUp(60.0 * lead), mean_replicas=7))
    oracle = made.policies["oracle"]
    assert oracle.violation_rate == 0.0
    assert all(run.gpu_hours >= oracle.gpu_hours for run in made.policies.values() if run.violation_rate == 0.0)


def test_two_replays_are_equal_but_for_seconds(result: ReplayResult) -> None:
    again = replay(make_trace(waves()), ["harmony", *RIVALS], RIDGE)

    def timeless(r: ReplayResult) -> str:
        plain = r.to_json()
        for run in plain["policies"].values():
            run.pop("seconds")
        return json.dumps(plain, sort_keys=True)

    assert timeless(result) == timeless(again)


def test_a_replay_learns_on_line_and_every_decision_says_which_version_forecast_it() -> None:
    def life(**changes: object) -> list[str]:
        told: list[str] = []
        settings = replace(RIDGE, forecaster="ridge", refresh_s=1800.0, **changes)
        replay(make_trace(waves()), ["quantile"], settings, journal=lambda _, r: told.append(r.decision.model))
        return told

    models = life()
    versions = list(dict.fromkeys(m for m in models if m))
    assert versions[0].startswith("harmony "), "the shared model, until something better was learned"
    assert len([v for v in versions if v.startswith("ridge 1+")]) >= 1
    assert models == life(test_fraction=0.2), "what is scored is learned no differently"


def test_learning_more_often_than_every_minute_is_refused() -> None:
    with pytest.raises(UsageError, match="a minute or more"):
        ReplaySettings(refresh_s=5.0)


def test_a_policy_does_not_depend_on_its_company(result: ReplayResult) -> None:
    alone = replay(make_trace(waves()), ["harmony"], RIDGE)
    assert np.array_equal(alone.policies["harmony"].ordered, result.policies["harmony"].ordered)


def test_no_policy_but_the_oracle_sees_the_future() -> None:
    """Changing what comes later changes nothing before it."""
    demand = waves()
    other = demand.copy()
    other[500:] *= 3.0
    fixed = replace(RIDGE, replica_capacity=5.0)
    one, two = (replay(make_trace(d), ["harmony", "hpa", "reactive", "static"], fixed) for d in (demand, other))
    for name in one.policies:
        assert np.array_equal(one.policies[name].ordered[:500], two.policies[name].ordered[:500])


def test_absent_demand_is_never_a_reason_to_scale_down_nor_a_miss() -> None:
    demand = waves()
    demand[400:460] = np.nan
    made = replay(make_trace(demand), ["harmony", "hpa", "reactive"], RIDGE)
    for run in made.policies.values():
        assert all(np.diff(run.ordered[400:460]) >= 0), run.name
        assert not run.violated[400:460].any()
    known = np.isfinite(demand[360:]).sum()
    assert made.policies["hpa"].violation_rate == made.policies["hpa"].violated[360:].sum() / known


def test_tuning_reads_only_the_past() -> None:
    demand = waves(1000)
    other = demand.copy()
    other[600:] = 7.0
    tune = ReplaySettings(tune=True, replica_capacity=5.0)
    one, two = (replay(make_trace(d), ["hpa", "reactive", "static"], tune) for d in (demand, other))
    assert [r.settings for r in one.policies.values()] == [r.settings for r in two.policies.values()]


def test_an_unreachable_objective_is_stated() -> None:
    hopeless = replace(RIDGE, objective=Objective(max_replicas=3))
    run = replay(make_trace(waves()), ["harmony"], hopeless).policies["harmony"]
    assert not run.objective_met
    assert run.unreachable_steps > 0
    assert run.ordered.max() == 3
    assert run.reasons["ObjectiveUnreachable"] == run.unreachable_steps


def test_lead_time_is_learned_from_observed_starts() -> None:
    seen: list[Observation] = []

    def keep(_: str, record: Record) -> None:
        seen.append(record.observation)

    settings = ReplaySettings(start_up=StartUp(240.0, 1.6), seed=3)
    replay(make_trace(waves()), ["hpa"], settings, journal=keep)
    assert seen[0].lead_time.median_s == pytest.approx(240.0)
    assert seen[-1].lead_time.kappa > seen[0].lead_time.kappa + 20


def test_deciding_less_often_keeps_the_count_in_between() -> None:
    run = replay(make_trace(waves()), ["harmony"], replace(RIDGE, decide_every_s=300.0)).policies["harmony"]
    changes = np.flatnonzero(np.diff(run.ordered)) + 1
    assert changes.size
    assert all(changes % 5 == 0)


def test_a_policy_object_is_replayed_with_its_own_settings() -> None:
    run = replay(make_trace(waves()), [HpaPolicy(target=0.4)], RIDGE).policies["hpa"]
    assert run.settings["target"] == 0.4


def test_a_harmony_policy_object_keeps_its_own_forecaster() -> None:
    """Settings name the forecaster of policies asked for by name only."""
    run = replay(make_trace(waves()), [QuantilePolicy(forecaster="window_quantiles")], RIDGE).policies["quantile"]
    assert run.settings["forecaster"] == "window_quantiles"
    assert replay(make_trace(waves()), ["harmony"], RIDGE).policies["harmony"].settings["forecaster"] == "last_value"


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match="too few"):
        replay(make_trace(waves()[:2]), ["hpa"])
    with pytest.raises(DataError, match="never above zero"):
        replay(make_trace(np.zeros(100)), ["hpa"])
    with pytest.raises(UsageError, match="did you mean 'hpa'"):
        replay(make_trace(waves()), ["hpaa"])
    with pytest.raises(UsageError, match="named twice"):
        replay(make_trace(waves()), ["hpa", "hpa"])
    for wrong in ({"test_fraction": 1.0}, {"mean_replicas": -1.0}, {"replica_capacity": 0.0}, {"samples": 0}):
        with pytest.raises(UsageError):
            ReplaySettings(**wrong)


def test_a_replica_of_a_log_of_requests_is_as_the_service_model_has_it_and_that_is_told() -> None:
    rng = np.random.default_rng(1)
    log = RequestTrace(
        np.sort(rng.uniform(0, 3_600, 9_000)), rng.integers(1, 900, 9_000) * 1.0, rng.integers(1, 300, 9_000) * 1.0
    )
    panel = log.to_panel(60.0)
    trace = Trace(panel, panel.names[0], log)
    found = replay(trace, ["reactive"], ReplaySettings())
    assert found.replica_capacity == pytest.approx(ServiceModel().requests_per_s(log))
    (note,) = [n for n in found.notes if n.startswith("without --replica-capacity a replica carries")]
    assert "service model" in note
    figures = found.policies["reactive"].requests
    assert figures["e2e_p50_s"] < 20, "not the minutes of a replica that was made up to be twenty"
    sized = replay(trace, ["reactive"], ReplaySettings(mean_replicas=8))
    assert sized.replica_capacity == pytest.approx(float(np.mean(panel.values[:, 0])) / 8)
    said = replay(trace, ["reactive"], ReplaySettings(replica_capacity=2.0))
    assert said.replica_capacity == 2.0
    assert not any("replica-capacity" in n for n in (*sized.notes, *said.notes))
