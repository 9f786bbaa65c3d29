"""The CustomResourceDefinition: valid, structural, and of one mind with parsing."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from controller.resource.crd import crd_manifest
from controller.resource.parsing import SpecError, parse_autoscaler
from controller.resource.rules import RULES, broken_rules
from controller.resource.spec import AutoscalerSpec
from controller.resource.status import Status
from tests.kube.schema import fill_defaults, findings

from .builders import REQUESTS, autoscaler, spec
from .test_parsing import FULL, NIGHT

Json = dict[str, Any]
VERSION: Json = crd_manifest()["spec"]["versions"][0]
SCHEMA: Json = VERSION["schema"]["openAPIV3Schema"]

# Keywords that a structural schema may hold (CustomResourceDefinition, JSONSchemaProps); no $ref, anyOf, nullable.
ALLOWED = frozenset(
    """
    type description format default enum pattern minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum
    minItems maxItems required properties items x-kubernetes-list-type x-kubernetes-list-map-keys
    x-kubernetes-validations x-kubernetes-preserve-unknown-fields
    """.split()  # noqa: SIM905  (one keyword after the other reads better)
)


def nodes(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


def test_the_definition_is_valid_for_the_api_server() -> None:
    assert kubernetes_validate.validate(crd_manifest(), "1.36", strict=True) == "1.36"


def test_every_node_is_structural() -> None:
    for path, node in nodes(SCHEMA):
        assert set(node) <= ALLOWED, path
        if "type" not in node:
            assert node["x-kubernetes-preserve-unknown-fields"] is True, path
            continue
        assert node["type"] in {"object", "array", "string", "integer", "number", "boolean"}, path
        if node["type"] == "array":
            assert "items" in node, path
            assert node["x-kubernetes-list-type"] in {"map", "set", "atomic"}, path
        if node["type"] == "object" and path not in ("", ".metadata"):
            # nothing is pruned away by accident: an object lists its fields or keeps all
            assert ("properties" in node) != bool(node.get("x-kubernetes-preserve-unknown-fields")), path
        assert isinstance(node.get("exclusiveMinimum", True), bool), path  # OpenAPI 3.0, not JSON Schema 2020
        assert set(node.get("required", [])) <= set(node.get("properties", {})), path
    assert SCHEMA["properties"]["status"]["properties"]["learned"] == {
        "type": "object",
        "description": "The same as earlier versions wrote it; it is read once and taken away.",
        "x-kubernetes-preserve-unknown-fields": True,
    }


def test_lists_of_named_things_merge_by_name() -> None:
    found = {
        path: node["x-kubernetes-list-map-keys"] for path, node in nodes(SCHEMA) if "x-kubernetes-list-map-keys" in node
    }
    assert found == {".spec.indicators": ["name"], ".spec.schedules": ["name"], ".status.conditions": ["type"]}
    for path, node in nodes(SCHEMA):
        if "x-kubernetes-list-map-keys" in node:  # the API server refuses keys that may be absent
            assert set(node["x-kubernetes-list-map-keys"]) <= set(node["items"]["required"]), path


def test_every_field_is_described() -> None:
    for path, node in nodes(SCHEMA):
        if path not in ("", ".metadata") and not path.endswith("[]"):
            assert node.get("description", "").endswith((".", ".)")), path


def test_everything_a_rule_looks_at_is_bounded_so_that_its_cost_is_too() -> None:
    """The API server refuses rules whose estimated cost is unbounded (10 million units for one rule)."""
    for path, node in nodes(SCHEMA["properties"]["spec"]):
        if node.get("type") == "array":
            assert node["maxItems"] <= 32, path
        if node.get("type") == "string" and "enum" not in node:
            assert node["maxLength"] <= 4096, path
    for _, node in nodes(SCHEMA):
        for rule in node.get("x-kubernetes-validations", []):
            assert 0 < len(rule["message"]) <= 256
            assert "\n" not in rule["message"]


def test_names_and_columns() -> None:
    names = crd_manifest()["spec"]["names"]
    assert crd_manifest()["metadata"]["name"] == f"{names['plural']}.{crd_manifest()['spec']['group']}"
    assert names["shortNames"] == ["gpa"]
    shown = [c["name"] for c in VERSION["additionalPrinterColumns"] if not c.get("priority")]
    assert shown == ["Target", "Mode", "Min", "Max", "Current", "Recommended", "PMiss", "Ready", "Age"]
    known = {path for path, _ in nodes(SCHEMA)} | {".metadata.creationTimestamp"}
    for column in VERSION["additionalPrinterColumns"]:
        assert column["jsonPath"].replace('[?(@.type=="Ready")]', "[]") in known


def admitted(obj: Json, old: Json | None = None) -> list[str]:
    """What the API server says about an object: schema and CEL rules, after defaults."""
    now, before = copy.deepcopy(obj), copy.deepcopy(old)
    fill_defaults(SCHEMA, now)
    if before is None:
        return [cause.message for cause in findings(SCHEMA, now)]
    fill_defaults(SCHEMA, before)
    return [cause.message for cause in findings(SCHEMA, now, before)]


def test_a_full_and_a_small_object_are_admitted() -> None:
    assert admitted(FULL) == []
    assert admitted(autoscaler()) == []


@pytest.mark.parametrize("obj", [FULL, autoscaler()], ids=["full", "small"])
def test_defaults_of_the_schema_are_those_of_parsing(obj: Json) -> None:
    filled = copy.deepcopy(obj)
    fill_defaults(SCHEMA, filled)
    assert filled != obj
    assert parse_autoscaler(filled) == parse_autoscaler(obj)


@pytest.mark.parametrize("tolerance", [0, 0.05, "0", "0.05", "50m"])
def test_an_hpas_behavior_can_be_pasted(tolerance: object) -> None:
    """People write a number; the API server gives a quantity back as text."""
    rules = {"tolerance": tolerance, "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}
    obj = autoscaler(behavior={"scaleUp": rules, "scaleDown": rules | {"selectPolicy": "Disabled"}})
    assert admitted(obj) == []
    assert parse_autoscaler(obj).objective.behavior.scale_down.select == "Disabled"


def test_the_target_cannot_be_changed() -> None:
    other = autoscaler(scaleTargetRef={"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"})
    assert admitted(other) == []
    (said,) = admitted(other, autoscaler())
    assert "make a new GPUAutoscaler for another target" in said
    assert admitted(autoscaler(maxReplicas=21), autoscaler()) == []


BROKEN: list[Json] = [
    {"minReplicas": 30},
    {"indicators": ...},
    {"indicators": [REQUESTS | {"level": 2}]},
    {"objective": {"perReplica": 1, "demand": "other"}},
    {"objective": {"bound": {"indicator": "other", "atMost": 1}}},
    {"presetMatchers": 'a="b"'},
    {"mode": "Floor", "actuation": "External"},
    {"schedules": [NIGHT | {"maxReplicas": 1}], "minReplicas": 2},
    {"objective": {}},
    {"fallback": {}},
    {"schedules": [{k: v for k, v in NIGHT.items() if k != "maxReplicas"}]},
    {"schedules": [NIGHT | {"minReplicas": 6}]},
]


def test_every_rule_can_break_and_says_the_same_in_both_places() -> None:
    seen = set()
    for changes in BROKEN:
        given_spec = spec(**changes)
        (_, message), *_ = broken_rules(AutoscalerSpec.model_validate(given_spec))
        assert any(message in said for said in admitted(autoscaler(given_spec))), message
        with pytest.raises(SpecError, match="serving/chat: spec"):
            parse_autoscaler(autoscaler(given_spec))
        seen.add(message)
    assert seen == {rule.message for rule in RULES if rule.holds is not None}


OPTIONAL = {
    "minReplicas": st.integers(0, 4),
    "maxReplicas": st.integers(1, 4),
    "mode": st.sampled_from(["Floor", "Full"]),
    "actuation": st.sampled_from(["Scale", "External"]),
    "preset": st.just("vllm"),
    "presetMatchers": st.just('a="b"'),
    "indicators": st.lists(
        st.builds(
            lambda name, level: REQUESTS | {"name": name, "level": level}, st.sampled_from("abc"), st.integers(1, 2)
        ),
        max_size=2,
        unique_by=lambda i: i["name"],
    ),
    "objective": st.fixed_dictionaries(
        {},
        optional={
            "perReplica": st.just(1),
            "demand": st.sampled_from("abc"),
            "bound": st.sampled_from("abc").map(lambda name: {"indicator": name, "atMost": 1}),
        },
    ),
    "fallback": st.fixed_dictionaries(
        {},
        optional={"replicas": st.just(2), "behavior": st.sampled_from(["currentReplicas", "currentReplicasIfHigher"])},
    ),
    "schedules": st.lists(
        st.fixed_dictionaries(
            {"name": st.just("n"), "startTime": st.just("22:00"), "endTime": st.just("06:00")},
            optional={"minReplicas": st.integers(0, 4), "maxReplicas": st.integers(1, 4)},
        ),
        max_size=1,
    ),
}


@settings(max_examples=400, deadline=None)
@given(st.fixed_dictionaries({}, optional=OPTIONAL))
def test_cel_and_parsing_agree(changes: Json) -> None:
    given_spec = spec(**changes)
    said = " ".join(admitted(autoscaler(given_spec)))
    broken = {message for _, message in broken_rules(AutoscalerSpec.model_validate(given_spec))}
    assert bool(said) == bool(broken)
    # rules of the whole are judged once those of its parts hold, so not all are said at once
    assert {rule.message for rule in RULES if rule.message in said} <= broken


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_the_schema_refuses_parsing_refuses(data: st.DataObject) -> None:
    """One wrong value anywhere in the spec: nothing that the API server would refuse gets through to the loop."""
    obj = copy.deepcopy(FULL)
    place: Any = obj["spec"]
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(
        st.sampled_from([None, True, -1, 0, 0.5, 7, 10**9, "", "x", "22:00", [], {}, ["Mon", "Mon"]])
    )
    nulls_are_absent = place[key] is None  # the API server drops a null where the field is not required
    if admitted(obj) and not nulls_are_absent:
        with pytest.raises(SpecError):
            parse_autoscaler(obj)


def test_a_written_status_is_admitted() -> None:
    status = Status(observed_generation=1, current_replicas=3, violation_probability=0.00123456789, learned={"a": None})
    obj = autoscaler() | {"status": status.to_json()}
    assert obj["status"]["violationProbability"] == 0.00123457
    assert admitted(obj) == []


def test_the_verb_prints_the_definition() -> None:
    import typer

    from harmony.cli.crd import crd

    app = typer.Typer()
    app.command("crd")(crd)
    as_yaml = CliRunner().invoke(app, [])
    as_json = CliRunner().invoke(app, ["--json"])
    assert as_yaml.exit_code == as_json.exit_code == 0
    assert yaml.safe_load(as_yaml.stdout) == json.loads(as_json.stdout) == crd_manifest()
