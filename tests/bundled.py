"""The bundled model, read once per test process."""

from __future__ import annotations

import functools

from forecasting.forecaster import Forecaster


@functools.cache
def base_model() -> Forecaster:
    """It is only asked, never changed."""
    return Forecaster.load("base")
