"""Baselines behind the one forecaster interface: every claim about HARMONY's forecaster is made against these."""

from forecasting.baselines.boosted_quantiles import BoostedQuantiles
from forecasting.baselines.last_value import LastValue
from forecasting.baselines.ridge import Ridge
from forecasting.baselines.seasonal_naive import SeasonalNaive
from forecasting.baselines.window_quantiles import WindowQuantiles

__all__ = ["BoostedQuantiles", "LastValue", "Ridge", "SeasonalNaive", "WindowQuantiles"]
