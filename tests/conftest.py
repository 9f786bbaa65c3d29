"""Shared by all tests: one thread per worker, and the folder of real traces where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import kinds

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Hypothesis fails an example that takes 0.2 s, and data that come slowly: both judge the machine.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
# Triton looks once, at its import, and PyTorch may import it in any test: without a GPU its kernels are interpreted.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real traces named by HARMONY_DATA; tests that want it are skipped, visibly, without it."""
    named = os.environ.get("HARMONY_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("real traces: set HARMONY_DATA to the folder that holds them (fisher/, llm_azure2023/, ...)")
    return Path(named)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test is marked with what it starts, and long ones stand between the others (tests/kinds.py)."""
    kinds.mark(items)
    kinds.spread(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test starts is held against its markers."""
    kinds.began(item)
