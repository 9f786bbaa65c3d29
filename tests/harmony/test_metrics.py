"""Metrics as Prometheus reads them: names, absence, bounded series, speed."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from harmony.decision.agreement import agreement
from harmony.metrics import CATALOGUE, Metrics
from harmony.metrics.catalogue import LIMITERS, limiter
from harmony.metrics.docs import PAGE, QUERIES, as_markdown
from harmony.model.capacity import Capacity
from harmony.model.decision import Decision, Reason
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Objective
from harmony.model.observation import Observation, Outcome
from harmony.model.record import Record
from tests.counting import calls

NAN = float("nan")


@dataclass(frozen=True)
class Key:
    """Names a service as the controller does."""

    kind: str = "GPUAutoscaler"
    namespace: str = "serving"
    name: str = "chat"


def observation(**changes: Any) -> Observation:
    seen = Observation(
        now_s=0.0,
        step_s=60.0,
        interval_s=60.0,
        demand=100.0,
        ordered=10,
        ready=9,
        objective=Objective(epsilon=0.01, max_replicas=20),
        capacity=Capacity(25.0, 0.1),
        lead_time=LeadTime.known(180.0),
    )
    return replace(seen, **changes)


def decision(**changes: Any) -> Decision:
    quantiles = {q: q * 100 + np.arange(6.0) for q in (0.05, 0.5, 0.95, 0.99)}
    made = Decision(12, 10, Reason.FORECAST, 0.004, 3.5, None, 12, "epsilon", quantiles, "m")
    return replace(made, **changes)


def record(seen: Observation | None = None, made: Decision | None = None, applied: int = 12) -> Record:
    return Record(
        seen or observation(),
        made or decision(),
        applied,
        Outcome(3, 1, real_steps=4, real_violated=2, shadow_steps=4, shadow_violated=1),
    )


Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(metrics: Metrics) -> Series:
    text = metrics.exposition()[0].decode()
    return {(s.name, frozenset(s.labels.items())): s.value for f in parse_text(text) for s in f.samples}


def of(found: Series, name: str, key: Key | None = None, **labels: str) -> float | None:
    """A service's series, or None when it is absent."""
    key = key or Key()
    named = {"kind": key.kind, "namespace": key.namespace, "name": key.name, **labels}
    return found.get((name, frozenset(named.items())))


def filled() -> Metrics:
    """Every event once."""
    metrics = Metrics("1.2.3")
    metrics.observe_mode(Key(), "Full", "UpOnly")
    metrics.observe_replicas(Key(), 10, 9, 20)
    turn = record()
    turn = replace(turn, decision=replace(turn.decision, budget_left=0.6, burn_rate=2.5, price=40.0))
    metrics.observe_decision(Key(), turn, floor=4, realized=0.02)
    metrics.observe_fallback(Key(), False)
    metrics.observe_metrics_age(Key(), 12.5)
    metrics.observe_incomplete(Key(), False)
    metrics.observe_start(Key(), 95.0)
    metrics.observe_scale_error(Key())
    metrics.observe_shadow(Key(), 31.5, 600.0, 60.0)
    metrics.observe_scores(Key(), {0.5: 0.48, 0.8: 0.83, 0.95: 0.93}, 4.2)
    metrics.observe_agreement(Key(), agreement(0.02, 6.0, 300.0, 3))
    metrics.observe_bill(Key(), 10, turn.observation)
    for stage in ("read", "forecast", "decide", "act", "status"):
        metrics.observe_stage(stage, 0.02)
    metrics.observe_tick(1000.0, overrun=True)
    metrics.observe_kube_request("get", "deployments/scale", 200, 3)
    metrics.observe_error("prometheus", TimeoutError("slow"))
    metrics.observe_leader(True)
    metrics.observe_refresh("Replaced", 1.2)
    metrics.observe_keda_request("GetMetrics", "OK")
    metrics.observe_config({"interval": "30s"})
    return metrics


def test_a_policy_that_keeps_no_budget_has_none_to_show() -> None:
    metrics = Metrics("1.2.3")
    metrics.observe_decision(Key(), record())
    assert of(series(metrics), "harmony_error_budget_left_ratio") is None


def test_a_decision_is_shown_in_full() -> None:
    found = series(filled())
    expected = {
        "current": 10, "ready": 9, "recommended": 12, "desired": 12, "floor": 4, "max": 20,
    }  # fmt: skip
    for name, value in expected.items():
        assert of(found, f"harmony_{name}_replicas") == value
    assert of(found, "harmony_violation_probability") == 0.004
    assert of(found, "harmony_promised_violation_probability") == 0.01
    assert of(found, "harmony_realized_violation_ratio") == 0.02
    assert of(found, "harmony_error_budget_left_ratio") == 0.6
    assert of(found, "harmony_error_budget_burn_rate") == 2.5
    assert of(found, "harmony_error_budget_price") == 40.0
    assert of(found, "harmony_demand") == 100
    # one lead time ahead: the third of the six steps of a minute
    assert of(found, "harmony_forecast_demand", quantile="0.5") == 52.0
    assert of(found, "harmony_forecast_demand", quantile="0.99") == 101.0
    assert of(found, "harmony_capacity_per_replica", bound="median") == 25.0
    # lognormal, sigma 0.1: 25 * exp(-1.6449 * 0.1)
    assert of(found, "harmony_capacity_per_replica", bound="low") == pytest.approx(21.2083, abs=1e-4)
    assert of(found, "harmony_lead_time_seconds", quantile="0.9") == pytest.approx(180.0)
    assert of(found, "harmony_mode", mode="Full", effective="UpOnly") == 1
    assert of(found, "harmony_decisions_total", direction="Up", reason="Forecast") == 1
    assert of(found, "harmony_decisions_limited_total", limiter="epsilon") == 1
    assert of(found, "harmony_judged_steps_total") == 3
    assert of(found, "harmony_missed_steps_total") == 1
    assert of(found, "harmony_replica_start_seconds_bucket", le="90.0") == 0
    assert of(found, "harmony_replica_start_seconds_bucket", le="120.0") == 1
    assert of(found, "harmony_replica_start_seconds_bucket", le="+Inf") == 1
    assert of(found, "harmony_replica_start_seconds_sum") == 95.0
    assert found["harmony_managed_services", frozenset({("mode", "Full")})] == 1
    assert found["harmony_managed_services", frozenset({("mode", "Observe")})] == 0
    code = {("verb", "get"), ("resource", "deployments/scale"), ("code_class", "2xx")}
    assert found["harmony_kube_requests_total", frozenset(code)] == 3
    assert found["harmony_errors_total", frozenset({("component", "prometheus"), ("type", "TimeoutError")})] == 1
    assert found["harmony_last_tick_timestamp_seconds", frozenset()] == 1000.0
    assert found["harmony_build_info", frozenset({("version", "1.2.3")})] == 1


def test_every_metric_of_the_catalogue_is_exported_with_its_type_and_labels() -> None:
    families = {f.name: f for f in parse_text(filled().exposition()[0].decode())}
    assert len({d.name for d in CATALOGUE}) == len(CATALOGUE)
    for definition in CATALOGUE:
        family = families[definition.name.removesuffix("_total")]
        assert family.type == {"info": "gauge"}.get(definition.type, definition.type)
        assert family.documentation == definition.help
        assert family.samples, definition.name
        if definition.type != "info":
            labels = {*definition.labels, *(("namespace", "name", "kind") if definition.per_service else ())}
            assert {k for s in family.samples for k in s.labels} - {"le"} == labels
    ours = {f for f in families if f.startswith("harmony_") and not f.endswith("_created")}
    assert ours == {d.name.removesuffix("_total") for d in CATALOGUE}


def test_openmetrics_has_the_same_values() -> None:
    metrics = filled()
    body, headers = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    found = {
        (s.name, frozenset(s.labels.items())): s.value for f in parse_openmetrics(body.decode()) for s in f.samples
    }
    ours = {k: v for k, v in series(metrics).items() if k[0].startswith("harmony_") and not k[0].endswith("_created")}
    assert {k: found[k] for k in ours} == ours


def promtool() -> str:
    """Path of Prometheus's own checker; without it the test is skipped, visibly, or fails in CI."""
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("promtool is not installed")
        pytest.skip("checked with promtool, which is not installed")
    return found


def test_names_are_those_that_promtool_accepts() -> None:
    """Three names deviate on purpose, and no others."""
    text = filled().exposition()[0]
    said = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True, check=False)
    remarks = set((said.stdout + said.stderr).decode().splitlines())
    quantile = 'non-summary metrics should not have "quantile" label'
    assert remarks == {
        # quantiles of a forecast are gauges: there are no observations to summarise
        f"harmony_forecast_demand {quantile}",
        f"harmony_lead_time_seconds {quantile}",
        # GPU-hours are what is paid for
        'harmony_shadow_gpu_hours_saved use base unit "seconds" instead of "hours"',
    }


def test_absent_numbers_have_no_series_and_come_back() -> None:
    metrics = Metrics()
    metrics.observe_decision(Key(), record(), floor=4, realized=0.1)
    absent = record(observation(demand=NAN), decision(violation_probability=NAN, expected_cost=NAN, quantiles={}))
    metrics.observe_decision(Key(), absent)
    found = series(metrics)
    names = ["violation_probability", "realized_violation_ratio", "demand", "floor_replicas", "expected_cost_per_hour"]
    assert [of(found, f"harmony_{n}") for n in names] == [None] * 5
    assert of(found, "harmony_forecast_demand", quantile="0.5") is None
    assert of(found, "harmony_current_replicas") == 10
    metrics.observe_decision(Key(), record())
    assert of(series(metrics), "harmony_demand") == 100


def test_numpy_numbers_are_numbers() -> None:
    metrics = Metrics(process=False)
    metrics.observe_scores(Key(), {0.8: np.float64(0.81)}, np.float32(0.5))  # type: ignore[arg-type]
    metrics.observe_start(Key(), np.float64(30.5))
    metrics.observe_replicas(Key(), np.int64(4), np.float64("nan"))
    found = series(metrics)
    assert of(found, "harmony_forecast_coverage_ratio", interval="0.8") == 0.81
    assert of(found, "harmony_replica_start_seconds_sum") == 30.5
    assert of(found, "harmony_current_replicas") == 4
    assert of(found, "harmony_ready_replicas") is None


def test_nothing_is_shown_before_it_happened() -> None:
    found = series(Metrics())
    assert not any(name == "harmony_last_tick_timestamp_seconds" for name, _ in found)
    assert not any(("kind", "GPUAutoscaler") in labels for _, labels in found)


def test_what_is_ordered_and_what_is_recommended_differ_without_authority() -> None:
    metrics = Metrics()
    metrics.observe_decision(Key(), record(applied=10), recommended=15, desired=10)
    found = series(metrics)
    assert of(found, "harmony_recommended_replicas") == 15
    assert of(found, "harmony_desired_replicas") == 10
    assert of(found, "harmony_decisions_total", direction="None", reason="Forecast") == 1
    metrics.observe_decision(Key(), record(applied=8))
    assert of(series(metrics), "harmony_decisions_total", direction="Down", reason="Forecast") == 1


def test_a_service_that_is_gone_takes_all_its_series_along() -> None:
    metrics = filled()
    other = Key(name="other")
    metrics.observe_decision(other, record())
    metrics.forget(Key())
    metrics.forget(Key(name="never seen"))
    found = series(metrics)
    assert not any(("name", "chat") in labels for _, labels in found)
    assert of(found, "harmony_desired_replicas", other) == 12


@given(st.lists(st.text(max_size=30), max_size=60))
def test_limits_never_grow_the_number_of_series(bounds: list[str]) -> None:
    metrics = Metrics(process=False)
    for bound in bounds:
        metrics.observe_decision(Key(), record(made=decision(bound_by=bound)))
    limited = [v for (name, _), v in series(metrics).items() if name == "harmony_decisions_limited_total"]
    assert len(limited) <= len(LIMITERS)
    assert sum(limited) == sum(1 for b in bounds if b)


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("epsilon", "epsilon"),
        ("reactive floor", "reactive_floor"),
        ("absent demand", "absent_demand"),
        ("max_replicas", "max_replicas"),
        ("mode Recommend", "mode"),
        ("paused-scale-in", "paused_scale_in"),
        ("scaled to zero by hand", "zero_by_hand"),
        ("its rollout is paused", "rollout_paused"),
        ("its metrics are incomplete", "incomplete"),
        ("the moon", "other"),
    ],
)
def test_limits_are_named_alike_in_sentences_and_labels(said: str, label: str) -> None:
    assert limiter(said) == label


def test_what_bound_the_decision_and_what_held_the_order_are_both_counted() -> None:
    metrics = Metrics(process=False)
    metrics.observe_decision(Key(), record(), held_by="mode Recommend")
    metrics.observe_decision(Key(), record(made=decision(bound_by="paused")), held_by="paused")
    found = series(metrics)
    counted = [of(found, "harmony_decisions_limited_total", limiter=x) for x in ("epsilon", "mode", "paused")]
    assert counted == [1, 1, 1]


def test_who_no_longer_leads_shows_no_services() -> None:
    metrics = filled()
    metrics.forget_services()
    found = series(metrics)
    assert not any(dict(labels).get("kind") for _, labels in found)
    assert found["harmony_ticks_total", frozenset()] == 1


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_name_survives_the_text_format(namespace: str, name: str) -> None:
    metrics = Metrics(process=False)
    key = Key(namespace=namespace, name=name)
    metrics.observe_metrics_age(key, math.inf)
    text = metrics.exposition("application/openmetrics-text; version=1.0.0")[0].decode()
    (family,) = [f for f in parse_openmetrics(text) if f.name == "harmony_metrics_age_seconds"]
    (sample,) = family.samples
    assert (sample.labels["namespace"], sample.labels["name"], sample.value) == (namespace, name, math.inf)


@given(st.lists(st.floats(allow_nan=True), max_size=30))
def test_starts_are_counted_in_cumulative_buckets(took: list[float]) -> None:
    metrics = Metrics(process=False)
    for seconds in took:
        metrics.observe_start(Key(), seconds)
    real = [t for t in took if math.isfinite(t) and t >= 0]
    found = series(metrics)
    assert of(found, "harmony_replica_start_seconds_count") == (len(real) or None)
    for bound in (10.0, 300.0, 1800.0):
        got = of(found, "harmony_replica_start_seconds_bucket", le=str(bound))
        assert got == (sum(t <= bound for t in real) if real else None)


def test_what_does_not_exist_is_refused() -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match="read, forecast, decide, act, status"):
        metrics.observe_stage("lunch", 1.0)
    with pytest.raises(ValueError, match="expected intervals among"):
        metrics.observe_scores(Key(), {0.7: 0.7}, 1.0)


def test_scraping_while_the_loop_writes() -> None:
    metrics, problems = Metrics(process=False), list[BaseException]()

    def write(start: int) -> None:
        try:
            for i in range(300):
                key = Key(name=f"s{start + i % 7}")
                metrics.observe_decision(key, record())
                metrics.observe_scale_error(Key(name="shared"))
                if i % 5 == 0:
                    metrics.forget(key)
        except BaseException as e:  # noqa: BLE001  (handed to the test)
            problems.append(e)

    writers = [threading.Thread(target=write, args=(n,)) for n in (0, 100)]
    for writer in writers:
        writer.start()
    while any(w.is_alive() for w in writers):
        assert metrics.exposition()[0]
    for writer in writers:
        writer.join()
    assert problems == []
    assert of(series(metrics), "harmony_scale_errors_total", Key(name="shared")) == 600


def test_ten_times_the_services_are_ten_times_the_work() -> None:
    metrics = Metrics(process=False)
    turn = record()

    def update(services: int) -> None:
        for key in (Key(name=f"service-{i}") for i in range(services)):
            metrics.observe_mode(key, "Full", "Full")
            metrics.observe_decision(key, turn, realized=0.01)
            metrics.observe_fallback(key, False)
            metrics.observe_metrics_age(key, 3.0)
            metrics.observe_shadow(key, 1.0, 2.0, 3.0)
            metrics.observe_scores(key, {0.5: 0.5, 0.8: 0.8}, 1.0)

    update(1000)  # now all are there
    assert calls(lambda: update(1000)) <= 10.5 * calls(lambda: update(100))


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == as_markdown(), "run `python -m harmony.metrics.docs`"


def test_the_page_asks_in_promql_about_metrics_that_exist(tmp_path: Path) -> None:
    rules = [{"record": f"q{i}:x", "expr": query} for i, (_, query) in enumerate(QUERIES)]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "page", "rules": rules}]}), encoding="utf-8")
    subprocess.run([promtool(), "check", "rules", str(file)], check=True, capture_output=True)
    asked = {word for _, query in QUERIES for word in re.findall(r"harmony_\w+", query)}
    assert asked <= {d.name for d in CATALOGUE}
