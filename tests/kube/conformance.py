"""What the conformance tests share: a server per module, a namespace per test, paths, and how refusals look."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from . import objects
from .api import ApiServer, Json
from .fixtures import SERVERS, start_server

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
APPLY = "application/apply-patch+yaml"
_numbers = itertools.count()


@pytest.fixture(scope="module", params=SERVERS)
def api(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """A server that serves the custom kind Widget."""
    with start_server(request.param) as server:
        server.define(objects.widget_crd())
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
