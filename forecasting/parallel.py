"""Independent calls in worker processes, one thread each, ended at once when something fails or the user stops."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from forecasting.errors import UsageError

__all__ = ["run_calls"]

T = TypeVar("T")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_calls(function: Callable[..., T], calls: Sequence[tuple[Any, ...]], jobs: int) -> Iterator[tuple[int, T]]:
    """Yield (number of the call, result) as results come; with one job, here and in order.

    With more, ``function`` and its arguments must be picklable. An error in a call is raised here and ends the rest;
    `UsageError` when a worker dies without an answer.
    """
    if jobs <= 1 or len(calls) <= 1:
        for i, call in enumerate(calls):
            yield i, function(*call)
        return
    with _workers(min(jobs, len(calls))) as pool:
        waiting = {pool.submit(function, *call): i for i, call in enumerate(calls)}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool as err:
            raise UsageError(
                "a worker process ended without an answer, perhaps for lack of memory; try one job"
            ) from err


@contextmanager
def _workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes; on any error they are terminated instead of waited for."""
    others = set(multiprocessing.active_children())
    with _one_thread_each():
        pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_interrupts)
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
        pool.shutdown()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside compute on one thread, so that they do not fight over cores."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _leave_interrupts() -> None:
    """In a worker: Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
