"""Least privilege: what the controller needs is granted, and nothing beside it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.chart import NAMESPACE, documents, of_kind
from tests.helm.matrix import EVERYTHING, MATRIX
from tests.helm.rbac import PolicyRule, allows, granted_rules

OURS = "autoscaling.harmony-autoscaler.io"
WRITES = {"create", "update", "patch", "delete", "deletecollection"}

# Everything that may ever be granted: (group, resource) -> verbs. A new rule has to be added here on purpose.
CEILING: dict[tuple[str, str], set[str]] = {
    (OURS, "gpuautoscalers"): {"get", "list", "watch"},
    (OURS, "gpuautoscalers/status"): {"get", "patch", "update"},
    ("apps", "deployments"): {"get", "list", "watch"},
    ("apps", "statefulsets"): {"get", "list", "watch"},
    ("apps", "deployments/scale"): {"get", "patch", "update"},
    ("apps", "statefulsets/scale"): {"get", "patch", "update"},
    ("leaderworkerset.x-k8s.io", "leaderworkersets"): {"get", "list", "watch"},
    ("leaderworkerset.x-k8s.io", "leaderworkersets/scale"): {"get", "patch", "update"},
    ("", "pods"): {"get", "list", "watch"},
    ("", "nodes"): {"get", "list", "watch"},
    ("autoscaling", "horizontalpodautoscalers"): {"get", "list", "watch", "patch"},
    ("keda.sh", "scaledobjects"): {"get", "list", "watch", "patch"},
    ("events.k8s.io", "events"): {"create", "patch"},
    ("coordination.k8s.io", "leases"): {"create", "get", "patch", "update"},
    ("apiextensions.k8s.io", "customresourcedefinitions"): {"get"},
    ("autoscaling.x-k8s.io", "capacitybuffers"): {"get", "create", "update", "patch", "delete"},
    ("authentication.k8s.io", "tokenreviews"): {"create"},
}


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_nothing_above_the_ceiling(values: dict[str, Any]) -> None:
    for rule in granted_rules(values):
        assert "*" not in (*rule.verbs, *rule.resources, *rule.api_groups)
        for group in rule.api_groups:
            for resource in rule.resources:
                assert set(rule.verbs) <= CEILING[(group, resource)], f"{rule} grants more than was agreed"


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_no_secrets_and_no_borrowed_roles(values: dict[str, Any]) -> None:
    docs = documents(values)
    made = {(d["kind"], d["metadata"]["name"]) for d in docs if "rules" in d}
    for binding in (*of_kind(docs, "ClusterRoleBinding"), *of_kind(docs, "RoleBinding")):
        ref = binding["roleRef"]
        assert (ref["kind"], ref["name"]) in made, "only roles of the chart itself are bound, never cluster-admin"
        assert [s["kind"] for s in binding["subjects"]] == ["ServiceAccount"]
    for role in (d for d in docs if "rules" in d):
        for rule in role["rules"]:
            assert not {"secrets", "configmaps", "pods/exec", "serviceaccounts/token"} & set(rule["resources"])
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def test_cluster_wide_default_grants_what_the_controller_does() -> None:
    rules = granted_rules()
    for verb, group, resource, name in (
        ("list", OURS, "gpuautoscalers", ""),
        ("watch", OURS, "gpuautoscalers", ""),
        ("patch", OURS, "gpuautoscalers/status", "chat"),
        ("patch", "apps", "deployments/scale", "chat"),
        ("update", "apps", "statefulsets/scale", "chat"),
        ("get", "leaderworkerset.x-k8s.io", "leaderworkersets/scale", "chat"),
        ("list", "", "pods", ""),
        ("patch", "autoscaling", "horizontalpodautoscalers", "chat"),
        ("patch", "keda.sh", "scaledobjects", "chat"),
        ("create", "events.k8s.io", "events", ""),
    ):
        assert allows(rules, verb, group, resource, "any-namespace", name), (verb, resource)
    assert allows(rules, "list", "", "nodes")
    assert allows(rules, "get", "apiextensions.k8s.io", "customresourcedefinitions", name="gpuautoscalers." + OURS)
    assert not allows(rules, "get", "apiextensions.k8s.io", "customresourcedefinitions", name="certificates.example")
    assert not allows(rules, "patch", "apps", "deployments", "any-namespace", "chat"), "only /scale is written"
    assert not allows(rules, "patch", OURS, "gpuautoscalers", "any-namespace", "chat"), "users own the spec"


def test_lease_is_the_only_one_and_only_at_home() -> None:
    rules = granted_rules()
    for verb in ("get", "update", "patch"):
        assert allows(rules, verb, "coordination.k8s.io", "leases", NAMESPACE, "harmony-controller")
        assert not allows(rules, verb, "coordination.k8s.io", "leases", NAMESPACE, "another")
        assert not allows(rules, verb, "coordination.k8s.io", "leases", "kube-system", "harmony-controller")
    assert allows(rules, "create", "coordination.k8s.io", "leases", NAMESPACE)
    alone = granted_rules({"controller": {"replicaCount": 1, "leaderElection": {"enabled": False}}})
    assert not [r for r in alone if "leases" in r.resources]


def test_namespaced_release_has_no_cluster_role() -> None:
    values = {"watch": {"namespaces": ["serving", "batch"]}, "rbac": {"aggregateToDefaultRoles": False}}
    docs = documents(values)
    assert not of_kind(docs, "ClusterRole")
    assert not of_kind(docs, "ClusterRoleBinding")
    rules = granted_rules(values)
    assert {r.namespace for r in rules} == {"serving", "batch", NAMESPACE}
    for namespace in ("serving", "batch"):
        assert allows(rules, "patch", "apps", "deployments/scale", namespace, "chat")
    assert not allows(rules, "get", "apps", "deployments", "kube-system", "coredns")
    assert not allows(rules, "list", "", "pods", NAMESPACE)
    assert not allows(rules, "list", "", "nodes")


def test_namespaced_release_may_ask_for_the_aggregate_roles_and_for_reads() -> None:
    asked = documents({"watch": {"namespaces": ["serving"]}})
    assert {d["metadata"]["name"] for d in of_kind(asked, "ClusterRole")} == {
        f"{NAMESPACE}:harmony-view",
        f"{NAMESPACE}:harmony-edit",
    }
    assert not of_kind(asked, "ClusterRoleBinding")
    reads = [r for r in granted_rules(EVERYTHING) if r.namespace == "" and "tokenreviews" not in r.resources]
    assert {res for r in reads for res in r.resources} == {"nodes", "customresourcedefinitions"}
    assert not WRITES & {v for r in reads for v in r.verbs}


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_tokens_are_reviewed_only_where_groups_are_named(values: dict[str, Any]) -> None:
    api = values.get("api", {})
    wanted = api.get("enabled", False) and bool(api.get("tokenReview")) and values.get("rbac", {}).get("create", True)
    rules = granted_rules(values)
    assert allows(rules, "create", "authentication.k8s.io", "tokenreviews") == wanted
    if not wanted:
        assert not [r for r in rules if "authentication.k8s.io" in r.api_groups]


def test_groups_of_an_api_that_is_off_grant_nothing() -> None:
    rules = granted_rules({"api": {"tokenReview": {"readGroups": ["developers"]}}})
    assert not [r for r in rules if "tokenreviews" in r.resources]


def test_aggregate_roles_cover_our_kind_only() -> None:
    for role in of_kind(documents(), "ClusterRole"):
        if any(label.startswith("rbac.authorization.k8s.io/aggregate-to") for label in role["metadata"]["labels"]):
            assert [(r["apiGroups"], r["resources"]) for r in role["rules"]] == [([OURS], ["gpuautoscalers"])]
    view = next(d for d in documents() if d["metadata"]["name"].endswith("-view"))
    assert not WRITES & set(view["rules"][0]["verbs"])


def test_dry_run_may_write_nothing_but_its_lease() -> None:
    written = [r for r in granted_rules(MATRIX["dry run"]) if WRITES & set(r.verbs)]
    assert {res for r in written for res in r.resources} == {"leases"}


@pytest.mark.parametrize(
    ("values", "request_"),
    [
        ({"rbac": {"floor": False}}, ("patch", "autoscaling", "horizontalpodautoscalers")),
        ({"rbac": {"keda": False}}, ("patch", "keda.sh", "scaledobjects")),
        ({"rbac": {"nodes": False}}, ("list", "", "nodes")),
        ({"rbac": {"scaledRefKinds": []}}, ("patch", "apps", "deployments/scale")),
        ({"rbac": {"create": False}}, ("list", OURS, "gpuautoscalers")),
    ],
)
def test_each_switch_takes_its_right_away(values: dict[str, Any], request_: tuple[str, str, str]) -> None:
    verb, group, resource = request_
    assert allows(granted_rules(), verb, group, resource, "serving", "chat")
    assert not allows(granted_rules(values), verb, group, resource, "serving", "chat")


def test_rivals_stay_visible_without_the_right_to_patch_them() -> None:
    rules = granted_rules({"rbac": {"floor": False, "keda": False}})
    for verb in ("list", "watch"):
        assert allows(rules, verb, "autoscaling", "horizontalpodautoscalers", "serving")
        assert allows(rules, verb, "keda.sh", "scaledobjects", "serving")


def test_capacity_buffers_are_written_only_when_asked_for() -> None:
    assert not allows(granted_rules(), "create", "autoscaling.x-k8s.io", "capacitybuffers", "serving")
    rules = granted_rules({"rbac": {"capacityBuffers": True}})
    for verb in ("get", "create", "update", "patch", "delete"):
        assert allows(rules, verb, "autoscaling.x-k8s.io", "capacitybuffers", "serving", "chat")


def test_other_scale_targets_can_be_added() -> None:
    kinds = [{"apiGroup": "nvidia.com", "resources": ["dynamographdeploymentscalingadapters"]}]
    rules = granted_rules({"rbac": {"scaledRefKinds": kinds}})
    assert allows(rules, "patch", "nvidia.com", "dynamographdeploymentscalingadapters/scale", "serving", "decode")
    assert not allows(rules, "patch", "apps", "deployments/scale", "serving", "chat")


def test_rule_matching_follows_the_authorizer() -> None:
    rule = PolicyRule("serving", ("apps",), ("deployments",), ("get",), ("chat",))
    assert rule.allows("get", "apps", "deployments", "serving", "chat")
    assert not rule.allows("get", "apps", "deployments", "serving", "")
    assert not rule.allows("get", "apps", "deployments", "other", "chat")
    assert not rule.allows("get", "apps", "deployments/scale", "serving", "chat")
    assert PolicyRule("", ("*",), ("*",), ("*",)).allows("delete", "", "pods", "x", "y")


@pytest.mark.parametrize("values", [{}, {"watch": {"namespaces": ["serving"]}}], ids=["cluster", "namespaced"])
def test_doctor_finds_every_right_that_it_asks_for(values: dict[str, Any]) -> None:
    from controller.doctor import NEEDED, WANTED

    rules = granted_rules(values)
    asked = [(verb, resource, sub) for verb, resource, sub in NEEDED]
    asked += [(verb, resource, sub) for verb, resource, sub, _ in WANTED if resource.namespaced]
    for verb, resource, sub in asked:
        plural = f"{resource.plural}/{sub}" if sub else resource.plural
        assert allows(rules, verb, resource.group, plural, "serving" if resource.namespaced else ""), (verb, plural)
