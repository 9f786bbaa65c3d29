"""Short ways to make observations and forecasts for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from forecasting.distribution import ForecastDistribution
from forecasting.panel import Indicator
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime
from harmony.model.objective import Objective
from harmony.model.observation import Observation

DEMAND = Indicator("requests", "requests/s")


def forecast(paths: npt.ArrayLike, step_s: float = 60.0) -> ForecastDistribution:
    """A demand forecast from (samples, steps) paths."""
    return ForecastDistribution(np.asarray(paths, dtype=float)[:, :, None], (DEMAND,), 0.0, step_s, "test 1")


def observation(**changes: Any) -> Observation:
    """An observation of a service with capacity 100 a replica, lead 5 minutes, decisions each minute."""
    objective = changes.setdefault("objective", Objective())
    values: dict[str, Any] = {
        "now_s": 0.0,
        "step_s": 60.0,
        "interval_s": 60.0,
        "demand": 1000.0,
        "ordered": 10,
        "ready": 10,
        "capacity": Capacity.known(100.0),
        "lead_time": LeadTime.known(300.0),
        "risk_level": objective.epsilon,
    }
    return Observation(**(values | changes))
