"""What an API server answers. Runs against the fake one, and against a real one where KUBEBUILDER_ASSETS is set."""

from __future__ import annotations

import itertools
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from . import objects
from .api import ApiServer, Json
from .fixtures import HOW_TO_GET_A_REAL_ONE
from .patches import JSON_PATCH, MERGE, STRATEGIC
from .real import RealApiServer, real_assets
from .server import FakeApiServer

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
APPLY = "application/apply-patch+yaml"
_numbers = itertools.count()


def wait_until_served(server: ApiServer, path: str) -> None:
    until = time.monotonic() + 20
    while server.request("GET", path)[0] != 200:
        assert time.monotonic() < until, path
        time.sleep(0.05)


@pytest.fixture(scope="module", params=["fake", "real"])
def api(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    assets = real_assets()
    if request.param == "real" and assets is None:
        pytest.skip(HOW_TO_GET_A_REAL_ONE)
    server: ApiServer = FakeApiServer() if request.param == "fake" or assets is None else RealApiServer(assets)
    with server:
        server.must("POST", CRDS, objects.widget_crd())
        wait_until_served(server, "/apis/example.org/v1/namespaces/default/widgets")
        yield server


@pytest.fixture
def space(api: ApiServer) -> str:
    """A namespace of its own for each test."""
    name = f"space-{next(_numbers)}"
    api.ensure_namespace(name)
    return name


class At:
    """Paths in one namespace."""

    def __init__(self, space: str) -> None:
        self.deployments = f"/apis/apps/v1/namespaces/{space}/deployments"
        self.pods = f"/api/v1/namespaces/{space}/pods"
        self.maps = f"/api/v1/namespaces/{space}/configmaps"
        self.widgets = f"/apis/example.org/v1/namespaces/{space}/widgets"
        self.hpas = f"/apis/autoscaling/v2/namespaces/{space}/horizontalpodautoscalers"
        self.leases = f"/apis/coordination.k8s.io/v1/namespaces/{space}/leases"


@pytest.fixture
def at(space: str) -> At:
    return At(space)


def config_map(name: str, labels: dict[str, str] | None = None, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels or {}}, "data": data}


def refused(answer: tuple[int, Any], code: int, reason: str) -> Json:
    """The Status of a refusal, checked for its shape."""
    got, status = answer
    assert (got, status["code"], status["reason"], status["status"]) == (code, code, reason, "Failure"), status
    assert (status["kind"], status["apiVersion"], status["metadata"]) == ("Status", "v1", {})
    assert status["message"]
    checked: Json = status
    return checked


def causes(status: Json) -> dict[str, str]:
    return {cause["field"]: cause["message"] for cause in status["details"]["causes"]}


def version(obj: Json) -> str:
    found: str = obj["metadata"]["resourceVersion"]
    return found


# ---- what the server says of itself


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/livez"])
def test_health(api: ApiServer, path: str) -> None:
    assert api.request("GET", path) == (200, "ok")


def test_version(api: ApiServer) -> None:
    answer = api.must("GET", "/version")
    assert answer["major"] == "1"
    assert answer["gitVersion"].startswith(f"v1.{answer['minor'].rstrip('+')}")


def test_core_versions(api: ApiServer) -> None:
    answer = api.must("GET", "/api")
    assert answer["kind"] == "APIVersions"
    assert answer["versions"] == ["v1"]


def test_groups(api: ApiServer) -> None:
    answer = api.must("GET", "/apis")
    assert answer["kind"] == "APIGroupList"
    groups = {group["name"]: group["preferredVersion"]["version"] for group in answer["groups"]}
    wanted = {"apps": "v1", "autoscaling": "v2", "coordination.k8s.io": "v1", "policy": "v1", "example.org": "v1"}
    assert wanted.items() <= groups.items()


def test_one_group(api: ApiServer) -> None:
    answer = api.must("GET", "/apis/example.org")
    assert (answer["kind"], answer["name"]) == ("APIGroup", "example.org")
    assert answer["versions"] == [{"groupVersion": "example.org/v1", "version": "v1"}]


@pytest.mark.parametrize(("path", "plural"), [("/apis/apps/v1", "deployments"), ("/apis/example.org/v1", "widgets")])
def test_resources_with_subresources(api: ApiServer, path: str, plural: str) -> None:
    answer = api.must("GET", path)
    assert answer["kind"] == "APIResourceList"
    found = {entry["name"]: entry for entry in answer["resources"]}
    assert {"get", "list", "watch", "patch"} <= set(found[plural]["verbs"])
    assert found[plural]["namespaced"] is True
    scale = found[f"{plural}/scale"]
    assert (scale["group"], scale["version"], scale["kind"]) == ("autoscaling", "v1", "Scale")
    assert f"{plural}/status" in found


@pytest.mark.parametrize(
    "path", ["/apis/no.such.group/v1/things", "/apis/example.org/v2/widgets", "/apis/apps/v1/things"]
)
def test_a_kind_that_is_not_installed_is_plain_text(api: ApiServer, path: str) -> None:
    assert api.request("GET", path) == (404, "404 page not found\n")


def test_an_unknown_token_is_nobody(api: ApiServer) -> None:
    refused(api.request("GET", "/api/v1/pods", headers={"Authorization": "Bearer nobody"}), 401, "Unauthorized")


# ---- creating


def test_create_sets_metadata(api: ApiServer, space: str, at: At) -> None:
    code, made = api.request("POST", at.deployments, objects.deployment("chat", ""))
    assert code == 201
    metadata = made["metadata"]
    assert (made["kind"], made["apiVersion"], metadata["namespace"], metadata["generation"]) == (
        "Deployment",
        "apps/v1",
        space,
        1,
    )
    assert len(metadata["uid"]) == 36
    assert metadata["resourceVersion"].isdigit()
    assert metadata["creationTimestamp"].endswith("Z")
    assert made["spec"]["replicas"] == 1
    assert made["status"] == {}


def test_create_twice(api: ApiServer, at: At) -> None:
    api.must("POST", at.deployments, objects.deployment("chat", ""))
    status = refused(api.request("POST", at.deployments, objects.deployment("chat", "")), 409, "AlreadyExists")
    assert status["message"] == 'deployments.apps "chat" already exists'
    assert status["details"] == {"name": "chat", "group": "apps", "kind": "deployments"}


def test_generated_names_differ(api: ApiServer, at: At) -> None:
    made = [api.must("POST", at.pods, objects.pod("x") | {"metadata": {"generateName": "p-"}}) for _ in range(2)]
    names = {one["metadata"]["name"] for one in made}
    assert len(names) == 2
    assert all(name.startswith("p-") and len(name) == 7 for name in names)


def test_new_pods_are_pending(api: ApiServer, at: At) -> None:
    made = api.must("POST", at.pods, objects.pod("x", "") | {"status": {"phase": "Running"}})
    assert made["status"]["phase"] == "Pending"


def test_create_in_a_namespace_that_is_not_there(api: ApiServer) -> None:
    status = refused(api.request("POST", At("nowhere").maps, config_map("a")), 404, "NotFound")
    assert status["message"] == 'namespaces "nowhere" not found'


def test_create_for_another_namespace(api: ApiServer, at: At) -> None:
    refused(api.request("POST", at.deployments, objects.deployment("chat", "other")), 400, "BadRequest")


def test_create_without_a_name(api: ApiServer, at: At) -> None:
    body = objects.widget() | {"metadata": {}}
    status = refused(api.request("POST", at.widgets, body), 422, "Invalid")
    assert causes(status)["metadata.name"] == "Required value: name or generateName is required"


def test_create_with_a_bad_name(api: ApiServer, at: At) -> None:
    status = refused(api.request("POST", at.maps, config_map("Not_Good")), 422, "Invalid")
    assert causes(status)["metadata.name"].startswith('Invalid value: "Not_Good": a lowercase RFC 1123 subdomain')


def test_create_of_another_kind(api: ApiServer, at: At) -> None:
    refused(api.request("POST", at.deployments, config_map("a")), 400, "BadRequest")


def test_a_custom_object_must_name_its_kind(api: ApiServer, at: At) -> None:
    refused(api.request("POST", at.widgets, {"metadata": {"name": "a"}, "spec": {"most": 1}}), 400, "BadRequest")


def test_a_body_that_is_no_object(api: ApiServer, at: At) -> None:
    refused(api.request("POST", at.maps, '{"broken'), 400, "BadRequest")


def test_an_annotation_must_be_text(api: ApiServer, at: At) -> None:
    api.must("POST", at.deployments, objects.deployment("chat", ""))
    patch = {"metadata": {"annotations": {"a": 5}}}
    refused(api.request("PATCH", f"{at.deployments}/chat", patch), 400, "BadRequest")


def test_dry_run_stores_nothing(api: ApiServer, at: At) -> None:
    assert api.request("POST", f"{at.maps}?dryRun=All", config_map("a"))[0] == 201
    refused(api.request("GET", f"{at.maps}/a"), 404, "NotFound")
    api.must("POST", at.maps, config_map("b", x="1"))
    assert api.must("PATCH", f"{at.maps}/b?dryRun=All", {"data": {"x": "2"}})["data"] == {"x": "2"}
    assert api.must("DELETE", f"{at.maps}/b?dryRun=All")["status"] == "Success"
    assert api.must("GET", f"{at.maps}/b")["data"] == {"x": "1"}


# ---- reading


def test_get_what_is_not_there(api: ApiServer, at: At) -> None:
    status = refused(api.request("GET", f"{at.deployments}/chat"), 404, "NotFound")
    assert status["message"] == 'deployments.apps "chat" not found'
    assert status["details"] == {"name": "chat", "group": "apps", "kind": "deployments"}
    status = refused(api.request("GET", f"{at.pods}/p"), 404, "NotFound")
    assert (status["message"], status["details"]) == ('pods "p" not found', {"name": "p", "kind": "pods"})


def test_items_of_built_in_lists_do_not_say_their_kind(api: ApiServer, at: At) -> None:
    api.must("POST", at.deployments, objects.deployment("chat", ""))
    answer = api.must("GET", at.deployments)
    assert (answer["kind"], answer["apiVersion"]) == ("DeploymentList", "apps/v1")
    assert answer["metadata"]["resourceVersion"].isdigit()
    assert "kind" not in answer["items"][0]
    assert "apiVersion" not in answer["items"][0]


def test_items_of_custom_lists_do(api: ApiServer, at: At) -> None:
    api.must("POST", at.widgets, objects.widget(namespace=""))
    answer = api.must("GET", at.widgets)
    assert answer["kind"] == "WidgetList"
    assert (answer["items"][0]["kind"], answer["items"][0]["apiVersion"]) == ("Widget", "example.org/v1")


def test_empty_lists_have_items(api: ApiServer, at: At) -> None:
    assert api.must("GET", at.widgets)["items"] == []


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=chat", {"a", "b"}),
        ("app==chat,tier=front", {"a"}),
        ("app!=chat", {"c", "d"}),
        ("app in (chat, rank)", {"a", "b", "c"}),
        ("app notin (chat)", {"c", "d"}),
        ("tier", {"a"}),
        ("!app", {"d"}),
        ("", {"a", "b", "c", "d"}),
    ],
)
def test_label_selectors(api: ApiServer, at: At, selector: str, names: set[str]) -> None:
    labels = {"a": {"app": "chat", "tier": "front"}, "b": {"app": "chat"}, "c": {"app": "rank"}, "d": {}}
    for name, values in labels.items():
        api.must("POST", at.widgets, objects.widget(name, "") | {"metadata": {"name": name, "labels": values}})
    answer = api.must("GET", f"{at.widgets}?labelSelector={urllib.parse.quote(selector)}")
    assert {item["metadata"]["name"] for item in answer["items"]} == names


def test_a_selector_that_cannot_be_read(api: ApiServer, at: At) -> None:
    refused(api.request("GET", f"{at.pods}?labelSelector={urllib.parse.quote('a in b')}"), 400, "BadRequest")


def test_field_selectors(api: ApiServer, space: str, at: At) -> None:
    for name, node in (("a", "n1"), ("b", "n2")):
        api.must("POST", at.pods, objects.pod(name, "", node=node))
    for query, names in (
        ("spec.nodeName=n1", ["a"]),
        ("spec.nodeName!=n1", ["b"]),
        ("metadata.name=b", ["b"]),
        (f"status.phase=Pending,metadata.namespace={space}", ["a", "b"]),
        ("status.phase=Running", []),
    ):
        answer = api.must("GET", f"{at.pods}?fieldSelector={urllib.parse.quote(query)}")
        assert [item["metadata"]["name"] for item in answer["items"]] == names, query
    status = refused(api.request("GET", f"{at.pods}?fieldSelector=spec.foo%3Dx"), 400, "BadRequest")
    assert "spec.foo" in status["message"]


def test_pages(api: ApiServer, at: At) -> None:
    for index in range(5):
        api.must("POST", at.maps, config_map(f"m{index}", {"mine": "yes"}))
    path, names = f"{at.maps}?labelSelector=mine&limit=2", []
    first = api.must("GET", path)
    page = first
    while True:
        assert len(page["items"]) <= 2
        assert version(page) == version(first)
        names += [item["metadata"]["name"] for item in page["items"]]
        if not page["metadata"].get("continue"):
            break
        page = api.must("GET", f"{path}&continue={urllib.parse.quote(page['metadata']['continue'])}")
    assert names == [f"m{index}" for index in range(5)]


def test_a_version_that_does_not_exist_yet(api: ApiServer, at: At) -> None:
    status = refused(api.request("GET", f"{at.maps}?resourceVersion=999999999999"), 504, "Timeout")
    assert "Too large resource version" in status["message"]


# ---- changing


def test_put_of_a_stale_version(api: ApiServer, at: At) -> None:
    old = api.must("POST", at.deployments, objects.deployment("chat", ""))
    api.must("PATCH", f"{at.deployments}/chat", {"metadata": {"labels": {"a": "b"}}})
    status = refused(api.request("PUT", f"{at.deployments}/chat", old), 409, "Conflict")
    assert status["message"].startswith(
        'Operation cannot be fulfilled on deployments.apps "chat": the object has been mod'
    )
    assert status["details"] == {"name": "chat", "group": "apps", "kind": "deployments"}


def test_put_without_a_version(api: ApiServer, at: At) -> None:
    api.must("POST", at.deployments, objects.deployment("chat", ""))
    assert api.must("PUT", f"{at.deployments}/chat", objects.deployment("chat", "", 3))["spec"]["replicas"] == 3
    api.must("POST", at.widgets, objects.widget(namespace=""))
    status = refused(api.request("PUT", f"{at.widgets}/one", objects.widget(namespace="")), 422, "Invalid")
    assert causes(status)["metadata.resourceVersion"].endswith("must be specified for an update")


def test_put_of_another_name(api: ApiServer, at: At) -> None:
    api.must("POST", at.maps, config_map("a"))
    refused(api.request("PUT", f"{at.maps}/a", config_map("b")), 400, "BadRequest")


def test_put_of_what_is_not_there(api: ApiServer, at: At) -> None:
    refused(api.request("PUT", f"{at.deployments}/chat", objects.deployment("chat", "")), 404, "NotFound")


def test_the_server_keeps_its_own_metadata(api: ApiServer, at: At) -> None:
    made = api.must("POST", at.maps, config_map("a"))
    forged = made | {"metadata": made["metadata"] | {"creationTimestamp": "2001-01-01T00:00:00Z"}, "data": {"x": "1"}}
    after = api.must("PUT", f"{at.maps}/a", forged)
    assert after["metadata"]["creationTimestamp"] == made["metadata"]["creationTimestamp"]
    assert after["metadata"]["uid"] == made["metadata"]["uid"]


@pytest.mark.parametrize("stale", [True, False])
def test_patch_that_carries_a_version(api: ApiServer, at: At, stale: bool) -> None:
    made = api.must("POST", at.widgets, objects.widget(namespace=""))
    now = api.must("PATCH", f"{at.widgets}/one", {"spec": {"most": 6}})
    patch = {"metadata": {"resourceVersion": version(made if stale else now)}, "spec": {"most": 7}}
    answer = api.request("PATCH", f"{at.widgets}/one", patch)
    if stale:
        refused(answer, 409, "Conflict")
    else:
        assert answer[1]["spec"]["most"] == 7


def test_a_change_that_changes_nothing_makes_no_version(api: ApiServer, at: At) -> None:
    made = api.must("POST", at.widgets, objects.widget(namespace=""))
    assert version(api.must("PATCH", f"{at.widgets}/one", {"spec": {"most": 5}})) == version(made)
    assert version(api.must("PUT", f"{at.widgets}/one", made)) == version(made)


@pytest.mark.parametrize("kind", ["deployments", "widgets"])
def test_generation_counts_changes_of_the_wish(api: ApiServer, at: At, kind: str) -> None:
    path = f"{getattr(at, kind)}/one"
    body = objects.deployment("one", "") if kind == "deployments" else objects.widget("one", "")
    assert api.must("POST", getattr(at, kind), body)["metadata"]["generation"] == 1
    wish = {"spec": {"replicas": 4}} if kind == "deployments" else {"spec": {"most": 4}}
    assert api.must("PATCH", path, {"metadata": {"labels": {"a": "b"}}})["metadata"]["generation"] == 1
    assert api.must("PATCH", f"{path}/status", {"status": {"replicas": 4}})["metadata"]["generation"] == 1
    assert api.must("PATCH", path, wish)["metadata"]["generation"] == 2


def test_status_is_written_through_its_own_door(api: ApiServer, at: At) -> None:
    made = api.must("POST", at.widgets, objects.widget(namespace="") | {"status": {"note": "lost"}})
    assert "status" not in made
    both = {"spec": {"most": 9}, "status": {"note": "kept"}}
    after = api.must("PATCH", f"{at.widgets}/one/status", both)
    assert (after["spec"]["most"], after["status"]) == (5, {"note": "kept"})
    after = api.must("PATCH", f"{at.widgets}/one", {"spec": {"most": 9}, "status": {"note": "no"}})
    assert (after["spec"]["most"], after["status"]) == (9, {"note": "kept"})
    after = api.must("PUT", f"{at.widgets}/one/status", after | {"status": {"replicas": 2}})
    assert after["status"] == {"replicas": 2}


def test_merge_patch_removes_with_null(api: ApiServer, at: At) -> None:
    api.must("POST", at.maps, config_map("a", x="1", y="2"))
    assert api.must("PATCH", f"{at.maps}/a", {"data": {"x": None, "z": "3"}})["data"] == {"y": "2", "z": "3"}


def test_json_patch(api: ApiServer, at: At) -> None:
    api.must("POST", at.maps, config_map("a", {"app": "x"}, x="1", y="2"))
    operations = [
        {"op": "test", "path": "/data/x", "value": "1"},
        {"op": "replace", "path": "/data/x", "value": "7"},
        {"op": "remove", "path": "/data/y"},
        {"op": "add", "path": "/metadata/labels/a~1b", "value": "c"},
    ]
    after = api.must("PATCH", f"{at.maps}/a", operations, content_type=JSON_PATCH)
    assert (after["data"], after["metadata"]["labels"]) == ({"x": "7"}, {"app": "x", "a/b": "c"})
    refused(api.request("PATCH", f"{at.maps}/a", operations, content_type=JSON_PATCH), 422, "Invalid")


def test_strategic_patch_merges_lists_by_key(api: ApiServer, at: At) -> None:
    api.must("POST", at.deployments, objects.deployment("chat", ""))
    new = {"name": "side", "image": "example.org/side:1"}
    env = {"name": "main", "env": [{"name": "A", "value": "1"}]}
    patch = {"spec": {"template": {"spec": {"containers": [env, new]}}}}
    after = api.must("PATCH", f"{at.deployments}/chat", patch, content_type=STRATEGIC)
    found = {one["name"]: one for one in after["spec"]["template"]["spec"]["containers"]}
    assert set(found) == {"main", "side"}
    assert found["main"]["image"] == "example.org/main:1"
    assert found["main"]["env"] == [{"name": "A", "value": "1"}]


def test_strategic_patch_of_conditions(api: ApiServer, at: At) -> None:
    api.must("POST", at.pods, objects.pod("p", ""))
    for kind in ("Ready", "Initialized"):
        patch = {"status": {"conditions": [{"type": kind, "status": "True"}]}}
        after = api.must("PATCH", f"{at.pods}/p/status", patch, content_type=STRATEGIC)
    assert {one["type"] for one in after["status"]["conditions"]} >= {"Ready", "Initialized"}


def test_custom_objects_take_no_strategic_patch(api: ApiServer, at: At) -> None:
    api.must("POST", at.widgets, objects.widget(namespace=""))
    answer = api.request("PATCH", f"{at.widgets}/one", {"spec": {"most": 2}}, content_type=STRATEGIC)
    refused(answer, 415, "UnsupportedMediaType")


def test_a_patch_of_no_known_type(api: ApiServer, at: At) -> None:
    api.must("POST", at.maps, config_map("a"))
    answer = api.request("PATCH", f"{at.maps}/a", {}, content_type="application/json")
    refused(answer, 415, "UnsupportedMediaType")


def test_patch_of_what_is_not_there(api: ApiServer, at: At) -> None:
    refused(api.request("PATCH", f"{at.widgets}/none", {"spec": {"most": 2}}), 404, "NotFound")


def test_apply_creates_then_merges(api: ApiServer, at: At) -> None:
    path = f"{at.maps}/a?fieldManager=tests"
    assert api.request("PATCH", path, config_map("a", x="1"), content_type=APPLY)[0] == 201
    code, after = api.request("PATCH", f"{path}&force=true", config_map("a", x="2"), content_type=APPLY)
    assert (code, after["data"]) == (200, {"x": "2"})
    code, status = api.request("PATCH", f"{at.maps}/a", config_map("a"), content_type=APPLY)
    assert code in (400, 422)
    assert "fieldManager" in status["message"]


def test_a_method_that_does_not_fit(api: ApiServer, at: At) -> None:
    api.must("POST", at.maps, config_map("a"))
    refused(api.request("POST", f"{at.maps}/a", config_map("a")), 405, "MethodNotAllowed")


# ---- deleting


def test_delete_answers_with_a_status(api: ApiServer, at: At) -> None:
    made = api.must("POST", at.widgets, objects.widget(namespace=""))
    answer = api.must("DELETE", f"{at.widgets}/one")
    assert (answer["kind"], answer["status"]) == ("Status", "Success")
    assert answer["details"] == {
        "name": "one",
        "group": "example.org",
        "kind": "widgets",
        "uid": made["metadata"]["uid"],
    }
    refused(api.request("DELETE", f"{at.widgets}/one"), 404, "NotFound")


def test_delete_of_a_pod_answers_with_the_pod(api: ApiServer, at: At) -> None:
    api.must("POST", at.pods, objects.pod("p", ""))
    assert api.must("DELETE", f"{at.pods}/p", {"gracePeriodSeconds": 0})["kind"] == "Pod"
    refused(api.request("GET", f"{at.pods}/p"), 404, "NotFound")


def test_delete_of_another_uid(api: ApiServer, at: At) -> None:
    api.must("POST", at.maps, config_map("a"))
    answer = api.request("DELETE", f"{at.maps}/a", {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}})
    refused(answer, 409, "Conflict")


def test_finalizers_hold_an_object(api: ApiServer, at: At) -> None:
    body = objects.widget(namespace="")
    body["metadata"]["finalizers"] = ["example.org/hold"]
    api.must("POST", at.widgets, body)
    assert api.must("DELETE", f"{at.widgets}/one")["metadata"]["deletionTimestamp"].endswith("Z")
    api.must("PATCH", f"{at.widgets}/one", {"metadata": {"finalizers": None}})
    refused(api.request("GET", f"{at.widgets}/one"), 404, "NotFound")


def test_dependants_go_with_their_owner(api: ApiServer, at: At) -> None:
    if api.real and not api.runs_controllers:
        pytest.skip("garbage collection needs kube-controller-manager in KUBEBUILDER_ASSETS")
    owner = api.must("POST", at.maps, config_map("owner"))
    dependant = config_map("dependant")
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    dependant["metadata"]["ownerReferences"] = [reference]
    api.must("POST", at.maps, dependant)
    api.must("DELETE", f"{at.maps}/owner", {"propagationPolicy": "Background"})
    until = time.monotonic() + 30
    while api.request("GET", f"{at.maps}/dependant")[0] != 404:
        assert time.monotonic() < until
        time.sleep(0.1)


# ---- watching


def test_watch_tells_what_happened_since(api: ApiServer, at: At) -> None:
    since = version(api.must("GET", at.widgets))
    api.must("POST", at.widgets, objects.widget(namespace=""))
    api.must("PATCH", f"{at.widgets}/one", {"spec": {"most": 6}})
    api.must("DELETE", f"{at.widgets}/one")
    events = api.watch(f"{at.widgets}?resourceVersion={since}", 3)
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    assert [event["object"]["spec"]["most"] for event in events] == [5, 6, 6]
    versions = [int(version(event["object"])) for event in events]
    assert versions == sorted(set(versions))
    assert events[0]["object"]["kind"] == "Widget"


def test_watch_events_of_built_in_kinds_say_their_kind(api: ApiServer, at: At) -> None:
    api.must("POST", at.deployments, objects.deployment("chat", ""))
    (event,) = api.watch(at.deployments, 1)
    assert (event["type"], event["object"]["kind"], event["object"]["apiVersion"]) == ("ADDED", "Deployment", "apps/v1")


def test_an_object_that_leaves_the_selection_is_deleted_from_it(api: ApiServer, at: At) -> None:
    since = version(api.must("GET", at.widgets))
    api.must("POST", at.widgets, objects.widget(namespace=""))
    for value in ("yes", "no", "yes"):
        api.must("PATCH", f"{at.widgets}/one", {"metadata": {"labels": {"mine": value}}})
    events = api.watch(f"{at.widgets}?resourceVersion={since}&labelSelector=mine%3Dyes", 3)
    assert [event["type"] for event in events] == ["ADDED", "DELETED", "ADDED"]


def test_watch_of_one_object(api: ApiServer, at: At) -> None:
    for name in ("a", "b"):
        api.must("POST", at.widgets, objects.widget(name, ""))
    events = api.watch(f"{at.widgets}?fieldSelector=metadata.name%3Db", 2, within_s=1)
    assert [event["object"]["metadata"]["name"] for event in events] == ["b"]


def test_watch_ends_in_time(api: ApiServer, at: At) -> None:
    start = time.monotonic()
    assert api.watch(f"{at.widgets}?resourceVersion={version(api.must('GET', at.widgets))}", 1, within_s=1) == []
    assert 0.9 <= time.monotonic() - start < 5


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
        ({"most": 1.5}, "spec.most", 'spec.most in body must be of type integer: "number"'),
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
        ("create", "", "chat", 201) if api.real else ("create", "", "", 201),
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
