"""One Prometheus with back-dated data for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.controller.prometheus.data import back_dated
from tests.prom.real import RealPrometheus, need_prometheus


@pytest.fixture(scope="session")
def prom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPrometheus]:
    need_prometheus()
    real = RealPrometheus(tmp_path_factory.mktemp("prometheus"))
    real.load(back_dated())
    with real:
        yield real
