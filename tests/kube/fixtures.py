"""The fixture `api_server`: import it in a conftest.py (`from tests.kube.fixtures import api_server`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .api import ApiServer
from .real import RealApiServer, real_assets
from .server import FakeApiServer

HOW_TO_GET_A_REAL_ONE = (
    "real API server: set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd (setup-envtest use -p path)"
)


@pytest.fixture(params=["fake", "real"])
def api_server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    """A fresh API server: the fake one always, the real one too where its binaries are at hand."""
    if request.param == "fake":
        with FakeApiServer() as server:
            yield server
        return
    assets = real_assets()
    if assets is None:
        pytest.skip(HOW_TO_GET_A_REAL_ONE)
    with RealApiServer(assets) as real:
        yield real


@pytest.fixture
def fake_api() -> Iterator[FakeApiServer]:
    """A fresh fake server, for tests that need its faults."""
    with FakeApiServer() as server:
        yield server
