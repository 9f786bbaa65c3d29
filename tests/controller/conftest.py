"""Fixtures of the controller's tests."""

from tests.kube.fixtures import api_server, fake_api

__all__ = ["api_server", "fake_api"]
