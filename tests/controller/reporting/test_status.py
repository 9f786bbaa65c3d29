"""The status: complete, from closed sets, written when its meaning changes and only then."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.observing.starts import Starts
from controller.reporting.publishing import snapshot_of
from controller.reporting.status import annotations_of, conditions_of, differs, rejected_status, status_of
from controller.resource.consequences import CONSEQUENCES
from controller.resource.crd import crd_manifest
from controller.resource.group import Annotation
from controller.resource.reasons import EventReason
from controller.service import Service
from harmony.decision.rule import lead_window
from harmony.model.decision import Reason
from harmony.serving import sentence
from tests.controller.lives import STEP_S, T0, acted, service, turn

Json = dict[str, Any]
NAN = math.nan
TYPES = {
    "Ready",
    "AbleToScale",
    "ScalingActive",
    "ScalingLimited",
    "MetricsAvailable",
    "ForecastCalibrated",
    "Fallback",
    "Paused",
    "TargetConflict",
}
REASONS = {
    "Ready": {
        "Working",
        "WorkingWithWarnings",
        "Error",
        "FailedGetScale",
        "FailedUpdateScale",
        "PodsNotCreated",
        "PodsNotReady",
        "OwnedByAnother",
        "ForecastAbsent",
    },
    "AbleToScale": {
        "FailedGetScale",
        "FailedUpdateScale",
        "PodsNotCreated",
        "PodsNotReady",
        "SucceededRescale",
        "ReadyForNewScale",
    },
    "ScalingActive": {
        "ScalingDisabled",
        "NotDecidedYet",
        "MetricsAbsent",
        "ForecastAbsent",
        "FailedGetScale",
        "OwnedByAnother",
        "AuthorityReduced",
        "ValidMetricFound",
    },
    "ScalingLimited": {
        "NotDecidedYet",
        "TooFewReplicas",
        "TooManyReplicas",
        "BehaviorLimit",
        "Stabilized",
        "DesiredWithinRange",
    },
    "MetricsAvailable": {"NotReadYet", "MetricsFound"},
    "ForecastCalibrated": {"ForecastFailed", "TooFewScored", "CoverageChecked"},
    "Fallback": {"DataAbsent", "DataPresent"},
    "Paused": {"PausedByUser", "NotPaused"},
    "TargetConflict": {"OwnedByAnother", "SingleWriter", "NotWriting"},
}


def told(of: Service, **changes: Any) -> dict[str, tuple[str, str]]:
    return {c.type: (c.status, c.reason) for c in conditions_of(of, acted(of, **changes))}


def test_all_is_well() -> None:
    of = service()
    turn(of, T0, 200.0, 8)
    assert told(of) == {
        "Ready": ("True", "Working"),
        "AbleToScale": ("True", "ReadyForNewScale"),
        "ScalingActive": ("True", "ValidMetricFound"),
        "ScalingLimited": ("False", "DesiredWithinRange"),
        "MetricsAvailable": ("True", "MetricsFound"),
        "ForecastCalibrated": ("Unknown", "TooFewScored"),
        "Fallback": ("False", "DataPresent"),
        "Paused": ("False", "NotPaused"),
        "TargetConflict": ("False", "SingleWriter"),
    }


def test_before_the_first_look_nothing_is_claimed() -> None:
    found = told(service())
    assert found["Ready"] == ("False", "FailedGetScale")
    assert found["MetricsAvailable"] == ("Unknown", "NotReadYet")
    assert found["ScalingActive"] == ("False", "FailedGetScale")
    assert found["ScalingLimited"] == ("Unknown", "NotDecidedYet")


@pytest.mark.parametrize(
    ("change", "kind", "expected"),
    [
        ({"demand": NAN}, "ScalingActive", ("False", "MetricsAbsent")),
        ({"demand": NAN}, "MetricsAvailable", ("False", "MetricsEmpty")),
        ({"demand": NAN}, "Ready", ("False", "MetricsEmpty")),
        ({"problem": "it is gone"}, "ScalingActive", ("False", "FailedGetScale")),
        ({"ordered": 0}, "ScalingActive", ("False", "ScalingDisabled")),
        ({"blocked": "exceeded quota"}, "AbleToScale", ("False", "PodsNotCreated")),
        ({"blocked": "exceeded quota"}, "Ready", ("False", "PodsNotCreated")),
        ({"starts": Starts(8, 4, pending_s=(5.0,), stuck="Unschedulable")}, "AbleToScale", ("True", "PodsNotReady")),
        ({"starts": Starts(8, 4, pending_s=(5.0,), stuck="Starting")}, "AbleToScale", ("True", "ReadyForNewScale")),
        ({"demand": 5000.0, "ordered": 20}, "ScalingLimited", ("True", "TooManyReplicas")),
    ],
)
def test_what_is_wrong_has_its_reason(change: Json, kind: str, expected: tuple[str, str]) -> None:
    of = service()
    turn(of, T0, **({"demand": 200.0, "ordered": 8} | change))
    assert told(of)[kind] == expected


def test_conflicts_and_errors_come_before_all_else() -> None:
    of = service()
    turn(of, T0, 200.0, 8)
    of.meet("HorizontalPodAutoscaler serving/hpa")
    found = told(of, error="it scales too")
    assert found["TargetConflict"] == ("True", "OwnedByAnother")
    assert found["Ready"] == ("False", "OwnedByAnother")
    of.fails("read: broken")
    assert told(of)["Ready"] == ("False", "Error")
    looking = service(mode="Recommend")
    turn(looking, T0, 200.0, 8)
    looking.meet("HorizontalPodAutoscaler serving/hpa")
    assert told(looking)["TargetConflict"] == ("False", "NotWriting"), "beside an HPA that exists: the first step"
    assert told(looking)["Ready"][0] == "True"
    external = service(actuation="External")
    turn(external, T0, 200.0, 8)
    external.meet("ScaledObject serving/so")
    assert told(external)["TargetConflict"][0] == "False", "whoever reads our figure is no rival"


def test_pauses_are_named() -> None:
    notes = {Annotation.PAUSED_SCALE_IN: "true", Annotation.PAUSED_SCALE_OUT: "true"}
    of = service(annotations=notes)
    turn(of, T0, 100.0, 8)
    (paused,) = (c for c in conditions_of(of, acted(of)) if c.type == "Paused")
    assert (paused.status, paused.message) == ("True", "scale-in paused, scale-out paused")


@functools.cache
def schema_of_status() -> Json:
    (version,) = crd_manifest()["spec"]["versions"]
    found: Json = version["schema"]["openAPIV3Schema"]["properties"]["status"]
    return found


def unknown_fields(value: object, schema: Json, path: str = "status") -> list[str]:
    """Fields that the API server would prune."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    if isinstance(value, list):
        return [p for v in value for p in unknown_fields(v, schema["items"], f"{path}[]")]
    if not isinstance(value, dict):
        return []
    known = schema.get("properties", {})
    out = [f"{path}.{name}" for name in value if name not in known]
    return out + [p for n, v in value.items() if n in known for p in unknown_fields(v, known[n], f"{path}.{n}")]


def test_nothing_that_is_written_is_pruned() -> None:
    of = service(mode="Recommend", fallback={"failureThreshold": 3, "replicas": 5, "behavior": "currentReplicas"})
    for k in range(30):
        turn(of, T0 + k * STEP_S, 100.0 + k, 8)
    status = status_of(of, acted(of, floor=3), {}, T0)
    assert unknown_fields(status, schema_of_status()) == []
    assert {"shadow", "risk", "capacity", "leadTime", "lastScaleDecision", "floorReplicas"} <= set(status)
    json.dumps(status, allow_nan=False)


def test_the_decision_is_told_with_its_alternatives() -> None:
    of = service()
    turn(of, T0, 200.0, 12)
    decision = status_of(of, acted(of), {}, T0)["lastScaleDecision"]
    assert decision["fromReplicas"] == 12
    assert decision["recommendedReplicas"] == 8
    assert decision["reason"] in set(Reason)
    candidates = {c["replicas"]: c["violationProbability"] for c in decision["candidates"]}
    assert len(candidates) <= 12
    assert candidates[8] == 0.0
    assert candidates[7] == 1.0
    assert "with 7 the expected share of violated time over the next" in decision["message"]


def test_the_hold_that_kept_the_count_is_told() -> None:
    of = service()
    turn(of, T0, 25.0, 8, hold_down="its rollout is paused")
    decision = status_of(of, acted(of), {}, T0)["lastScaleDecision"]
    assert (decision["boundBy"], decision["direction"]) == ("its rollout is paused", "None")


def test_drift_is_no_news_and_meaning_is() -> None:
    of = service()
    turn(of, T0, 200.0, 8)
    old = status_of(of, acted(of), {}, T0)
    turn(of, T0 + 30, 199.0, 8)
    new = status_of(of, acted(of), old, T0 + 30)
    assert new["lastScaleDecision"]["time"] != old["lastScaleDecision"]["time"]
    assert not differs(old, new)
    turn(of, T0 + 60, NAN, 8, forecast=False)
    assert differs(old, status_of(of, acted(of), old, T0 + 60))
    assert differs({}, old)
    assert differs(old, old | {"readyReplicas": 7})
    assert differs(old, old | {"violationProbability": 0.9})


def test_a_risk_is_compared_with_the_one_that_was_written() -> None:
    def status(risk: float | None) -> dict:
        return {"risk": {"promised": 0.01}} | ({} if risk is None else {"violationProbability": risk})

    written = status(0.01)
    assert not any(differs(written, status(risk)) for risk in (0.0099, 0.0101, 0.003, 0.039))
    assert all(differs(written, status(risk)) for risk in (0.04, 0.0025, 0.0, None))
    assert not differs(status(0.0), status(0.0024)), "far below the objective, one path more or less is no news"
    assert not differs(status(0.0001), status(0.0))


def test_what_is_decided_while_nobody_acts_is_no_news() -> None:
    def turned(of: Service, now_s: float, demand: float, old: dict) -> dict:
        turn(of, now_s, demand, 8)
        return status_of(of, acted(of), old, now_s)

    of = service(paused=True)
    old = turned(of, T0, 200.0, {})
    new = turned(of, T0 + 30, 320.0, old)
    assert new["recommendedReplicas"] != old["recommendedReplicas"]
    assert not differs(old, new)
    assert differs(old, new | {"readyReplicas": 3})
    awake = service()
    before = turned(awake, T0, 200.0, {})
    after = turned(awake, T0 + 30, 320.0, before)
    assert differs(before, after), "whoever is not paused is told"
    assert differs(before, new), "and so is the pause itself"


def test_the_time_of_the_last_order_stays() -> None:
    of = service()
    turn(of, T0, 200.0, 4)
    first = status_of(of, acted(of), {}, T0)
    assert "lastScaleTime" not in first
    ordered = acted(of)
    scaled = status_of(of, type(ordered)(8, changed=True), first, T0)
    assert scaled["lastScaleTime"] == "2023-11-14T22:14:00Z"
    assert status_of(of, ordered, scaled, T0 + 600)["lastScaleTime"] == scaled["lastScaleTime"]


def test_the_message_is_the_sentence_that_the_dashboard_shows() -> None:
    for mode in ("Full", "Recommend"):
        of = service(mode=mode)
        turn(of, T0, 200.0, 8)
        turn(of, T0 + STEP_S, 125.0, 8)
        done = acted(of)
        snapshot = snapshot_of(of, done)
        assert snapshot is not None
        assert status_of(of, done, {}, T0)["lastScaleDecision"]["message"] == sentence(snapshot)


@pytest.mark.parametrize("mode", ["Observe", "Recommend", "Floor", "UpOnly", "Full"])
def test_a_pause_at_a_number_says_where_it_has_no_effect(mode: str) -> None:
    of = service(mode=mode, annotations={Annotation.PAUSED_REPLICAS: "5"})
    plan = turn(of, T0, 200.0, 8)
    paused = next(c for c in conditions_of(of, acted(of)) if c.type == "Paused")
    if mode in ("UpOnly", "Full"):
        assert plan.desired == 5
        assert paused.message == "at 5 replicas"
    else:
        assert plan.desired == 8, "a mode that never moves the count"
        assert f"paused-replicas 5 has no effect on the count in mode {mode}" in paused.message


def test_a_rejected_object_keeps_what_stood_there() -> None:
    of = service()
    turn(of, T0, 200.0, 8)
    old = status_of(of, acted(of), {}, T0)
    new = rejected_status(old, "spec.maxReplicas: too few", 7, T0)
    ready = [c for c in new["conditions"] if c["type"] == "Ready"]
    assert [(c["status"], c["reason"], c["message"]) for c in ready] == [
        ("False", "InvalidSpec", "spec.maxReplicas: too few")
    ]
    assert {c["type"] for c in new["conditions"]} == TYPES
    assert new["observedGeneration"] == 7
    assert new["recommendedReplicas"] == old["recommendedReplicas"]
    assert not differs(new, rejected_status(new, "spec.maxReplicas: too few", 7, T0 + 60))


def test_annotations_of_an_object_that_opted_in() -> None:
    of = service(mode="Recommend")
    turn(of, T0, 200.0, 4)
    notes = annotations_of(status_of(of, acted(of), {}, T0), of.to_json())
    assert notes[Annotation.RECOMMENDED_REPLICAS] == "8"
    assert json.loads(notes[Annotation.STATUS])["mode"] == "Recommend"
    assert json.loads(notes[Annotation.LEARNED])["loop"]
    assert all(isinstance(v, str) for v in notes.values())


def test_event_reasons_are_names() -> None:
    assert all(r.isalpha() and r[0].isupper() for r in EventReason)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.just(NAN) | st.floats(0, 900), st.integers(0, 25), st.booleans()), min_size=1, max_size=6),
    st.sampled_from(["Observe", "Recommend", "Floor", "UpOnly", "Full"]),
    st.sampled_from([None, Annotation.PAUSED, Annotation.PAUSED_SCALE_IN, Annotation.PAUSED_SCALE_OUT]),
    st.sampled_from(["", "it does not exist"]),
)
def test_whatever_happens_reasons_are_of_closed_sets(
    script: list[tuple[float, int, bool]], mode: str, pause: str | None, problem: str
) -> None:
    of = service(annotations={} if pause is None else {pause: "true"}, mode=mode)
    status: Json = {}
    for k, (demand, ordered, forecast) in enumerate(script):
        turn(of, T0 + k * STEP_S, demand, ordered, forecast=forecast, problem=problem)
        status = status_of(of, acted(of), status, T0 + k * STEP_S)
        json.dumps(status, allow_nan=False)
        assert [c["type"] for c in status["conditions"]].count("Ready") == 1
        assert {c["type"] for c in status["conditions"]} == TYPES
        for c in status["conditions"]:
            metrics = c["reason"].startswith("Metrics") and c["type"] in ("Ready", "MetricsAvailable")
            assert c["reason"] in REASONS[c["type"]] or metrics, c
        assert unknown_fields(status, schema_of_status()) == []


# ---- which condition follows from which ---------------------------------------------------------------------
STUCK = Starts(8, 1, pending_s=(5.0, 1e5), unready_s=(20.0,), stuck="Unschedulable", words="0/3 nodes are available")
LOOKS: tuple[Json, ...] = (
    {},
    {},
    {"problem": "it does not exist"},
    {"blocked": "exceeded quota"},
    {"hold_down": "its rollout is paused"},
    {"starts": STUCK},
    {"ready": 0},
)


@st.composite
def states(draw: st.DrawFn) -> tuple[Service, Any]:
    """A service after some turns in which anything happened, and what came of the last one."""
    pause = draw(st.sampled_from([None, None, None, Annotation.PAUSED, Annotation.PAUSED_SCALE_IN]))
    spec: Json = {"mode": draw(st.sampled_from(["Observe", "Recommend", "Floor", "UpOnly", "Full"]))}
    if draw(st.booleans()):
        spec["fallback"] = {"failureThreshold": 2, "replicas": draw(st.integers(1, 9))}
    of = service(annotations={} if pause is None else {pause: "true"}, **spec)
    done: Any = acted(of)
    for k in range(draw(st.integers(1, 5))):
        look = draw(st.sampled_from(LOOKS))
        demand = draw(st.just(NAN) | st.floats(0, 900) | st.just(math.inf))
        of.meet(draw(st.sampled_from(["", "", "HorizontalPodAutoscaler serving/chat"])))
        now_s = T0 + k * STEP_S
        plan = turn(of, now_s, demand, draw(st.integers(0, 25)), forecast=draw(st.booleans()), conclude=False, **look)
        stands = draw(st.sampled_from(["done", "refused", "dry"])) if not of.rival else "refused"
        done = acted(of)
        if of.plan is not None:
            if stands == "done":
                done = type(done)(plan.desired, changed=plan.desired != of.view.ordered)
            elif plan.desired != of.view.ordered and stands == "refused":
                done = done.failed("it scales too")
            of.conclude(done.applied)
    if draw(st.integers(0, 9)) == 0:
        of.fails("read: broken")
    return of, done


@settings(deadline=None, max_examples=400)
@given(states())
def test_no_condition_contradicts_another(found: tuple[Service, Any]) -> None:
    of, done = found
    status = status_of(of, done, {}, T0)
    conditions = {c["type"]: c for c in status["conditions"]}
    assert set(conditions) == TYPES
    for rule in CONSEQUENCES:
        cause = conditions[rule.of]
        if rule.applies(cause["status"], cause["reason"]):
            assert conditions[rule.then]["status"] == "False", (rule, conditions)
    assert all(c["message"] for c in conditions.values()), "events repeat them"
    if of.error:
        assert conditions["Ready"]["status"] == "False"
    if conditions["Ready"]["status"] == "False" and not of.error:
        others = [(c["status"], c["reason"], c["message"]) for t, c in conditions.items() if t != "Ready"]
        ready = conditions["Ready"]
        assert any((reason, message) == (ready["reason"], ready["message"]) for _, reason, message in others)
    decision = status.get("lastScaleDecision")
    if decision is None or of.plan is None:
        return
    # what is told of the count is what stands
    assert (decision["fromReplicas"], decision["toReplicas"]) == (of.view.ordered, done.desired)
    if done.desired == of.view.ordered != decision["recommendedReplicas"] and (of.rival or done.error):
        assert not decision["message"].startswith(("Up", "Down")), decision["message"]
        assert decision["boundBy"]
    # and of the time that is looked ahead
    assert of.record is not None
    window_s = lead_window(of.record.observation) * STEP_S
    p90_s = status["leadTime"]["p90Seconds"]
    assert p90_s - 1 <= window_s <= p90_s + 1 + STEP_S + 30.0


def test_the_table_is_of_conditions_that_there_are() -> None:
    assert {r.of for r in CONSEQUENCES} | {r.then for r in CONSEQUENCES} <= TYPES
    reasons = {r.only for r in CONSEQUENCES} | {r.unless for r in CONSEQUENCES}
    assert reasons - {""} <= {reason for known in REASONS.values() for reason in known}


def test_a_count_that_another_writer_kept_from_being_ordered_is_not_told_as_ordered() -> None:
    of = service()
    of.meet("HorizontalPodAutoscaler serving/chat")
    turn(of, T0, 200.0, 6, conclude=False)
    done = acted(of).failed("HorizontalPodAutoscaler serving/chat scales chat too; not written")
    of.conclude(done.applied)
    status = status_of(of, done, {}, T0)
    decision = status["lastScaleDecision"]
    assert decision["message"].startswith("8 replicas recommended, currently 6:")
    assert decision["message"].endswith("Desired replicas: 6 (another writer).")
    assert (decision["direction"], decision["toReplicas"], status["desiredReplicas"]) == ("None", 6, 6)
    assert "violationProbability" not in status or status["violationProbability"] == 1.0, "of the count that stands"
