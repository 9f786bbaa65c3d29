"""The fixtures, for the tests of the server itself."""

from __future__ import annotations

from .conformance import api, at, space
from .fixtures import api_server, fake_api

__all__ = ["api", "api_server", "at", "fake_api", "space"]
