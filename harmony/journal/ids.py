"""Ids of decisions: sorted by time, the same for the same service and moment."""

from __future__ import annotations

import hashlib
import math

from forecasting.errors import DataError

__all__ = ["decision_id", "first_id_at"]

LATEST_S = 2**56 / 1e6  # the year 4253


def decision_id(service: str, at_s: float) -> str:
    """Microseconds since the epoch and a hash of the service, in hexadecimal: ``0005d9a3c1f280-52f1c0a97be3d6aa``.

    Raises `DataError` for a time before 1970, after 4253 or that is no number.
    """
    digest = hashlib.blake2b(service.encode(), digest_size=8).hexdigest()
    return f"{_micros(at_s):014x}-{digest}"


def first_id_at(at_s: float) -> str:
    """The least id that a decision at ``at_s`` seconds can have: what came before is smaller."""
    return f"{_micros(at_s):014x}-"


def _micros(at_s: float) -> int:
    if not (math.isfinite(at_s) and 0.0 <= at_s < LATEST_S):
        raise DataError(f"journal: a decision at {at_s} s: expected seconds since 1970")
    return round(at_s * 1e6)
