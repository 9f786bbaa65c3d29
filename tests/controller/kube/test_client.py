"""The client against a server that misbehaves: what is sent again, what is not, and what the errors say."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from controller.kube.client import Call, Kube
from controller.kube.errors import (
    AlreadyExists,
    Cause,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnknownKind,
)
from controller.kube.resources import AUTOSCALERS, DEPLOYMENTS, LEASES, NODES, PODS
from forecasting.errors import UsageError
from tests.controller.kube.scripted import cut, kube_for, serving, status, write_kubeconfig

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "n", "resourceVersion": "7"}}


class Script:
    """Answers in order, the last one for ever; remembers the requests."""

    def __init__(self, *answers: Callable[[web.Request], Any] | dict[str, Any] | web.Response) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.at_s: list[float] = []

    async def __call__(self, request: web.Request) -> web.Response:
        text = await request.text()
        self.requests.append((request.method, request.path, dict(request.query), json.loads(text) if text else None))
        self.at_s.append(time.monotonic())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer) and not isinstance(answer, web.StreamResponse):
            answer = await answer(request)
        if isinstance(answer, dict):
            return web.json_response(answer)
        assert isinstance(answer, web.Response)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)  # one can be sent once


def run(script: Any, folder: Path, use: Callable[[Kube], Any], **options: Any) -> Any:
    async def inside() -> Any:
        async with kube_for(script, folder, **options) as kube:
            return await use(kube)

    return asyncio.run(inside())


def fail(script: Any, folder: Path, kind: type[KubeError], use: Callable[[Kube], Any], **options: Any) -> Any:
    async def expecting(kube: Kube) -> Any:
        with pytest.raises(kind) as caught:
            await use(kube)
        return caught.value

    return run(script, folder, expecting, **options)


def test_get_asks_for_the_object_and_counts_the_call(tmp_path: Path) -> None:
    script = Script(POD)

    async def use(kube: Kube) -> None:
        assert await kube.get(PODS, "n", "a") == POD
        assert await kube.get(DEPLOYMENTS, "n", "a", subresource="scale") == POD
        assert await kube.get(NODES, None, "a") == POD
        assert kube.calls == {
            Call("get", "", "pods", ""): 1,
            Call("get", "apps", "deployments", "scale"): 1,
            Call("get", "", "nodes", ""): 1,
        }

    run(script, tmp_path, use)
    assert [path for _, path, _, _ in script.requests] == [
        "/api/v1/namespaces/n/pods/a",
        "/apis/apps/v1/namespaces/n/deployments/a/scale",
        "/api/v1/nodes/a",
    ]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a%2fb"])
def test_impossible_names_are_refused_before_anything_is_sent(tmp_path: Path, name: str) -> None:
    script = Script(POD)
    fail(script, tmp_path, Invalid, lambda kube: kube.get(PODS, "n", name))
    fail(script, tmp_path, Invalid, lambda kube: kube.patch(PODS, name or "..", "a", {}))
    assert script.requests == []


def test_list_reads_all_pages_and_names_every_object(tmp_path: Path) -> None:
    first = {"metadata": {"resourceVersion": "9", "continue": "more"}, "items": [{"metadata": {"name": "a"}}]}
    second = {"metadata": {"resourceVersion": "9"}, "items": [{"metadata": {"name": "b"}}, {"metadata": {"name": "c"}}]}
    script = Script(first, second)
    listing = run(
        script,
        tmp_path,
        lambda kube: kube.list(
            PODS, "n", selector="app=x", transform=lambda pod: None if pod["metadata"]["name"] == "b" else pod
        ),
    )
    assert [item["metadata"]["name"] for item in listing.items] == ["a", "c"]
    assert {(item["apiVersion"], item["kind"]) for item in listing.items} == {("v1", "Pod")}
    assert listing.resource_version == "9"
    assert [query for _, _, query, _ in script.requests] == [
        {"limit": "500", "labelSelector": "app=x"},
        {"limit": "500", "labelSelector": "app=x", "continue": "more"},
    ]


def test_list_starts_again_when_its_token_expires_and_gives_nothing_twice(tmp_path: Path) -> None:
    first = {"metadata": {"resourceVersion": "9", "continue": "more"}, "items": [POD]}
    whole = {"metadata": {"resourceVersion": "12"}, "items": [POD]}
    script = Script(first, status(410, "Expired", "The provided continue parameter is too old"), whole)
    listing = run(script, tmp_path, lambda kube: kube.list(PODS))
    assert listing == ([POD], "12")
    assert "continue" not in script.requests[2][2]

    pair: tuple[Any, ...] = (first, status(410, "Expired", "too old"))
    endless = Script(*pair * 4)
    fail(endless, tmp_path, Expired, lambda kube: kube.list(PODS))
    assert len(endless.requests) == 6


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", Invalid),
        (401, "Unauthorized", Unauthorized),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (405, "MethodNotAllowed", KubeError),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", AlreadyExists),
        (410, "Gone", Expired),
        (422, "Invalid", Invalid),
    ],
)
def test_refusals_say_who_what_and_why_and_are_not_sent_again(
    tmp_path: Path, code: int, reason: str, kind: type[KubeError]
) -> None:
    causes = [{"field": "spec.replicas", "message": "must be\n>= 0"}]
    script = Script(status(code, reason, "no,\n  because\tof this", causes=causes))
    error = fail(script, tmp_path, kind, lambda kube: kube.replace(DEPLOYMENTS, POD, subresource="scale"))
    assert type(error) is kind
    assert str(error) == f"update deployments/scale n/a: HTTP {code}: no, because of this"
    assert (error.status, error.reason) == (code, reason)
    if isinstance(error, Invalid):
        assert error.causes == (Cause("spec.replicas", "must be >= 0"),)
    assert len(script.requests) == (2 if code == 401 else 1)  # 401: once more with the credentials read anew


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(
            status=502, text="<html><body>\n<h1>Bad Gateway</h1></body></html>", content_type="text/html"
        ),
        lambda: web.Response(status=200, text="<html>please log in</html>", content_type="text/html"),
        lambda: web.Response(status=200, text="[1, 2]", content_type="application/json"),
        lambda: web.Response(status=200, text='{"kind": "Po', content_type="application/json"),
        lambda: web.Response(status=500, body=b"\xff\xfe\x00"),
        lambda: web.Response(status=503),
    ],
)
def test_answers_that_are_not_the_api_servers_are_unavailable_and_unknown_for_writes(
    tmp_path: Path, answer: Callable[[], web.Response]
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return answer()

    error = fail(handler, tmp_path, Unavailable, lambda kube: kube.create(PODS, POD))
    assert str(error).startswith("create pods n: ")
    assert "\n" not in str(error)
    assert error.unknown is (error.status != 503)


def test_reads_are_repeated_until_they_succeed(tmp_path: Path) -> None:
    script = Script(cut, status(503, "ServiceUnavailable"), status(500, "InternalError"), POD)
    assert run(script, tmp_path, lambda kube: kube.get(PODS, "n", "a")) == POD
    assert len(script.requests) >= 4  # the transport itself may repeat a read on a reused connection


def test_reads_give_up_after_four_attempts(tmp_path: Path) -> None:
    script = Script(status(503, "ServiceUnavailable", "not now"))
    error = fail(script, tmp_path, Unavailable, lambda kube: kube.get(PODS, "n", "a"))
    assert (len(script.requests), error.message, error.unknown) == (4, "not now", False)


def test_retry_after_is_obeyed(tmp_path: Path) -> None:
    def busy(seconds: str) -> web.Response:
        answer = status(429, "TooManyRequests", "slow down")
        answer.headers["Retry-After"] = seconds
        return answer

    script = Script(busy("1"), POD)
    assert run(script, tmp_path, lambda kube: kube.patch(PODS, "n", "a", {})) == POD
    assert script.at_s[1] - script.at_s[0] >= 1.0

    patient = Script(busy("60"))
    error = fail(patient, tmp_path, TooManyRequests, lambda kube: kube.get(PODS, "n", "a"))
    assert (error.retry_after_s, len(patient.requests)) == (60.0, 1)

    dated = Script(busy("Wed, 21 Oct 2015 07:28:00 GMT"), POD)
    assert run(dated, tmp_path, lambda kube: kube.create(PODS, POD)) == POD


UNVERSIONED = {"metadata": {"name": "a", "namespace": "n"}}
SENT_AGAIN = {
    ("create", 429): True,
    ("create", 503): False,
    ("create", 500): False,
    ("patch", 429): True,
    ("patch", 503): False,
    ("replace", 429): True,
    ("replace", 503): True,
    ("replace", 500): False,
    ("overwrite", 503): False,
    ("delete", 503): True,
    ("delete", 500): False,
}


@pytest.mark.parametrize(("verb", "code"), SENT_AGAIN)
def test_writes_are_sent_again_only_where_that_is_safe(tmp_path: Path, verb: str, code: int) -> None:
    uses: dict[str, Callable[[Kube], Any]] = {
        "create": lambda kube: kube.create(PODS, POD),
        "patch": lambda kube: kube.patch(PODS, "n", "a", {}),
        "replace": lambda kube: kube.replace(PODS, POD),
        "overwrite": lambda kube: kube.replace(PODS, UNVERSIONED),
        "delete": lambda kube: kube.delete(PODS, "n", "a"),
    }
    script = Script(status(code), POD)
    if SENT_AGAIN[verb, code]:
        assert run(script, tmp_path, uses[verb]) == POD
    else:
        fail(script, tmp_path, Unavailable, uses[verb])
    assert len(script.requests) == (2 if SENT_AGAIN[verb, code] else 1)


def test_a_write_whose_connection_is_cut_is_unknown_and_one_that_never_left_is_not(tmp_path: Path) -> None:
    script = Script(cut)
    for use in (lambda kube: kube.replace(PODS, POD), lambda kube: kube.patch(PODS, "n", "a", {})):
        error = fail(script, tmp_path, Unavailable, use)
        assert error.unknown
    assert len(script.requests) == 2

    async def nobody_listens() -> Unavailable:
        async with serving(script) as url:
            config = write_kubeconfig(tmp_path / "gone", url)
        async with await Kube.connect(config) as kube:
            with pytest.raises(Unavailable) as caught:
                await kube.replace(PODS, POD)
            return caught.value

    assert not asyncio.run(nobody_listens()).unknown


def test_every_request_has_a_time_limit(tmp_path: Path) -> None:
    answered = []

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        answered.append(request)
        return web.Response()

    error = fail(slow, tmp_path, Unavailable, lambda kube: kube.create(PODS, POD), timeout_s=0.2)
    assert not answered
    assert error.message == "no answer in time"
    assert error.unknown


def test_concurrency_is_bounded_but_not_for_leases(tmp_path: Path) -> None:
    under_way, most = 0, 0
    lease_answered = asyncio.Event()

    async def counting(request: web.Request) -> web.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if "pods" in request.path:
            await lease_answered.wait()
        under_way -= 1
        return web.json_response({})

    async def use(kube: Kube) -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for _ in range(9):
                group.create_task(kube.get(PODS, "n", "a"))
            while under_way < 3:
                await asyncio.sleep(0.01)
            await kube.get(LEASES, "n", "leader")  # the places are taken until it is answered
            lease_answered.set()

    run(counting, tmp_path, use, concurrency=3)
    assert most == 4


def test_a_cancelled_request_gives_its_place_back(tmp_path: Path) -> None:
    async def slow_then_fast(request: web.Request) -> web.Response:
        if request.path.endswith("/slow"):
            await asyncio.sleep(30)
        return web.json_response(POD)

    async def use(kube: Kube) -> None:
        for _ in range(3):
            task = asyncio.create_task(kube.get(PODS, "n", "slow"))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await kube.get(PODS, "n", "fast") == POD

    run(slow_then_fast, tmp_path, use, concurrency=1)


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        ("merge", "application/merge-patch+json"),
        ("json", "application/json-patch+json"),
        ("strategic", "application/strategic-merge-patch+json"),
        ("apply", "application/apply-patch+yaml"),
    ],
)
def test_patches_travel_under_their_own_content_type(tmp_path: Path, kind: Any, content_type: str) -> None:
    seen: list[tuple[str, dict[str, str]]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.content_type, dict(request.query)))
        return web.json_response(POD)

    body: Any = [{"op": "remove", "path": "/spec"}] if kind == "json" else {"spec": None}
    run(handler, tmp_path, lambda kube: kube.patch(PODS, "n", "a", body, kind=kind, force=True, dry_run=True))
    expected = {"fieldManager": "harmony-controller", "dryRun": "All"}
    assert seen == [(content_type, {**expected, "force": "true"} if kind == "apply" else expected)]


def test_delete_can_insist_on_the_very_object(tmp_path: Path) -> None:
    script = Script(POD)
    run(script, tmp_path, lambda kube: kube.delete(PODS, "n", "a", uid="u1"))
    assert script.requests == [("DELETE", "/api/v1/namespaces/n/pods/a", {}, {"preconditions": {"uid": "u1"}})]


def test_discovery_finds_kinds_once_and_names_near_ones(tmp_path: Path) -> None:
    served: dict[str, Any] = {
        "/apis/apps/v1": {
            "resources": [
                {"name": "deployments", "kind": "Deployment", "namespaced": True},
                {"name": "deployments/scale", "kind": "Scale", "namespaced": True},
            ]
        },
        "/api/v1": {"resources": [{"name": "nodes", "kind": "Node", "namespaced": False}]},
        "/apis": {"groups": [{"name": "apps", "versions": [{"groupVersion": "apps/v1"}]}]},
    }

    async def handler(request: web.Request) -> web.Response:
        return web.json_response(served[request.path]) if request.path in served else status(404, "NotFound")

    async def use(kube: Kube) -> None:
        assert await kube.discover("apps/v1", "Deployment") == DEPLOYMENTS
        assert await kube.discover("v1", "Node") == NODES
        assert await kube.discover("apps/v1", "Deployment") == DEPLOYMENTS
        assert await kube.has_subresource(DEPLOYMENTS, "scale")
        assert not await kube.has_subresource(NODES, "scale")
        assert kube.calls.total() == 2
        with pytest.raises(UnknownKind, match="serves no kind 'Deploymnet'; did you mean 'Deployment'"):
            await kube.discover("apps/v1", "Deploymnet")
        with pytest.raises(UnknownKind, match="does not serve 'app/v1'; did you mean 'apps/v1'"):
            await kube.discover("app/v1", "Deployment")

    run(handler, tmp_path, use)


def test_a_kind_installed_later_is_found(tmp_path: Path) -> None:
    now = 0.0
    entry = {"name": AUTOSCALERS.plural, "kind": AUTOSCALERS.kind, "namespaced": True}
    script = Script(status(404, "NotFound"), {"groups": []}, {"resources": [entry]})

    async def use(kube: Kube) -> None:
        nonlocal now
        with pytest.raises(UnknownKind):
            await kube.discover(AUTOSCALERS.api_version, AUTOSCALERS.kind)
        now = 11.0
        assert await kube.discover(AUTOSCALERS.api_version, AUTOSCALERS.kind) == AUTOSCALERS

    run(script, tmp_path, use, monotonic=lambda: now)


def test_access_review_asks_about_us_and_is_repeated_like_a_read(tmp_path: Path) -> None:
    script = Script(status(500), {"status": {"allowed": True}}, {"status": {"allowed": False}}, {})

    async def use(kube: Kube) -> list[bool]:
        return [
            await kube.allowed("update", DEPLOYMENTS, "n", "scale"),
            await kube.allowed("list", PODS),
            await kube.allowed("get", PODS),
        ]

    assert run(script, tmp_path, use) == [True, False, False]
    attributes = {"verb": "update", "group": "apps", "version": "v1", "resource": "deployments"}
    assert script.requests[1][3]["spec"] == {
        "resourceAttributes": {**attributes, "subresource": "scale", "namespace": "n"}
    }


def test_a_rotated_token_is_read_anew(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")
    accepted = {"Bearer old"}
    refused = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal refused
        if request.headers["Authorization"] in accepted:
            return web.json_response(POD)
        refused += 1
        return status(401, "Unauthorized", "Unauthorized")

    async def use(kube: Kube) -> None:
        await kube.patch(PODS, "n", "a", {})
        accepted.clear()
        accepted.add("Bearer new")
        token.write_text("new\n")
        assert await asyncio.gather(*(kube.patch(PODS, "n", "a", {}) for _ in range(3))) == [POD] * 3
        before = refused
        await kube.get(PODS, "n", "a")
        assert refused == before
        accepted.clear()
        with pytest.raises(Unauthorized):
            await kube.get(PODS, "n", "a")

    run(handler, tmp_path, use, user={"tokenFile": str(token)})


@pytest.mark.parametrize("text", ["", "{", "[]", "clusters: []", "apiVersion: v1\ncurrent-context: nowhere"])
def test_unusable_kubeconfigs_are_the_users_mistake(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(UsageError, match="kubeconfig"):
        asyncio.run(Kube.connect(path))


def test_missing_configuration_is_the_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="there is no kubeconfig at"):
        asyncio.run(Kube.connect(tmp_path / "nowhere"))
    config = write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    with pytest.raises(UsageError, match="wrong"):
        asyncio.run(Kube.connect(config, "wrong"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match="no kubeconfig was found"):
        asyncio.run(Kube.connect())
