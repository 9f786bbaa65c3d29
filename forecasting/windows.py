"""`WindowBatch`: the histories that forecasters read, many at once (over services or over decision times)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forecasting.errors import DataError
from forecasting.panel import FloatArray, Indicator, Panel

__all__ = ["DAY_S", "SEASONS_S", "WEEK_S", "WindowBatch"]

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
SEASONS_S: tuple[float, ...] = (DAY_S, WEEK_S)


@dataclass(frozen=True, eq=False)
class WindowBatch:
    """A batch of equally shaped histories, each ending at its own time.

    Attributes:
        values: (batch, lookback, indicators) float64; NaN is absent (also before a history that is too short).
        indicators: the columns, the same for the whole batch.
        end_s: (batch,) time of each window's last row, seconds since the Unix epoch.
        step_s: seconds between rows.
        calendar: False when the times carry no calendar.
        seasonal: (batch, seasons, horizon, indicators) the value one season before each step to be forecast (the
            newest one already seen), NaN where unknown; ``None`` when the caller allows no look beyond the lookback.
        seasons_s: the seasons of `seasonal`, seconds.
    """

    values: FloatArray
    indicators: tuple[Indicator, ...]
    end_s: FloatArray
    step_s: float
    calendar: bool = True
    seasonal: FloatArray | None = None
    seasons_s: tuple[float, ...] = SEASONS_S

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape[2] != len(self.indicators):
            raise DataError(
                f"windows have shape {self.values.shape}, expected (batch, lookback, {len(self.indicators)} indicators)"
            )
        if self.end_s.shape != (self.values.shape[0],):
            raise DataError(f"{self.values.shape[0]} windows but end times of shape {self.end_s.shape}")

    def __len__(self) -> int:
        """Number of windows."""
        return int(self.values.shape[0])

    @property
    def lookback(self) -> int:
        """Rows per window."""
        return int(self.values.shape[1])

    @classmethod
    def from_panel(
        cls,
        panel: Panel,
        ends: Sequence[int] | npt.NDArray[np.integer],
        lookback: int,
        *,
        horizon: int = 0,
        seasons_s: tuple[float, ...] = SEASONS_S,
    ) -> WindowBatch:
        """Windows of one panel whose last rows are the row numbers ``ends``.

        ``horizon`` > 0 also gathers the seasonal values for that many steps ahead. Rows before the panel's first are
        absent. Raises `DataError` for a row number outside the panel or a lookback below 1.
        """
        idx = np.asarray(ends, dtype=np.int64)
        if lookback < 1:
            raise DataError(f"lookback {lookback}: expected at least 1 row")
        if idx.size and (idx.min() < 0 or idx.max() >= len(panel)):
            raise DataError(f"window ends must be rows 0..{len(panel) - 1}, got {idx.min()}..{idx.max()}")
        if idx.size == 0:
            values: FloatArray = np.empty((0, lookback, len(panel.indicators)))
        elif idx.min() >= lookback - 1:
            view = np.lib.stride_tricks.sliding_window_view(panel.values, lookback, axis=0)
            values = np.ascontiguousarray(view[idx - lookback + 1].swapaxes(1, 2))
        else:
            values = _gather(panel.values, idx[:, None] + np.arange(-lookback + 1, 1))
        seasonal = None
        if horizon > 0 and seasons_s:
            ahead = np.arange(1, horizon + 1)
            layers = []
            for season_s in seasons_s:
                lag = max(1, round(season_s / panel.step_s))
                back = np.where(ahead > lag, -(-ahead // lag) * lag, lag)
                layers.append(_gather(panel.values, idx[:, None] + (ahead - back)))
            seasonal = np.stack(layers, axis=1)
        return cls(
            values=values,
            indicators=panel.indicators,
            end_s=panel.start_s + panel.step_s * idx.astype(np.float64),
            step_s=panel.step_s,
            calendar=panel.calendar,
            seasonal=seasonal,
            seasons_s=seasons_s,
        )

    @classmethod
    def from_panels(cls, panels: Sequence[Panel], lookback: int, *, horizon: int = 0) -> WindowBatch:
        """The newest window of each of several services (same indicators and step); `DataError` if they differ."""
        if not panels:
            raise DataError("no panels given")
        first = panels[0]
        for p in panels[1:]:
            if p.indicators != first.indicators or p.step_s != first.step_s or p.calendar != first.calendar:
                raise DataError(
                    f"{p.name} and {first.name} differ in indicators, step or calendar; batch equal ones only"
                )
        if any(len(p) == 0 for p in panels):
            raise DataError("an empty panel has no window")
        parts = [cls.from_panel(p, [len(p) - 1], lookback, horizon=horizon) for p in panels]
        return cls.concat(parts)

    @classmethod
    def concat(cls, parts: Sequence[WindowBatch]) -> WindowBatch:
        """Several batches of one schema as one."""
        first = parts[0]
        seasonal = None
        if all(p.seasonal is not None for p in parts):
            seasonal = np.concatenate([p.seasonal for p in parts if p.seasonal is not None])
        return cls(
            values=np.concatenate([p.values for p in parts]),
            indicators=first.indicators,
            end_s=np.concatenate([p.end_s for p in parts]),
            step_s=first.step_s,
            calendar=first.calendar,
            seasonal=seasonal,
            seasons_s=first.seasons_s,
        )

    def chunks(self, size: int) -> Iterator[WindowBatch]:
        """The batch in pieces of at most ``size`` windows, in order."""
        for lo in range(0, len(self), size):
            s = slice(lo, lo + size)
            yield WindowBatch(
                values=self.values[s],
                indicators=self.indicators,
                end_s=self.end_s[s],
                step_s=self.step_s,
                calendar=self.calendar,
                seasonal=None if self.seasonal is None else self.seasonal[s],
                seasons_s=self.seasons_s,
            )


def _gather(values: FloatArray, rows: npt.NDArray[np.int64]) -> FloatArray:
    """``values[rows]`` with NaN for rows before the first (a history that was not recorded is absent)."""
    out: FloatArray = values[np.clip(rows, 0, len(values) - 1)]
    out[(rows < 0) | (rows >= len(values))] = np.nan
    return out
