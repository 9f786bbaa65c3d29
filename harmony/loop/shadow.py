"""A counterfactual life for a service without authority: what HARMONY would have ordered, and what that is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
from scipy.special import stdtrit

from harmony.decision.risk import replicas_needed
from harmony.loop.ports import Clock, Replicas
from harmony.model.lead_time import LeadTime

__all__ = ["Regret", "ShadowPool"]

LARGEST = 1e15  # no honest total is larger
SIGNED = frozenset({"gpu_hours_saved", "total", "products", "first", "last", "part"})  # these may be negative


class ShadowPool:
    """A `ScaleTarget` that starts nothing: replicas become ready one simulated start after their order.

    A start takes the median of `lead_time` (set it anew as it is learned), or a draw from it where ``rng`` is given.
    A drop acts at once and cancels the newest starts first. Simulated starts must not teach the lead time, so
    `started_s` hands out only real ones, given to `saw_start`. The pool begins with ``initial`` replicas that serve.
    """

    __slots__ = ("_clock", "_ready", "_rng", "_seen", "_starting", "lead_time")

    def __init__(self, clock: Clock, lead_time: LeadTime, initial: int, rng: np.random.Generator | None = None) -> None:
        self.lead_time = lead_time
        self._clock = clock
        self._rng = rng
        self._ready = initial
        self._starting: list[float] = []  # moments at which starts will be ready, in the order in which they began
        self._seen: list[float] = []

    def replicas(self) -> Replicas:
        """The present simulated counts."""
        now = self._clock.now_s()
        still = [at for at in self._starting if at > now]
        self._ready += len(self._starting) - len(still)
        self._starting = still
        return Replicas(self._ready + len(still), self._ready)

    def scale(self, replicas: int) -> int:
        """Order ``replicas`` (0 or more); always accepted."""
        wanted = max(0, replicas)
        change = wanted - self.replicas().ordered
        if change > 0:
            now = self._clock.now_s()
            self._starting += [now + took for took in self._durations_s(change)]
        elif change < 0:
            cancelled = min(-change, len(self._starting))
            del self._starting[len(self._starting) - cancelled :]
            self._ready -= -change - cancelled
        return wanted

    def saw_start(self, took_s: float) -> None:
        """Pass on a real start (order to ready, seconds), so that the loop learns from it."""
        self._seen.append(took_s)

    def started_s(self) -> list[float]:
        """Real starts since the previous call, seconds."""
        seen, self._seen = self._seen, []
        return seen

    def _durations_s(self, n: int) -> list[float]:
        if self._rng is None:
            return [self.lead_time.median_s] * n
        return [self.lead_time.quantile_s(float(u)) for u in self._rng.uniform(0.001, 0.999, n)]


@dataclass(frozen=True, slots=True)
class Regret:
    """Running totals of what the shadow would have saved and missed, against what really happened.

    The lower bound of savings per hour is Student's t on hourly blocks. Hours resemble their neighbours, so their
    number n counts as n (1 - r) / (1 + r), where r is the blocks' first autocorrelation (0 where it is negative).

    Attributes:
        gpu_hours_saved: GPU-hours that the actual orders cost more than the shadow's (negative: less).
        misses_avoided_s, misses_caused_s: seconds that only the actual (only the shadow's) ready replicas missed.
        seconds: seconds with known demand; absent ones are neither kept nor missed.
        absent_s: seconds without known demand.
        blocks, total, squares, products, first, last: number, sum, sum of squares and of neighbours' products of
            the savings of whole hours, and the first and the newest of them, for the bound.
        part_s, part: seconds and savings of the hour that is not full yet.
    """

    gpu_hours_saved: float = 0.0
    misses_avoided_s: float = 0.0
    misses_caused_s: float = 0.0
    seconds: float = 0.0
    absent_s: float = 0.0
    blocks: int = 0
    total: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    first: float = 0.0
    last: float = 0.0
    part_s: float = 0.0
    part: float = 0.0

    BLOCK_S: ClassVar[float] = 3600.0
    MIN_BLOCKS: ClassVar[int] = 24  # a day: fewer hours say nothing about nights

    def to_json(self) -> dict[str, float]:
        """Plain values, about 0.3 kB; to 9 significant digits, so that long totals go on growing."""
        return {f.name: float(f"{getattr(self, f.name):.9g}") for f in fields(self)}

    @classmethod
    def from_json(cls, data: Any) -> Regret:  # noqa: ANN401 (any JSON at all)
        """What `to_json` wrote; a new one if any of it is damaged (totals make sense only together)."""
        stored = data if isinstance(data, dict) else {}
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = stored.get(field.name)
            least = -LARGEST if field.name in SIGNED else 0
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= LARGEST:
                return cls()
            values[field.name] = float(value)
        if values["blocks"] % 1 or values["part_s"] > cls.BLOCK_S:
            return cls()
        return cls(**(values | {"blocks": int(values["blocks"])}))

    def add(
        self, dt_s: float, demand: float, per_replica: float, actual: Replicas, shadow: Replicas, gpus: int = 1
    ) -> Regret:
        """After ``dt_s`` seconds with these counts; itself unless ``dt_s`` is positive and finite.

        ``demand`` is NaN where absent; ``per_replica`` is what one ready replica carries, in the same unit.
        """
        if not (math.isfinite(dt_s) and dt_s > 0):
            return self
        saved = (actual.ordered - shadow.ordered) * gpus * dt_s / 3600.0
        after = replace(self, gpu_hours_saved=self.gpu_hours_saved + saved)._in_blocks(dt_s, saved)
        if not math.isfinite(demand):
            return replace(after, absent_s=self.absent_s + dt_s)
        need = float(replicas_needed(np.asarray(demand), per_replica))
        missed, shadow_missed = need > actual.ready, need > shadow.ready
        return replace(
            after,
            seconds=self.seconds + dt_s,
            misses_avoided_s=self.misses_avoided_s + (dt_s if missed and not shadow_missed else 0.0),
            misses_caused_s=self.misses_caused_s + (dt_s if shadow_missed and not missed else 0.0),
        )

    @property
    def saved_per_hour(self) -> float | None:
        """Mean GPU-hours saved per hour over whole hours; None before the first."""
        return self.total / self.blocks if self.blocks else None

    def lower_bound(self, confidence: float = 0.95) -> float | None:
        """One-sided lower confidence bound of GPU-hours saved per hour; None before `MIN_BLOCKS` hours."""
        n = self.blocks
        if n < self.MIN_BLOCKS:
            return None
        mean = self.total / n
        spread = max(0.0, self.squares - n * mean**2)
        if spread <= 1e-12 * self.squares:
            return mean
        neighbours = self.products - mean * (2 * self.total - self.first - self.last) + (n - 1) * mean**2
        r = min(max(neighbours / spread, 0.0), 0.99)
        effective = max(2.0, n * (1 - r) / (1 + r))
        error = math.sqrt(spread / (n - 1) / effective)
        return mean - float(stdtrit(effective - 1, confidence)) * error

    def _in_blocks(self, dt_s: float, saved: float) -> Regret:
        """With these savings in the present hour; they are spread evenly where they fill several."""
        rest_s, after = dt_s, self
        if dt_s > 7 * 24 * self.BLOCK_S:  # no turn takes a week: the clock was set, and its hours are not evidence
            return replace(self, part_s=0.0, part=0.0)
        while after.part_s + rest_s >= self.BLOCK_S - 1e-6:
            took_s = self.BLOCK_S - after.part_s
            after = after._with_block(after.part + saved * took_s / dt_s)
            rest_s = max(0.0, rest_s - took_s)
        return replace(after, part_s=after.part_s + rest_s, part=after.part + saved * rest_s / dt_s)

    def _with_block(self, value: float) -> Regret:
        return replace(
            self,
            blocks=self.blocks + 1,
            total=self.total + value,
            squares=self.squares + value**2,
            products=self.products + (value * self.last if self.blocks else 0.0),
            first=self.first if self.blocks else value,
            last=value,
            part_s=0.0,
            part=0.0,
        )
