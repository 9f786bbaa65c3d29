"""The forecasting methods by name: the product's own (`harmony`) and the baselines.

Adding one means one module with a class that follows `ForecastModel`, and one line in `_HOMES`.
"""

from __future__ import annotations

import importlib

from forecasting.base import ForecastModel
from forecasting.errors import UsageError, suggest

__all__ = [
    "BENCHMARK",
    "DEFAULT_METHOD",
    "OWN_EXPERTS",
    "OWN_METHODS",
    "create_method",
    "method_names",
    "method_summary",
]

DEFAULT_METHOD = "harmony"
OWN_EXPERTS = frozenset({"clock_ridge", "seasonal_shape", "analogues"})
"""Members of the product's ensemble that were made for it."""
OWN_METHODS = frozenset({DEFAULT_METHOD, "harmony_base", "ensemble", "ensemble_fitted"}) | OWN_EXPERTS
"""What is not a rival of the product."""
BENCHMARK = "ridge"
"""What others' scores are told relative to."""

# name: module:what makes it. Imported when asked for, as some need torch or an extra.
_HOMES: dict[str, str] = {
    DEFAULT_METHOD: "forecasting.forecaster:Forecaster",
    "harmony_base": "forecasting.bundled:BundledForecaster",
    "last_value": "forecasting.baselines.last_value:LastValue",
    "last_value_scaled": "forecasting.baselines.last_value:ScaledLastValue",
    "seasonal_naive": "forecasting.baselines.seasonal_naive:SeasonalNaive",
    "window_quantiles": "forecasting.baselines.window_quantiles:WindowQuantiles",
    "ridge": "forecasting.baselines.ridge:Ridge",
    "boosted_quantiles": "forecasting.baselines.boosted_quantiles:BoostedQuantiles",
    "ensemble": "forecasting.ensemble:Ensemble",
    "ensemble_fitted": "forecasting.fitted_ensemble:FittedEnsemble",
    "clock_ridge": "forecasting.baselines.clock_ridge:ClockRidge",
    "seasonal_shape": "forecasting.baselines.seasonal_shape:SeasonalShape",
    "analogues": "forecasting.baselines.analogues:Analogues",
    "quantile_forest": "forecasting.baselines.quantile_forest:QuantileForest",
    "auto_ets": "forecasting.baselines.classical:AutoEts",
    "auto_arima": "forecasting.baselines.classical:AutoArima",
    "flair": "forecasting.baselines.flair:Flair",
    "fracast": "forecasting.baselines.fracast:Fracast",
    "patch_transformer": "forecasting.baselines.patch_transformer:PatchTransformer",
}


def method_names() -> tuple[str, ...]:
    """All names that `create_method` knows, the product's own first."""
    return tuple(_HOMES)


def create_method(name: str) -> ForecastModel:
    """A fresh, unfitted method of that name.

    Raises `UsageError` for an unknown name (near ones are offered) or a method whose extra is not installed.
    """
    made = _home(name)()
    if not isinstance(made, ForecastModel):
        raise TypeError(f"{_HOMES[name]} makes no ForecastModel")
    return made


def method_summary(name: str) -> str:
    """One sentence on the method of that name: the first of its docstring; raises as `create_method`."""
    return (_home(name).__doc__ or "").partition("\n")[0]


def _home(name: str) -> type:
    try:
        module, _, made_by = _HOMES[name].partition(":")
    except KeyError:
        raise UsageError(f"no forecasting method {name!r}; {suggest(name, _HOMES)}") from None
    found: type = getattr(importlib.import_module(module), made_by)
    return found
