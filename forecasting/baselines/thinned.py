"""Training windows of panels, evenly thinned, for methods that hold all that they learn from at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecasting.baselines.common import fill_forward
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["thinned"]


def thinned(
    panels: Sequence[Panel], lookback: int, horizon: int, most: int
) -> tuple[WindowBatch, FloatArray] | tuple[None, None]:
    """At most ``most`` windows with a full lookback and horizon, evenly spaced, and what followed each.

    Targets are (windows, horizon, indicators); a step that was not observed is taken for the one before it, so that
    paths stay whole. None where no panel is long enough for one window.
    """
    ends = [np.arange(lookback - 1, max(lookback - 1, len(p) - horizon)) for p in panels]
    every = max(1, -(-sum(map(len, ends)) // most))
    parts, targets = [], []
    for panel, rows in zip(panels, ends, strict=True):
        some = rows[(len(rows) - 1) % every :: every] if len(rows) else rows
        if len(some):
            parts.append(WindowBatch.of(panel, some, lookback, horizon=horizon))
            targets.append(fill_forward(panel.values[some[:, None] + np.arange(1, horizon + 1)]))
    if not parts:
        return None, None
    return WindowBatch.concat(parts), np.concatenate(targets)
