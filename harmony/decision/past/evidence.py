"""What settings violate where a past holds too few violations to count: what a ladder of prices realised together.

At 0.1 % a setting is chosen by a handful of violations: whoever happened to have none wins, and realises several times
what was allowed. But the settings of one ladder differ in nothing but their price, and what a lower price violates, a
higher one violates less in proportion: at the cheapest count the tail falls by one part in `price`, so with a tail near
the exponential the risk is inversely proportional to the price. So the share of a rung is its own count drawn to what
the rung below it realised.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from forecasting.panel import FloatArray
from harmony.decision.budget import RARE
from harmony.decision.past.portfolio import PortfolioSetting

__all__ = ["Ladder", "drawn_together", "ladders_of", "memory_misses"]

# Up to `RARE` only: at 1 % the counts themselves choose better (3 % fewer hours at equal violation).
DRAW = 5.0  # violations that the rung below weighs as much as
MEMORY = 2.0  # as many steps count at least as allow so many violations ...
MEMORY_RARE = 30.0  # ... and for an objective that is rare


class Ladder(NamedTuple):
    """Settings that differ in nothing but their knob: `numbers` (ladders, rungs), each rung stricter than the last.

    `falls` (rungs - 1,): what the risk of a rung is expected to be, over that of the rung before.
    """

    numbers: npt.NDArray[np.int_]
    falls: FloatArray


def memory_misses(epsilon: float) -> float:
    """A memory holds at least as many steps as allow so many violations at ``epsilon``."""
    return MEMORY_RARE if epsilon <= RARE else MEMORY


def ladders_of(settings: tuple[PortfolioSetting, ...]) -> tuple[Ladder, ...]:
    """The ladders of all experts, by their knobs; rules of thumb are on none."""
    rungs: dict[PortfolioSetting, list[int]] = {}
    for number, setting in enumerate(settings):
        if setting.rule != "margin":
            rungs.setdefault(replace(setting, knob=0.0), []).append(number)
    grouped: dict[tuple[str, tuple[float, ...]], list[list[int]]] = {}
    for ladder, numbers in rungs.items():
        knobs = tuple(settings[n].knob for n in numbers)
        grouped.setdefault((ladder.rule, knobs), []).append(numbers)
    out = []
    for (rule, knobs), ladders in grouped.items():
        risks = 1.0 / np.asarray(knobs) if rule == "price" else np.asarray(knobs)
        out.append(Ladder(np.array(ladders), risks[1:] / risks[:-1]))
    return tuple(out)


def drawn_together(missed: FloatArray, ladders: tuple[Ladder, ...], unit: float = 1.0) -> FloatArray:
    """(settings,) what each is expected to violate of what it was scored on, from what it did and its ladder did.

    ``missed`` (settings,) counts in units of ``unit`` a violated step. A rung is its own count and `DRAW` violations of
    what the rung below leads to expect, and never more than that rung; the first rung is as it was counted. A rule of
    thumb, on no ladder, has one violation more than it had.
    """
    out = missed + unit
    for ladder in ladders:
        rungs = missed[ladder.numbers]
        for at, fall in enumerate(ladder.falls, start=1):
            expected = rungs[:, at - 1] * min(1.0, float(fall))
            own = np.maximum(expected, 1e-9 * unit)
            drawn = own * (DRAW * unit + rungs[:, at]) / (DRAW * unit + own)
            rungs[:, at] = np.minimum(drawn, rungs[:, at - 1])
        out[ladder.numbers] = rungs
    return out
