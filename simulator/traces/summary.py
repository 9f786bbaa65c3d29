"""What a trace looks like in numbers: the figures of `harmony traces show`, and of the generator's calibration."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from forecasting.panel import FloatArray, Panel
from forecasting.windows import DAY_S, WEEK_S

__all__ = ["IndicatorSummary", "autocorrelation", "day_profile", "summarise", "text_sparkline", "weekday_over_weekend"]

_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class IndicatorSummary:
    """Statistics of one indicator over its present values (None where there are too few).

    ``cv`` is standard deviation over mean; ``lag1``, ``lag_day`` and ``lag_week`` are correlations of the series with
    itself so much later; ``day_half_range`` is (max - min) / 2 / mean of the 24 hourly means.
    """

    name: str
    unit: str
    level: int
    kind: str
    absent_share: float
    zero_share: float | None
    mean: float | None
    cv: float | None
    min: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None
    lag1: float | None
    lag_day: float | None
    lag_week: float | None
    day_half_range: float | None

    def to_json(self) -> dict[str, object]:
        """The summary as a JSON object."""
        return asdict(self)


def summarise(panel: Panel) -> tuple[IndicatorSummary, ...]:
    """One summary an indicator, in column order."""
    return tuple(_one(panel, column) for column in range(len(panel.indicators)))


def _one(panel: Panel, column: int) -> IndicatorSummary:
    series = panel.values[:, column]
    indicator = panel.indicators[column]
    seen = series[~np.isnan(series)]
    mean = float(seen.mean()) if len(seen) else None
    low, middle, p95, p99, high = (
        (float(v) for v in np.quantile(seen, [0.0, 0.5, 0.95, 0.99, 1.0])) if len(seen) else [None] * 5
    )
    profile = day_profile(panel, series)
    return IndicatorSummary(
        name=indicator.name,
        unit=indicator.unit,
        level=int(indicator.level),
        kind=indicator.kind,
        absent_share=float(np.isnan(series).mean()) if len(series) else 1.0,
        zero_share=float((seen == 0).mean()) if len(seen) else None,
        mean=mean,
        cv=float(seen.std() / mean) if mean else None,
        min=low,
        p50=middle,
        p95=p95,
        p99=p99,
        max=high,
        lag1=autocorrelation(series, 1),
        lag_day=autocorrelation(series, round(DAY_S / panel.step_s)),
        lag_week=autocorrelation(series, round(WEEK_S / panel.step_s)),
        day_half_range=None if profile is None or not mean else float((profile.max() - profile.min()) / 2.0 / mean),
    )


def autocorrelation(series: FloatArray, lag: int) -> float | None:
    """Correlation of a series with itself ``lag`` rows later; None below 20 common values or without variation."""
    if lag < 1 or lag >= len(series):
        return None
    early, late = series[:-lag], series[lag:]
    both = ~(np.isnan(early) | np.isnan(late))
    early, late = early[both], late[both]
    if len(early) < 20:
        return None
    early, late = early - early.mean(), late - late.mean()
    size = float(np.sqrt((early**2).mean()) * np.sqrt((late**2).mean()))
    scale = float(np.nanmax(np.abs(series)))
    return float((early * late).mean() / size) if size > 1e-12 * scale**2 else None


def day_profile(panel: Panel, series: FloatArray) -> FloatArray | None:
    """(24,) means by hour of day (hours since the start where there is no calendar); None below two days."""
    if len(panel) * panel.step_s < 2 * DAY_S or panel.step_s > 3600.0:
        return None
    times = panel.times_s if panel.calendar else panel.times_s - panel.start_s
    hour = ((times % DAY_S) // 3600.0).astype(np.int64)
    seen = ~np.isnan(series)
    count = np.bincount(hour[seen], minlength=24)
    if (count == 0).any():
        return None
    return np.asarray(np.bincount(hour[seen], weights=series[seen], minlength=24) / count)


def weekday_over_weekend(panel: Panel, series: FloatArray) -> float | None:
    """Mean of weekdays over mean of Saturdays and Sundays (UTC); None without calendar or below a week."""
    if not panel.calendar or len(panel) * panel.step_s < WEEK_S:
        return None
    weekday = ((panel.times_s // DAY_S + 3) % 7) < 5
    seen = ~np.isnan(series)
    if not (seen & weekday).any() or not (seen & ~weekday).any():
        return None
    weekend = float(series[seen & ~weekday].mean())
    return float(series[seen & weekday].mean()) / weekend if weekend > 0 else None


def text_sparkline(series: FloatArray, width: int = 48) -> str:
    """The series as a line of block characters: means of equal pieces, a blank where a piece is absent."""
    width = min(width, len(series))
    if width == 0 or np.isnan(series).all():
        return ""
    pieces = np.array_split(series, width)
    means = np.array([np.nan if np.isnan(p).all() else np.nanmean(p) for p in pieces])
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    span = high - low
    if span <= 0:
        return "".join(" " if np.isnan(m) else _BLOCKS[0] for m in means)
    return "".join(" " if np.isnan(m) else _BLOCKS[min(int((m - low) / span * 8), 7)] for m in means)
