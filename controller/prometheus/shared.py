"""`TickCache`: within one tick the same range of the same query is asked once, however many services want it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from controller.prometheus.answers import Answer

__all__ = ["TickCache"]

MOST_POINTS = 1_000_000  # 16 MB of answers kept within a tick; larger ones are only shared while under way

Key = tuple[str, float, float, float]


class TickCache:
    """Answers of the present tick by (query, start, end, step); a new tick begins with an empty cache."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._tick = float("nan")
        self._began = monotonic()
        self._tasks: dict[Key, asyncio.Task[Answer]] = {}
        self._points = 0

    async def get(self, tick: float, key: Key, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer to ``key`` in this tick, asked for with ``ask`` if nobody has yet; raises what it raises."""
        self.begin(tick)
        task = self._tasks.get(key)
        if task is None or task.cancelled():
            task = asyncio.ensure_future(_await(ask))
            task.add_done_callback(lambda done: self._finished(tick, key, done))
            self._tasks[key] = task
        return await asyncio.shield(task)  # one waiter that gives up does not take the answer from the others

    def begin(self, tick: float) -> None:
        """Forget the answers of an earlier tick, if this is a new one."""
        if tick != self._tick:
            self._tick, self._tasks, self._points = tick, {}, 0
            self._began = self._monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since the present tick began."""
        return self._monotonic() - self._began

    def _finished(self, tick: float, key: Key, task: asyncio.Task[Answer]) -> None:
        if task.cancelled() or task.exception() is not None or tick != self._tick:
            return
        size = sum(len(s) for s in task.result().series)
        if self._points + size > MOST_POINTS:
            self._tasks.pop(key, None)
        else:
            self._points += size


async def _await(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    return await ask()
