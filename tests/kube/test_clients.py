"""Clients that people use, against the server: what they need of it beyond the plain requests of the other tests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import kubernetes.aio as kubernetes_aio
import pytest
from helm_python.config import Config as Helm
from kubernetes import client, config, dynamic, watch

from . import objects
from .api import ApiServer
from .server import FakeApiServer


@pytest.fixture
def kubeconfig(api: ApiServer, tmp_path: Path) -> str:
    return str(api.kubeconfig(tmp_path / "kubeconfig", user="admin"))


def test_the_python_client(kubeconfig: str, space: str) -> None:
    with config.new_client_from_config(kubeconfig) as connection:
        apps = client.AppsV1Api(connection)
        apps.create_namespaced_deployment(space, objects.deployment("chat", ""))
        scaled = apps.patch_namespaced_deployment_scale("chat", space, {"spec": {"replicas": 3}})
        assert scaled.spec.replicas == 3
        stream = watch.Watch().stream(apps.list_namespaced_deployment, space, timeout_seconds=1)
        assert [(event["type"], event["object"].metadata.name) for event in stream] == [("ADDED", "chat")]
        with pytest.raises(client.ApiException) as refusal:
            apps.read_namespaced_deployment("none", space)
        assert refusal.value.status == 404


def test_the_dynamic_client_discovers_custom_kinds(kubeconfig: str, space: str) -> None:
    with config.new_client_from_config(kubeconfig) as connection:
        widgets = dynamic.DynamicClient(connection).resources.get(api_version="example.org/v1", kind="Widget")
        assert widgets.create(body=objects.widget(namespace=""), namespace=space).spec.mode == "Observe"
        assert [one.metadata.name for one in widgets.get(namespace=space).items] == ["one"]


def test_the_asynchronous_client(kubeconfig: str, space: str) -> None:
    async def run() -> None:
        async with await kubernetes_aio.config.new_client_from_config(kubeconfig) as connection:
            apps = kubernetes_aio.client.AppsV1Api(connection)
            await apps.create_namespaced_deployment(space, objects.deployment("chat", ""))
            listed = await apps.list_namespaced_deployment(space)
            assert [one.metadata.name for one in listed.items] == ["chat"]
            leases = kubernetes_aio.client.CoordinationV1Api(connection)
            made = await leases.create_namespaced_lease(space, objects.lease("leader", "a", ""))
            made.spec.holder_identity = "b"
            assert (await leases.replace_namespaced_lease("leader", space, made)).spec.holder_identity == "b"
            made.spec.holder_identity = "c"
            with pytest.raises(kubernetes_aio.client.ApiException) as refusal:
                await leases.replace_namespaced_lease("leader", space, made)
            assert refusal.value.status == 409

    asyncio.run(run())


def test_helm_installs_and_upgrades(fake_api: FakeApiServer, tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: chart\nversion: 0.1.0\n")
    template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: {{ .Values.a | quote }}}\n"
    (chart / "templates" / "map.yaml").write_text(template)
    kubeconfig = fake_api.kubeconfig(tmp_path / "kubeconfig")
    # Helm keeps its releases in protobuf Secrets by default, which the fake server does not read.
    helm = Helm(kubeconfig_path=str(kubeconfig), storage_driver="memory")
    helm.install(chart, "release", {"a": "1"}, namespace="default")
    helm.upgrade(chart, "release", {"a": "2"}, namespace="default")
    assert fake_api.must("GET", "/api/v1/namespaces/default/configmaps/x")["data"] == {"a": "2"}
    helm.close()
