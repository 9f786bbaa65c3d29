"""Training windows of panels, evenly thinned, for methods that hold all that they learn from at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecasting.baselines.common import fill_forward, rolling
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch, season_rows

__all__ = ["thinned"]


def thinned(
    panels: Sequence[Panel], lookback: int, horizon: int, most: int, past: Sequence[int] | None = None
) -> tuple[WindowBatch, FloatArray] | tuple[None, None]:
    """At most ``most`` windows with a full lookback and horizon, evenly spaced, and what followed each.

    Targets are (windows, horizon, indicators); a step that was not observed is taken for the one before it, so that
    paths stay whole. ``past``: rows at the beginning of each panel that only serve as input (``lookback``); windows of
    the others are spaced as those of all would be. None where no panel is long enough. Windows may be views.
    """
    ends = [np.arange(lookback - 1, max(lookback - 1, len(p) - horizon)) for p in panels]
    every = max(1, -(-sum(map(len, ends)) // most))
    parts, targets = [], []
    for panel, rows, first in zip(panels, ends, past or [0] * len(panels), strict=True):
        some = rows[(len(rows) - 1) % every :: every] if len(rows) else rows
        some = some[some >= first - 1]
        if len(some):
            starts = some - lookback + 1
            parts.append(
                WindowBatch(
                    values=rolling(panel, lookback)[starts[0] : starts[-1] + 1 : every],
                    indicators=panel.indicators,
                    end_s=panel.times_s[some],
                    step_s=panel.step_s,
                    calendar=panel.calendar,
                    seasonal=panel.earlier(some[:, None, None] + season_rows(horizon, panel.step_s)),
                )
            )
            targets.append(fill_forward(panel.values[some[:, None] + np.arange(1, horizon + 1)]))
    if not parts:
        return None, None
    whole = parts[0] if len(parts) == 1 else WindowBatch.concat(parts)
    return whole, np.concatenate(targets)
