"""An annotated HorizontalPodAutoscaler or ScaledObject -> ServiceSettings."""

from __future__ import annotations

from typing import Any

import pytest

from controller.resource.group import Annotation
from controller.resource.parsing import SpecError, parse_annotated
from controller.resource.presets import PRESETS
from controller.resource.settings import ServiceKey, ServiceSettings, TargetRef
from harmony.model.authority import Mode, Pause

from .builders import annotated

HPA, SCALED_OBJECT = "HorizontalPodAutoscaler", "ScaledObject"


def parsed(kind: str, annotations: dict[str, Any] | None = None, **fields: object) -> ServiceSettings:
    got = parse_annotated(annotated(kind, annotations, **fields))
    assert got is not None
    return got


@pytest.mark.parametrize("kind", [HPA, SCALED_OBJECT])
def test_an_object_that_was_not_opted_in_is_left_alone(kind: str) -> None:
    assert parse_annotated(annotated(kind, {Annotation.MANAGED: ...})) is None
    assert parse_annotated(annotated(kind, {Annotation.MANAGED: "false"})) is None
    # what else it says is then none of our business
    assert (
        parse_annotated(annotated(kind, {Annotation.MANAGED: "False", Annotation.MODE: "Full"}, maxReplicas=0)) is None
    )


def test_opting_in_takes_true_and_nothing_that_merely_looks_like_it() -> None:
    with pytest.raises(SpecError, match=r"managed\]: 'no' is not one of \"true\", \"false\""):
        parse_annotated(annotated(HPA, {Annotation.MANAGED: "no"}))


def test_a_horizontal_pod_autoscaler() -> None:
    got = parsed(
        HPA,
        {
            Annotation.MODE: "Floor",
            Annotation.EPSILON: "0.05",
            Annotation.LEAD_TIME: "1h5m30s",
            Annotation.GPUS_PER_REPLICA: "8",
            Annotation.PRICE_PER_GPU_HOUR: "2.5",
            Annotation.PROMETHEUS_URL: "https://thanos.example.com/api",
            Annotation.PAUSED_REPLICAS: "3",
        },
        minReplicas=2,
    )
    assert got.key == ServiceKey(HPA, "serving", "chat")
    assert got.target == TargetRef("apps/v1", "Deployment", "chat")
    assert (got.mode, got.actuation, got.pause) == (Mode.FLOOR, "Scale", Pause(replicas=3))
    assert (got.objective.min_replicas, got.objective.max_replicas) == (2, 10)
    assert (got.objective.epsilon, got.objective.gpus_per_replica, got.objective.price_per_gpu_hour) == (0.05, 8, 2.5)
    assert got.lead_time.median_s == pytest.approx(3930)
    assert got.objective.behavior.scale_down.stabilization_window_s == 3930
    assert got.prometheus_url == "https://thanos.example.com/api"
    assert [(q.indicator.name, q.promql) for q in got.queries] == [("demand", "sum(rate(http_requests_total[1m]))")]
    assert got.capacity.is_known
    assert got.capacity.median == 25


def test_defaults_are_the_owners() -> None:
    hpa = parsed(HPA)
    assert (hpa.objective.min_replicas, hpa.objective.max_replicas, hpa.mode) == (1, 10, Mode.RECOMMEND)
    keda = parsed(SCALED_OBJECT, scaleTargetRef={"name": "chat", "envSourceContainerName": "main"})
    assert (keda.objective.min_replicas, keda.objective.max_replicas) == (0, 100)
    assert keda.target == TargetRef("apps/v1", "Deployment", "chat")
    own = {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": "large"}
    keda = parsed(SCALED_OBJECT, scaleTargetRef=own, minReplicaCount=2, maxReplicaCount=5)
    assert (keda.objective.min_replicas, keda.objective.max_replicas) == (2, 5)
    assert keda.target == TargetRef("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "large")


def test_a_minimum_that_we_hold_up_is_not_taken_for_the_users() -> None:
    """While Floor holds, minReplicas is our own figure; reading it back would only ever raise it."""
    got = parsed(HPA, {Annotation.ORIGINAL_MIN_REPLICAS: "2"}, minReplicas=9)
    assert got.objective.min_replicas == 2
    got = parsed(SCALED_OBJECT, {Annotation.ORIGINAL_MIN_REPLICAS: "0"}, minReplicaCount=9)
    assert got.objective.min_replicas == 0


def test_a_preset_matches_the_pods_of_the_target() -> None:
    got = parsed(HPA, {Annotation.PRESET: "tgi", Annotation.DEMAND_QUERY: ...})
    assert got.objective.demand == "requests"
    assert 'tgi_queue_size{namespace="serving",pod=~"chat-' in got.queries[0].promql
    got = parsed(HPA, {Annotation.PRESET: "tgi", Annotation.PRESET_MATCHERS: 'app="x"'})
    assert got.objective.demand == "demand"  # the own query counts, the preset adds to it
    assert any('tgi_queue_size{app="x"}' in q.promql for q in got.queries)


@pytest.mark.parametrize(
    ("annotations", "fields", "said"),
    [
        (
            {Annotation.MODE: "Full"},
            {},
            "mode]: 'Full' is not one of Observe, Recommend, Floor; more authority needs a",
        ),
        ({Annotation.MODE: "UpOnly"}, {}, "mode]: 'UpOnly' is not one of Observe, Recommend, Floor"),
        ({Annotation.DEMAND_QUERY: ...}, {}, "demand-query]: is missing; give this PromQL, or autoscaling.harmony"),
        ({Annotation.PER_REPLICA: ...}, {}, "per-replica]: is missing; give what one ready replica carries"),
        ({Annotation.PER_REPLICA: "many"}, {}, "per-replica]: 'many' is not a number such as"),
        ({Annotation.PER_REPLICA: "0"}, {}, "per-replica]: 0.0 is not > 0"),
        ({Annotation.PER_REPLICA: "nan"}, {}, "per-replica]: 'nan' is not a number"),
        ({Annotation.EPSILON: "0.9"}, {}, "epsilon]: 0.9 is not <= 0.5; a tolerated violation probability such as"),
        ({Annotation.LEAD_TIME: "5 minutes"}, {}, "lead-time]: '5 minutes' is not a duration such as"),
        ({Annotation.LEAD_TIME: ""}, {}, "lead-time]: '' is not a duration"),
        ({Annotation.LEAD_TIME: "0s"}, {}, "lead-time]: 0.0 is not > 0"),
        ({Annotation.GPUS_PER_REPLICA: "1.5"}, {}, "gpus-per-replica]: '1.5' is not a whole number"),
        ({Annotation.PRESET: "none"}, {}, f'preset]: "none" is not one of {", ".join(PRESETS)}'),
        ({Annotation.PRESET_MATCHERS: 'a="b"'}, {}, "preset-matchers]: has no effect without"),
        ({Annotation.PROMETHEUS_URL: "x"}, {}, 'prometheus-url]: "x" does not have the right form'),
        ({Annotation.PAUSED_REPLICAS: "-1"}, {}, "paused-replicas]: '-1' is not a whole number"),
        ({Annotation.ORIGINAL_MIN_REPLICAS: "x"}, {}, "original-min-replicas]: 'x' is not a whole number"),
        ({}, {"maxReplicas": ...}, "spec.maxReplicas: is missing"),
        ({}, {"maxReplicas": 10**9}, "spec.maxReplicas: 1000000000 is not <= 100000"),
        ({}, {"scaleTargetRef": ...}, "spec.scaleTargetRef: null is not an object"),
    ],
)
def test_a_mistake_names_the_annotation_or_field(
    annotations: dict[str, Any], fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError) as error:
        parse_annotated(annotated(HPA, annotations, **fields))
    assert str(error.value).startswith("serving/chat: ")
    assert said in str(error.value)


def test_a_mistake_in_a_scaled_object_is_named_as_keda_names_the_field() -> None:
    with pytest.raises(SpecError, match=r"spec\.maxReplicaCount: 0 is not >= 1"):
        parse_annotated(annotated(SCALED_OBJECT, maxReplicaCount=0))


def test_other_kinds_cannot_be_opted_in() -> None:
    with pytest.raises(SpecError, match="'Deployment' is not one of HorizontalPodAutoscaler, ScaledObject"):
        parse_annotated(annotated("Deployment"))
