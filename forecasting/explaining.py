"""What moved a forecast: shares of the experts that it is made of, and of the indicators and past steps that it read.

Experts are the parts of a mixture (pointers into the window) or the members of a pool, and their shares are the weights
that they have in this forecast. What was read is judged by occlusion: stretches of rows are hidden one at a time, read
as absent by every model, and how far the forecast moves (the Wasserstein distance of its marginals, mean over steps) is
what the stretch counts for. That holds for any forecaster, sees all that its inputs are made of, and is exact about
what was not read at all: it counts 0.

References:
    Occlusion: Zeiler and Fergus 2014 (arXiv 1311.2901), section 4.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from forecasting.base import ForecastModel, as_is, rows_read
from forecasting.errors import DataError, suggest
from forecasting.frames import Frame, is_long, panel_of
from forecasting.panel import FloatArray, IntArray, Panel
from forecasting.windows import DAY_S, WindowBatch

if TYPE_CHECKING:
    from forecasting.habits import BeyondHabit

__all__ = ["Explanation", "Stretch", "explain", "weighed"]

SINGLE_ROWS = 3  # of the newest rows each counts by itself, older ones in stretches that grow
STILL = 1e-9  # of the forecast's size: what moves it by less does not move it


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of the past and their share: ``first`` to ``last`` back from the newest, which is 1.

    With ``season_s`` above 0 it is what was read one season (in seconds) before each step, and the rows are 0.
    """

    first: int
    last: int
    season_s: float
    share: float

    @property
    def label(self) -> str:
        """For people, such as "rows 4 to 6 back"."""
        if self.season_s:
            days = self.season_s / DAY_S
            return "a day before" if days == 1 else "a week before" if days == 7 else f"{days:.3g} days before"
        if self.first == self.last:
            return "the newest row" if self.first == 1 else f"row {self.first} back"
        return f"rows {self.first} to {self.last} back"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What moved the forecast of one indicator. Every group of shares adds up to 1, largest first.

    Where nothing that was read moves the forecast (a constant), the shares of indicators, levels and past are all 0.

    Attributes:
        indicator: whose forecast it is.
        model: name and version of what made it.
        horizon: steps ahead, all counting the same.
        experts: by name, the weight in the forecast.
        indicators: by name, of all that were given; 0 for what was absent or is not read.
        levels: by level of the hierarchy (1 demand, 2 resource, 3 system).
        past: stretches of rows and seasons, over all indicators.
        beyond_habit: what the network's attention is on in this forecast and not in the service's others; None for
            models without attention, and with too little history.
    """

    indicator: str
    model: str
    horizon: int
    experts: dict[str, float]
    indicators: dict[str, float]
    levels: dict[int, float]
    past: tuple[Stretch, ...]
    beyond_habit: BeyondHabit | None = None

    @property
    def sentence(self) -> str:
        """The same in one sentence."""
        made = f"{self.indicator} is forecast from {weighed(self.experts)}"
        if not any(self.indicators.values()):
            return f"{made}; nothing that was read moves it."
        stretches = {s.label: s.share for s in self.past}
        return f"{made}; what moves it is {weighed(self.indicators)}, and of the past {weighed(stretches)}."

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        past = [{"label": s.label, **dataclasses.asdict(s)} for s in self.past]
        levels = {str(level): share for level, share in self.levels.items()}
        beyond = None if self.beyond_habit is None else self.beyond_habit.to_json()
        told = {"levels": levels, "past": past, "beyond_habit": beyond, "sentence": self.sentence}
        return dataclasses.asdict(self) | told


def weighed(shares: Mapping[str, float], most: int = 2) -> str:
    """The largest shares in words: ``ridge (62 %) and last_value (21 %)``."""
    kept = sorted(((share, name) for name, share in shares.items() if share >= 0.005), key=lambda kept: -kept[0])[:most]
    return " and ".join(f"{name} ({100 * share:.0f} %)" for share, name in kept) or "nothing"


def explain(
    model: ForecastModel,
    source: WindowBatch | Panel | Frame,
    horizon: int,
    indicator: str | None = None,
    *,
    samples: int = 100,
    seed: int = 0,
    lookback: int | None = None,
) -> Explanation:
    """What moved the forecast of ``indicator`` (the first one by default) from the last row of ``source`` on.

    Args:
        model: any forecaster that is ready to forecast.
        source: one window, or a panel or wide frame, of which the newest rows are read. What is beyond habit is told
            by older rows, so not of a window.
        horizon: steps ahead.
        indicator: whose forecast is explained.
        samples: paths by which distances are measured.
        seed: of the paths.
        lookback: rows of a panel or frame that a forecast reads, by default what the model reads.

    Raises `DataError` for an unknown indicator, more than one window, or an indicator without any reading.
    """
    lookback = rows_read(model) if lookback is None else lookback
    panel, windows = _read(source, lookback, horizon)
    names = [i.name for i in windows.indicators]
    wanted = names[0] if indicator is None else indicator
    if wanted not in names:
        raise DataError(f"no indicator {wanted!r} to explain the forecast of; {suggest(wanted, names)}")
    if np.isnan(windows.values[0, :, names.index(wanted)]).all():
        raise DataError(f"{wanted} is absent all through the window: there is no forecast of it to explain")
    stretches = _stretches(windows)
    hidden, at = _occluded(windows, stretches)
    ask = as_is(model)  # what is hidden is no outage
    found = ask(hidden, horizon, samples=samples, seed=seed, only=[wanted])
    moved = _moved(np.sort(found.paths[..., 0], axis=1))
    table = np.zeros((len(names), len(stretches)))
    table[at[:, 0], at[:, 1]] = moved / moved.sum() if moved.sum() > 0 else 0.0
    by_indicator = dict(zip(names, table.sum(axis=1).tolist(), strict=True))
    levels: dict[int, float] = {}
    for about in windows.indicators:
        levels[int(about.level)] = levels.get(int(about.level), 0.0) + by_indicator[about.name]
    shares = table.sum(axis=0)
    return Explanation(
        indicator=wanted,
        model=found.model,
        horizon=horizon,
        experts=found[0].leading_experts() or {model.name: 1.0},
        indicators=_largest_first(by_indicator),
        levels=dict(sorted(levels.items())),
        past=tuple(dataclasses.replace(s, share=float(shares[k])) for k, s in enumerate(stretches)),
        beyond_habit=_beyond_habit(model, panel, lookback, wanted, horizon),
    )


def _read(source: WindowBatch | Panel | Frame, lookback: int, horizon: int) -> tuple[Panel | None, WindowBatch]:
    """The one window that the forecast is made of, and the panel that it is the end of."""
    if isinstance(source, WindowBatch):
        if len(source) != 1:
            raise DataError(f"{len(source)} windows given; one forecast is explained at a time")
        return None, source
    if not isinstance(source, Panel):
        if is_long(source):
            raise DataError("a long frame holds several services; explain the forecast of one of them")
        source = panel_of(source)
    if not len(source):
        raise DataError(f"{source.name}: no rows to forecast from")
    panel = source.counters_as_rates()
    return panel, WindowBatch.of(panel, [len(panel) - 1], lookback, horizon=horizon)


def _beyond_habit(
    model: ForecastModel, panel: Panel | None, lookback: int, indicator: str, horizon: int
) -> BeyondHabit | None:
    """What the model's attention is on beyond habit, where it has any and there are rows to tell habit by."""
    from forecasting.habits import Looking, beyond_habit  # lazily: it imports torch

    if panel is None or not isinstance(model, Looking):
        return None
    return beyond_habit(model, panel, len(panel) - 1, lookback, indicator, horizon)


def _stretches(windows: WindowBatch) -> list[Stretch]:
    """The newest rows one by one, older ones in stretches as long as all before them, then the seasons."""
    out, first = [], 1
    while first <= windows.lookback:
        last = first if first <= SINGLE_ROWS else 2 * (first - 1)
        out.append(Stretch(first, min(last, windows.lookback), 0.0, 0.0))
        first = last + 1
    if windows.seasonal is not None:
        out += [Stretch(0, 0, season_s, 0.0) for season_s in windows.seasons_s]
    return out


def _occluded(windows: WindowBatch, stretches: Sequence[Stretch]) -> tuple[WindowBatch, IntArray]:
    """The window as it is, then once without each stretch of each indicator in which anything was read.

    Returns the batch and (batch - 1, 2) which indicator and stretch each of the further windows lacks.
    """
    lookback, seasons = windows.lookback, list(windows.seasons_s)
    values, seasonal, at = [windows.values[0]], [None if windows.seasonal is None else windows.seasonal[0]], []
    for k, stretch in enumerate(stretches):
        for i in range(len(windows.indicators)):
            there, then = values[0], seasonal[0]
            if stretch.season_s:
                assert then is not None  # there are no such stretches without it
                then = _without(then, (seasons.index(stretch.season_s), slice(None), i))
            else:
                there = _without(there, (slice(lookback - stretch.last, lookback - stretch.first + 1), i))
            if there is None or (then is None and seasonal[0] is not None):
                continue
            values.append(there)
            seasonal.append(then)
            at.append((i, k))
    batch = dataclasses.replace(
        windows,
        values=np.stack(values),
        end_s=np.repeat(windows.end_s, len(values)),
        seasonal=None if windows.seasonal is None else np.stack([s for s in seasonal if s is not None]),
    )
    return batch, np.array(at, dtype=np.int64).reshape(-1, 2)


def _without(values: FloatArray, where: tuple[Any, ...]) -> FloatArray | None:
    """A copy in which a part is absent; None if it is already."""
    if np.isnan(values[where]).all():
        return None
    out = values.copy()
    out[where] = np.nan
    return out


def _moved(rising: FloatArray) -> FloatArray:
    """(batch - 1,) how far each forecast lies from the first; rising values (batch, samples, horizon)."""
    away: FloatArray = np.abs(rising[1:] - rising[:1]).mean(axis=(1, 2))
    if not away.size:
        return away
    # Without its only reading an indicator has no forecast: there is nothing that counts for more.
    away = np.where(np.isnan(away), np.nanmax(away, initial=np.abs(rising[0]).mean() + 1e-300), away)
    return np.where(away > STILL * np.abs(rising[0]).mean(), away, 0.0)


def _largest_first(shares: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(shares.items(), key=lambda kept: -kept[1]))
