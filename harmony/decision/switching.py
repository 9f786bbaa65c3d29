"""What a change costs, weighed in the choice of a single count: a count stands until leaving it pays.

With a weight w on every replica that is added or removed, n + price x risk(n) + w |n - stood| is least at the count
nearest to the one that ``stood`` between two edges: what the price divided by 1 + w asks for, and what the price
divided by 1 - w does. Between counts of a table its risk is read along the lower convex hull, on which every count lies
that is cheapest at any price.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from forecasting.panel import FloatArray
from harmony.model.objective import Objective

__all__ = ["hull_risk", "price_edges", "standing", "weight_of", "weight_under"]

Price = TypeVar("Price", float, FloatArray)

STANDS_S = 1800.0  # a change is set against what it saves in this time
MOST = 0.5  # a count that costs as much to leave as it costs in that time would never be left


def weight_of(replica_hours: float) -> float:
    """The weight of a change that costs so many ``replica_hours`` a replica."""
    return min(MOST, replica_hours * 3600.0 / STANDS_S)


def weight_under(objective: Objective) -> float:
    """The weight of a change at an objective's prices; none where replicas are free."""
    hourly = objective.replica_price_per_hour
    return weight_of(objective.switch_price / hourly) if hourly > 0.0 else 0.0


def price_edges(price: Price, weight: float) -> tuple[Price, Price]:
    """The prices at which the edges are read off: what is risen to, and what is fallen to."""
    return price / (1.0 + weight), price / (1.0 - weight)


def standing(lower: FloatArray, upper: FloatArray, stood: FloatArray) -> FloatArray:
    """(rows, settings) counts that move from ``stood`` (settings,) on as little as keeps them between the edges.

    Of all courses between the edges none moves fewer replicas in sum, so a wider band never moves more.
    """
    out = np.empty_like(lower)
    for row, (low, high) in enumerate(zip(lower, upper, strict=True)):
        np.maximum(stood, low, out=out[row])
        stood = np.minimum(out[row], high, out=out[row])
    return out


def hull_risk(counts: FloatArray, risks: FloatArray, at: float) -> float:
    """The risk of ``at`` replicas on the lower convex hull of a table that has counts on both sides of it."""
    below, above = counts <= at, counts > at
    left, right = counts[below][:, None], counts[above]
    part = (at - left) / (right - left)
    return float(((1.0 - part) * risks[below][:, None] + part * risks[above]).min())
