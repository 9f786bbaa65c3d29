"""The API server fixtures, for the tests of the server itself."""

from __future__ import annotations

from .fixtures import api_server, fake_api

__all__ = ["api_server", "fake_api"]
