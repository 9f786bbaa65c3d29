"""Learning on line: when what forecasts a service learns anew, and whether it then takes the old one's place.

Time is cut into periods. At the end of each a *challenger* learns a service's rows but for the newest part, which is
held out; it takes the place of what forecasts there only if it forecasts the held-out rows, and either half of them,
better than that and than the model that all services share. Neither has learned these rows: what is served is what was
scored. What one refresh learned is in force from a fixed time on, so that equal rows and an equal schedule give equal
forecasts in a replay, in the demo and in a cluster, however long learning took. Nothing here knows which of them it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from forecasting.base import LOOKBACK, ForecastModel, as_is, rows_read
from forecasting.baselines.common import Baseline
from forecasting.errors import UsageError, suggest
from forecasting.methods import create_method
from forecasting.panel import FloatArray, Panel
from forecasting.pooling import Earned
from forecasting.recalibrated import Recalibrated
from forecasting.specialised import Specialised
from forecasting.windows import RowSource, WindowBatch

if TYPE_CHECKING:
    from forecasting.forecaster import Forecaster

__all__ = [
    "QUICK",
    "Learn",
    "Outcome",
    "Schedule",
    "Standing",
    "calibration_of",
    "learner",
    "method_of",
    "refreshed",
    "shared_model",
]

QUICK = (
    "ensemble",
    "ridge",
    "clock_ridge",
    "seasonal_shape",
    "analogues",
    "last_value",
    "last_value_scaled",
    "seasonal_naive",
    "window_quantiles",
)
"""Methods that learn a service within the budget."""
SAMPLES = 100  # paths of a scored forecast
WEIGHED = 0.15  # of what an ensemble learns, the newest, its members are weighed by
SCORED = 200  # windows, evenly over the held-out rows
LEAST_HELD = 48  # windows that are held out at least
LEAST_LEARNED = 144  # rows beyond a lookback and a horizon that a challenger learns from at least

Check = Callable[[], None]
Learn = Callable[[Panel, int, Check], ForecastModel]
"""A challenger from rows and a horizon; it calls the check now and then, which ends it once its time is over."""


class Outcome(StrEnum):
    """What came of a refresh (a closed set: figures are counted by it)."""

    REPLACED = "Replaced"  # the challenger forecasts the held-out rows better
    KEPT = "Kept"  # it does not
    REVERTED = "Reverted"  # neither it nor the old one is as good as the shared model, which serves again
    RESTORED = "Restored"  # what was in force before a restart was learned again
    FAILED = "Failed"  # the challenger could not learn or forecast
    LATE = "Late"  # its time was over before it was done
    TOO_FEW = "TooFewRows"  # there is not enough to learn from yet


@dataclass(frozen=True, slots=True)
class Schedule:
    """When services learn, and with how much.

    Attributes:
        every_s: period; rows until the end of each are learned.
        budget_s: seconds of a core that one service's refresh may take; infinite where what comes of it must not depend
            on the machine.
        rows: newest rows that are read; what bounds time and memory on any machine.
        held_out: share of them, the newest, that models are scored on.
        better: by which share a score must be less than another's to take its place.

    Raises `UsageError` for what is no time or share.
    """

    every_s: float = 3600.0
    budget_s: float = 3.0
    rows: int = 4032
    held_out: float = 0.15
    better: float = 0.01

    def __post_init__(self) -> None:
        if not (math.isfinite(self.every_s) and self.every_s >= 60.0):
            raise UsageError(f"refresh every {self.every_s:g} s: expected a minute or more, such as 1h")
        if not (self.budget_s > 0 and self.rows >= 1 and 0 < self.held_out < 1 and 0 <= self.better < 1):
            raise UsageError(f"{self}: expected a budget and rows above 0, and shares below 1")

    @property
    def ready_s(self) -> float:
        """From the end of a period until what was learned of it is in force: time for a whole fleet to learn."""
        return min(self.every_s, 3600.0)

    def newest(self, now_s: float) -> int:
        """Number of the newest period that has ended."""
        return math.floor(now_s / self.every_s)

    def in_force(self, now_s: float) -> int:
        """Number of the newest period whose refresh is in force."""
        return math.floor((now_s - self.ready_s) / self.every_s)

    def end_s(self, number: int) -> float:
        """End of a period, seconds since the Unix epoch."""
        return number * self.every_s

    def known(self, source: RowSource, number: int) -> Panel:
        """The demand that is known at the end of a period, from the first reading on; a copy."""
        last = source.row_at(self.end_s(number))
        rows = np.arange(last - self.rows + 1, last + 1)
        values = source.earlier(rows)[:, :1]
        seen = np.flatnonzero(~np.isnan(values[:, 0]))
        first = int(seen[0]) if seen.size else len(values)
        start_s = source.start_s + float(rows[0] + first) * source.step_s
        return Panel(values[first:], source.indicators[:1], start_s, source.step_s, "known", source.calendar)


@dataclass(frozen=True, eq=False, slots=True)
class Standing:
    """How things stand with one service after a refresh.

    Attributes:
        number: the period that was learned of last.
        model: what forecasts this service; None: the shared model.
        learned: the period in whose refresh ``model`` was made; -1 for the shared model.
        outcome, why: what came of the refresh, and a sentence with the figures.
        seconds: of a core that it took.
    """

    number: int
    model: ForecastModel | None
    learned: int
    outcome: Outcome
    why: str
    seconds: float

    @property
    def version(self) -> str:
        """Name and version of what forecasts this service; empty for the shared model."""
        return "" if self.model is None else f"{self.model.name} {self.model.version}"


def shared_model(name: str) -> Forecaster:
    """What forecasts every service until it has something better of its own: a saved model, or else the bundled one.

    Raises `ArtefactError` for a folder that holds no model.
    """
    from forecasting.forecaster import Forecaster

    return Forecaster.base() if name in QUICK else Forecaster.load(name)


# ---- challengers --------------------------------------------------------------------------------------------------
def calibration_of(shared: ForecastModel) -> Learn:
    """The shared model with its levels moved to where a service's outcomes lay."""

    def learn(rows: Panel, horizon: int, check: Check) -> ForecastModel:
        return Recalibrated.of(shared, rows, horizon)

    return learn


def method_of(name: str, shared: ForecastModel) -> Learn:
    """A method fitted on a service's own demand; raises `UsageError` for one that takes longer than a budget allows."""
    if name not in QUICK:
        raise UsageError(f"{name!r} cannot be learned on line; {suggest(name, QUICK)}")

    def learn(rows: Panel, horizon: int, check: Check) -> ForecastModel:
        model = _ensemble(shared) if name == "ensemble" else create_method(name)
        known, judged = rows, []
        if name == "ensemble":  # told what to weigh its members by, it learns them once and not twice
            cut = round((1 - WEIGHED) * len(rows))
            known, judged = rows.rows(0, cut), [rows.rows(cut - LOOKBACK, len(rows))]
        model.fit([known], lookback=LOOKBACK, horizon=horizon, validation=judged, progress=lambda *_: check())
        if isinstance(model, Baseline):
            model.slim()
        return Specialised(model, rows.names[0], (len(rows) - LOOKBACK) * rows.step_s)

    return learn


def _ensemble(shared: ForecastModel) -> ForecastModel:
    """One that pools with the shared model, where that is a flow: thousands need not hold one each."""
    from forecasting.ensemble import Ensemble
    from forecasting.forecaster import Forecaster

    return Ensemble(flow=shared if isinstance(shared, Forecaster) else None)


def learner(name: str, shared: ForecastModel) -> Learn:
    """What a service learns where ``name`` was asked for: a method, or else the calibration of the shared model."""
    return method_of(name, shared) if name in QUICK else calibration_of(shared)


# ---- one refresh --------------------------------------------------------------------------------------------------
class _Over(Exception):  # noqa: N818 - says when, and is no error
    """The time of a refresh is over."""


def refreshed(
    shared: ForecastModel,
    before: Standing | None,
    number: int,
    rows: Panel,
    horizon: int,
    learn: Learn,
    schedule: Schedule,
    clock: Callable[[], float],
    restoring: str = "",
) -> Standing:
    """One refresh of one service: learn, score, keep or replace; never raises, whatever a model does.

    Args:
        shared: the model of all services, which forecasts where nothing better was learned.
        before: how things stood; None at first.
        number: the period that has ended.
        rows: the demand known by then (`Schedule.known`).
        horizon: steps ahead that forecasts are needed.
        learn: makes the challenger.
        schedule: how much is held out, and how long it may take.
        clock: seconds of a core.
        restoring: version that was in force before a restart; a challenger of that version needs no other proof.
    """
    began = clock()
    model, learned = (None, -1) if before is None else (before.model, before.learned)

    def stands(outcome: Outcome, why: str) -> Standing:
        return Standing(number, model, learned, outcome, why, clock() - began)

    def check() -> None:
        if clock() - began > schedule.budget_s:
            raise _Over

    held = max(round(schedule.held_out * len(rows)), LEAST_HELD + horizon)
    cut = len(rows) - held
    if cut < LOOKBACK + horizon + LEAST_LEARNED:
        return stands(Outcome.TOO_FEW, f"{len(rows)} rows are too few to learn from and to score {horizon} steps ahead")
    try:
        challenger = learn(rows.rows(0, cut), horizon, check)
        version = f"{challenger.name} {challenger.version}"
        if restoring and version == restoring:
            model, learned = challenger, number
            return stands(Outcome.RESTORED, f"{version} is in force again")
        check()
        scores = _scores(shared, model, challenger, rows, cut, horizon)
        check()
    except _Over:
        return stands(Outcome.LATE, f"not done after {schedule.budget_s:g} s")
    except Exception as error:  # noqa: BLE001 (whatever a model raises, what forecasts now goes on)
        return stands(Outcome.FAILED, f"{type(error).__name__}: {error}")
    base, old, new = (float(s.mean()) for s in scores)
    in_both = bool((scores[2] < np.minimum(scores[0], scores[1])).all())
    enough = 1.0 - schedule.better
    said = f"CRPS on held-out rows: {new:.4g} learned anew, {old:.4g} before, {base:.4g} shared"
    if in_both and new < enough * min(old, base):
        model, learned = challenger, number
        return stands(Outcome.REPLACED, said)
    if model is not None and base < enough * old:
        model, learned = None, -1
        return stands(Outcome.REVERTED, said)
    return stands(Outcome.KEPT, said)


def _scores(
    shared: ForecastModel, old: ForecastModel | None, new: ForecastModel, rows: Panel, cut: int, horizon: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """CRPS (2,) of the shared model, of what is in force and of the challenger, on both halves of the held-out rows.

    Whoever of the first two cannot forecast is infinitely bad. Raises what the challenger raises, and `ValueError`
    where it has no number for what another has one for.
    """
    ends = np.arange(cut - 1, len(rows) - horizon)
    ends = ends[:: -(-len(ends) // SCORED)]
    outcome = rows.values[ends[:, None] + np.arange(1, horizon + 1)]
    lookback = max(rows_read(m) for m in (shared, old, new) if m is not None)
    windows = WindowBatch.of(rows, ends, lookback, horizon=horizon)
    paths = [as_is(new)(windows, horizon, samples=SAMPLES).paths]
    for model in (shared, old):
        try:
            found = None if model is None else as_is(model)(windows, horizon, samples=SAMPLES).paths
        except Exception:  # noqa: BLE001 (it is out of the race, and the challenger's figures say so)
            found = None
        paths.append(np.full_like(paths[0], np.nan) if found is None else found)
    absent = [np.isnan(p).any(axis=1) for p in paths]
    silent = absent[0] & ~(absent[1] & absent[2])
    if silent.any():
        raise ValueError(f"{new.name} has no number for {silent.mean():.0%} of the forecasts")
    able = [not bool((a & ~absent[0]).any()) for a in absent]
    score = np.full((3, 2), math.inf)
    half = len(ends) // 2
    for k, part in enumerate((slice(0, half), slice(half, None))):
        earned = Earned.of([p[part] for p, ok in zip(paths, able, strict=True) if ok], outcome[part])
        score[able, k] = earned.crps
    return score[1], score[1] if old is None else score[2], score[0]
