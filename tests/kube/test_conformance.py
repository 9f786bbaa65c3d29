"""What an API server answers: about itself, to creating and to reading."""

from __future__ import annotations

import urllib.parse

import pytest

from . import objects
from .api import ApiServer
from .conformance import At, causes, config_map, refused, version
from .fixtures import HOW_TO_GET_A_REAL_ONE, SERVERS, start_server

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


@pytest.mark.parametrize("path", ["/apis/no.such.group/v1/things", "/apis/example.org/v2/widgets"])
def test_a_kind_that_is_not_installed_is_plain_text(api: ApiServer, path: str) -> None:
    assert api.request("GET", path) == (404, "404 page not found\n")


@pytest.mark.parametrize(
    "path", ["/apis/apps/v1/things", "/api/v1/things", "/apis/apps/v1/namespaces/default/things/a"]
)
def test_an_unknown_kind_of_a_group_that_is_there_is_a_status(api: ApiServer, path: str) -> None:
    status = refused(api.request("GET", path), 404, "NotFound")
    assert status["message"] == "the server could not find the requested resource"


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
    assert "patch" in causes(refused(api.request("PATCH", f"{at.deployments}/chat", patch), 422, "Invalid"))
    body = config_map("a") | {"metadata": {"name": "a"} | patch["metadata"]}
    refused(api.request("POST", at.maps, body), 400, "BadRequest")


@pytest.mark.parametrize("replicas", ["three", 1.5])
def test_replicas_must_be_a_whole_number(api: ApiServer, at: At, replicas: str | float) -> None:
    body = objects.deployment("chat", "")
    body["spec"]["replicas"] = replicas
    refused(api.request("POST", at.deployments, body), 400, "BadRequest")
    api.must("POST", at.deployments, objects.deployment("chat", ""))
    patch = {"spec": {"replicas": replicas}}
    for path in (f"{at.deployments}/chat", f"{at.deployments}/chat/scale"):
        assert "patch" in causes(refused(api.request("PATCH", path, patch), 422, "Invalid"))


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


def test_a_real_server_answers_the_same() -> None:
    """The suite runs on a real server too; this line says in the report whether it did, and how to make it."""
    if "real" not in SERVERS:
        pytest.skip(HOW_TO_GET_A_REAL_ONE)
    with start_server("real") as server:
        assert server.real
        assert server.request("GET", "/readyz") == (200, "ok")
