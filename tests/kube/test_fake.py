"""What only the fake server can do: failures, forgetting, freezing; and that it keeps its speed."""

from __future__ import annotations

import http.client
import threading
import time

import pytest

from . import objects
from .conformance import CRDS, config_map, refused, version
from .selectors import label_selector
from .server import FakeApiServer

MAPS = "/api/v1/namespaces/default/configmaps"
WIDGETS = "/apis/example.org/v1/namespaces/default/widgets"


def asked(server: FakeApiServer, path: str = MAPS) -> int:
    return server.request("GET", path, user="controller")[0]


def test_a_fault_hits_what_it_matches_as_often_as_it_should(fake_api: FakeApiServer) -> None:
    fault = fake_api.fault(
        lambda call: call.resource == "configmaps", status=429, times=2, headers={"Retry-After": "1"}
    )
    assert asked(fake_api, "/api/v1/pods") == 200
    status = refused(fake_api.request("GET", MAPS, user="controller"), 429, "TooManyRequests")
    assert status["message"] == "injected failure"
    assert fake_api.request("GET", MAPS)[0] == 200  # the test itself is never hit
    assert [asked(fake_api), asked(fake_api)] == [429, 200]
    assert fault.hits == 2
    assert [call.code for call in fake_api.calls_by("controller")] == [200, 429, 429, 200]


def test_a_fault_without_end_can_be_cancelled(fake_api: FakeApiServer) -> None:
    fault = fake_api.fault(status=503, times=None, body=b"upstream down")
    assert [asked(fake_api) for _ in range(5)] == [503] * 5
    fault.cancel()
    assert asked(fake_api) == 200


def test_a_dropped_call_gets_no_answer(fake_api: FakeApiServer) -> None:
    fake_api.fault(drop=True)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        asked(fake_api)
    assert asked(fake_api) == 200
    assert [call.code for call in fake_api.calls_by("controller")] == [0, 200]


def test_a_delay_alone_only_delays(fake_api: FakeApiServer) -> None:
    fake_api.fault(delay_s=0.2)
    start = time.monotonic()
    assert asked(fake_api) == 200
    assert time.monotonic() - start >= 0.2


def test_frozen_it_answers_nothing(fake_api: FakeApiServer) -> None:
    codes: list[int] = []
    fake_api.freeze()
    waiting = threading.Thread(target=lambda: codes.append(asked(fake_api)))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    fake_api.thaw()
    waiting.join(30)
    assert codes == [200]


def test_a_forgotten_version_is_gone(fake_api: FakeApiServer) -> None:
    since = version(fake_api.must("GET", MAPS))
    fake_api.must("POST", MAPS, config_map("a"))
    page = fake_api.must("GET", "/api/v1/namespaces?limit=1")["metadata"]["continue"]
    fake_api.must("POST", MAPS, config_map("b"))
    fake_api.compact()
    (event,) = fake_api.watch(f"{MAPS}?resourceVersion={since}", 2)
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    refused(fake_api.request("GET", f"/api/v1/namespaces?limit=1&continue={page}"), 410, "Expired")
    path = f"{MAPS}?resourceVersion={since}&resourceVersionMatch=Exact"
    refused(fake_api.request("GET", path), 410, "Expired")
    now = version(fake_api.must("GET", MAPS))
    fake_api.must("POST", MAPS, config_map("c"))
    assert [event["type"] for event in fake_api.watch(f"{MAPS}?resourceVersion={now}", 1)] == ["ADDED"]


def test_bookmarks_come_in_time(fake_api: FakeApiServer) -> None:
    fake_api.bookmark_interval_s = 0.05
    now = version(fake_api.must("GET", MAPS))
    fake_api.must("POST", "/api/v1/namespaces/kube-system/configmaps", config_map("elsewhere"))
    events = fake_api.watch(f"{MAPS}?resourceVersion={now}&allowWatchBookmarks=true", 2)
    assert [event["type"] for event in events] == ["BOOKMARK", "BOOKMARK"]
    assert events[0]["object"]["kind"] == "ConfigMap"
    assert int(version(events[0]["object"])) > int(now)


def test_a_streamed_list_ends_with_its_bookmark(fake_api: FakeApiServer) -> None:
    fake_api.must("POST", MAPS, config_map("a"))
    query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    events = fake_api.watch(f"{MAPS}?{query}", 2)
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK"]
    assert events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


@pytest.mark.parametrize("clean", [True, False])
def test_watches_can_be_cut(fake_api: FakeApiServer, clean: bool) -> None:
    ends: list[object] = []

    def follow() -> None:
        try:
            ends.append(fake_api.watch(MAPS, 1))
        except (http.client.HTTPException, ConnectionError) as failure:
            ends.append(type(failure))

    waiting = threading.Thread(target=follow)
    waiting.start()
    until = time.monotonic() + 30
    while not fake_api.open_watches:
        assert time.monotonic() < until
        time.sleep(0.005)
    assert fake_api.cut_watches(lambda kind: kind.plural == "pods") == 0
    assert fake_api.cut_watches(clean=clean) == 1
    waiting.join(30)
    assert len(ends) == 1
    assert (ends[0] == []) == clean


def test_rules_can_be_bound_to_namespaces(fake_api: FakeApiServer) -> None:
    fake_api.enforce([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"], "namespaces": ["default"]}])
    assert asked(fake_api) == 200
    assert asked(fake_api, "/api/v1/namespaces/kube-system/configmaps") == 403
    assert asked(fake_api, "/api/v1/configmaps") == 403
    assert asked(fake_api, "/version") == 200


def test_a_definition_that_goes_takes_its_objects_along(fake_api: FakeApiServer) -> None:
    fake_api.must("POST", CRDS, objects.widget_crd())
    fake_api.must("POST", WIDGETS, objects.widget(namespace=""))
    fake_api.must("DELETE", f"{CRDS}/widgets.example.org")
    assert fake_api.request("GET", WIDGETS) == (404, "404 page not found\n")
    fake_api.must("POST", CRDS, objects.widget_crd())
    assert fake_api.must("GET", WIDGETS)["items"] == []


def test_a_new_default_shows_in_old_objects(fake_api: FakeApiServer) -> None:
    crd = fake_api.must("POST", CRDS, objects.widget_crd())
    made = fake_api.must("POST", WIDGETS, objects.widget(namespace=""))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["spec"]["properties"]["colour"] = {"type": "string", "default": "blue"}
    fake_api.must("PUT", f"{CRDS}/widgets.example.org", crd)
    after = fake_api.must("GET", f"{WIDGETS}/one")
    assert after["spec"]["colour"] == "blue"
    assert version(after) == version(made)


def test_a_namespace_takes_its_objects_along(fake_api: FakeApiServer) -> None:
    fake_api.ensure_namespace("gone")
    fake_api.must("POST", "/api/v1/namespaces/gone/configmaps", config_map("a"))
    fake_api.must("DELETE", "/api/v1/namespaces/gone")
    assert fake_api.must("GET", "/api/v1/configmaps")["items"] == []


def test_two_objects_of_one_name_are_never_mixed_up(fake_api: FakeApiServer) -> None:
    first = fake_api.must("POST", MAPS, config_map("a"))
    fake_api.must("DELETE", f"{MAPS}/a")
    second = fake_api.must("POST", MAPS, config_map("a"))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert fake_api.request("PUT", f"{MAPS}/a", first)[0] == 409


@pytest.mark.parametrize("what", ["pods", "requests.nvidia.com/gpu"])
def test_a_quota_refuses_what_is_too_much(fake_api: FakeApiServer, what: str) -> None:
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {what: "2"}}}
    fake_api.must("POST", "/api/v1/namespaces/default/resourcequotas", quota)
    template = objects.deployment("x", gpus=1)["spec"]["template"]["spec"]
    body = {"metadata": {"generateName": "p-"}, "spec": template}
    codes = [fake_api.request("POST", "/api/v1/namespaces/default/pods", body)[0] for _ in range(3)]
    assert codes == [201, 201, 403]
    status = refused(fake_api.request("POST", "/api/v1/namespaces/default/pods", body), 403, "Forbidden")
    assert f"exceeded quota: small, requested: {what}=1, used: {what}=2, limited: {what}=2" in status["message"]


def test_protobuf_is_not_read(fake_api: FakeApiServer) -> None:
    answer = fake_api.request("POST", MAPS, b"k8s\x00", content_type="application/vnd.kubernetes.protobuf")
    refused(answer, 415, "UnsupportedMediaType")


def test_stopping_twice_is_harmless() -> None:
    server = FakeApiServer()
    server.stop()
    server.stop()
    with pytest.raises(ConnectionError):
        server.request("GET", "/version")


def test_many_writers_lose_nothing(fake_api: FakeApiServer) -> None:
    """Optimistic locking: every increment of a counter by four writers arrives."""
    fake_api.must("POST", MAPS, config_map("count", n="0"))

    def increase() -> None:
        done = 0
        while done < 10:
            now = fake_api.must("GET", f"{MAPS}/count")
            wanted = now | {"data": {"n": str(int(now["data"]["n"]) + 1)}}
            done += fake_api.request("PUT", f"{MAPS}/count", wanted)[0] == 200

    writers = [threading.Thread(target=increase) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    assert fake_api.must("GET", f"{MAPS}/count")["data"]["n"] == "40"


def test_many_patches_over_one_connection_all_take_effect(fake_api: FakeApiServer) -> None:
    """Load tests with thousands of objects stand on this."""
    fake_api.must("POST", CRDS, objects.widget_crd())
    for index in range(20):
        fake_api.must("POST", WIDGETS, objects.widget(f"w{index}", ""))
    host, port = fake_api.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port))
    headers = {"Content-Type": "application/merge-patch+json"}
    for index in range(200):
        body = f'{{"status":{{"replicas":{index}}}}}'
        connection.request("PATCH", f"{WIDGETS}/w{index % 20}/status", body, headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
    connection.close()
    for index in range(20):
        assert fake_api.must("GET", f"{WIDGETS}/w{index}")["status"]["replicas"] == 180 + index


@pytest.mark.parametrize("text", ["a b", "=x", "a in b", "a in (b", "a=b,,c", "!", "a=b c"])
def test_selectors_that_mean_nothing_are_refused(fake_api: FakeApiServer, text: str) -> None:
    query = text.replace(" ", "%20")
    refused(fake_api.request("GET", f"{MAPS}?labelSelector={query}"), 400, "BadRequest")


def test_a_selector_of_blanks_selects_everything() -> None:
    assert label_selector("  ") is None
