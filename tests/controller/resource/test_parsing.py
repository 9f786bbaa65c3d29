"""GPUAutoscaler -> ServiceSettings: what each field becomes, what is said about mistakes, that nothing else escapes."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.resource.group import Annotation
from controller.resource.parsing import SpecError, parse_annotated, parse_autoscaler
from controller.resource.presets import PRESETS
from controller.resource.settings import ServiceKey, TargetRef
from harmony.model.authority import Mode, Pause
from harmony.model.objective import HPA_DOWN, HPA_UP, Fallback, IndicatorBound, ScalingPolicy, Stages
from tests.counting import calls

from .builders import REQUESTS, annotated, autoscaler

FULL: dict[str, Any] = autoscaler(
    annotations={Annotation.PAUSED_SCALE_IN: "true"},
    mode="Full",
    actuation="Scale",
    minReplicas=2,
    preset="vllm",
    presetMatchers='service="chat"',
    prometheus={"url": "http://prometheus.monitoring:9090"},
    objective={
        "demand": "requests",
        "perReplica": 25,
        "bound": {"indicator": "ttft_p95", "atMost": 0.5},
        "epsilon": 0.05,
        "measure": "Window",
    },
    cost={
        "pricePerGPUHour": 2.5,
        "gpusPerReplica": 4,
        "gpuType": "H100",
        "currency": "EUR",
        "missPricePerReplicaHour": 9,
        "switchPrice": 0.25,
    },
    behavior={
        "scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}], "selectPolicy": "Min"},
        "scaleDown": {"stabilizationWindowSeconds": 60, "tolerance": 0.05},
    },
    leadTime={"source": "Fixed", "seconds": 420},
    stepSeconds=30,
    fallback={"failureThreshold": 5, "replicas": 10, "behavior": "currentReplicas"},
    schedules=[
        {
            "name": "nights",
            "timezone": "Europe/Berlin",
            "daysOfWeek": ["Mon", "Sun"],
            "startTime": "22:00",
            "endTime": "06:30",
            "maxReplicas": 5,
        }
    ],
    scaleDown={"stagePercent": 50, "stageSeconds": 120},
    capacityBuffer={"enabled": True, "quantile": 0.95},
)


def test_every_field_arrives() -> None:
    got = parse_autoscaler(FULL)
    assert got.key == ServiceKey("GPUAutoscaler", "serving", "chat")
    assert (got.uid, got.generation) == ("0b1d", 3)
    assert got.target == TargetRef("apps/v1", "Deployment", "chat")
    assert got.mode is Mode.FULL
    assert got.pause == Pause(scale_in=True)
    assert (got.actuation, got.prometheus_url, got.step_s) == ("Scale", "http://prometheus.monitoring:9090", 30.0)
    assert (got.gpu_type, got.currency, got.buffer_quantile) == ("H100", "EUR", 0.95)
    promised = got.objective
    assert (promised.epsilon, promised.demand, promised.measure) == (0.05, "requests", "window")
    assert (promised.min_replicas, promised.max_replicas) == (2, 20)
    assert (promised.price_per_gpu_hour, promised.gpus_per_replica) == (2.5, 4)
    assert (promised.miss_price_per_replica_hour, promised.switch_price) == (9.0, 0.25)
    assert promised.bound == IndicatorBound("ttft_p95", 0.5)
    assert promised.fallback == Fallback(5, 10, "currentReplicas")
    assert promised.behavior.scale_up.policies == (ScalingPolicy("Pods", 2, 60.0),)
    assert promised.behavior.scale_up.select == "Min"
    assert promised.behavior.scale_down.stabilization_window_s == 60.0
    assert promised.behavior.scale_down.policies == HPA_DOWN.policies
    assert promised.behavior.stages == Stages(50, 120.0)
    (nights,) = promised.schedules
    assert (nights.name, nights.timezone, nights.days) == ("nights", "Europe/Berlin", frozenset({0, 6}))
    assert (nights.start_min, nights.end_min) == (22 * 60, 6 * 60 + 30)
    assert (nights.min_replicas, nights.max_replicas) == (None, 5)
    assert got.lead_time.is_known
    assert got.lead_time.median_s == pytest.approx(420)
    assert not got.capacity.is_known  # a service level is promised, so capacity is learned from the guess of 25
    assert got.capacity.median == 25.0


def test_defaults() -> None:
    got = parse_autoscaler(autoscaler())
    assert got.mode is Mode.RECOMMEND
    assert got.pause == Pause()
    assert (got.actuation, got.prometheus_url, got.step_s, got.buffer_quantile) == ("Scale", "", 60.0, None)
    assert (got.objective.epsilon, got.objective.measure, got.objective.min_replicas) == (0.01, "time", 1)
    assert got.objective.behavior.scale_up == HPA_UP
    assert got.objective.behavior.scale_down == HPA_DOWN
    assert got.objective.behavior.stages is None
    assert got.objective.fallback is None
    assert got.objective.schedules == ()
    assert got.capacity.is_known
    assert got.capacity.median == 25.0
    assert not got.lead_time.is_known
    assert got.lead_time.median_s == pytest.approx(300)


@pytest.mark.parametrize(("lead", "window"), [(60, 300.0), (900, 900.0)])
def test_patience_on_the_way_down_is_at_least_one_lead_time(lead: int, window: float) -> None:
    """A replica given up takes a lead time to get back; HPA's 300 s are the least."""
    for behavior in (..., {"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}):
        got = parse_autoscaler(autoscaler(leadTime={"seconds": lead}, behavior=behavior))
        assert got.objective.behavior.scale_down.stabilization_window_s == window


def test_the_demand_is_the_one_named_else_the_first_of_level_1_own_before_preset() -> None:
    cpu = {"name": "cpu", "query": "avg(cpu)", "level": 2}

    def names(**changes: object) -> list[str]:
        return [q.indicator.name for q in parse_autoscaler(autoscaler(**changes)).queries]

    assert names(indicators=[cpu, REQUESTS]) == ["requests", "cpu"]
    assert names(indicators=[REQUESTS, cpu], objective={"perReplica": 1, "demand": "cpu"}) == ["cpu", "requests"]
    assert names(indicators=..., preset="vllm")[0] == "requests"
    assert names(indicators=[cpu], preset="triton")[0] == "request_rate"
    rps = REQUESTS | {"name": "rps"}
    assert names(indicators=[rps], preset="vllm")[:2] == ["rps", "requests"]
    assert names(indicators=[rps], preset="vllm", objective={"perReplica": 1, "demand": "request_rate"})[0] == (
        "request_rate"
    )


def test_an_own_indicator_replaces_that_of_the_preset() -> None:
    own = {"name": "requests", "query": "sum(mine)", "level": 1, "unit": "mine"}
    queries = parse_autoscaler(autoscaler(indicators=[own], preset="vllm")).queries
    assert [q.promql for q in queries if q.indicator.name == "requests"] == ["sum(mine)"]


def test_capacity_starts_from_what_is_known() -> None:
    bound = {"indicator": "ttft_p95", "atMost": 0.5}
    preset_guess = parse_autoscaler(autoscaler(indicators=..., preset="vllm", objective={"bound": bound})).capacity
    given_guess = parse_autoscaler(
        autoscaler(indicators=..., preset="vllm", objective={"bound": bound, "perReplica": 7})
    ).capacity
    own_unit = parse_autoscaler(
        autoscaler(preset="vllm", indicators=[REQUESTS | {"name": "rps"}], objective={"bound": bound})
    )
    assert (preset_guess.median, given_guess.median, own_unit.capacity.median) == (32.0, 7.0, 1.0)
    assert 0 < given_guess.sigma < preset_guess.sigma < own_unit.capacity.sigma


def test_pausing_by_spec_and_by_annotation() -> None:
    def pause(paused: object = ..., **annotations: str) -> Pause:
        named = {getattr(Annotation, name): value for name, value in annotations.items()}
        return parse_autoscaler(autoscaler(annotations=named, paused=paused)).pause

    assert pause(paused=True) == Pause(paused=True)
    assert pause(PAUSED="false") == pause(PAUSED="False") == Pause()
    assert pause(PAUSED="true") == pause(PAUSED="") == pause(PAUSED="2026-01-01") == Pause(paused=True)
    assert pause(PAUSED_REPLICAS="5") == Pause(replicas=5)
    assert pause(PAUSED_REPLICAS="0", PAUSED_SCALE_OUT="yes") == Pause(replicas=0, scale_out=True)
    with pytest.raises(SpecError, match=r"annotations\[.*paused-replicas\]: 'many' is not a whole number"):
        pause(PAUSED_REPLICAS="many")


NIGHT = {"name": "n", "startTime": "22:00", "endTime": "06:00", "maxReplicas": 5}

MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"objective": {"perReplica": 25, "epsilon": 0.9}},
        "spec.objective.epsilon: 0.9 is not <= 0.5; a tolerated violation probability such as 0.01",
    ),
    ({"objective": {}}, "spec.objective: no objective; give perReplica (what one ready replica carries) or"),
    ({"objective": {"perReplica": 0}}, "spec.objective.perReplica: 0 is not > 0; demand that one ready replica"),
    ({"objective": {"perReplica": math.nan}}, "spec.objective.perReplica: NaN is not a finite number"),
    ({"objective": {"perReplica": 1, "demand": "request"}}, "spec: objective.demand is not the name of an indicator"),
    (
        {"preset": "vllm", "objective": {"perReplica": 1, "demand": "request"}},
        "spec.objective.demand: 'request' is not an indicator; did you mean 'requests' or 'request_rate'",
    ),
    (
        {"preset": "vllm", "objective": {"bound": {"indicator": "ttft", "atMost": 1}}},
        "spec.objective.bound.indicator: 'ttft' is not an indicator; did you mean 'ttft_p95'?",
    ),
    (
        {"objective": {"bound": {"indicator": "ttft", "atMost": 1}}},
        "spec: objective.bound.indicator is not the name of an indicator",
    ),
    ({"maxReplica": 3}, "spec.maxReplica: no such field; did you mean 'maxReplicas' or 'minReplicas'?"),
    ({"maxReplicas": ...}, "spec.maxReplicas: is missing; most replicas, never exceeded"),
    ({"maxReplicas": "20"}, 'spec.maxReplicas: "20" is not a whole number'),
    ({"maxReplicas": True}, "spec.maxReplicas: true is not a whole number"),
    ({"maxReplicas": 0}, "spec.maxReplicas: 0 is not >= 1"),
    ({"maxReplicas": 10**30}, "is not <= 100000"),
    ({"minReplicas": 30}, "spec: maxReplicas is less than minReplicas; give maxReplicas >= minReplicas"),
    ({"mode": "full"}, 'spec.mode: "full" is not one of Observe, Recommend, Floor, UpOnly, Full'),
    ({"mode": "Floor", "actuation": "External"}, "spec: mode Floor writes a minimum, which actuation External"),
    ({"indicators": ...}, "spec: nothing to count replicas for; give a preset, or an indicator of level 1"),
    ({"indicators": []}, "spec: nothing to count replicas for"),
    ({"indicators": [REQUESTS | {"level": 2}]}, "spec: nothing to count replicas for"),
    ({"indicators": [REQUESTS | {"level": True}]}, "spec.indicators[0].level: true is not a whole number"),
    ({"indicators": [REQUESTS, REQUESTS]}, "spec.indicators: 'requests' stands twice; names must be unique"),
    ({"indicators": [REQUESTS | {"name": "a b"}]}, 'spec.indicators[0].name: "a b" does not have the right form'),
    ({"presetMatchers": 'a="b"'}, "spec: presetMatchers has no effect without a preset"),
    ({"preset": "vllm", "presetMatchers": 'a="b"} or up{'}, "spec.presetMatchers: "),
    ({"preset": "none"}, f'spec.preset: "none" is not one of {", ".join(PRESETS)}'),
    ({"prometheus": {"url": "localhost:9090"}}, 'spec.prometheus.url: "localhost:9090" does not have the right form'),
    ({"fallback": {}}, "spec.fallback: currentReplicasIfHigher needs replicas"),
    ({"fallback": {"behavior": "static"}}, 'spec.fallback.behavior: "static" is not one of currentReplicas, '),
    ({"schedules": [{**NIGHT, "maxReplicas": None}]}, "spec.schedules[0]: a schedule needs minReplicas, maxReplicas"),
    ({"schedules": [NIGHT | {"minReplicas": 6}]}, "spec.schedules[0]: maxReplicas of the schedule is less than its"),
    ({"schedules": [NIGHT | {"maxReplicas": 1}], "minReplicas": 2}, "spec: a schedule leaves minReplicas..maxReplicas"),
    ({"schedules": [NIGHT | {"daysOfWeek": []}]}, "spec.schedules[0].daysOfWeek: []: "),
    ({"schedules": [NIGHT | {"startTime": "24:00"}]}, 'spec.schedules[0].startTime: "24:00" does not have the right'),
    ({"schedules": [NIGHT | {"timezone": "Mars/Olympus"}]}, "spec.schedules[0]: time zone 'Mars/Olympus': expected an"),
    ({"schedules": [NIGHT, NIGHT]}, "spec.schedules: 'n' stands twice"),
    ({"cost": {"pricePerGpuHour": 1}}, "spec.cost.pricePerGpuHour: no such field; did you mean 'pricePerGPUHour'"),
    ({"scaleTargetRef": {"kind": "Deployment"}}, "spec.scaleTargetRef.apiVersion: is missing; API version of the"),
]


@pytest.mark.parametrize(("changes", "said"), MISTAKES, ids=[said[:48] for _, said in MISTAKES])
def test_a_mistake_is_named_with_its_place_and_what_would_be_accepted(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_autoscaler(autoscaler(**changes))
    assert str(error.value).startswith("serving/chat: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_all_mistakes_are_at_least_placed() -> None:
    with pytest.raises(SpecError, match=r"also wrong: spec.objective.epsilon, spec.stepSeconds"):
        parse_autoscaler(autoscaler(maxReplicas=0, objective={"perReplica": 1, "epsilon": 2}, stepSeconds=1))


def test_end_of_day_and_24_hours() -> None:
    whole = {**NIGHT, "startTime": "00:00", "endTime": "24:00"}
    (schedule,) = parse_autoscaler(autoscaler(schedules=[whole])).objective.schedules
    assert (schedule.start_min, schedule.end_min, schedule.days) == (0, 1440, frozenset(range(7)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(["apiVersion", "kind", "metadata", "spec", "name", "namespace", "annotations", "preset", "mode"])


def _paths(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [p for key, child in inside for p in _paths(child, (*path, key))]


BASES = [
    FULL,
    autoscaler(),
    annotated("HorizontalPodAutoscaler", {Annotation.PRESET: "tgi", Annotation.LEAD_TIME: "5m"}),
    annotated("ScaledObject", {Annotation.EPSILON: "0.1", Annotation.PAUSED: "true"}),
]


def _only_spec_errors(obj: Any) -> None:
    for parse in (parse_autoscaler, parse_annotated):
        with contextlib.suppress(SpecError):
            parse(obj)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(BASES), st.data())
def test_a_changed_object_gives_settings_or_a_spec_error(base: dict[str, Any], data: st.DataObject) -> None:
    obj = copy.deepcopy(base)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(_paths(obj)))
        place: Any = obj
        for key in way:
            place = place[key]
        change = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "remove":
            del place[last]
        elif change == "add" and isinstance(place, dict):
            place[data.draw(st.text(max_size=8) | KEYS)] = data.draw(JSON)
        else:
            place[last] = data.draw(JSON)
        if not _paths(obj):
            break
    _only_spec_errors(obj)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(KEYS | st.text(max_size=8), JSON) | JSON)
def test_any_json_gives_settings_or_a_spec_error(obj: Any) -> None:
    _only_spec_errors(obj)


def test_an_object_is_read_with_few_calls() -> None:
    """A controller reads thousands of them when it starts; all options set, it takes 240 calls (and 0.2 ms)."""
    parse_autoscaler(FULL)
    assert calls(lambda: parse_autoscaler(FULL)) < 600


# ---- zero replicas ------------------------------------------------------------------------------------------
GATEWAY = {"name": "requests", "query": 'sum(rate(envoy_cluster_upstream_rq_total{cluster="chat"}[1m]))'}
WAITING = {
    "name": "waiting",
    "query": 'sum(vllm:num_requests_waiting{service="chat"}) + sum(vllm:num_requests_running)',
}
SLEEPS = NIGHT | {"minReplicas": 0}


@pytest.mark.parametrize(
    ("spec", "held"),
    [
        ({"preset": "sglang", "indicators": ..., "minReplicas": 0}, True),
        ({"preset": "dcgm", "indicators": ..., "minReplicas": 0}, True),
        ({"indicators": [WAITING], "minReplicas": 0}, True),
        ({"preset": "tgi", "indicators": ..., "minReplicas": 1, "schedules": [SLEEPS]}, True),
        ({"preset": "vllm", "indicators": [GATEWAY], "minReplicas": 0}, False),
        ({"preset": "dynamo", "presetMatchers": 'model="a"', "indicators": ..., "minReplicas": 0}, False),
        ({"preset": "vllm", "indicators": ..., "minReplicas": 0, "actuation": "External"}, False),
        ({"preset": "vllm", "indicators": ..., "minReplicas": 1}, False),
        ({"indicators": [GATEWAY], "minReplicas": 0}, False),
    ],
)
def test_a_service_that_nothing_could_wake_is_not_put_to_sleep(spec: dict[str, Any], held: bool) -> None:
    made = parse_autoscaler(autoscaler(**spec))
    least = [made.objective.min_replicas, *(s.min_replicas for s in made.objective.schedules)]
    assert bool(made.warnings) is held
    if held:
        assert least == [1] * len(least)
        assert "minReplicas 0 is held at 1" in made.warnings[0]
        assert all(name in made.warnings[0] for name in ("dynamo", "inference-extension", "ray-serve", "External"))
    else:
        assert least[0] == spec["minReplicas"]


def test_what_keda_wakes_may_sleep() -> None:
    notes = {Annotation.DEMAND_QUERY: "sum(vllm:num_requests_running) + sum(vllm:num_requests_waiting)"}
    made = parse_annotated(annotated("ScaledObject", notes, minReplicaCount=0))
    assert made is not None
    assert (made.objective.min_replicas, made.warnings) == (0, ())
