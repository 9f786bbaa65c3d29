"""Who does the jobs of a sweep: processes of this machine, or a Ray cluster; the results are the same, in order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from forecasting.errors import DataError, UsageError

__all__ = ["Job", "Processes", "RayCluster", "Workers"]

Job = tuple[Callable[..., Any], tuple[Any, ...]]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Workers(Protocol):
    """Does jobs in any order and gives their results in the order of the jobs."""

    def run(self, jobs: Sequence[Job], done: Callable[[int], None]) -> list[Any]:
        """The results; ``done`` is told the number of every job that ended. The first failure ends it."""
        ...


class Processes:
    """``count`` processes of this machine, one thread each; all of its cores by default."""

    def __init__(self, count: int | None = None) -> None:
        if count is not None and count < 1:
            raise UsageError(f"--workers {count}: expected 1 or more")
        self.count = count or len(os.sched_getaffinity(0))

    def run(self, jobs: Sequence[Job], done: Callable[[int], None]) -> list[Any]:
        """See `Workers.run`."""
        results: list[Any] = [None] * len(jobs)
        if not jobs:
            return results
        # Fresh processes: a copy of this one would share whatever threads and files it has open.
        context = multiprocessing.get_context("spawn")
        others = set(multiprocessing.active_children())
        count = min(self.count, len(jobs))
        with _one_thread(), ProcessPoolExecutor(count, mp_context=context, initializer=_deaf) as pool:
            numbers = {pool.submit(function, *given): i for i, (function, given) in enumerate(jobs)}
            try:
                for future in as_completed(numbers):
                    results[numbers[future]] = future.result()
                    done(numbers[future])
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in set(multiprocessing.active_children()) - others:
                    worker.terminate()  # nobody waits for jobs whose results nobody wants
                if isinstance(error, BrokenProcessPool):
                    raise DataError(
                        "a process of the sweep ended by itself, perhaps for want of memory; try fewer --workers"
                    ) from error
                raise
        return results


class RayCluster:
    """A Ray cluster at ``address`` ("local" for one on this machine, "auto" for the one that is running)."""

    def __init__(self, address: str, count: int | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
        import ray

        self._ray: Any = ray
        self._address, self._count = address, count

    def run(self, jobs: Sequence[Job], done: Callable[[int], None]) -> list[Any]:
        """See `Workers.run`."""
        ray = self._ray
        results: list[Any] = [None] * len(jobs)
        where: dict[str, Any]
        if self._address == "local":  # its processes inherit this one's environment
            where = {"num_cpus": self._count, "include_dashboard": False}
        else:
            where = {"runtime_env": {"env_vars": dict.fromkeys(THREADS, "1")}}
        with _one_thread():
            ray.init(address=self._address, log_to_driver=False, configure_logging=False, **where)
        try:
            task = ray.remote(_call).options(num_cpus=1, max_retries=2)
            numbers = {task.remote(function, *given): i for i, (function, given) in enumerate(jobs)}
            left = list(numbers)
            while left:
                ready, left = ray.wait(left, num_returns=1)
                for ref in ready:
                    results[numbers[ref]] = ray.get(ref)
                    done(numbers[ref])
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        finally:
            ray.shutdown()
        return results


def _deaf() -> None:
    """A terminal's Ctrl-C reaches every process; it is for the one that asked, which ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _call(function: Callable[..., Any], *given: Any) -> Any:  # noqa: ANN401 - whatever the job is
    return function(*given)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """What is started meanwhile computes on one thread."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
