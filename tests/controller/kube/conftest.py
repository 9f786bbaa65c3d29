"""The API server of the test suite, fake and (where its binaries are at hand) real."""

from tests.kube.fixtures import api_server, fake_api

__all__ = ["api_server", "fake_api"]
