"""What the baselines share: training windows, filling of absent inputs, residual pools, draws and checks."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from forecasting.base import Progress
from forecasting.distribution import ForecastBatch
from forecasting.door import FromReadings
from forecasting.errors import DataError, UsageError, suggest
from forecasting.explaining import Explanation, explain
from forecasting.frames import Frame
from forecasting.panel import FloatArray, Indicator, IntArray, Level, Panel
from forecasting.stale import Made, Unseen, moved_back, replaced, unseen
from forecasting.windows import SEASONS_S, WindowBatch, season_rows

__all__ = [
    "PART_ROWS",
    "POOL_ROWS",
    "Baseline",
    "Draws",
    "IntArray",
    "TrainingChunk",
    "behind",
    "draw_rows",
    "fill_forward",
    "halved",
    "join_pools",
    "last_seen",
    "local_spread",
    "pool_every",
    "rolling",
    "slim_pool",
    "spread_floor",
    "tidy_pool",
    "training_chunks",
]


# More than a few thousand residual vectors add nothing that 100 to 1,000 draws could show.
POOL_ROWS = 10_000
SLIM_ROWS = 1_000
CHUNK_ROWS = 4096
PART_ROWS = 1024  # whose terms a processor has at hand


class TrainingChunk(NamedTuple):
    """Consecutive training windows with what followed them.

    Attributes:
        windows: histories, with seasonal values.
        targets: (windows, horizon, indicators) what came after each; NaN is absent.
        first: number of the first window, counted over all panels.
        total: number of windows over all panels.
    """

    windows: WindowBatch
    targets: FloatArray
    first: int
    total: int


def rolling(panel: Panel, lookback: int) -> FloatArray:
    """(rows - lookback + 1, lookback, indicators) all windows of a panel; a view, which holds no row twice."""
    whole: FloatArray = sliding_window_view(np.ascontiguousarray(panel.values.T), lookback, axis=1).transpose(1, 2, 0)
    return whole


def training_chunks(
    panels: Sequence[Panel],
    lookback: int,
    horizon: int,
    *,
    past: Sequence[int] | None = None,
    size: int = CHUNK_ROWS,
) -> Iterator[TrainingChunk]:
    """All windows of the panels that have a full lookback behind and a full horizon ahead, in time order.

    ``past``: rows at the beginning of each panel that only serve as input (``lookback``). Panels that are too short for
    one window are passed over. Windows are views, ``size`` of them at a time.
    """
    starts = [max(0, rows - lookback) for rows in past or [0] * len(panels)]
    counts = [max(0, len(p) - lookback - horizon + 1 - start) for p, start in zip(panels, starts, strict=True)]
    total, first = sum(counts), 0
    for panel, start, count in zip(panels, starts, counts, strict=True):
        whole = rolling(panel, lookback) if count else None
        for lo in range(start, start + count, size):
            assert whole is not None
            ends = np.arange(lo, min(lo + size, start + count)) + lookback - 1
            windows = WindowBatch(
                values=whole[lo : lo + len(ends)],
                indicators=panel.indicators,
                end_s=panel.times_s[ends],
                step_s=panel.step_s,
                calendar=panel.calendar,
                seasonal=panel.earlier(ends[:, None, None] + season_rows(horizon, panel.step_s)),
            )
            targets = panel.values[ends[:, None] + np.arange(1, horizon + 1)]
            yield TrainingChunk(windows, targets, first + lo - start, total)
        first += count


def behind(panels: Sequence[Panel], past: Sequence[int] | None, lookback: int) -> list[Panel]:
    """Panels without what lies more than a lookback before the end of their ``past`` rows."""
    return [p.rows(max(0, rows - lookback), len(p)) for p, rows in zip(panels, past or [0] * len(panels), strict=True)]


def fill_forward(values: FloatArray) -> FloatArray:
    """(batch, time, indicators) with absent readings replaced by the last one seen, leading ones by the first seen.

    An indicator without any reading in a window stays NaN there.
    """
    absent = np.isnan(values)
    if not absent.any():
        return values
    time = np.arange(values.shape[1])[None, :, None]
    back = np.maximum.accumulate(np.where(absent, -1, time), axis=1)
    first = np.where(absent, values.shape[1], time).min(axis=1, keepdims=True)
    source = np.where(back >= 0, back, np.minimum(first, values.shape[1] - 1))
    filled: FloatArray = np.take_along_axis(values, source, axis=1)
    return filled


def last_seen(values: FloatArray) -> FloatArray:
    """(batch, indicators) the newest reading of each (batch, time, indicators) window, NaN where there is none."""
    out: FloatArray = fill_forward(values)[:, -1]
    return out


def local_spread(values: FloatArray) -> FloatArray:
    """(batch, indicators) standard deviation of the readings in each window, 0 where fewer than two were seen."""
    absent = np.isnan(values)
    if not absent.any():
        spread = np.empty((values.shape[0], values.shape[2]))
        for k in range(values.shape[2]):  # one after the other each is at hand in full
            away = values[:, :, k] - values[:, :, k].mean(axis=1, keepdims=True)
            spread[:, k] = np.sqrt(np.einsum("bt,bt->b", away, away) / values.shape[1])
        return spread
    seen = ~absent
    count = np.maximum(seen.sum(axis=1), 1)
    mean = np.where(seen, values, 0.0).sum(axis=1) / count
    away = np.where(seen, values - mean[:, None], 0.0)
    out: FloatArray = np.sqrt((away**2).sum(axis=1) / count)
    return out


def spread_floor(spreads: FloatArray, share: float) -> FloatArray:
    """(indicators,) the least local spread to divide by: ``share`` of the root mean square over training windows.

    1 for an indicator that never moved, whose residuals are 0 whatever they are divided by.
    """
    typical = np.sqrt(np.mean(spreads**2, axis=0)) if len(spreads) else np.zeros(spreads.shape[1])
    return np.where(typical > 0, share * typical, 1.0)


def tidy_pool(pool: FloatArray) -> FloatArray:
    """A pool (rows, ...) of residual vectors that can be drawn whole: at most `POOL_ROWS`, evenly thinned.

    An absent component takes the value of the same component in the nearest earlier row that has it (else the first
    later one); a component that no row has stays NaN. Never empty: without any residual it is one row of NaN.
    """
    flat = pool.reshape(len(pool), int(np.prod(pool.shape[1:])))
    flat = flat[~np.isnan(flat).all(axis=1)]
    if len(flat) == 0:
        return np.full((1, *pool.shape[1:]), np.nan)
    if len(flat) > POOL_ROWS:
        flat = flat[np.linspace(0, len(flat) - 1, POOL_ROWS).astype(np.int64)]
    return np.ascontiguousarray(fill_forward(flat[None])[0].reshape(-1, *pool.shape[1:]))


def join_pools(pool: FloatArray, newer: FloatArray, *, every: int = 1) -> FloatArray:
    """The newest `POOL_ROWS` vectors of a tidy pool followed by ``every`` so manieth of newer residuals (rows, ...)."""
    newer = newer[(len(newer) - 1) % every :: every]
    return tidy_pool(np.concatenate([pool, newer]).reshape(-1, *pool.shape[1:])[-POOL_ROWS:])


def pool_every(past: Sequence[int] | None, lookback: int, horizon: int) -> int:
    """One in how many windows of ``past`` rows stands in a pool, so that newer ones can stand in it as densely."""
    older = sum(max(0, rows - lookback - horizon + 1) for rows in past or ())
    return max(1, older // POOL_ROWS)


def slim_pool(pool: FloatArray) -> FloatArray:
    """At most `SLIM_ROWS` vectors of a pool, evenly thinned, in half the bytes: errors need no more than six digits."""
    if len(pool) > SLIM_ROWS:
        pool = pool[np.linspace(0, len(pool) - 1, SLIM_ROWS).astype(np.int64)]
    return halved(pool)


def halved(values: FloatArray) -> FloatArray:
    """Numbers of half the bytes; whatever is worked out with them and others has the digits of the others."""
    return cast("FloatArray", values.astype(np.float32))


def draw_rows(rows: int, samples: int, rng: np.random.Generator) -> IntArray:
    """(samples,) row numbers in 0..rows-1 in random order, one from each of ``samples`` equal stretches of time.

    Stratified, so that few samples represent the whole pool; equally likely rows, repeated only when samples > rows.
    """
    where = (np.arange(samples) + rng.random(samples)) * (rows / samples)
    out: IntArray = rng.permutation(np.minimum(where.astype(np.int64), rows - 1))
    return out


class Draws(NamedTuple):
    """What a method needs to draw paths: how many, how far, from which random numbers, of which columns."""

    samples: int
    horizon: int
    rng: np.random.Generator
    columns: list[int]


class Baseline(FromReadings):
    """A forecaster with everything but its idea: checks, selection of indicators, limits, naming.

    A subclass gives `method`, `_learn`, `_learn_more` and `_paths`. Random numbers are drawn once for all windows (not
    for each), so a forecast depends on its window and the seed alone, never on what else is in the batch.

    Args:
        cap: paths of demand indicators (level 1) never exceed this many times the highest value seen so far, which
            keeps a linear method from running away under drift; ``None`` for no cap.
    """

    method: str
    REVISION = 1
    adds_up = True
    """Whether `update` gets as far as learning all rows anew, or nearly so."""
    history = 0
    """Rows that it can make use of beyond the lookback, where whoever asks gives them."""

    def __init__(self, *, cap: float | None = None) -> None:
        self.cap = cap
        self.lookback = 0
        self.horizon = 0
        self.indicators: tuple[Indicator, ...] = ()
        self.step_s = 0.0
        self._is_slim = False
        self._low: FloatArray = np.empty(0)
        self._high: FloatArray = np.empty(0)
        self._digest = "unfitted"

    # ---- ForecastModel --------------------------------------------------------------------------------------
    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        return self.method

    @property
    def version(self) -> str:
        """Revision of the method and a digest of what it learned."""
        return f"{self.REVISION}+{self._digest}"

    def fit(
        self,
        panels: Sequence[Panel],
        *,
        lookback: int,
        horizon: int,
        validation: Sequence[Panel] = (),
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Self:
        """Learn from ``panels``; see `forecasting.base.ForecastModel.fit`.

        Raises `UsageError` for a lookback or horizon below 1, `DataError` when no panel is long enough or they differ
        in indicators or step.
        """
        if lookback < 1 or horizon < 1:
            raise UsageError(f"lookback {lookback} and horizon {horizon}: both must be at least 1 step")
        if not panels:
            raise DataError(f"{self.name}: no panels to learn from")
        self.indicators, self.step_s = panels[0].indicators, panels[0].step_s
        for panel in (*panels, *validation):
            self._check_panel(panel)
        longest = max(len(p) for p in panels)
        if longest < lookback + horizon:
            raise DataError(
                f"{panels[0].name}: {longest} rows are too few for a lookback of {lookback} and a horizon of {horizon};"
                f" give at least {lookback + horizon} rows or a shorter lookback"
            )
        self.lookback, self.horizon = lookback, horizon
        self._is_slim = False
        self._low = np.full(len(self.indicators), np.inf)
        self._high = np.full(len(self.indicators), -np.inf)
        self._see(panels)
        self._learn(panels, validation, np.random.default_rng(seed), progress)
        self._sign(panels, seed)
        return self

    def update(self, panels: Sequence[Panel], *, seed: int = 0, past: Sequence[int] | None = None) -> Self:
        """Learn from newer rows; each panel begins with rows of history that only serve as input.

        These are up to ``lookback`` rows, or as many as ``past`` says of each panel: more of them also tell what was a
        day and a week before. Panels too short for one window change nothing but the highest value seen. Raises
        `UsageError` before `fit`.
        """
        self._check_fitted()
        if self._is_slim:
            raise UsageError(f"{self.name} has let go of what it learned from (slim); fit it anew")
        for panel in panels:
            self._check_panel(panel)
        self._see(panels)
        self._learn_more(panels, past, np.random.default_rng(seed))
        self._sign(panels, seed)
        return self

    def _of_windows(
        self, windows: WindowBatch, horizon: int, *, samples: int, seed: int, only: Sequence[str] | None
    ) -> ForecastBatch:
        """Joint sample paths for every window; see `forecasting.base.ForecastModel.predict`.

        Where the newest k rows of an indicator are absent, it is forecast k steps further from the last row seen, or as
        far as was fitted.

        Raises `UsageError` before `fit` or for a horizon beyond the fitted one, `DataError` for windows that do not
        fit what was learned.
        """
        found = self.predict_as_is(windows, horizon, samples=samples, seed=seed, only=only)
        columns = self._columns(only)
        stale = unseen(windows, columns)
        if not stale.any():
            return found

        def forecast(part: WindowBatch, group: Unseen) -> Made:
            names = [self.indicators[columns[c]].name for c in group.columns]
            return self._later(part, group.rows, horizon, samples, seed, names)

        paths, experts = replaced(found.paths, found.experts or {}, windows, stale, forecast)
        return dataclasses.replace(found, paths=paths, experts=experts)

    def predict_as_is(
        self,
        windows: WindowBatch,
        horizon: int,
        *,
        samples: int = 100,
        seed: int = 0,
        only: Sequence[str] | None = None,
    ) -> ForecastBatch:
        """`predict` that takes absent newest rows for rows like any others: who hides some of what is there asks so."""
        self._check_fitted()
        self._check_windows(windows, horizon, samples)
        columns = self._columns(only)
        windows = _newest(windows, max(self.lookback, self.history))
        paths = self._paths(windows, Draws(samples, horizon, np.random.default_rng(seed), columns))
        self._limit(paths, windows, columns)
        return ForecastBatch(
            paths=paths,
            indicators=tuple(self.indicators[c] for c in columns),
            origin_s=windows.end_s,
            step_s=windows.step_s,
            model=f"{self.name} {self.version}",
            experts=self._experts(len(windows), horizon, columns),
        )

    def _later(
        self, windows: WindowBatch, rows: int, horizon: int, samples: int, seed: int, only: Sequence[str]
    ) -> Made:
        """Paths and weights of windows without their ``rows`` newest rows, as farther forecasts from those before.

        Beyond the fitted horizon its last step stands.
        """
        steps = min(rows + horizon, self.horizon)
        found = self.predict_as_is(moved_back(windows, rows), steps, samples=samples, seed=seed, only=only)
        at = np.minimum(np.arange(rows, rows + horizon), steps - 1)
        return found.paths[:, :, at], {name: w[:, at] for name, w in (found.experts or {}).items()}

    def explain(
        self, windows: WindowBatch | Panel | Frame, horizon: int, indicator: str | None = None, *, seed: int = 0
    ) -> Explanation:
        """What moved the forecast of one indicator (the first by default); see `forecasting.explaining.explain`."""
        return explain(self, windows, horizon, indicator, seed=seed)

    def slim(self) -> Self:
        """Let go of what only `update` needs and thin what errors are drawn from, for thousands side by side."""
        self._check_fitted()
        if not self._is_slim:
            self._is_slim = True
            self._let_go()
            self._digest = hashlib.sha256(f"{self._digest}|slim".encode()).hexdigest()[:12]
        return self

    # ---- what a method adds ---------------------------------------------------------------------------------
    @abstractmethod
    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        """Learn from checked panels."""

    def _learn_more(self, panels: Sequence[Panel], past: Sequence[int] | None, rng: np.random.Generator) -> None:
        """Learn from checked newer panels; by default there is nothing to learn."""

    def _let_go(self) -> None:
        """Keep what forecasting needs; by default there is no more than that."""

    @abstractmethod
    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        """(batch, samples, horizon, len(draws.columns)) paths; a fresh array, which the caller may change."""

    def _experts(self, windows: int, horizon: int, columns: list[int]) -> dict[str, FloatArray]:
        """What forecasts are made of, by name (windows, horizon, len(columns)) weights: by default the method alone."""
        return {self.name: np.ones((windows, horizon, len(columns)))}

    # ---- checks and limits ----------------------------------------------------------------------------------
    def _check_fitted(self) -> None:
        if not self.indicators:
            raise UsageError(f"{self.name} has not learned anything yet; call fit first")

    def _check_panel(self, panel: Panel) -> None:
        names = tuple(i.name for i in self.indicators)
        if panel.names != names or panel.step_s != self.step_s:
            raise DataError(
                f"{panel.name}: indicators {', '.join(panel.names)} every {panel.step_s:g} s differ from those learned "
                f"from ({', '.join(names)} every {self.step_s:g} s)"
            )

    def _check_windows(self, windows: WindowBatch, horizon: int, samples: int) -> None:
        names, known = tuple(i.name for i in windows.indicators), tuple(i.name for i in self.indicators)
        if names != known:
            raise DataError(f"{self.name} learned {', '.join(known)}; the windows hold {', '.join(names)}")
        if windows.step_s != self.step_s:
            raise DataError(f"{self.name} learned steps of {self.step_s:g} s; the windows have {windows.step_s:g} s")
        if windows.lookback < self.lookback:
            raise DataError(
                f"{self.name} needs windows of {self.lookback} rows, got {windows.lookback}; shorter histories are "
                "padded with absent values (NaN) in front"
            )
        if windows.seasonal is not None and (windows.seasons_s != SEASONS_S or windows.seasonal.shape[2] < horizon):
            raise DataError(
                f"{self.name} reads the seasons {SEASONS_S} s for {horizon} steps; the windows carry "
                f"{windows.seasons_s} s for {windows.seasonal.shape[2]}"
            )
        if not 1 <= horizon <= self.horizon:
            raise UsageError(f"{self.name} was fitted for horizons 1..{self.horizon}, asked for {horizon}")
        if samples < 1:
            raise UsageError(f"samples {samples}: at least 1 is needed")

    def _columns(self, only: Sequence[str] | None) -> list[int]:
        known = [i.name for i in self.indicators]
        for name in only or ():
            if name not in known:
                raise DataError(f"{self.name} knows no indicator {name!r}; {suggest(name, known)}")
        return [known.index(n) for n in only] if only is not None else list(range(len(known)))

    def _see(self, panels: Sequence[Panel]) -> None:
        """Keep the least and the highest value of every indicator."""
        for panel in panels:
            self._low = np.fmin(self._low, np.fmin.reduce(panel.values, axis=0, initial=np.inf))
            self._high = np.fmax(self._high, np.fmax.reduce(panel.values, axis=0, initial=-np.inf))

    def _limit(self, paths: FloatArray, windows: WindowBatch, columns: list[int]) -> None:
        """In place: absent stays absent; what was never negative stays so; the cap on demand."""
        values = windows.values[:, :, columns]
        low = np.fmin(self._low[columns], np.fmin.reduce(values, axis=1, initial=np.inf))
        high = np.fmax(self._high[columns], np.fmax.reduce(values, axis=1, initial=-np.inf))
        floor = np.where(low >= 0, 0.0, -np.inf)
        np.maximum(paths, floor[:, None, None], out=paths)
        demand = np.array([self.indicators[c].level == Level.DEMAND for c in columns])
        if self.cap is not None and demand.any():
            ceiling = np.where(demand & (high > 0), self.cap * high, np.inf)
            np.minimum(paths, ceiling[:, None, None], out=paths)
        absent = np.asarray(np.isnan(values).all(axis=1))
        if absent.any():
            paths[np.broadcast_to(absent[:, None, None], paths.shape)] = np.nan

    def _sign(self, panels: Sequence[Panel], seed: int) -> None:
        """Digest of all that was learned from, in order; equal histories give equal versions."""
        h = hashlib.sha256(f"{self._digest}|{self._settings()}|{self.lookback}|{self.horizon}|{seed}".encode())
        for panel in panels:
            h.update(panel.digest().encode())
        self._digest = h.hexdigest()[:12]

    def _settings(self) -> str:
        return repr(sorted((k, v) for k, v in vars(self).items() if not k.startswith("_") and k != "indicators"))


def _newest(windows: WindowBatch, lookback: int) -> WindowBatch:
    """The newest ``lookback`` rows of each window."""
    if windows.lookback <= lookback:
        return windows
    return WindowBatch(
        values=windows.values[:, -lookback:],
        indicators=windows.indicators,
        end_s=windows.end_s,
        step_s=windows.step_s,
        calendar=windows.calendar,
        seasonal=windows.seasonal,
        seasons_s=windows.seasons_s,
    )
