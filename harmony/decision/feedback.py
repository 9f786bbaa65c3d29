"""Keeping the objective: the model's risk level is moved until the violated time that it realises is epsilon."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import ClassVar

from harmony.model.observation import Outcome

__all__ = ["RiskFeedback"]


@dataclass(frozen=True, slots=True)
class RiskFeedback:
    """Which of the model's own violation probabilities has been found to realise `epsilon`.

    An integral controller on *violated time* (adaptive conformal inference, Gibbs and Candes 2021, arXiv 2106.00170,
    in logarithms so that the level stays positive): each step with known demand multiplies the level by
    exp(`gain` * (epsilon - violated)). In the long run the share of violated steps is epsilon wherever the level is
    not at its bounds. A small gain matters: large ones buy safety with many idle hours.

    A violation lasts until new replicas are ready, about one lead time; so that it counts once, `gain` is what one
    whole lead time of violations adds up to, divided by its steps (see `per_lead`).

    Attributes:
        epsilon: the violation rate allowed, 0..1.
        level: the model's probability to decide with, started at epsilon.
        gain: size of one reaction; 0 switches learning off.
    """

    epsilon: float
    level: float
    gain: float = 0.2

    GAIN: ClassVar[float] = 0.2  # near the start, one lead time of violations lowers the level by 0.2 x epsilon
    AIM: ClassVar[float] = (
        0.9  # "at most epsilon" is kept with some room: a controller ends above its aim half the time
    )
    SPAN: ClassVar[float] = 100.0  # the level stays within this factor of epsilon, and below one half

    @classmethod
    def start(cls, epsilon: float, *, scale: float = 1.0, gain: float = 0.2) -> RiskFeedback:
        """Begin at ``scale`` times epsilon (1: trust the model; tuned on the past where there is one)."""
        return cls(epsilon, min(0.5, epsilon * scale), gain)

    @classmethod
    def per_lead(cls, epsilon: float, lead_steps: int, *, scale: float = 1.0) -> RiskFeedback:
        """Begin at ``scale`` times epsilon with the default gain spread over a lead time of ``lead_steps`` steps."""
        return cls.start(epsilon, scale=scale, gain=cls.GAIN / max(1, lead_steps))

    def learn(self, outcome: Outcome) -> RiskFeedback:
        """The level after what came of the last decisions; unchanged where nothing was seen."""
        if self.gain == 0.0 or self.epsilon == 0.0 or outcome.steps == 0:
            return self
        moved = self.level * exp(self.gain * (self.AIM * self.epsilon * outcome.steps - outcome.violated))
        level = min(max(moved, self.epsilon / self.SPAN), min(0.5, self.epsilon * self.SPAN))
        return RiskFeedback(self.epsilon, level, self.gain)
