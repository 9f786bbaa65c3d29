"""Forecasting: data windows, the hierarchical-attention flow forecaster, baselines and scoring.

Nothing is imported here until asked for, so that `forecasting.distribution` stays free of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forecasting.distribution import ForecastDistribution as ForecastDistribution
    from forecasting.evaluation import evaluate as evaluate
    from forecasting.forecaster import Forecaster as Forecaster
    from forecasting.panel import Indicator as Indicator
    from forecasting.panel import Panel as Panel

_HOMES = {
    "ForecastDistribution": "forecasting.distribution",
    "Forecaster": "forecasting.forecaster",
    "Indicator": "forecasting.panel",
    "Panel": "forecasting.panel",
    "evaluate": "forecasting.evaluation",
}
__all__ = ["ForecastDistribution", "Forecaster", "Indicator", "Panel", "evaluate"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import a promised name from its home on first use."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'forecasting' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers: the promised names."""
    return sorted(__all__)
