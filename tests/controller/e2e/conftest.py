"""What every end-to-end test needs."""

import pytest

from tests.prom.real import need_prometheus


@pytest.fixture(autouse=True)
def _prometheus() -> None:
    need_prometheus()
