"""Reading what was saved, whatever stands there."""

from __future__ import annotations

__all__ = ["number_or"]

LARGEST = 1e300  # JSON may hold whole numbers that no float can


def number_or(value: object, default: float) -> float:
    """A finite number from what was saved, else the default."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return float(value)
    return default
