"""What a service has learned beside its loop, as small JSON: regret and counts; damaged parts begin anew."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from harmony.shadow import Regret

__all__ = ["number_or", "regret_from_json", "regret_to_json"]


def regret_to_json(regret: Regret) -> dict[str, float]:
    """Its totals to six significant digits; empty before anything was seen."""
    if regret == Regret():
        return {}
    return {f.name: float(f"{getattr(regret, f.name):.6g}") for f in dataclasses.fields(regret)}


def regret_from_json(data: object) -> Regret:
    """From what `regret_to_json` gave; anything else counts as nothing seen."""
    names = [f.name for f in dataclasses.fields(Regret)]
    if not isinstance(data, dict) or set(data) != set(names):
        return Regret()
    values = {name: number_or(data[name], math.nan) for name in names}
    if any(math.isnan(v) for v in values.values()):
        return Regret()
    counted: dict[str, Any] = {**values, "blocks": max(0, round(values["blocks"]))}
    return Regret(**counted)


def number_or(value: object, default: float) -> float:
    """A finite number from what was saved, else the default."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return default
