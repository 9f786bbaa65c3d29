"""Realised against stated risk: where violations far exceed the objective, authority is lost, level by level."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp
from typing import ClassVar

from scipy.special import betainc

from harmony.decision.agreement import Agreement, agreement
from harmony.model.authority import Mode
from harmony.model.observation import Outcome

__all__ = ["Trust"]


@dataclass(frozen=True, slots=True)
class Trust:
    """How often a service has violated its objective lately, and how far its authority was stepped back for it.

    Violations come in runs: one lasts until new replicas are ready. Counting steps would take one bad lead time for
    many pieces of evidence, so steps and violated steps are counted in *blocks* of one lead time. The rate of
    violated time has the posterior Beta(1 + violated blocks, 1/epsilon - 1 + kept blocks); its prior is worth one
    violated block and has the mean epsilon. One level is taken when P(rate > `FACTOR` x epsilon) exceeds 1 -
    `DEMOTE`, and one is given back when it falls below `RESTORE`; each change begins with fresh evidence. Old
    evidence is forgotten over `MEMORY` / epsilon blocks, so the test has the same power for every epsilon and never
    hardens.

    Attributes:
        epsilon: the violation rate allowed, 0..1; 0 switches judging off.
        block_steps: steps of one lead time.
        step: levels of authority taken back, 0..2.
        evidence, missed: steps with known demand since the last change of `step`, and those violated (forgetting).
        steps, violated: the same since the beginning, for people.
        stated_steps, stated_sum: steps whose decision stated a probability, and the sum of these (forgetting).
        stated_violated: of `stated_steps`, those that were violated.
        last_stated: probability that the newest decision stated; None for none.
    """

    epsilon: float
    block_steps: int = 1
    step: int = 0
    evidence: float = 0.0
    missed: float = 0.0
    steps: float = 0.0
    violated: float = 0.0
    stated_steps: float = 0.0
    stated_sum: float = 0.0
    last_stated: float | None = None
    stated_violated: float = 0.0

    FACTOR: ClassVar[float] = 2.0  # feedback keeps the rate near epsilon; twice that, for long, it cannot mend
    DEMOTE: ClassVar[float] = 0.05
    RESTORE: ClassVar[float] = 0.01
    MEMORY: ClassVar[float] = 20.0  # violations of a calibrated service that are remembered, in blocks
    LEVELS: ClassVar[tuple[Mode, ...]] = (Mode.FULL, Mode.UP_ONLY, Mode.RECOMMEND)

    @classmethod
    def start(cls, epsilon: float, block_steps: int = 1) -> Trust:
        """Full trust, nothing seen; ``block_steps`` is the lead time in steps."""
        return cls(epsilon, max(1, block_steps))

    @property
    def realized(self) -> float | None:
        """Share of recent known steps that were violated; None before any."""
        return self.violated / self.steps if self.steps > 0.0 else None

    @property
    def stated(self) -> float | None:
        """Mean probability that decisions stated for these steps; None where none was stated."""
        return self.stated_sum / self.stated_steps if self.stated_steps > 0.0 else None

    @property
    def agreement(self) -> Agreement | None:
        """Stated beside realised risk of the steps that a probability was stated for; None where there are none."""
        return agreement(self.stated, self.stated_violated, self.stated_steps, self.block_steps)

    @property
    def excess_probability(self) -> float:
        """P(rate > `FACTOR` x epsilon) after the evidence since the last change."""
        if self.epsilon <= 0.0:
            return 0.0
        threshold = min(self.FACTOR * self.epsilon, (1.0 + self.epsilon) / 2)
        missed = self.missed / self.block_steps
        kept = (self.evidence - self.missed) / self.block_steps
        return 1.0 - float(betainc(1.0 + missed, 1.0 / self.epsilon - 1.0 + kept, threshold))

    def mode(self, granted: Mode) -> Mode:
        """What is left of ``granted``: at most UpOnly after one step back, Recommend after two; never more."""
        return granted.capped(self.LEVELS[self.step])

    def state(self, probability: float) -> Trust:
        """Remember the probability that a decision stated (NaN for none) for the steps that follow it."""
        stated = None if probability != probability else probability
        return self if stated == self.last_stated else replace(self, last_stated=stated)

    def learn(self, outcome: Outcome, block_steps: int | None = None) -> Trust:
        """After what came of the last decisions; itself where nothing was seen. ``block_steps`` updates the lead."""
        if self.epsilon <= 0.0 or outcome.steps <= 0:
            return self
        block = self.block_steps if block_steps is None else max(1, block_steps)
        keep = exp(-outcome.steps * self.epsilon / (self.MEMORY * block))
        stated = outcome.steps if self.last_stated is not None else 0
        seen = replace(
            self,
            block_steps=block,
            evidence=self.evidence * keep + outcome.steps,
            missed=self.missed * keep + outcome.violated,
            steps=self.steps * keep + outcome.steps,
            violated=self.violated * keep + outcome.violated,
            stated_steps=self.stated_steps * keep + stated,
            stated_sum=self.stated_sum * keep + stated * (self.last_stated or 0.0),
            stated_violated=self.stated_violated * keep + (outcome.violated if stated else 0),
        )
        return seen._judged()

    def _judged(self) -> Trust:
        """One level down or up if the evidence says so; a change begins with fresh evidence."""
        excess = self.excess_probability
        if excess > 1.0 - self.DEMOTE and self.step < len(self.LEVELS) - 1:
            return replace(self, step=self.step + 1, evidence=0.0, missed=0.0)
        if excess < self.RESTORE and self.step > 0:
            return replace(self, step=self.step - 1, evidence=0.0, missed=0.0)
        return self
