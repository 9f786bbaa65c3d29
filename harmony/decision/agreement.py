"""Whether stated and realised risk agree, or differ by more than chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from scipy.special import betaincinv

__all__ = ["Agreement", "Judgement", "agreement"]


class Judgement(StrEnum):
    """What stated risk was worth (a closed set)."""

    AGREES = "Agrees"  # the difference may be chance
    UNDERSTATED = "Understated"  # more was violated than was stated
    OVERSTATED = "Overstated"  # less was


@dataclass(frozen=True, slots=True)
class Agreement:
    """Stated beside realised risk over the same steps.

    Attributes:
        stated: mean probability of a violation that decisions stated, 0..1.
        realised: share of the steps that was violated, 0..1.
        low, high: 95 % interval (Clopper and Pearson, 1934) of the rate that the realised share is a sample of.
        blocks: independent pieces of evidence: lead times that the steps fill.
    """

    stated: float
    realised: float
    low: float
    high: float
    blocks: float

    FEWEST: ClassVar[float] = 20.0  # lead times before anything is said

    @property
    def judgement(self) -> Judgement | None:
        """Beyond chance or not; None while too little was seen."""
        if self.blocks < self.FEWEST:
            return None
        if self.stated < self.low:
            return Judgement.UNDERSTATED
        return Judgement.OVERSTATED if self.stated > self.high else Judgement.AGREES


def agreement(stated: float | None, violated: float, steps: float, block_steps: int) -> Agreement | None:
    """Judge a mean stated probability by ``violated`` of ``steps`` steps; None where nothing was stated or seen.

    Violations come in runs: one lasts until new replicas are ready. So not steps but blocks of one lead time
    (``block_steps``) count as independent: a binomial of steps/block_steps trials, as in `Trust`.
    """
    if stated is None or math.isnan(stated) or not steps > 0.0:
        return None
    trials = steps / max(1, block_steps)
    hits = min(trials, max(0.0, violated / max(1, block_steps)))
    tail = 0.025
    low = float(betaincinv(hits, trials - hits + 1.0, tail)) if hits > 0.0 else 0.0
    high = float(betaincinv(hits + 1.0, trials - hits, 1.0 - tail)) if hits < trials else 1.0
    return Agreement(stated, min(1.0, violated / steps), low, high, trials)
