from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from forecasting.errors import UsageError
from forecasting.parallel import run_calls


def double(x: int) -> tuple[int, str | None]:
    return 2 * x, os.environ.get("OMP_NUM_THREADS")


def die(x: int) -> int:
    os._exit(1)


def fail_or_write_later(x: int, path: Path) -> int:
    if x == 0:
        raise KeyError("first")
    time.sleep(60)
    path.write_text("it went on")
    return x


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_call_is_answered_under_its_number(jobs: int) -> None:
    before = dict(os.environ)
    found = dict(run_calls(double, [(3,), (4,), (5,)], jobs))
    assert {i: value for i, (value, _) in found.items()} == {0: 6, 1: 8, 2: 10}
    if jobs > 1:
        assert {threads for _, threads in found.values()} == {"1"}
    assert dict(os.environ) == before


def test_a_worker_that_dies_is_a_named_error() -> None:
    with pytest.raises(UsageError, match="ended without an answer"):
        list(run_calls(die, [(1,), (2,)], 2))


def test_an_error_ends_the_other_calls_before_they_are_done(tmp_path: Path) -> None:
    path = tmp_path / "later"
    with pytest.raises(KeyError, match="first"):
        list(run_calls(fail_or_write_later, [(0, path), (1, path)], 2))
    children, until = multiprocessing.active_children(), time.monotonic() + 120
    # Also one that the pool's own thread has just waited for looks alive for a moment.
    while any(child.is_alive() for child in children):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not path.exists()
