"""What an API server answers about /scale, custom kinds, built-in kinds, permissions and calls."""

from __future__ import annotations

import pytest

from . import objects
from .api import ApiServer, Json
from .conformance import CRDS, At, causes, refused
from .patches import MERGE, STRATEGIC

# ---- /scale


def test_scale_of_a_deployment(api: ApiServer, space: str, at: At) -> None:
    made = api.must("POST", at.deployments, objects.deployment("chat", "", replicas=2))
    scale = api.must("GET", f"{at.deployments}/chat/scale")
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    for name in ("name", "namespace", "uid", "creationTimestamp"):
        assert scale["metadata"][name] == made["metadata"][name]
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 0, "selector": "app=chat"}


def test_scale_of_zero_is_left_out(api: ApiServer, at: At) -> None:
    api.must("POST", at.deployments, objects.deployment("chat", "", replicas=0))
    assert api.must("GET", f"{at.deployments}/chat/scale")["spec"] == {}


@pytest.mark.parametrize("content_type", [MERGE, STRATEGIC])
def test_scale_patch(api: ApiServer, at: At, content_type: str) -> None:
    api.must("POST", at.deployments, objects.deployment("chat", ""))
    after = api.must("PATCH", f"{at.deployments}/chat/scale", {"spec": {"replicas": 4}}, content_type=content_type)
    assert (after["kind"], after["spec"]["replicas"]) == ("Scale", 4)
    after = api.must("GET", f"{at.deployments}/chat")
    assert (after["spec"]["replicas"], after["metadata"]["generation"]) == (4, 2)


def test_scale_put_and_conflict(api: ApiServer, at: At) -> None:
    api.must("POST", at.deployments, objects.deployment("chat", ""))
    scale = api.must("GET", f"{at.deployments}/chat/scale")
    wanted = scale | {"spec": {"replicas": 3}}
    assert api.must("PUT", f"{at.deployments}/chat/scale", wanted)["spec"]["replicas"] == 3
    refused(api.request("PUT", f"{at.deployments}/chat/scale", wanted | {"spec": {"replicas": 9}}), 409, "Conflict")


def test_scale_below_zero(api: ApiServer, at: At) -> None:
    api.must("POST", at.deployments, objects.deployment("chat", ""))
    answer = api.request("PATCH", f"{at.deployments}/chat/scale", {"spec": {"replicas": -1}})
    status = refused(answer, 422, "Invalid")
    assert causes(status)["spec.replicas"] == "Invalid value: -1: must be greater than or equal to 0"


def test_scale_of_what_is_not_there(api: ApiServer, at: At) -> None:
    refused(api.request("PATCH", f"{at.deployments}/chat/scale", {"spec": {"replicas": 1}}), 404, "NotFound")


def test_scale_of_a_custom_object(api: ApiServer, at: At) -> None:
    api.must("POST", at.widgets, objects.widget(namespace=""))
    api.must("PATCH", f"{at.widgets}/one/status", {"status": {"replicas": 3, "selector": "app=one"}})
    scale = api.must("PATCH", f"{at.widgets}/one/scale", {"spec": {"replicas": 8}})
    assert (scale["spec"], scale["status"]) == ({"replicas": 8}, {"replicas": 3, "selector": "app=one"})
    assert api.must("GET", f"{at.widgets}/one")["spec"]["most"] == 8


# ---- custom kinds


def test_a_definition_is_established(api: ApiServer) -> None:
    crd = api.must("GET", f"{CRDS}/widgets.example.org")
    conditions = {one["type"]: one["status"] for one in crd["status"]["conditions"]}
    assert conditions["NamesAccepted"] == conditions["Established"] == "True"
    assert crd["status"]["acceptedNames"]["kind"] == "Widget"
    assert crd["status"]["storedVersions"] == ["v1"]


def test_a_definition_of_a_wrong_name(api: ApiServer) -> None:
    status = refused(api.request("POST", CRDS, objects.widget_crd() | {"metadata": {"name": "wrong"}}), 422, "Invalid")
    assert "metadata.name" in causes(status)


def test_a_definition_whose_schema_is_not_structural(api: ApiServer) -> None:
    crd = objects.widget_crd()
    crd["spec"]["names"] = {"plural": "gadgets", "kind": "Gadget"}
    crd["metadata"]["name"] = "gadgets.example.org"
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["spec"]["properties"]["target"]["type"]
    status = refused(api.request("POST", CRDS, crd), 422, "Invalid")
    assert any("properties[target].type" in field for field in causes(status))


def test_defaults_are_set(api: ApiServer, at: At) -> None:
    made = api.must("POST", at.widgets, objects.widget(namespace=""))
    assert made["spec"] == {"most": 5, "mode": "Observe", "least": 1, "limits": {"step": 60}}


def test_unknown_fields_are_dropped_but_where_they_are_kept(api: ApiServer, at: At) -> None:
    body = objects.widget(namespace="", foo=1, learned={"a": {"b": [1.5]}}, limits={"bar": 2})
    made = api.must("POST", at.widgets, body)
    assert "foo" not in made["spec"]
    assert made["spec"]["learned"] == {"a": {"b": [1.5]}}
    assert made["spec"]["limits"] == {"step": 60}


def test_strict_validation_refuses_unknown_fields(api: ApiServer, at: At) -> None:
    answer = api.request("POST", f"{at.widgets}?fieldValidation=Strict", objects.widget(namespace="", foo=1))
    assert 'unknown field "spec.foo"' in refused(answer, 400, "BadRequest")["message"]


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"mode": "X"}, "spec.mode", 'Unsupported value: "X": supported values: "Observe", "Full"'),
        ({"most": None}, "spec.most", "Required value"),
        ({"most": "many"}, "spec.most", 'spec.most in body must be of type integer: "string"'),
        ({"most": 1.5}, "spec.most", 'spec.most in body must be of type int32: "float64"'),
        ({"most": 0, "least": 0}, "spec.most", "spec.most in body should be greater than or equal to 1"),
        ({"most": 2000}, "spec.most", "spec.most in body should be less than or equal to 1000"),
        ({"epsilon": 0}, "spec.epsilon", "spec.epsilon in body should be greater than 0"),
        ({"target": "A1"}, "spec.target", "spec.target in body should match '^[a-z]+$'"),
        ({"target": "a" * 21}, "spec.target", "Too long: may not be more than 20 bytes"),
        ({"parts": [{"name": "a"}, {}]}, "spec.parts[1].name", "Required value"),
        ({"parts": [{"name": ""}]}, "spec.parts[0].name", "spec.parts[0].name in body should be at least 1 chars long"),
        ({"parts": [{"name": c} for c in "abcd"]}, "spec.parts", "must have at most 3 items"),
        ({"parts": [{"name": "a"}, {"name": "a"}]}, "spec.parts[1]", "Duplicate value"),
        ({"least": 9}, "spec.most", "most must not be below least"),
        ({"epsilon": 0.45}, "spec", "epsilon must stay below 0.4"),
        ({"epsilon": 0.6}, "spec.epsilon", "spec.epsilon in body should be less than or equal to 0.5"),
        ({"epsilon": 1}, "spec.epsilon", "spec.epsilon in body should be less than or equal to 0"),
    ],
)
def test_what_the_schema_refuses(api: ApiServer, at: At, spec: Json, field: str, message: str) -> None:
    body = objects.widget(namespace="", **spec)
    if body["spec"]["most"] is None:
        del body["spec"]["most"]
    status = refused(api.request("POST", at.widgets, body), 422, "Invalid")
    assert status["message"].startswith('Widget.example.org "one" is invalid: ')
    assert status["details"]["kind"] == "Widget"
    assert message in causes(status)[field]


NOT_CHECKED = (
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


@pytest.mark.parametrize("spec", [{"mode": "X"}, {"most": "many"}, {"target": "a" * 21}, {"parts": [{}]}])
def test_rules_wait_for_what_keeps_them_from_being_checked(api: ApiServer, at: At, spec: Json) -> None:
    status = refused(api.request("POST", at.widgets, objects.widget(namespace="", least=9, **spec)), 422, "Invalid")
    assert causes(status)["<nil>"] == NOT_CHECKED
    assert "spec.most" not in causes(status) or "most must not be below" not in causes(status)["spec.most"]
    assert status["message"].endswith(f", <nil>: {NOT_CHECKED}]")


def test_other_findings_keep_no_rule_from_being_checked(api: ApiServer, at: At) -> None:
    body = objects.widget(namespace="", least=9, target="A1")
    found = causes(refused(api.request("POST", at.widgets, body), 422, "Invalid"))
    assert set(found) == {"spec.target", "spec.most"}


def test_a_kind_is_served_some_time_after_its_definition(api: ApiServer, at: At) -> None:
    crd = objects.widget_crd()
    crd["spec"]["names"] = {"plural": "gizmos", "kind": "Gizmo"}
    crd["metadata"]["name"] = "gizmos.example.org"
    api.define(crd)
    assert api.must("GET", at.widgets.replace("widgets", "gizmos"))["items"] == []


def test_a_transition_rule(api: ApiServer, at: At) -> None:
    api.must("POST", at.widgets, objects.widget(namespace="", fixed="a"))
    status = refused(api.request("PATCH", f"{at.widgets}/one", {"spec": {"fixed": "b"}}), 422, "Invalid")
    assert causes(status)["spec.fixed"].endswith("fixed is immutable")
    assert api.must("PATCH", f"{at.widgets}/one", {"spec": {"most": 6}})["spec"]["fixed"] == "a"


def test_status_is_checked_too(api: ApiServer, at: At) -> None:
    api.must("POST", at.widgets, objects.widget(namespace=""))
    refused(api.request("PATCH", f"{at.widgets}/one/status", {"status": {"replicas": "x"}}), 422, "Invalid")


# ---- built-in kinds


def test_a_deployment_needs_a_selector_and_no_negative_count(api: ApiServer, at: At) -> None:
    body = objects.deployment("chat", "", replicas=-1)
    status = refused(api.request("POST", at.deployments, body), 422, "Invalid")
    assert causes(status)["spec.replicas"].endswith("must be greater than or equal to 0")
    body = objects.deployment("chat", "")
    del body["spec"]["selector"]
    assert "spec.selector" in causes(refused(api.request("POST", at.deployments, body), 422, "Invalid"))


def test_an_hpa(api: ApiServer, at: At) -> None:
    assert api.must("POST", at.hpas, objects.hpa("chat", "chat", ""))["spec"]["minReplicas"] == 1
    body = objects.hpa("other", "chat", "", most=2)
    body["spec"]["minReplicas"] = 5
    assert "spec.maxReplicas" in causes(refused(api.request("POST", at.hpas, body), 422, "Invalid"))


def test_a_lease_is_taken_by_one(api: ApiServer, at: At) -> None:
    made = api.must("POST", at.leases, objects.lease("leader", "a", ""))
    mine, theirs = ({**made, "spec": made["spec"] | {"holderIdentity": holder}} for holder in ("b", "c"))
    assert api.must("PUT", f"{at.leases}/leader", mine)["spec"]["holderIdentity"] == "b"
    refused(api.request("PUT", f"{at.leases}/leader", theirs), 409, "Conflict")


def test_events_have_two_shapes(api: ApiServer, space: str, at: At) -> None:
    regarding = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat", "namespace": space}
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "chat.1", "namespace": space},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "regarding": regarding,
        "reason": "ScaledUp",
        "note": "2 -> 3",
        "type": "Normal",
        "action": "Scale",
        "reportingController": "example.org/tests",
        "reportingInstance": "tests-0",
    }
    api.must("POST", f"/apis/events.k8s.io/v1/namespaces/{space}/events", event)
    path = f"/api/v1/namespaces/{space}/events?fieldSelector=involvedObject.name%3Dchat"
    (shown,) = api.must("GET", path)["items"]
    assert (shown["message"], shown["reportingComponent"]) == ("2 -> 3", "example.org/tests")
    assert regarding.items() <= shown["involvedObject"].items()
    path = f"/apis/events.k8s.io/v1/namespaces/{space}/events?fieldSelector=regarding.name%3Dother"
    assert api.must("GET", path)["items"] == []


def test_nodes_keep_the_status_they_come_with(api: ApiServer) -> None:
    api.must("POST", "/api/v1/nodes", objects.node("gpu-node"))
    (node,) = api.must("GET", "/api/v1/nodes?labelSelector=nvidia.com/gpu.product%3DNVIDIA-H100-80GB-HBM3")["items"]
    assert node["status"]["capacity"]["nvidia.com/gpu"] == "8"
    api.must("DELETE", "/api/v1/nodes/gpu-node")


# ---- who may do what, and who did


def review(verb: str, group: str, resource: str, subresource: str = "") -> Json:
    asked = {"verb": verb, "group": group, "resource": resource, "subresource": subresource}
    kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    return kind | {"spec": {"resourceAttributes": asked}}


def test_rules_are_enforced(api: ApiServer, space: str, at: At) -> None:
    reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    code, answer = api.request("POST", reviews, review("patch", "apps", "deployments", "scale"), user="controller")
    assert (code, answer["status"]["allowed"]) == (201, True)
    api.enforce([{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch"]}])
    try:
        assert api.request("GET", at.deployments, user="controller")[0] == 200
        status = refused(api.request("GET", at.pods, user="controller"), 403, "Forbidden")
        assert f'cannot list resource "pods" in API group "" in the namespace "{space}"' in status["message"]
        patch = {"spec": {"replicas": 1}}
        answer = api.request("PATCH", f"{at.deployments}/chat/scale", patch, user="controller")
        assert 'cannot patch resource "deployments/scale"' in refused(answer, 403, "Forbidden")["message"]
        asked = review("patch", "apps", "deployments", "scale")
        assert api.request("POST", reviews, asked, user="controller")[1]["status"]["allowed"] is False
    finally:
        api.enforce(None)
    assert api.request("GET", at.pods, user="controller")[0] == 200


def test_calls_are_logged_in_the_words_of_rbac(api: ApiServer, space: str, at: At) -> None:
    api.clear_calls()
    agent = {"User-Agent": "harmony/1"}
    for method, path, body in (
        ("POST", at.deployments, objects.deployment("chat", "")),
        ("GET", f"{at.deployments}/chat", None),
        ("GET", at.deployments, None),
        ("GET", f"{at.deployments}?watch=true&timeoutSeconds=1", None),
        ("PATCH", f"{at.deployments}/chat/scale", {"spec": {"replicas": 2}}),
        ("PUT", f"{at.deployments}/chat", objects.deployment("chat", "")),
        ("DELETE", f"{at.deployments}/chat", None),
        ("GET", f"{at.deployments}/none", None),
    ):
        api.request(method, path, body, user="controller", headers=agent)
    seen = [call for call in api.calls_by("controller") if call.user_agent == "harmony/1"]
    assert [(call.verb, call.subresource, call.name, call.code) for call in seen] == [
        ("create", "", "chat", 201),
        ("get", "", "chat", 200),
        ("list", "", "", 200),
        ("watch", "", "", 200),
        ("patch", "scale", "chat", 200),
        ("update", "", "chat", 200),
        ("delete", "", "chat", 200),
        ("get", "", "none", 404),
    ]
    assert {(call.group, call.version, call.resource, call.namespace) for call in seen} == {
        ("apps", "v1", "deployments", space)
    }
    assert [call.at for call in seen] == sorted(call.at for call in seen)
