"""What an API server answers to updates, patches, deletions and watches."""

from __future__ import annotations

import time

import pytest

from . import objects
from .api import ApiServer, Json
from .conformance import APPLY, At, causes, config_map, refused, version
from .patches import JSON_PATCH, STRATEGIC

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


def rolling(strategy: Json) -> Json:
    body = objects.deployment("chat", "")
    return body | {"spec": body["spec"] | {"strategy": strategy}}


def test_apply_lets_go_of_what_is_applied_no_more(api: ApiServer, at: At) -> None:
    path = f"{at.deployments}/chat?fieldManager=tests&force=true"
    limits = {"maxUnavailable": 0, "maxSurge": 1}
    first = rolling({"type": "RollingUpdate", "rollingUpdate": limits})
    first["metadata"]["labels"] = {"ours": "1", "kept": "1"}
    assert api.request("PATCH", path, first, content_type=APPLY)[0] == 201
    api.must("PATCH", f"{at.deployments}/chat", {"metadata": {"labels": {"theirs": "1"}}})
    then = rolling({"type": "Recreate"})
    then["metadata"]["labels"] = {"kept": "1"}
    code, after = api.request("PATCH", path, then, content_type=APPLY)
    assert (code, after["spec"]["strategy"]) == (200, {"type": "Recreate"}), after
    assert after["metadata"]["labels"] == {"kept": "1", "theirs": "1"}


def with_count(replicas: int | None) -> Json:
    body = objects.deployment("chat", "")
    body["spec"].pop("replicas", None)
    return body if replicas is None else body | {"spec": body["spec"] | {"replicas": replicas}}


def test_a_count_set_by_scale_belongs_to_who_set_it(api: ApiServer, at: At) -> None:
    path = f"{at.deployments}/chat"
    assert api.request("PATCH", f"{path}?fieldManager=git", with_count(3), content_type=APPLY)[0] == 201
    api.must("PATCH", f"{path}/scale?fieldManager=scaler", {"spec": {"replicas": 5}})
    refusal = api.request("PATCH", f"{path}?fieldManager=git", with_count(3), content_type=APPLY)
    assert list(causes(refused(refusal, 409, "Conflict"))) == [".spec.replicas"]
    code, after = api.request("PATCH", f"{path}?fieldManager=git", with_count(None), content_type=APPLY)
    assert (code, after["spec"]["replicas"]) == (200, 5)
    code, after = api.request("PATCH", f"{path}?fieldManager=git&force=true", with_count(2), content_type=APPLY)
    assert (code, after["spec"]["replicas"]) == (200, 2)


def test_a_count_stays_while_one_who_applied_it_is_left(api: ApiServer, at: At) -> None:
    path = f"{at.deployments}/chat"
    assert api.request("PATCH", f"{path}?fieldManager=git", with_count(3), content_type=APPLY)[0] == 201
    for manager, count, left in (("other", 3, 3), ("git", None, 3), ("other", None, 1)):
        body = with_count(count)
        code, after = api.request("PATCH", f"{path}?fieldManager={manager}", body, content_type=APPLY)
        assert (code, after["spec"]["replicas"]) == (200, left)


def test_apply_takes_nothing_away_by_null(api: ApiServer, at: At) -> None:
    path = f"{at.deployments}/chat?fieldManager=tests&force=true"
    limits = {"maxUnavailable": 0, "maxSurge": 1}
    first = rolling({"type": "RollingUpdate", "rollingUpdate": limits})
    assert api.request("PATCH", path, first, content_type=APPLY)[0] == 201
    then = rolling({"type": "Recreate", "rollingUpdate": None})
    refused(api.request("PATCH", path, then, content_type=APPLY), 422, "Invalid")
    assert api.must("GET", f"{at.deployments}/chat")["spec"]["strategy"]["type"] == "RollingUpdate"


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


def test_delete_of_a_selection(api: ApiServer, at: At) -> None:
    for name, label in (("a", "x"), ("b", "x"), ("c", "y")):
        api.must("POST", at.maps, config_map(name, {"mine": label}))
    api.must("DELETE", f"{at.maps}?labelSelector=mine%3Dx")
    assert [one["metadata"]["name"] for one in api.must("GET", f"{at.maps}?labelSelector=mine")["items"]] == ["c"]


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
    assert time.monotonic() - start >= 0.9
