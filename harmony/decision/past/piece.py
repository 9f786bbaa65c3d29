"""`Piece`: some rows of a service's past, and what any counts set in them would have cost and violated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from forecasting.panel import FloatArray
from harmony.decision.past.portfolio import held, ready_of
from harmony.decision.risk import ROUND

__all__ = ["NO_PRICES", "Measure", "Piece", "Prices", "violated_part"]

Measure = Literal["time", "window", "requests"]


class Prices(NamedTuple):
    """What else costs, in replica-steps: a replica more or less (`switch`), one that is missing for a step (`miss`)."""

    switch: float = 0.0
    miss: float = 0.0


NO_PRICES = Prices()


@dataclass(frozen=True, eq=False, slots=True)
class Piece:
    """Demand of some rows over what a replica carries, `load` (rows,), NaN where absent.

    Counts keep to ``least..most`` and are ready ``lead_steps`` rows later; `measure` says what is counted as violated.
    """

    load: FloatArray
    lead_steps: int
    least: int
    most: int
    measure: Measure = "time"
    prices: Prices = NO_PRICES

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """(rows,) True where demand is known."""
        return ~np.isnan(self.load)

    @property
    def weight(self) -> float:
        """What violated shares are shares of: known steps, or the demand of all."""
        return float(np.nansum(self.load)) if self.measure == "requests" else float(self.known.sum())

    def score(self, counts: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(settings,) cost in replica-steps, and violated part of `weight`, of (rows, settings) counts, held already.

        ``counts`` may begin with rows before the piece: what is ready in its first rows was set there.
        """
        rows = self.load.size
        ordered = np.clip(counts, self.least, self.most)
        ready = ready_of(ordered, self.lead_steps)[len(counts) - rows :]
        inside = ordered[len(counts) - rows :]
        cost = inside.sum(axis=0, dtype=np.float64)
        if self.prices.switch > 0.0:
            cost = cost + self.prices.switch * np.abs(np.diff(ordered[-(rows + 1) :], axis=0)).sum(axis=0)
        load = self.load[:, None]
        if not (known := self.known).all():
            load, ready = load[known], ready[known]
        if self.prices.miss > 0.0 or self.measure == "requests":
            short = np.maximum(load - ready, 0.0).sum(axis=0)
            cost = cost + self.prices.miss * short
            if self.measure == "requests":
                return cost, short
        late = (ready < load - ROUND).astype(np.float64)
        if self.measure == "window":
            late = held(late, self.lead_steps)
        return cost, late.sum(axis=0)


def violated_part(measure: Measure, load: float, ready: float) -> float:
    """The part of one step that counts as violated: all or nothing, or the demand that was not carried."""
    if measure != "requests":
        return float(load - ready > ROUND)
    return max(0.0, load - ready) / load if load > 0.0 else 0.0
