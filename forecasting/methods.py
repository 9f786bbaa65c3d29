"""The forecasting methods by name: the product's own (`harmony`) and the baselines."""

from __future__ import annotations

from collections.abc import Callable

from forecasting.base import ForecastModel
from forecasting.errors import UsageError, suggest

__all__ = ["DEFAULT_METHOD", "create_method", "method_names"]

DEFAULT_METHOD = "harmony"


def _harmony() -> ForecastModel:
    from forecasting.forecaster import Forecaster  # lazily: it imports torch

    return Forecaster()


def _last_value() -> ForecastModel:
    from forecasting.baselines.last_value import LastValue

    return LastValue()


def _last_value_scaled() -> ForecastModel:
    from forecasting.baselines.last_value import LastValue

    return LastValue(scaled=True)


def _seasonal_naive() -> ForecastModel:
    from forecasting.baselines.seasonal_naive import SeasonalNaive

    return SeasonalNaive()


def _window_quantiles() -> ForecastModel:
    from forecasting.baselines.window_quantiles import WindowQuantiles

    return WindowQuantiles()


def _ridge() -> ForecastModel:
    from forecasting.baselines.ridge import Ridge

    return Ridge()


def _boosted_quantiles() -> ForecastModel:
    from forecasting.baselines.boosted_quantiles import BoostedQuantiles

    return BoostedQuantiles()


_FACTORIES: dict[str, Callable[[], ForecastModel]] = {
    DEFAULT_METHOD: _harmony,
    "last_value": _last_value,
    "last_value_scaled": _last_value_scaled,
    "seasonal_naive": _seasonal_naive,
    "window_quantiles": _window_quantiles,
    "ridge": _ridge,
    "boosted_quantiles": _boosted_quantiles,
}


def method_names() -> tuple[str, ...]:
    """All names that `create_method` knows, the product's own first."""
    return tuple(_FACTORIES)


def create_method(name: str) -> ForecastModel:
    """A fresh, unfitted method of that name.

    Raises `UsageError` for an unknown name (near ones are offered) or a method whose extra is not installed.
    """
    try:
        factory = _FACTORIES[name]
    except KeyError:
        raise UsageError(f"no forecasting method {name!r}; {suggest(name, _FACTORIES)}") from None
    return factory()
