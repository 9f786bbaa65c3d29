"""What the network reads of a window: instance-normalised values with their mask, a summary, calendar and seasons.

Everything is computed in float64 from the raw numbers (counters reach 1e17) and handed over in float32, normalised by
the window's own mean and spread. Absent values never count: they are filled only behind a mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from forecasting.panel import BoolArray, FloatArray, Panel
from forecasting.windows import DAY_S, WEEK_S, WindowBatch

__all__ = [
    "CALENDAR",
    "SEASONAL",
    "SUMMARY",
    "NetworkInputs",
    "SeriesStats",
    "make_inputs",
    "normalise",
    "series_stats",
]


_AVERAGES = (2, 3, 6, 12, 24, 48)
_RECENT = 8
_SUMMARY_QUANTILES = 9
_DAY_HARMONICS = 4
CALENDAR = 2 * _DAY_HARMONICS + 4
"""Calendar features of a step."""
SEASONAL = 4
"""Features of a step for each season."""
SUMMARY = _RECENT + (_RECENT - 1) + len(_AVERAGES) + _SUMMARY_QUANTILES + 11
"""Summary features of an indicator's window."""
_CLIP = 12.0
_KNOWN_FLOOR = 0.05
_BLIND_FLOOR = 0.01
_COUNTER_FLOOR = 1e-9


@dataclass(frozen=True, slots=True)
class SeriesStats:
    """What was learned of one indicator's numbers: its usual spread within a window and over all, and its bounds."""

    window_spread: float
    spread: float
    centre: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class NetworkInputs:
    """The network's inputs of B windows, N indicators, L rows and S steps.

    Attributes:
        values: (B, N, L) normalised, last value carried over gaps; mask: (B, N, L) 1 where observed.
        summary: (B, N, SUMMARY); atoms: (B, N, Q) window quantiles; pace: (B, N) mean absolute step.
        seasonal: (B, N, S, seasons * SEASONAL); calendar: (B, S, CALENDAR).
        ahead: (S,) the steps, counted from 1 (all of 1..S unless thinned for training).
        present: (B, N) bool, any value at all; centre, scale: (B, N) float64 that undo the normalisation.
        weight: (B, N) spread of the window in units of the indicator's usual one, for the loss.
        low: (B, N) float64 lower bound of sample paths (0 for what was never negative, else -inf).
        levels, names: (N,) of the indicators.
    """

    values: Tensor
    mask: Tensor
    summary: Tensor
    atoms: Tensor
    pace: Tensor
    seasonal: Tensor
    calendar: Tensor
    ahead: Tensor
    present: Tensor
    centre: Tensor
    scale: Tensor
    weight: Tensor
    low: Tensor
    levels: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of windows."""
        return int(self.values.shape[0])

    @classmethod
    def concat(cls, parts: Sequence[NetworkInputs]) -> NetworkInputs:
        """Several batches of the same indicators and steps as one."""
        first = parts[0]
        if len(parts) == 1:
            return first
        return first._each(lambda name, x: x if name == "ahead" else torch.cat([getattr(part, name) for part in parts]))

    def take(self, index: Tensor) -> NetworkInputs:
        """The windows of the given numbers."""
        return self._each(lambda name, x: x if name == "ahead" else x[index])

    def steps(self, index: Tensor) -> NetworkInputs:
        """Only some steps ahead, by their place in `ahead`."""
        return replace(
            self, seasonal=self.seasonal[:, :, index], calendar=self.calendar[:, index], ahead=self.ahead[index]
        )

    def without_seasons(self) -> NetworkInputs:
        """The same windows when nothing before the lookback may be read."""
        return replace(self, seasonal=torch.zeros_like(self.seasonal))

    def columns(self, index: Sequence[int]) -> NetworkInputs:
        """The indicators of the given positions."""
        at = torch.tensor(list(index), dtype=torch.long)
        some = self._each(lambda name, x: x if name in ("calendar", "ahead") else x[:, at])
        names = tuple(self.names[i] for i in index)
        return replace(some, levels=tuple(self.levels[i] for i in index), names=names)

    def _each(self, change: Callable[[str, Tensor], Tensor]) -> NetworkInputs:
        """A copy with every tensor changed."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {name: change(name, x) for name, x in parts.items() if isinstance(x, Tensor)}
        return replace(self, **changed)  # type: ignore[arg-type]


def series_stats(panels: Sequence[Panel], lookback: int) -> dict[str, SeriesStats]:
    """The usual spread and the bounds of every indicator, by name, over all panels that have it."""
    spreads: dict[str, list[float]] = {}
    columns: dict[str, list[FloatArray]] = {}
    for panel in panels:
        for name in panel.names:
            x = panel.column(name)
            x = x[~np.isnan(x)]
            if len(x) == 0:
                continue
            columns.setdefault(name, []).append(x)
            width = min(lookback, len(x))
            starts = range(0, max(1, len(x) - width + 1), max(1, width // 2))
            spreads.setdefault(name, []).extend(float(np.std(x[s : s + width])) for s in starts)
    out = {}
    for name, parts in columns.items():
        x = np.concatenate(parts)
        out[name] = SeriesStats(
            window_spread=float(np.mean(spreads[name])) if float(np.ptp(x)) > 0 else 0.0,
            spread=float(np.std(x)) if float(np.ptp(x)) > 0 else 0.0,
            centre=float(np.mean(x)),
            low=float(x.min()),
            high=float(x.max()),
        )
    return out


def normalise(
    windows: WindowBatch, stats: Mapping[str, SeriesStats], near: int | None = None
) -> tuple[FloatArray, BoolArray, FloatArray, FloatArray]:
    """Instance-normalised values (B, N, L), their mask, and the centre and scale (B, N) that were used.

    The scale is the standard deviation of the window, or of its ``near`` newest rows where there is anything in them,
    floored by a share of the indicator's usual spread where that is known, else (except for counters) by a share of the
    mean: a constant window must not divide by zero, and its forecast must not be certain to the last digit.
    """
    x = np.ascontiguousarray(windows.values.swapaxes(1, 2))
    mask = ~np.isnan(x)
    some = mask
    if near is not None and near < x.shape[-1]:
        some = mask & (np.arange(x.shape[-1]) >= x.shape[-1] - near)
        some = np.where(some.any(-1, keepdims=True), some, mask)
    count = np.maximum(some.sum(-1), 1)
    # Two passes: the mean of large numbers first, then the spread around it.
    centre = np.where(some, x, 0.0).sum(-1) / count
    centre = centre + np.where(some, x - centre[..., None], 0.0).sum(-1) / count
    deviation = np.where(mask, x - centre[..., None], 0.0)
    variance = (np.where(some, deviation, 0.0) ** 2).sum(-1) / count
    floor = np.empty_like(centre)
    for n, indicator in enumerate(windows.indicators):
        known = stats.get(indicator.name)
        if known is not None:
            floor[:, n] = _KNOWN_FLOOR * known.window_spread
        else:
            floor[:, n] = (_COUNTER_FLOOR if indicator.kind == "counter" else _BLIND_FLOOR) * np.abs(centre[:, n])
    scale = np.sqrt(variance + floor**2)
    scale = np.where(scale > 1e-15 * np.abs(centre) + 1e-300, scale, np.maximum(1e-12 * np.abs(centre), 1e-12))
    return deviation / scale[..., None], mask, centre, scale


def make_inputs(
    windows: WindowBatch,
    horizon: int,
    *,
    quantiles: int,
    stats: Mapping[str, SeriesStats] | None = None,
    near: int | None = None,
) -> NetworkInputs:
    """The network's inputs for ``horizon`` steps after each window; ``stats`` as learned by `series_stats`.

    What describes a window in numbers is taken from its ``near`` newest rows, all of them if None.
    """
    stats = stats or {}
    v, mask, centre, scale = normalise(windows, stats, near)
    v = _carry(v, mask)
    newest = slice(-near if near else None, None)
    if near is not None:
        # What is older may be many spreads of the newest rows away.
        v[..., :-near] = np.clip(v[..., :-near], -_CLIP, _CLIP)
    late, seen = v[..., newest], mask[..., newest]
    atoms = _window_quantiles(late, seen, quantiles)
    pace = np.abs(np.diff(late, axis=-1)).mean(-1) if late.shape[-1] > 1 else np.zeros(v.shape[:2])
    summary = _summary(late, seen, atoms, pace, windows, centre, scale, stats)
    spread = np.array([stats[i.name].window_spread if i.name in stats else 0.0 for i in windows.indicators])
    weight = np.where(spread > 0, scale / np.where(spread > 0, spread, 1.0), 1.0)
    low = np.where(np.where(mask, windows.values.swapaxes(1, 2), 0.0).min(-1) >= 0, 0.0, -np.inf)
    for n, indicator in enumerate(windows.indicators):
        if indicator.name in stats and stats[indicator.name].low < 0:
            low[:, n] = -np.inf

    def single(a: npt.NDArray[np.floating] | BoolArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32))

    return NetworkInputs(
        values=single(v),
        mask=single(mask),
        summary=single(summary),
        atoms=single(atoms),
        pace=single(pace),
        seasonal=single(_seasonal(windows, horizon, v, centre, scale)),
        calendar=single(calendar_features(windows, horizon)),
        ahead=torch.arange(1, horizon + 1),
        present=torch.from_numpy(mask.any(-1)),
        centre=torch.from_numpy(centre),
        scale=torch.from_numpy(scale),
        weight=single(weight),
        low=torch.from_numpy(low),
        levels=tuple(int(i.level) for i in windows.indicators),
        names=tuple(i.name for i in windows.indicators),
    )


def calendar_features(windows: WindowBatch, horizon: int) -> FloatArray:
    """(B, S, CALENDAR): day harmonics, weekday, weekend and a flag, all 0 where the times carry no calendar."""
    out = np.zeros((len(windows), horizon, CALENDAR))
    if not windows.calendar:
        return out
    times = windows.end_s[:, None] + windows.step_s * np.arange(1, horizon + 1)
    day = 2 * np.pi * (times % DAY_S) / DAY_S
    for k in range(_DAY_HARMONICS):
        out[..., 2 * k] = np.sin((k + 1) * day)
        out[..., 2 * k + 1] = np.cos((k + 1) * day)
    week = ((times + 3 * DAY_S) % WEEK_S) / WEEK_S  # the epoch began on a Thursday; 0 is Monday
    out[..., -4] = np.sin(2 * np.pi * week)
    out[..., -3] = np.cos(2 * np.pi * week)
    out[..., -2] = week >= 5 / 7
    out[..., -1] = 1.0
    return out


def _carry(v: FloatArray, mask: BoolArray) -> FloatArray:
    """Absent values replaced by the last observed one before them (0, the mean, before the first)."""
    if mask.all():
        return v
    rows = np.arange(v.shape[-1])
    newest = np.maximum.accumulate(np.where(mask, rows, -1), axis=-1)
    carried = np.take_along_axis(v, np.maximum(newest, 0), axis=-1)
    out: FloatArray = np.where(newest >= 0, carried, 0.0)
    return out


def _window_quantiles(v: FloatArray, mask: BoolArray, quantiles: int) -> FloatArray:
    """(B, N, Q) the observed values at the middle ranks of Q equal shares (actual values, not means of two)."""
    ordered = np.sort(np.where(mask, v, np.inf), axis=-1)
    count = mask.sum(-1)
    ranks = (np.arange(quantiles) + 0.5) / quantiles
    at = np.minimum((ranks * count[..., None]).astype(np.int64), np.maximum(count[..., None] - 1, 0))
    picked = np.take_along_axis(ordered, at, axis=-1)
    out: FloatArray = np.where(np.isfinite(picked), picked, 0.0)
    return out


def _summary(
    v: FloatArray,
    mask: BoolArray,
    atoms: FloatArray,
    pace: FloatArray,
    windows: WindowBatch,
    centre: FloatArray,
    scale: FloatArray,
    stats: Mapping[str, SeriesStats],
) -> FloatArray:
    """(B, N, SUMMARY): newest values and changes, averages, quantiles, and how the window moves."""
    b, n, length = v.shape
    recent = np.zeros((b, n, _RECENT))
    take = min(_RECENT, length)
    recent[..., _RECENT - take :] = v[..., length - take :]
    averages = np.stack([v[..., -min(w, length) :].mean(-1) for w in _AVERAGES], axis=-1)
    picks = np.linspace(0, atoms.shape[-1] - 1, _SUMMARY_QUANTILES).round().astype(int)
    change = np.diff(v, axis=-1) if length > 1 else np.zeros((b, n, 1))
    last = v[..., -1:]
    late = min(12, length)
    lag1 = (v[..., 1:] * v[..., :-1]).mean(-1) if length > 1 else np.zeros((b, n))
    rough = np.sqrt((change**2).mean(-1))
    known = [stats.get(i.name) for i in windows.indicators]
    centres = np.array([k.centre if k else 0.0 for k in known])
    spreads = np.array([k.spread if k and k.spread > 0 else np.inf for k in known])
    far = (centre + scale * v[..., -1] - centres) / spreads
    usual = np.array([k.window_spread if k and k.window_spread > 0 else 0.0 for k in known])
    wide = np.where(usual > 0, np.log(scale / np.where(usual > 0, usual, 1.0)), 0.0)
    extra = [
        np.log(pace + 1e-3),
        np.log(np.abs(change[..., -late:]).mean(-1) + 1e-3),
        np.log(v[..., -late:].std(-1) + 1e-3),
        lag1,
        np.log(rough / (pace + 1e-3) + 1e-3),
        (np.abs(change) < 1e-6).mean(-1),
        (np.abs(v - last) < 0.02).mean(-1),
        1.0 - mask.mean(-1),
        far,
        wide,
        np.full((b, n), math.log(windows.step_s / 300.0) / 2.0),
    ]
    parts = [recent, np.diff(recent, axis=-1), averages, atoms[..., picks], np.stack(extra, axis=-1)]
    out: FloatArray = np.clip(np.concatenate(parts, axis=-1), -_CLIP, _CLIP)
    return out


def _seasonal(windows: WindowBatch, horizon: int, v: FloatArray, centre: FloatArray, scale: FloatArray) -> FloatArray:
    """(B, N, S, seasons * SEASONAL): for each season its value, that less its first, less the newest one, a flag."""
    b, n = centre.shape
    seasons = len(windows.seasons_s)
    out = np.zeros((b, n, horizon, seasons * SEASONAL))
    if windows.seasonal is None:
        return out
    raw = windows.seasonal[:, :, :horizon].transpose(0, 3, 2, 1)  # (B, N, S', seasons)
    seen = ~np.isnan(raw)
    value = np.clip((np.where(seen, raw, 0.0) - centre[..., None, None]) / scale[..., None, None], -_CLIP, _CLIP)
    steps = raw.shape[2]
    out[:, :, :steps, 0::SEASONAL] = np.where(seen, value, 0.0)
    out[:, :, :steps, 1::SEASONAL] = np.where(seen & seen[:, :, :1], value - value[:, :, :1], 0.0)
    out[:, :, :steps, 2::SEASONAL] = np.where(seen, value - v[..., -1, None, None], 0.0)
    out[:, :, :steps, 3::SEASONAL] = seen
    return out
