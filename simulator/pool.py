"""`GpuPool`: replicas with cold starts: what was ordered, what is starting, what serves."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.errors import UsageError

__all__ = ["GpuPool", "StartUp"]


@dataclass(frozen=True, slots=True)
class StartUp:
    """Distribution of the time a replica needs from order to ready.

    `median_s` seconds; `spread` is the factor of one standard deviation of its logarithm (lognormal), 1 for a fixed
    time.
    """

    median_s: float
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.median_s) and self.median_s > 0):
            raise UsageError(f"lead time {self.median_s} s: expected a positive duration such as 5m")
        if not (math.isfinite(self.spread) and self.spread >= 1.0):
            raise UsageError(f"lead time spread {self.spread}: expected a factor of 1 (fixed) or more")

    @property
    def is_fixed(self) -> bool:
        """True when every start takes the same time."""
        return self.spread == 1.0

    def draw_s(self, n: int, rng: np.random.Generator) -> list[float]:
        """``n`` start-up times, seconds."""
        if self.is_fixed:
            return [self.median_s] * n
        drawn: list[float] = (self.median_s * np.exp(math.log(self.spread) * rng.standard_normal(n))).tolist()
        return drawn


@dataclass(slots=True)
class _Starting:
    """Replicas of one order that become ready in one step."""

    ordered_at: int
    ready_at: int
    count: int
    took_s: float


class GpuPool:
    """Replicas on a grid of steps: an order placed in step t is ready in step t + max(1, ceil(start-up / step)).

    A drop acts at once and cancels the newest orders first, so with a fixed start-up of k steps the ready count is
    the minimum of the ordered counts over the last k steps and the present one. `ordered` replicas are paid for.
    """

    __slots__ = ("_in_order", "_starting", "_step_s", "_took", "ordered", "ready", "rng", "slower", "start_up")

    def __init__(
        self,
        initial: int,
        start_up: StartUp,
        step_s: float,
        rng: np.random.Generator,
        slower: Sequence[float] | None = None,
    ) -> None:
        self.ordered = initial
        self.ready = initial
        self.start_up = start_up
        self.rng = rng
        self.slower = slower  # per step, a factor on what is ordered in it
        self._in_order = start_up.is_fixed and slower is None
        self._step_s = step_s
        self._starting: deque[_Starting] = deque()  # oldest order first
        self._took: list[tuple[float, str]] = []

    def begin(self, replicas: int) -> None:
        """Start the world with ``replicas`` that serve already."""
        self.ordered = self.ready = replicas

    def advance(self, step: int) -> None:
        """Move to ``step``: whatever has finished starting serves from now on."""
        starting = self._starting
        if not starting:
            return
        if self._in_order:
            while starting and starting[0].ready_at <= step:
                self._finish(starting.popleft())
            return
        still = deque[_Starting]()
        for batch in starting:
            if batch.ready_at <= step:
                self._finish(batch)
            else:
                still.append(batch)
        self._starting = still

    def _finish(self, batch: _Starting) -> None:
        self.ready += batch.count
        if not self.start_up.is_fixed:
            self._took.extend([(batch.took_s, "")] * batch.count)

    def scale(self, step: int, replicas: int) -> None:
        """Order ``replicas`` in ``step``: start the difference, or cancel the newest first."""
        change = replicas - self.ordered
        self.ordered = replicas
        if change > 0:
            self._start(step, change)
        elif change < 0:
            self._cancel(-change)

    def _start(self, step: int, count: int) -> None:
        factor = 1.0 if self.slower is None else self.slower[step]
        if self.start_up.is_fixed:
            took = self.start_up.median_s * factor
            self._starting.append(_Starting(step, step + self._steps(took), count, took))
            return
        for drawn in self.start_up.draw_s(count, self.rng):
            took = drawn * factor
            self._starting.append(_Starting(step, step + self._steps(took), 1, took))

    def _steps(self, took_s: float) -> int:
        return max(1, math.ceil(round(took_s / self._step_s, 9)))

    def _cancel(self, count: int) -> None:
        while count and self._starting:
            newest = self._starting[-1]
            gone = min(count, newest.count)
            newest.count -= gone
            count -= gone
            if newest.count == 0:
                self._starting.pop()
        self.ready -= count

    def started(self) -> Sequence[tuple[float, str]]:
        """Starts that finished since the last call: seconds each took, and no GPU type (none for a fixed start-up)."""
        if not self._took:
            return ()
        took, self._took = self._took, []
        return took

    def pending_s(self, step: int) -> tuple[float, ...]:
        """Ages in seconds of the replicas that still start in ``step`` (none for a fixed start-up: it is known)."""
        if self.start_up.is_fixed or not self._starting:
            return ()
        return tuple((step - s.ordered_at) * self._step_s for s in self._starting for _ in range(s.count))
