"""What replicas cost an hour, and the idle part of it."""

from __future__ import annotations

import numpy as np

from harmony.decision.risk import replicas_needed
from harmony.model.observation import Observation

__all__ = ["bill_per_hour", "idle_per_hour"]


def bill_per_hour(replicas: int, seen: Observation) -> float:
    """Money per hour for ``replicas``, used or not: their GPUs times the price of a GPU-hour at that moment."""
    return replicas * seen.objective.replica_price_per_hour


def idle_per_hour(replicas: int, seen: Observation) -> float:
    """The part of the bill for replicas that present demand does not need; NaN where demand is absent."""
    needed = float(replicas_needed(np.asarray(seen.demand), seen.capacity.median))
    return float(np.maximum(replicas - needed, 0.0)) * seen.objective.replica_price_per_hour  # of NaN it makes NaN
