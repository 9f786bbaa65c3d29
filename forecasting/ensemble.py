"""`Ensemble`: the joint flow pooled with specialists of one service, by the weights that each has earned there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecasting.base import ForecastModel, Progress
from forecasting.baselines.common import Baseline, Draws
from forecasting.baselines.last_value import LastValue, ScaledLastValue
from forecasting.baselines.ridge import Ridge
from forecasting.baselines.seasonal_naive import SeasonalNaive
from forecasting.baselines.window_quantiles import WindowQuantiles
from forecasting.errors import DataError
from forecasting.forecaster import Forecaster
from forecasting.panel import FloatArray, Panel
from forecasting.pooling import Earned, Levels, arranged, bands, pooled
from forecasting.windows import WindowBatch

__all__ = ["Ensemble"]

HELD_OUT = 0.15
JUDGED = 300  # windows by which members are weighed
SAMPLES = 100  # paths of each of these
FLOW_PRIOR = 0.5
FADE = 0.9  # what is left at an update of what was earned before
SPECIALISTS = (Ridge, LastValue, ScaledLastValue, SeasonalNaive, WindowQuantiles)


class Ensemble(Baseline):
    """The bundled flow pooled with specialists of the service, weighed by their forecasts of held-out rows.

    Specialists are a ridge, the last value (its errors scaled by the window and not), the seasonal value and the
    window's quantiles. Marginals are the pool's, recalibrated; how steps and indicators hang together is the flow's.
    Weights are found by indicator and band of leads on the validation panels (without any: on the last 15 % of each
    panel, after which the specialists learn all of it). A specialist that fails to learn is left out (`left_out` says
    why). `update` judges all members by the newer rows before the specialists learn these.
    """

    method = "ensemble"

    def __init__(self, *, recalibrate: bool = True) -> None:
        super().__init__()
        self.recalibrate = recalibrate
        self.left_out: dict[str, str] = {}
        self._flow = Forecaster.base()
        self.history = self._flow.lookback
        self._members: list[ForecastModel] = [self._flow]
        self._earned: Earned | None = None
        self._levels: Levels | None = None

    @property
    def weights(self) -> dict[str, FloatArray]:
        """Of every member, the flow first: (horizon, indicators) its weight."""
        found = self._weights(self.horizon)
        return {m.name: found[..., k] for k, m in enumerate(self._members)}

    # ---- learning -------------------------------------------------------------------------------------------
    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        seed = int(rng.integers(2**31))
        self._earned, self._levels = None, None
        least = self.lookback + self.horizon
        cuts = [max(least, round((1 - HELD_OUT) * len(p))) for p in panels]
        known = panels if validation else [p.rows(0, cut) for p, cut in zip(panels, cuts, strict=True)]
        judged = validation or [p.rows(max(0, c - self.lookback), len(p)) for p, c in zip(panels, cuts, strict=True)]
        self._fit_specialists(known, validation, seed, progress)
        self._judge(judged, seed)
        if not validation:
            self._fit_specialists(panels, (), seed, progress)

    def _learn_more(self, panels: Sequence[Panel], rng: np.random.Generator) -> None:
        seed = int(rng.integers(2**31))
        self._judge(panels, seed)
        for member in self._members[1:]:
            member.update(panels, seed=seed)

    def _fit_specialists(
        self, panels: Sequence[Panel], validation: Sequence[Panel], seed: int, progress: Progress | None
    ) -> None:
        self._members, self.left_out = [self._flow], {}
        for done, make in enumerate(SPECIALISTS):
            member: ForecastModel = make()
            if progress is not None:
                progress(done, len(SPECIALISTS), f"{self.name}: {member.name}")
            try:
                member.fit(panels, lookback=self.lookback, horizon=self.horizon, validation=validation, seed=seed)
            except (DataError, np.linalg.LinAlgError) as error:
                self.left_out[member.name] = str(error)
            else:
                self._members.append(member)

    def _judge(self, panels: Sequence[Panel], seed: int) -> None:
        """Add to what members have earned, and learn the levels at which outcomes lay in their pool."""
        ends = [np.arange(self.lookback - 1, len(p) - self.horizon) for p in panels]
        thin = max(1, -(-sum(map(len, ends)) // JUDGED))
        paths, outcomes = [], []
        for panel, rows in zip(panels, ends, strict=True):
            if not len(rows):
                continue
            some = rows[(len(rows) - 1) % thin :: thin]
            windows = WindowBatch.of(panel, some, max(self.lookback, self.history), horizon=self.horizon)
            paths.append(self._each(windows, self.horizon, SAMPLES, seed, None))
            outcomes.append(panel.values[some[:, None] + np.arange(1, self.horizon + 1)])
        if not paths:
            return
        members = [np.concatenate(parts) for parts in zip(*paths, strict=True)]
        outcome = np.concatenate(outcomes)
        newer = Earned.of(members, outcome)
        same = self._earned is not None and self._earned.near.shape == newer.near.shape
        self._earned = self._earned.and_newer(newer, FADE) if same and self._earned is not None else newer
        if self.recalibrate:
            self._levels = Levels.of(pooled(members, self._weights(self.horizon)), outcome)

    # ---- forecasting ----------------------------------------------------------------------------------------
    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        names = [self.indicators[c].name for c in draws.columns]
        members = self._each(windows, draws.horizon, draws.samples, int(draws.rng.integers(2**31)), names)
        rising = pooled(members, self._weights(draws.horizon)[:, draws.columns])
        if self._levels is not None:
            own = Levels(self._levels.below[:, draws.columns], self._levels.windows[:, draws.columns])
            rising = own.applied(rising)
        return arranged(rising, members[0])

    def _experts(self, windows: int, horizon: int, columns: list[int]) -> dict[str, FloatArray]:
        shape = (windows, horizon, len(columns))
        return {name: np.broadcast_to(w[:horizon, columns], shape) for name, w in self.weights.items()}

    def _each(
        self, windows: WindowBatch, horizon: int, samples: int, seed: int, only: Sequence[str] | None
    ) -> list[FloatArray]:
        return [m.predict(windows, horizon, samples=samples, seed=seed, only=only).paths for m in self._members]

    def _weights(self, horizon: int) -> FloatArray:
        """(horizon, indicators, members); the prior where nothing was judged."""
        others = len(self._members) - 1
        prior = np.array([FLOW_PRIOR, *[(1 - FLOW_PRIOR) / max(1, others)] * others])
        prior /= prior.sum()
        if self._earned is None:
            return np.broadcast_to(prior, (horizon, len(self.indicators), len(prior)))
        out: FloatArray = self._earned.weights(prior)[bands(horizon)]
        return out
