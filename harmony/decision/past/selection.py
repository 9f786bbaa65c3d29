"""Choosing by replay: of all settings scored on the own past, the cheapest that keeps the budget, with hysteresis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecasting.panel import FloatArray
from harmony.decision.past.packed import Packed
from harmony.decision.past.portfolio import PortfolioSetting

__all__ = [
    "HANDICAP",
    "HYSTERESIS",
    "MEMORY_S",
    "Families",
    "Tally",
    "Verdict",
    "because",
    "choose",
    "families_of",
    "verdict",
]

Families = Mapping[str, npt.NDArray[np.int_]]

HYSTERESIS = 0.002  # what a change of setting must save
HANDICAP = 0.05  # what a rule of thumb must save against the experts: replayed luck is cheap, and it has more of it
MEMORY_S = 6 * 86_400.0  # what happened so long ago counts for 1 / e, or as long as `memory_misses` says


@dataclass(frozen=True, eq=False, slots=True)
class Tally:
    """What every setting would have cost and violated so far, older pieces fading; packed, for few reviews read it.

    Attributes:
        steps: steps of it.
        known: what violated shares are shares of: steps with known demand, or the demand itself.
        counted: steps with known demand.
    """

    _cost: Packed
    _missed: Packed
    steps: float = 0.0
    known: float = 0.0
    counted: float = 0.0

    @classmethod
    def of(
        cls, cost: FloatArray, missed: FloatArray, steps: float = 0.0, known: float = 0.0, counted: float = 0.0
    ) -> Tally:
        """``cost`` and ``missed`` (settings,) as they are."""
        return cls(Packed.of(cost), Packed.of(missed), steps, known, counted)

    @classmethod
    def empty(cls, settings: int) -> Tally:
        """Nothing replayed yet."""
        return cls.of(np.zeros(settings), np.zeros(settings))

    def plus(
        self, cost: FloatArray, missed: FloatArray, steps: int, known: float, counted: int, memory_steps: float
    ) -> Tally:
        """With a piece of ``steps`` rows added, what was before fading by exp(-``steps`` / ``memory_steps``)."""
        keep = math.exp(-steps / memory_steps)
        return Tally.of(
            keep * self.cost + cost,
            keep * self.missed + missed,
            keep * self.steps + steps,
            keep * self.known + known,
            keep * self.counted + counted,
        )

    @property
    def cost(self) -> FloatArray:
        """(settings,) replica-steps."""
        return self._cost.array

    @property
    def missed(self) -> FloatArray:
        """(settings,) violated steps, or demand."""
        return self._missed.array

    @property
    def share(self) -> FloatArray:
        """(settings,) violated share of the known steps; 0 before any."""
        missed = self.missed
        return missed / self.known if self.known else np.zeros_like(missed)


def choose(
    tally: Tally, allowed: float, current: int | None, thumbs: np.ndarray, share: FloatArray | None = None
) -> int:
    """Number of the cheapest setting whose replayed share is at most ``allowed``; the safest where none is.

    ``thumbs`` (settings,) True for rules of thumb, which must be cheaper than experts by `HANDICAP`. ``current`` is
    kept unless another one saves `HYSTERESIS`. ``share`` (settings,) is what each is judged by; None for what was
    counted.
    """
    share = tally.share if share is None else share
    keeping = share <= allowed
    if not keeping.any():
        keeping = share <= share.min() + 1e-12
    cost = tally.cost
    cost = np.where(keeping, np.where(thumbs, cost * (1.0 + HANDICAP), cost), np.inf)
    best = int(np.argmin(cost))
    if current is not None and keeping[current] and cost[current] <= cost[best] * (1.0 + HYSTERESIS):
        return current
    return best


@dataclass(frozen=True, slots=True)
class Verdict:
    """One family of settings on the own past: its cheapest that keeps the budget.

    `replicas` is what it would have set in the mean, `share` what it would have violated; `chosen` says that it is
    the one in force.
    """

    setting: PortfolioSetting
    replicas: float
    share: float
    keeps: bool
    chosen: bool


def families_of(settings: tuple[PortfolioSetting, ...]) -> Families:
    """The numbers of the settings of every family."""
    found: dict[str, list[int]] = {}
    for i, setting in enumerate(settings):
        found.setdefault(setting.family, []).append(i)
    return {family: np.array(numbers) for family, numbers in found.items()}


def verdict(
    tally: Tally,
    settings: tuple[PortfolioSetting, ...],
    allowed: float,
    chosen: int,
    families: Families | None = None,
    share: FloatArray | None = None,
) -> tuple[Verdict, ...]:
    """Why the chosen setting was chosen: every family's best beside it, the chosen one first, then by cost.

    ``families`` are those of ``settings``, where they are known already; ``share`` as in `choose`.
    """
    if tally.steps == 0.0:
        return ()
    share, cost = tally.share if share is None else share, tally.cost
    above = np.where(share > allowed, share, 0.0)  # who keeps the budget comes first, then who breaks it least
    best: dict[str, int] = {}
    for family, numbers in (families or families_of(settings)).items():
        best[family] = int(numbers[np.lexsort((cost[numbers], above[numbers], share[numbers] > allowed))[0]])
    best[settings[chosen].family] = chosen
    rows = [
        Verdict(settings[i], float(cost[i] / tally.steps), float(share[i]), bool(share[i] <= allowed), i == chosen)
        for i in best.values()
    ]
    return tuple(sorted(rows, key=lambda v: (not v.chosen, not v.keeps, v.replicas)))


def because(found: tuple[Verdict, ...]) -> str:
    """Why the chosen one was chosen, for people; empty before there was a choice."""
    if not found:
        return ""
    own, *others = found
    kept = "within the budget" if own.keeps else "which is more than the budget, and least of all"
    tried = [v for v in others if (v.replicas, v.share) != (own.replicas, own.share)]  # else: not known yet
    beside = ", ".join(f"{v.setting.family} {v.replicas:.3g} replicas ({100 * v.share:.2g} %)" for v in tried)
    said = f"{own.replicas:.3g} replicas in the mean and {100 * own.share:.2g} % violated, {kept}"
    return said + (f"; the best of the others: {beside}" if beside else "")
