"""A counterfactual life for a service without authority: what HARMONY would have set, and what that is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
from scipy.special import stdtrit

from harmony.decision.risk import replicas_needed
from harmony.loop.ports import Replicas

__all__ = ["Regret", "Shadow"]

LARGEST = 1e15  # no honest total is larger
SIGNED = frozenset({"gpu_hours_saved", "total", "products", "first", "last", "part"})  # these may be negative


@dataclass(frozen=True, slots=True)
class Shadow:
    """The counts of a service that starts nothing: replicas become ready one simulated start after their order.

    A drop acts at once and cancels the newest starts first. A value: each method gives the shadow after it.

    Attributes:
        serving: replicas that serve, as of the last call.
        starting_s: moments at which starts will be ready, in the order in which they began.
    """

    serving: int
    starting_s: tuple[float, ...] = ()

    def at(self, now_s: float) -> Shadow:
        """The shadow at ``now_s``: what has finished starting serves."""
        if not self.starting_s or min(self.starting_s) > now_s:
            return self
        still = tuple(at for at in self.starting_s if at > now_s)
        return Shadow(self.serving + len(self.starting_s) - len(still), still)

    @property
    def replicas(self) -> Replicas:
        """The counts as of the last `at`."""
        return Replicas(self.serving + len(self.starting_s), self.serving)

    def order(self, replicas: int, now_s: float, takes_s: float) -> Shadow:
        """The shadow after ordering ``replicas`` (0 or more) at ``now_s``; a start takes ``takes_s`` seconds."""
        now = self.at(now_s)
        change = max(0, replicas) - now.replicas.ordered
        if change > 0:
            return Shadow(now.serving, now.starting_s + (now_s + takes_s,) * change)
        kept = max(0, len(now.starting_s) + change)
        gone = -change - (len(now.starting_s) - kept)
        return Shadow(now.serving - gone, now.starting_s[:kept])


@dataclass(frozen=True, slots=True)
class Regret:
    """Running totals of what the shadow would have saved and violated, against what really happened.

    The lower bound of savings per hour is Student's t on hourly blocks. Hours resemble their neighbours, so their
    number n counts as n (1 - r) / (1 + r), where r is the blocks' first autocorrelation (0 where it is negative).

    Attributes:
        gpu_hours_saved: GPU-hours that the actual replicas cost more than the shadow's (negative: less).
        misses_avoided_s, misses_caused_s: seconds that only the actual (only the shadow's) ready replicas violated.
        seconds: seconds with known demand; absent ones are neither kept nor violated.
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
