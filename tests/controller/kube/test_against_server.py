"""The client's whole vocabulary against an API server, fake or real."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from controller.kube.client import Call, Kube
from controller.kube.errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound, UnknownKind
from controller.kube.resources import CRDS, DEPLOYMENTS, LEASES, NODES, PODS
from tests.controller.kube.scripted import kube_for, status
from tests.kube.api import ApiServer

LABELS = {"app": "chat"}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "chat", "namespace": "default"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    },
}


def using(server: ApiServer, folder: Path, use: Callable[[Kube], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        async with await Kube.connect(server.kubeconfig(folder / "config")) as kube:
            return await use(kube)

    return asyncio.run(inside())


def test_an_objects_life(api_server: ApiServer, tmp_path: Path) -> None:
    async def use(kube: Kube) -> None:
        with pytest.raises(NotFound, match=r"get deployments default/chat: HTTP 404: .*not found"):
            await kube.get(DEPLOYMENTS, "default", "chat")
        await kube.create(DEPLOYMENTS, DEPLOYMENT, dry_run=True)
        made = await kube.create(DEPLOYMENTS, DEPLOYMENT)
        with pytest.raises(AlreadyExists):
            await kube.create(DEPLOYMENTS, DEPLOYMENT)

        scale = await kube.get(DEPLOYMENTS, "default", "chat", subresource="scale")
        assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 2)
        assert await kube.has_subresource(DEPLOYMENTS, "scale")
        scale["spec"]["replicas"] = 5
        await kube.replace(DEPLOYMENTS, scale, subresource="scale")
        with pytest.raises(Conflict):
            await kube.replace(DEPLOYMENTS, scale, subresource="scale")
        with pytest.raises(Invalid):
            await kube.patch(DEPLOYMENTS, "default", "chat", {"spec": {"replicas": -1}})

        note = {"metadata": {"annotations": {"a": "1"}}}
        assert (await kube.patch(DEPLOYMENTS, "default", "chat", note))["metadata"]["annotations"]["a"] == "1"
        operations = [{"op": "replace", "path": "/spec/replicas", "value": 3}]
        assert (await kube.patch(DEPLOYMENTS, "default", "chat", operations, kind="json"))["spec"]["replicas"] == 3
        with pytest.raises(Conflict):
            await kube.delete(DEPLOYMENTS, "default", "chat", uid="00000000-0000-0000-0000-000000000000")
        await kube.delete(DEPLOYMENTS, "default", "chat", uid=made["metadata"]["uid"])
        with pytest.raises(NotFound):
            await kube.get(DEPLOYMENTS, "default", "chat")
        assert kube.calls[Call("update", "apps", "deployments", "scale")] == 2

    using(api_server, tmp_path, use)


def test_long_lists_come_whole(api_server: ApiServer, tmp_path: Path) -> None:
    async def use(kube: Kube) -> None:
        for i in range(1003):
            lease = {"metadata": {"name": f"l{i}", "namespace": "default", "labels": {"odd": str(i % 2)}}, "spec": {}}
            await kube.create(LEASES, lease)
        listing = await kube.list(LEASES, "default")
        assert len({item["metadata"]["name"] for item in listing.items}) == 1003
        assert kube.calls[Call("list", "coordination.k8s.io", "leases", "")] == 3
        assert len((await kube.list(LEASES, selector="odd=1")).items) == 501
        assert [o["metadata"]["name"] for o in (await kube.list(LEASES, fields="metadata.name=l7")).items] == ["l7"]
        answers = kube.take_answers()
        assert answers[Call("create", "coordination.k8s.io", "leases", ""), 201] == 1003
        assert kube.take_answers() == {}

    using(api_server, tmp_path, use)


def test_kinds_are_discovered(api_server: ApiServer, tmp_path: Path) -> None:
    async def use(kube: Kube) -> None:
        for resource in (DEPLOYMENTS, PODS, NODES, CRDS, LEASES):
            assert await kube.discover(resource.api_version, resource.kind) == resource
        with pytest.raises(UnknownKind, match="did you mean 'Deployment'"):
            await kube.discover("apps/v1", "deployment")
        with pytest.raises(UnknownKind, match="does not serve"):
            await kube.discover("keda.sh/v1alpha1", "ScaledObject")
        assert "gitVersion" in await kube.version()

    using(api_server, tmp_path, use)


def test_permissions_are_known_beforehand(api_server: ApiServer, tmp_path: Path) -> None:
    api_server.enforce([{"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get", "update"]}])

    async def use(kube: Kube) -> None:
        assert await kube.allowed("update", DEPLOYMENTS, "default", "scale")
        assert not await kube.allowed("update", DEPLOYMENTS, "default")
        with pytest.raises(Forbidden, match=r"list pods default: HTTP 403: .*cannot list"):
            await kube.list(PODS, "default")

    using(api_server, tmp_path, use)


def test_a_credential_plugin_is_run_again_when_its_token_is_refused(tmp_path: Path) -> None:
    accepted = "token-1"

    async def handler(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") == f"Bearer {accepted}":
            return web.json_response({"kind": "Pod"})
        return status(401, "Unauthorized", "Unauthorized")

    runs = tmp_path / "runs"
    script = tmp_path / "plugin.py"
    version = "client.authentication.k8s.io/v1"
    script.write_text(
        "import json, pathlib\n"
        f"runs = pathlib.Path({str(runs)!r})\n"
        "n = int(runs.read_text()) + 1 if runs.exists() else 1\n"
        "runs.write_text(str(n))\n"
        f"answer = {{'apiVersion': {version!r}, 'kind': 'ExecCredential', 'status': {{'token': f'token-{{n}}'}}}}\n"
        "print(json.dumps(answer))\n"
    )
    user = {"exec": {"apiVersion": version, "command": sys.executable, "args": [str(script)]}}

    async def inside() -> None:
        nonlocal accepted
        async with kube_for(handler, tmp_path, user) as kube:
            await kube.get(PODS, "n", "a")
            assert runs.read_text() == "1"
            accepted = "token-2"
            assert await kube.patch(PODS, "n", "a", {}) == {"kind": "Pod"}
            assert json.loads(runs.read_text()) == 2

    asyncio.run(inside())
