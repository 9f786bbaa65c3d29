"""Specialists: forecasts of one series at one lead time, refitted on that series' own past; numpy and scipy alone.

A specialist says where the demand that a decision must carry will lie, as location and scale of
log((demand + offset) / level), level being the mean of the last half hour. How residuals are distributed is not its
business: that is learned from what its past forecasts missed by (`harmony.decision.past.portfolio`).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter1d

from forecasting.errors import UsageError
from forecasting.panel import FloatArray
from forecasting.windows import DAY_S

__all__ = ["TARGETS", "Features", "LeadGrid", "Predict", "Target", "fit_specialists", "has_trees", "targets_of"]

Target = Literal["point", "max"]
TARGETS: tuple[Target, ...] = ("point", "max")
Method = Literal["ridge", "boosted"]
Predict = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
"""A fitted specialist: locations and scales (rows,) of features (rows, terms)."""

LEVEL_S = 1800.0  # what demand is measured against is its mean over this time, 3 to 60 steps
LEVEL_STEPS = (3, 60)
LAGS = (0, 1, 2, 3, 4, 5, 6, 7, 10, 15, 20, 30, 45, 60)
WINDOWS_S = (900.0, 3600.0, 10_800.0, 43_200.0)
SEASONS = (1, 2, 7)  # days back
ENOUGH = 1.2  # seasons of history that a season needs to be read
OFFSET = 0.05  # of the mean demand is added before logarithms, so that none is -inf
FIT_ROWS = 30_000
CLIP = 20.0


@dataclass(frozen=True, slots=True)
class LeadGrid:
    """The grid of decisions: seconds between them, and how many later what is ordered now is ready."""

    step_s: float
    lead_steps: int

    @property
    def day(self) -> int:
        """Steps of a day."""
        return max(1, round(DAY_S / self.step_s))

    def steps(self, seconds: float) -> int:
        """Whole steps that cover ``seconds``, at least one."""
        return max(1, math.ceil(round(seconds / self.step_s, 9)))

    @property
    def level_steps(self) -> int:
        """Steps that the level is the mean of."""
        low, high = LEVEL_STEPS
        return min(max(low, self.steps(LEVEL_S)), high)


def targets_of(demand: FloatArray, grid: LeadGrid, target: Target, start: int, stop: int) -> FloatArray:
    """What decisions made in rows ``start..stop-1`` had to carry: demand one lead later, or its maximum until then.

    ``demand`` (rows,); rows whose lead has not passed are NaN.
    """
    k, n = grid.lead_steps, demand.size
    out = np.full(stop - start, np.nan)
    known = min(stop, n - k) - start
    if known > 0:
        ahead = demand[start + 1 : start + known + k]
        out[:known] = ahead[k - 1 :] if target == "point" else _last_max(ahead, k)[k - 1 :]
    return out


@dataclass(frozen=True, slots=True)
class Features:
    """Which features of the past are read; chosen once per fit from how much past there is.

    `offset` is added to demand before logarithms; `windows` and `lags` are in steps, `seasons` the lags of whole days
    that are read; `daily`, `weekly` say whether the time of day (week) is, and `clock` which row of a week row 0 is.
    """

    grid: LeadGrid
    offset: float
    lags: tuple[int, ...]
    windows: tuple[int, ...]
    seasons: tuple[int, ...]
    daily: bool
    weekly: bool
    clock: int = 0

    @classmethod
    def for_past(cls, demand: FloatArray, grid: LeadGrid, clock: int = 0) -> Features:
        """What ``demand`` (rows,), all known, is long enough for."""
        n, k, day = demand.size, grid.lead_steps, grid.day
        return cls(
            grid=grid,
            offset=max(OFFSET * float(demand.mean()), 1e-12),
            lags=tuple(sorted({*LAGS, k, 2 * k})),
            windows=tuple(m for s in WINDOWS_S if (m := max(3, grid.steps(s))) < n / 2),
            seasons=tuple(d * day for d in SEASONS if d * day > k and n >= ENOUGH * d * day),
            daily=n >= ENOUGH * day and day > 2,
            weekly=n >= ENOUGH * 7 * day and day > 2,
            clock=clock,
        )

    def level(self, demand: FloatArray, start: int, stop: int) -> FloatArray:
        """(stop - start,) the level (offset included) at each row."""
        m = self.grid.level_steps
        return _means(_back(demand, start, stop, m - 1), m) + self.offset

    def design(self, demand: FloatArray, target: Target, start: int, stop: int) -> tuple[FloatArray, FloatArray]:
        """Features (rows, terms) and level (rows,) of rows ``start..stop-1``, each from rows up to itself."""
        designs, level = self.designs(demand, (target,), start, stop)
        return designs[target], level

    def designs(
        self, demand: FloatArray, targets: Sequence[Target], start: int, stop: int
    ) -> tuple[dict[Target, FloatArray], FloatArray]:
        """`design` of every one of ``targets``: what they read alike is computed once."""
        if stop - start == 1 and start >= self._deepest:
            rows_of = {target: self._row(demand, target, start) for target in targets}
            return {target: row for target, (row, _) in rows_of.items()}, rows_of[targets[0]][1]
        level = self.level(demand, start, stop)
        rows = stop - start
        deepest = max(self.lags)
        past = np.log(_back(demand, start, stop, deepest) + self.offset)
        log_level = np.log(level)
        columns = [log_level, *(past[deepest - j : deepest - j + rows] - log_level for j in self.lags)]
        for m in self.windows:
            x = _back(demand, start, stop, m - 1)
            shift = float(x.mean())
            mean = _means(x - shift, m)
            spread = np.sqrt(np.maximum(_means((x - shift) ** 2, m) - mean**2, 0.0))
            columns += [
                np.log(np.maximum(mean + shift + self.offset, 1e-12)) - log_level,
                np.log(_last_max(x, m)[m - 1 :] + self.offset) - log_level,
                np.log1p(spread / level),
                np.log(-_last_max(-x, m)[m - 1 :] + self.offset) - log_level,
            ]
        clock, designs = self._clock(start, stop), {}
        for target in targets:
            seasons = [c for lag in self.seasons for c in self._season(demand, target, start, stop, lag, log_level)]
            design = np.column_stack([*columns, *seasons, *clock])
            designs[target] = np.clip(design, -CLIP, CLIP, out=design)
        return designs, level

    @property
    def _deepest(self) -> int:
        """How many earlier rows a row reads at most."""
        return max(*self.lags, *self.windows, *self.seasons, 0) + self.grid.level_steps

    def _row(self, demand: FloatArray, target: Target, now: int) -> tuple[FloatArray, FloatArray]:
        """`design` of one row with all of its past: the same numbers, for a twentieth of the calls."""
        m, k = self.grid.level_steps, self.grid.lead_steps
        level = float(demand[now + 1 - m : now + 1].mean()) + self.offset
        log_level = math.log(level)
        away = np.log(demand[now - np.asarray(self.lags)] + self.offset) - log_level
        columns = [log_level, *away.tolist()]
        for m_ in self.windows:
            x = demand[now + 1 - m_ : now + 1]
            mean = float(x.mean())
            columns += [
                math.log(mean + self.offset) - log_level,
                math.log(float(x.max()) + self.offset) - log_level,
                math.log1p(float(x.std()) / level),
                math.log(float(x.min()) + self.offset) - log_level,
            ]
        for lag in self.seasons:
            ago = now - lag
            carried = float(demand[ago + k]) if target == "point" else float(demand[ago + 1 : ago + k + 1].max())
            then = math.log(float(demand[ago + 1 - m : ago + 1].mean()) + self.offset)
            log_carried = math.log(carried + self.offset)
            columns += [log_carried - log_level, log_carried - then]
        columns += [float(c[0]) for c in self._clock(now, now + 1)]
        return np.clip(np.asarray(columns)[None, :], -CLIP, CLIP), np.array([level])

    def _season(
        self, demand: FloatArray, target: Target, start: int, stop: int, lag: int, log_level: FloatArray
    ) -> list[FloatArray]:
        """What the same decision had to carry ``lag`` steps ago, against the level now and the level then."""
        k = self.grid.lead_steps
        seen = np.arange(start, stop) >= lag
        ahead = _back(demand, start - lag + 1, stop - lag + k, 0)
        carried = ahead[k - 1 :] if target == "point" else _last_max(ahead, k)[k - 1 :]
        then = np.log(
            _means(_back(demand, start - lag, stop - lag, self.grid.level_steps - 1), self.grid.level_steps)
            + self.offset
        )
        log_carried = np.log(carried + self.offset)
        return [np.where(seen, log_carried - log_level, 0.0), np.where(seen, log_carried - then, 0.0)]

    def _clock(self, start: int, stop: int) -> list[FloatArray]:
        if not self.daily:
            return []
        phase = 2 * np.pi * np.arange(start + self.clock, stop + self.clock) / self.grid.day
        turns = [phase, 2 * phase, *((phase / 7, 2 * phase / 7) if self.weekly else ())]
        return [f(p) for p in turns for f in (np.sin, np.cos)]


def has_trees() -> bool:
    """True where LightGBM (extra ``trees``) is installed."""
    return importlib.util.find_spec("lightgbm") is not None


def fit_specialists(
    methods: Sequence[Method], demand: FloatArray, grid: LeadGrid, features: Features
) -> dict[tuple[Method, Target], Predict]:
    """Fit on ``demand`` (rows,), known in every row: decisions whose lead has passed, the newest `FIT_ROWS` of them.

    Every method for every target. Raises `UsageError` for an unknown method, or for "boosted" without LightGBM.
    """
    stop = demand.size - grid.lead_steps
    start = max(0, stop - FIT_ROWS)
    designs, level = features.designs(demand, TARGETS, start, stop)
    fits: dict[tuple[Method, Target], Predict] = {}
    for target in TARGETS:
        z = np.log((targets_of(demand, grid, target, start, stop) + features.offset) / level)
        for method in methods:
            fits[method, target] = _fit_of(method)(designs[target], z)
    return fits


def _fit_of(method: Method) -> Callable[[FloatArray, FloatArray], Predict]:
    if method == "ridge":
        return _ridge
    if method == "boosted":
        return _boosted
    raise UsageError(f"specialist {method!r}: expected ridge or boosted")


@dataclass(frozen=True, eq=False, slots=True)
class _Ridge:
    """Ridge regression of the location, and of the logarithm of what it misses by, on standardised features."""

    middle: FloatArray
    spread: FloatArray
    location: FloatArray
    width: FloatArray

    def __call__(self, design: FloatArray) -> tuple[FloatArray, FloatArray]:
        own = _terms(design, self.middle, self.spread)
        return own @ self.location, np.exp(np.clip(own @ self.width, -6.5, 1.0))


def _terms(design: FloatArray, middle: FloatArray, spread: FloatArray) -> FloatArray:
    return np.column_stack([np.clip((design - middle) / spread, -8.0, 8.0), np.ones(len(design))])


def _ridge(design: FloatArray, z: FloatArray) -> _Ridge:
    middle, spread = design.mean(axis=0), design.std(axis=0) + 1e-9
    own = _terms(design, middle, spread)
    penalty = np.full(own.shape[1], 3.0 + 0.001 * len(z))
    penalty[-1] = 1e-6
    normal = own.T @ own + np.diag(penalty)
    location = np.linalg.solve(normal, own.T @ z)
    width = np.linalg.solve(normal, own.T @ np.log(np.abs(z - own @ location) + 1e-3))
    return _Ridge(middle, spread, np.asarray(location, dtype=np.float64), np.asarray(width, dtype=np.float64))


def _boosted(design: FloatArray, z: FloatArray) -> Predict:
    """LightGBM's median as location, its 95 % quantile less the median as scale."""
    if not has_trees():
        raise UsageError("boosted specialists need LightGBM: install the extra, harmony-autoscaler[trees]")
    import lightgbm

    shared: dict[str, Any] = {
        "objective": "quantile",
        "num_leaves": 15,
        "learning_rate": 0.07,
        "min_data_in_leaf": max(15, len(z) // 400),
        "lambda_l2": 1.0,
        "feature_fraction": 0.6,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "max_bin": 127,
        "seed": 7,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(design, label=z, params={"max_bin": 127, "verbosity": -1}, free_raw_data=False)
    median, high = (lightgbm.train({**shared, "alpha": a}, data, num_boost_round=120) for a in (0.5, 0.95))

    def predict(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        location = np.asarray(median.predict(x))
        return location, np.maximum(np.asarray(high.predict(x)) - location, 0.01)

    return predict


# ---- windows over the past -----------------------------------------------------------------------------------
def _back(x: FloatArray, start: int, stop: int, before: int) -> FloatArray:
    """``x[start - before : stop]``, the first value standing in for rows before the first."""
    low = start - before
    if low >= 0:
        return x[low:stop]
    rows: npt.NDArray[np.int64] = np.arange(low, stop)
    return np.asarray(x[np.maximum(rows, 0)])


def _means(x: FloatArray, m: int) -> FloatArray:
    """Means of every ``m`` neighbours, (len(x) - m + 1,)."""
    if m == 1:
        return x
    total = np.concatenate([[0.0], np.cumsum(x)])
    return np.asarray((total[m:] - total[:-m]) / m)


def _last_max(x: FloatArray, m: int) -> FloatArray:
    """Maximum of the last ``m`` values at every position (fewer at the beginning)."""
    if m <= 1:
        return x
    return np.asarray(maximum_filter1d(x, m, origin=(m - 1) // 2, mode="nearest"))
