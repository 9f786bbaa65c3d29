"""`WindowBatch`: the histories that forecasters read, many at once (over services or over decision times).

Whatever was read of a service (a panel, a history in the cluster, a simulated service) is a `RowSource`, and
`WindowBatch.of` is the one place where its rows become windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from forecasting.errors import DataError
from forecasting.panel import FloatArray, Indicator, IntArray

__all__ = ["DAY_S", "SEASONS_S", "WEEK_S", "RowSource", "WindowBatch", "season_rows"]

DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
SEASONS_S: tuple[float, ...] = (DAY_S, WEEK_S)


class RowSource(Protocol):
    """What was read of one service on a grid of times: row k, at `start_s` + k * `step_s`, NaN where absent.

    Rows that are not held (not yet read, or forgotten) are absent; asking for them is no error.
    """

    @property
    def indicators(self) -> tuple[Indicator, ...]:
        """The columns, the demand first."""
        ...

    @property
    def start_s(self) -> float:
        """Time of row 0, seconds since the Unix epoch."""
        ...

    @property
    def step_s(self) -> float:
        """Seconds between rows."""
        ...

    @property
    def calendar(self) -> bool:
        """False when the times carry no calendar."""
        ...

    def row_at(self, now_s: float) -> int:
        """Number of the last row that is complete at ``now_s``."""
        ...

    def recent(self, rows: IntArray) -> FloatArray:
        """(..., indicators) float64 readings of rows within the lookback."""
        ...

    def earlier(self, rows: IntArray) -> FloatArray:
        """(..., indicators) float64 readings of rows a season back; a source may keep the demand alone."""
        ...


@lru_cache(maxsize=64)
def season_rows(horizon: int, step_s: float, seasons_s: tuple[float, ...] = SEASONS_S) -> IntArray:
    """(seasons, horizon), read-only: the row one season before each step to come, counted from a window's last row (0).

    Where a season is shorter than the horizon, as many seasons back as it takes to have seen it: never above 0.
    """
    ahead = np.arange(1, horizon + 1)
    rows = []
    for season_s in seasons_s:
        lag = max(1, round(season_s / step_s))
        rows.append(ahead - np.where(ahead > lag, -(-ahead // lag) * lag, lag))
    out: IntArray = np.stack(rows)
    out.flags.writeable = False  # shared by all who ask alike
    return out


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

    @property
    def schema(self) -> tuple[object, ...]:
        """What batches must share to become one: indicators, step, calendar, seasons, lookback."""
        return self.indicators, self.step_s, self.calendar, self.seasons_s, self.lookback

    @classmethod
    def of(
        cls,
        source: RowSource,
        ends: Sequence[int] | npt.NDArray[np.integer],
        lookback: int,
        *,
        horizon: int = 0,
        seasons_s: tuple[float, ...] = SEASONS_S,
    ) -> WindowBatch:
        """Windows of one service whose last rows are the row numbers ``ends``.

        ``horizon`` > 0 also gathers the seasonal values for that many steps ahead. Rows that the source does not
        hold are absent. Raises `DataError` for a lookback below 1.
        """
        if lookback < 1:
            raise DataError(f"lookback {lookback}: expected at least 1 row")
        last = np.asarray(ends, dtype=np.int64)
        seasonal = None
        if horizon > 0 and seasons_s:
            seasonal = source.earlier(last[:, None, None] + season_rows(horizon, source.step_s, seasons_s))
        return cls(
            values=source.recent(last[:, None] + np.arange(-lookback + 1, 1)),
            indicators=source.indicators,
            end_s=source.start_s + source.step_s * last.astype(np.float64),
            step_s=source.step_s,
            calendar=source.calendar,
            seasonal=seasonal,
            seasons_s=seasons_s,
        )

    @classmethod
    def concat(cls, parts: Sequence[WindowBatch]) -> WindowBatch:
        """Several batches of one schema as one; `DataError` for none, or for parts that differ in schema.

        Seasonal values are kept if every part has them.
        """
        if not parts:
            raise DataError("no windows given")
        first = parts[0]
        for part in parts[1:]:
            if part.schema != first.schema:
                raise DataError(
                    "windows differ in indicators, step, calendar, seasons or lookback; batch equal ones only"
                )
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
