"""The fixture `api_server`: import it in a conftest.py (`from tests.kube.fixtures import api_server`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .api import ApiServer
from .real import RealApiServer, real_assets
from .server import FakeApiServer

SERVERS = ["fake", "real"] if real_assets() else ["fake"]
HOW_TO_GET_A_REAL_ONE = (
    "real API server: set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd (setup-envtest use -p path)"
)


def start_server(name: str) -> ApiServer:
    """A fresh server by its name in SERVERS."""
    assets = real_assets()
    return FakeApiServer(serves_late=1) if name == "fake" or assets is None else RealApiServer(assets)


@pytest.fixture(params=SERVERS)
def api_server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """A fresh API server: the fake one always, the real one too where its binaries are at hand."""
    with start_server(request.param) as server:
        yield server


@pytest.fixture
def fake_api() -> Iterator[FakeApiServer]:
    """A fresh fake server, for tests that need its faults."""
    with FakeApiServer() as server:
        yield server
