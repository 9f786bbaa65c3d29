"""`Ensemble`: the joint flow pooled with specialists of one service, by the weights that each has earned there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from forecasting.base import ForecastModel, Progress, as_is
from forecasting.baselines.analogues import Analogues
from forecasting.baselines.clock_ridge import ClockRidge
from forecasting.baselines.common import Baseline, Draws
from forecasting.baselines.last_value import ScaledLastValue
from forecasting.baselines.ridge import Ridge
from forecasting.baselines.seasonal_naive import SeasonalNaive
from forecasting.baselines.seasonal_shape import SeasonalShape
from forecasting.baselines.window_quantiles import WindowQuantiles
from forecasting.chance_zeros import ChanceZeros
from forecasting.errors import InputError
from forecasting.forecaster import Forecaster
from forecasting.panel import BoolArray, FloatArray, IntArray, Panel
from forecasting.pooling import Earned, Levels, arranged, bands, pooled, sharing, without_crumbs, worth
from forecasting.stale import Made
from forecasting.tails import Tails, Verdict, drifted, verdict
from forecasting.windows import WindowBatch

__all__ = ["SPECIALISTS", "Ensemble"]

HELD_OUT = 0.15
ANEW = 1000  # rows: so few are learned anew, for the newest tell much of what there is, and it takes no time
JUDGED = 300  # windows by which members are weighed
SAMPLES = 100  # paths of each of these
FLOW_PRIOR = 0.5
SILENT = 0.5  # of the forecasts that a specialist has no number for, where the flow has one: it is left out
TRUST = 14.0  # windows, half an hour apart or more, with fewer of which the flow is believed rather than they
HARDLY = 3  # times as far ahead as newest rows are absent: a step is hardly farther by these
FADE = 0.9  # what is left at an update of what was earned before
SPECIALISTS: tuple[type[Baseline], ...] = (
    Ridge,
    ClockRidge,
    SeasonalShape,
    Analogues,
    ScaledLastValue,
    SeasonalNaive,
    WindowQuantiles,
)


class Ensemble(Baseline):
    """The bundled flow pooled with specialists of the service, weighed by their forecasts of held-out rows.

    Specialists are two ridges (of one the coefficients turn with the clock), a smoothed level with the usual day
    and week, what followed windows alike, the last value with errors scaled by the window, the seasonal value and
    the window's quantiles. Marginals are the pool's, recalibrated; how steps and indicators hang together is the
    flow's. Weights are found by indicator and band of leads on the validation panels (without any: on the last 15 %
    of each panel, which specialists then learn too); with few held-out hours they stay near the flow, and what is
    worth next to nothing gets nothing. A specialist that fails to learn, raises where it is judged, or has no
    number there for what the flow has one for is left out; one that raises later is stood in for by the flow
    (`left_out` says why). `update` judges all members by the newer rows before the specialists learn these; after
    `slim`, which lets go of specialists without any weight, it is refused. Zeros that come by chance
    (`ChanceZeros`) are hidden from all members and put back into the forecast. `verdict` says whether the forecasts
    of the demand mean what they say.
    """

    method = "ensemble"
    REVISION = 7
    specialists = SPECIALISTS
    judged = JUDGED

    def __init__(self, *, recalibrate: bool = True, tails: bool = False, flow: Forecaster | None = None) -> None:
        """``flow``: the model to pool with, shared; the bundled one by default. ``tails``: learn these too."""
        super().__init__()
        self.recalibrate = recalibrate
        self.tails = tails
        self.left_out: dict[str, str] = {}
        self._flow = Forecaster.base() if flow is None else flow
        self.history = self._flow.lookback
        self._members: list[ForecastModel] = [self._flow]
        self._earned: Earned | None = None
        self._settled: tuple[Earned | None, FloatArray] | None = None  # the weights, and of what they are
        self._levels: Levels | None = None
        self._tails: Tails | None = None
        self._zeros: ChanceZeros | None = None
        self._verdict = Verdict(False, "nothing was judged yet")

    @property
    def verdict(self) -> Verdict:
        """Whether forecasts of the demand mean what they say, by the windows that were judged last."""
        return self._verdict

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
        self._earned, self._levels, self._tails, self.left_out = None, None, None, {}
        self._verdict = Verdict(False, "no held-out windows")
        self._zeros = ChanceZeros.of(panels)
        panels, validation = self._zeros.hidden(panels), self._zeros.hidden(validation)
        least = self.lookback + self.horizon
        cuts = [max(least, round((1 - HELD_OUT) * len(p))) for p in panels]
        known = panels if validation else [p.rows(0, cut) for p, cut in zip(panels, cuts, strict=True)]
        judged = [self._with_past(p, panels) for p in validation] or list(zip(panels, cuts, strict=True))
        self._fit_flow(known, validation, seed, progress)
        self._fit_specialists(known, validation, seed, progress)
        self._judge(judged, seed)
        if validation:
            return
        few = sum(map(len, panels)) <= ANEW
        anew = [m for m in self._members[1:] if few or not (isinstance(m, Baseline) and m.adds_up)]
        self._learn_on(panels, [cut - self.horizon + 1 for cut in cuts], seed, anew)

    def _learn_more(self, panels: Sequence[Panel], past: Sequence[int] | None, rng: np.random.Generator) -> None:
        seed = int(rng.integers(2**31))
        panels = self._zeros.hidden(panels) if self._zeros else panels
        firsts = [max(self.lookback, rows) for rows in past] if past else [self.lookback] * len(panels)
        self._judge(list(zip(panels, firsts, strict=True)), seed)
        self._learn_on(panels, past, seed)

    def _learn_on(
        self, panels: Sequence[Panel], past: Sequence[int] | None, seed: int, anew: Sequence[ForecastModel] = ()
    ) -> None:
        """Specialists learn what lies behind the ``past`` rows of panels, some of them all of it ``anew``."""
        for member in self._members[:0:-1]:
            try:
                if member in anew:
                    member.fit(panels, lookback=self.lookback, horizon=self.horizon, seed=seed)
                elif isinstance(member, Baseline):
                    member.update(panels, seed=seed, past=past)
            except Exception as error:  # noqa: BLE001 (whatever one expert raises, the others forecast)
                self._leave_out(member, error)

    def _fit_flow(
        self, panels: Sequence[Panel], validation: Sequence[Panel], seed: int, progress: Progress | None
    ) -> None:
        """The flow is taken as it is given."""

    def _fit_specialists(
        self, panels: Sequence[Panel], validation: Sequence[Panel], seed: int, progress: Progress | None
    ) -> None:
        self._members = [self._flow]
        for done, make in enumerate(self.specialists):
            member: ForecastModel = make()
            if progress is not None:
                progress(done, len(self.specialists), f"{self.name}: {member.name}")
            try:
                member.fit(panels, lookback=self.lookback, horizon=self.horizon, validation=validation, seed=seed)
            except Exception as error:  # noqa: BLE001 (as above)
                self.left_out[member.name] = _said(error)
                continue
            self._members.append(member)

    def _leave_out(self, member: ForecastModel, why: Exception | str) -> None:
        """Go on without a specialist, and say so."""
        at = self._members.index(member)
        self.left_out[member.name] = why if isinstance(why, str) else _said(why)
        del self._members[at]
        if self._earned is not None:
            self._earned = self._earned.without(at)

    def _with_past(self, validation: Panel, panels: Sequence[Panel]) -> tuple[Panel, int]:
        """A validation panel behind the rows that were learned of the same series, and its first row that is judged.

        Judged without these, windows of the first day and week would lack the values of a day and a week before, which
        forecasts have.
        """
        for panel in panels:
            at = (validation.start_s - panel.start_s) / panel.step_s
            row = round(at)
            if abs(at - row) > 1e-6 or not 0 <= row < len(panel):
                continue
            both = panel.values[row : row + self.lookback]
            if np.array_equal(both, validation.values[: len(both)], equal_nan=True):
                values = np.concatenate([panel.values[:row], validation.values])
                return panel.replace(values=values), row + self.lookback
        return validation, self.lookback

    def _judge(self, parts: Sequence[tuple[Panel, int]], seed: int) -> None:
        """Add to what members have earned, and learn the levels at which outcomes lay in their pool.

        ``parts``: panels, and the first row of each that is forecast.
        """
        ends = [np.arange(first - 1, len(p) - self.horizon) for p, first in parts]
        thin = max(1, -(-sum(map(len, ends)) // self.judged))
        paths, outcomes = [], []
        for (panel, _), rows in zip(parts, ends, strict=True):
            if not len(rows):
                continue
            some = rows[(len(rows) - 1) % thin :: thin]
            windows = WindowBatch.of(panel, some, max(self.lookback, self.history), horizon=self.horizon)
            paths.append(self._each(windows, self.horizon, SAMPLES, seed, None))
            outcomes.append(panel.values[some[:, None] + np.arange(1, self.horizon + 1)])
        if not paths:
            return
        members = paths[0] if len(paths) == 1 else [np.concatenate(parts) for parts in zip(*paths, strict=True)]
        outcome = np.concatenate(outcomes)
        heard = ~_absent(members[0])
        for k in range(len(members) - 1, 0, -1):
            silent = _absent(members[k])[heard]
            name = self._members[k].name
            if name in self.left_out or (silent.size and silent.mean() > SILENT):
                self._leave_out(self._members[k], self.left_out.get(name, f"no number in {silent.mean():.0%}"))
                del members[k]
        newer = Earned.of(members, outcome, worth(self.horizon, self.step_s, thin * self.step_s))
        same = self._earned is not None and self._earned.near.shape == newer.near.shape
        self._earned = self._earned.and_newer(newer, FADE) if same and self._earned is not None else newer
        rising = pooled(members, self._weights(self.horizon))
        if self.recalibrate:
            levels = Levels.of(rising, outcome)
            tails = Tails.tried(levels.applied(rising), outcome) if self.tails else None
            if same and self._levels is not None:
                kept = np.where(drifted(self._levels, levels), 0.0, FADE)
                levels = self._levels.and_newer(levels, kept)
                tails = tails if self._tails is None or tails is None else self._tails.and_newer(tails, kept)
            self._levels, self._tails = levels, tails
        self._verdict = verdict(rising[..., :1], outcome[..., :1], self.indicators[0].name, tails=self.tails)

    # ---- forecasting ----------------------------------------------------------------------------------------
    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        names = [self.indicators[c].name for c in draws.columns]
        weights = self._weights(draws.horizon)[:, draws.columns]
        some = sharing(weights, draws.samples)
        some[0] = True  # the flow says how steps and indicators hang together, whatever its share is
        seed = int(draws.rng.integers(2**31))
        shown = self._zeros.hidden_in(windows) if self._zeros else windows
        members = self._each(shown, draws.horizon, draws.samples, seed, names, some)
        rising = pooled(members, weights[..., some])
        if self._levels is not None:
            rising = self._levels.columns(draws.columns).applied(rising)
        if self._tails is not None:
            rising = self._tails.columns(draws.columns).applied(rising)
        paths = arranged(rising, members[0])
        return self._zeros.put_back(paths, windows, draws.columns, draws.rng) if self._zeros else paths

    def _later(
        self, windows: WindowBatch, rows: int, horizon: int, samples: int, seed: int, only: Sequence[str]
    ) -> Made:
        """As any baseline's within the fitted horizon, beyond it the flow stands in.

        Where that is hardly farther than what was asked, the forecast of the next steps stands: specialists may be
        far better than the flow, and their errors hardly grow from there.
        """
        near = max(0, self.horizon - rows)
        if near >= horizon:
            return super()._later(windows, rows, horizon, samples, seed, only)
        shown = self._zeros.hidden_in(windows) if self._zeros else windows
        flow = self._flow.predict(shown, horizon, samples=samples, seed=seed, only=only).paths
        columns = self._columns(only)
        paths = (
            flow
            if not self._zeros
            else self._zeros.put_back(flow.copy(), windows, columns, np.random.default_rng(seed))
        )
        paths = np.sort(paths, axis=1)
        shares = {m.name: np.zeros((len(windows), horizon, len(columns))) for m in self._members}
        shares[self._flow.name] += 1.0

        def take(steps: IntArray, own: FloatArray, weights: Mapping[str, FloatArray]) -> None:
            paths[:, :, steps] = np.sort(own, axis=1)
            for name, share in shares.items():
                share[:, steps] = weights[name]

        hardly = np.arange(max(near, HARDLY * rows - 1), horizon)
        if len(hardly):
            as_is = self.predict_as_is(windows, horizon, samples=samples, seed=seed, only=only)
            take(hardly, as_is.paths[:, :, hardly], {n: w[:, hardly] for n, w in (as_is.experts or {}).items()})
        if near:
            take(np.arange(near), *super()._later(windows, rows, near, samples, seed, only))
        return arranged(paths, flow), shares

    def _experts(self, windows: int, horizon: int, columns: list[int]) -> dict[str, FloatArray]:
        shape = (windows, horizon, len(columns))
        return {name: np.broadcast_to(w[:horizon, columns], shape) for name, w in self.weights.items()}

    def _each(
        self,
        windows: WindowBatch,
        horizon: int,
        samples: int,
        seed: int,
        only: Sequence[str] | None,
        some: BoolArray | None = None,
    ) -> list[FloatArray]:
        """Paths of ``some`` members (all); of a specialist that raises they are NaN, for which the flow stands in."""
        found = [self._flow.predict_as_is(windows, horizon, samples=samples, seed=seed, only=only).paths]
        for k, member in enumerate(self._members[1:], start=1):
            if some is not None and not some[k]:
                continue
            try:
                found.append(as_is(member)(windows, horizon, samples=samples, seed=seed, only=only).paths)
            except Exception as error:  # noqa: BLE001 (as above)
                self.left_out[member.name] = _said(error)
                found.append(np.full_like(found[0], np.nan))
        return found

    def _let_go(self) -> None:
        """Of specialists without a weight nothing is ever drawn, so they go; weights stay what they were with them."""
        weights = self._by_band()
        kept = [k for k in range(len(self._members)) if k == 0 or weights[..., k].any()]
        self._earned, self._settled = None, (None, weights[..., kept])
        self._members = [self._members[k] for k in kept]
        for member in self._members[1:]:
            if isinstance(member, Baseline):
                member.slim()

    def _weights(self, horizon: int) -> FloatArray:
        """(horizon, indicators, members); the prior where nothing was judged."""
        return self._by_band()[bands(horizon)]

    def _by_band(self) -> FloatArray:
        """(bands, indicators, members) the weights, found once for what was earned."""
        count = len(self._members)
        if self._settled is not None and self._settled[0] is self._earned and self._settled[1].shape[-1] == count:
            return self._settled[1]
        prior = np.array([FLOW_PRIOR, *[(1 - FLOW_PRIOR) / max(1, count - 1)] * (count - 1)])
        prior /= prior.sum()
        if self._earned is None:
            found = np.tile(prior, (len(set(bands(self.horizon))), len(self.indicators), 1))
        else:
            found = without_crumbs(self._earned.weights(prior, TRUST))
        self._settled = self._earned, found
        return found


def _absent(paths: FloatArray) -> BoolArray:
    """(windows, horizon, indicators) where a sample is absent."""
    return np.asarray(np.isnan(paths.min(axis=1)))


def _said(error: Exception) -> str:
    """What an expert raised, in one line."""
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
