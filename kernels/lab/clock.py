"""Clocks: how long calls take and how much memory they hold, alone and beside each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

__all__ = ["clock_of", "interleaved", "peak_bytes", "seconds"]

Name = TypeVar("Name")
_RUNS, _ENOUGH_S = 5, 1.0


def clock_of(device: str) -> Callable[[], float]:
    """The clock that tells most of a call: of a CPU with one thread its own time, which others do not disturb."""
    return time.thread_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def seconds(run: Callable[[], object], device: str) -> float:
    """The shortest of a few runs, after one that is not counted, by `clock_of` the device."""
    once = _timed(run, device, clock_of(device))
    once()
    found = [once()]
    while len(found) < _RUNS and sum(found) < _ENOUGH_S:
        found.append(once())
    return min(found)


def interleaved(
    runs: Mapping[Name, Callable[[], object]], device: str, *, rounds: int = 5, least_s: float = 0.0
) -> dict[Name, float]:
    """Median seconds of each call over rounds in which all of them run in turn, after one that is not counted.

    What slows the machine for a while slows them alike, so that their ratios hold. A call that is shorter than
    ``least_s`` is repeated within a round until it takes about so long.
    """
    clock = clock_of(device)
    timed = {name: _timed(run, device, clock) for name, run in runs.items()}
    times = {}
    for name, once in timed.items():
        once()
        times[name] = max(1, round(least_s / max(once(), 1e-7))) if least_s else 1
    found: dict[Name, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(_timed(_repeated(run, times[name]), device, clock)() / times[name])
    return {name: statistics.median(some) for name, some in found.items()}


def _repeated(run: Callable[[], object], times: int) -> Callable[[], object]:
    def all_of_them() -> None:
        for _ in range(times):
            run()

    return all_of_them


def _timed(run: Callable[[], object], device: str, clock: Callable[[], float]) -> Callable[[], float]:
    def once() -> float:
        _wait(device)
        start = clock()
        run()
        _wait(device)
        return clock() - start

    return once


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """The most bytes that were allocated at once during a run, beyond those before it."""
    if device == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        _wait(device)
        return int(torch.cuda.max_memory_allocated() - before)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    results = record.profiler.kineto_results if record.profiler is not None else None
    if results is None:
        raise AssertionError("the profiler recorded nothing")
    changes = [(e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]"]
    held = most = 0
    for _, change in sorted(changes, key=lambda c: c[0]):
        held += change
        most = max(most, held)
    return most
