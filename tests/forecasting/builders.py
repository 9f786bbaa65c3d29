"""Small panels for the tests of windows, baselines and evaluation."""

from __future__ import annotations

import numpy as np

from forecasting.panel import FloatArray, Indicator, Panel

STEP_S = 600.0


def panel_of(values: FloatArray, names: str = "abcdefgh", **more: object) -> Panel:
    """A panel of (rows, indicators) values: the first indicator is the demand, the others are resources."""
    values = np.asarray(values, dtype=np.float64)
    indicators = tuple(Indicator(n, "u", min(i + 1, 2)) for i, n in enumerate(names[: values.shape[1]]))
    return Panel(values, indicators, **({"start_s": 0.0, "step_s": STEP_S} | more))  # type: ignore[arg-type]


def wavy(rows: int = 600, columns: int = 3, *, seed: int = 0, absent: float = 0.0) -> Panel:
    """Positive daily waves with noise; ``absent`` is the share of readings that are missing."""
    rng = np.random.default_rng(seed)
    t = np.arange(rows)[:, None]
    waves = 50 + 20 * np.sin(2 * np.pi * (t / 144 + np.arange(columns) / 5))
    values = (waves + rng.normal(scale=4.0, size=(rows, columns))) * (1 + np.arange(columns))
    values[rng.random(values.shape) < absent] = np.nan
    return panel_of(values)
