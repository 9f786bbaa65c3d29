from __future__ import annotations

import pickle

import numpy as np
import pytest

from forecasting import scores
from forecasting.baselines.ridge import Ridge
from forecasting.distribution import ForecastBatch
from forecasting.ensemble import Ensemble
from forecasting.errors import DataError, UsageError
from forecasting.panel import FloatArray, Panel
from forecasting.pooling import sharing
from forecasting.windows import WindowBatch
from tests.forecasting.builders import panel_of, wavy

LOOKBACK, HORIZON = 48, 6


def split(panel: Panel) -> tuple[Panel, Panel, FloatArray, WindowBatch, FloatArray]:
    """Training, validation, the ends of the test windows, the windows, and what followed."""
    a, b = len(panel) * 6 // 10, len(panel) * 8 // 10
    ends = np.arange(b - 1, len(panel) - HORIZON)
    windows = WindowBatch.of(panel, ends, 144, horizon=HORIZON)
    outcome = panel.values[ends[:, None] + np.arange(1, HORIZON + 1)]
    return panel.rows(0, a), panel.rows(a - LOOKBACK, b), ends, windows, outcome


def crps(model: Ensemble | Ridge, windows: WindowBatch, outcome: FloatArray) -> float:
    return float(np.nanmean(scores.crps(model.predict(windows, HORIZON, samples=100, seed=1).paths, outcome)))


@pytest.mark.parametrize("panel", [wavy(1500), wavy(1500, absent=0.2, seed=1)], ids=["whole", "a fifth absent"])
def test_it_is_no_worse_than_its_best_member(panel: Panel) -> None:
    train, judged, _, windows, outcome = split(panel)
    whole = Ensemble().fit([train], lookback=LOOKBACK, horizon=HORIZON, validation=[judged])
    alone = []
    for member in whole._members:
        found = member.predict(windows, HORIZON, samples=100, seed=1).paths
        alone.append(float(np.nanmean(scores.crps(found, outcome))))
    assert len(alone) == 8
    assert crps(whole, windows, outcome) <= 1.01 * min(alone)


def test_weights_follow_whoever_forecasts_best() -> None:
    panel = wavy(1500)
    train, judged, *_ = split(panel)
    found = Ensemble().fit([train], lookback=LOOKBACK, horizon=HORIZON, validation=[judged])
    weights = {name: float(w.mean()) for name, w in found.weights.items()}
    assert sum(weights.values()) == pytest.approx(1.0)
    others = ("last_value_scaled", "seasonal_naive", "window_quantiles")
    assert weights["ridge"] + weights["clock_ridge"] > max(weights[name] for name in others)


def test_the_paths_hang_together_as_the_flows_do() -> None:
    panel = wavy(900)
    train, judged, _, windows, _ = split(panel)
    found = Ensemble().fit([train], lookback=LOOKBACK, horizon=HORIZON, validation=[judged])
    pool = found.predict(windows, HORIZON, samples=50, seed=4).paths
    independent = np.sort(pool, axis=1)
    rng = np.random.default_rng(0)
    for h in range(1, HORIZON):
        independent[:, :, h] = rng.permuted(independent[:, :, h], axis=1)

    def between_steps(paths: FloatArray) -> float:
        return float(np.mean([np.corrcoef(p[:, 1, 0], p[:, 2, 0])[0, 1] for p in paths]))

    assert between_steps(pool) > 0.2 > abs(between_steps(independent))


def test_an_update_judges_before_it_learns_and_follows_a_new_regime() -> None:
    rng = np.random.default_rng(0)
    noise = panel_of(100 + rng.normal(scale=5.0, size=(1200, 1)))  # what was is what will be: the window itself
    steps = 100 + np.cumsum(rng.normal(scale=5.0, size=(1200, 1)), axis=0)
    found = Ensemble().fit([noise.rows(0, 900)], lookback=LOOKBACK, horizon=HORIZON, validation=[noise.rows(852, 1200)])
    before = found.weights["window_quantiles"]
    for _ in range(6):
        found.update([panel_of(steps)])
    assert (found.weights["window_quantiles"] < 0.5 * before).all()


def test_a_specialist_that_cannot_learn_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Ridge, *_: object, **__: object) -> Ridge:
        raise DataError("no rows like these")

    monkeypatch.setattr(Ridge, "fit", refuse)
    panel = wavy(600)
    found = Ensemble().fit([panel], lookback=LOOKBACK, horizon=HORIZON)
    assert found.left_out == {"ridge": "no rows like these"}
    assert "ridge" not in found.weights
    windows = WindowBatch.of(panel, [500], 144, horizon=HORIZON)
    assert np.isfinite(found.predict(windows, HORIZON, samples=10).paths).all()


def _raises(self: Ridge, *_: object, **__: object) -> ForecastBatch:
    raise RuntimeError("poison")


def _silent(self: Ridge, windows: WindowBatch, horizon: int, *, samples: int = 100, **_: object) -> ForecastBatch:
    paths = np.full((len(windows), samples, horizon, len(windows.indicators)), np.nan)
    return ForecastBatch(paths, windows.indicators, windows.end_s, windows.step_s)


@pytest.mark.parametrize(("broken", "why"), [(_raises, "RuntimeError: poison"), (_silent, "no number in 100%")])
def test_an_expert_that_raises_or_has_no_number_is_left_out_and_said(
    broken: object, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = wavy(600)
    windows = WindowBatch.of(panel, [500, 550], 144, horizon=HORIZON)
    whole = Ensemble().fit([panel], lookback=LOOKBACK, horizon=HORIZON)
    monkeypatch.setattr(Ridge, "predict_as_is", broken)
    later = whole.predict(windows, HORIZON, samples=20).paths
    assert np.isfinite(later).all(), "the flow stands in for who breaks after it was weighed"
    assert ("ridge" in whole.left_out) == (broken is _raises)
    found = Ensemble().fit([panel], lookback=LOOKBACK, horizon=HORIZON)
    assert found.left_out == {"ridge": why}
    assert "ridge" not in found.weights
    assert sum(float(w.mean()) for w in found.weights.values()) == pytest.approx(1.0)
    assert np.isfinite(found.predict(windows, HORIZON, samples=20).paths).all()
    assert np.isfinite(found.update([panel]).predict(windows, HORIZON, samples=20).paths).all()


def test_units_do_not_matter() -> None:
    panel = wavy(900)
    scaled = panel.replace(values=panel.values * 1000)
    found = []
    for p in (panel, scaled):
        train, judged, _, windows, _ = split(p)
        model = Ensemble().fit([train], lookback=LOOKBACK, horizon=HORIZON, validation=[judged])
        found.append(model.predict(windows, HORIZON, samples=50, seed=2).paths)
    np.testing.assert_allclose(found[1] / 1000, found[0], rtol=2e-3)


def test_an_indicator_that_died_is_absent_and_the_others_are_forecast() -> None:
    panel = wavy(900)
    found = Ensemble().fit([panel.rows(0, 700)], lookback=LOOKBACK, horizon=HORIZON)
    values = panel.values.copy()
    values[700:, 1] = np.nan
    windows = WindowBatch.of(panel.replace(values=values), [880], 144, horizon=HORIZON)
    paths = found.predict(windows, HORIZON, samples=20).paths
    assert np.isnan(paths[..., 1]).all()
    assert np.isfinite(paths[..., [0, 2]]).all()


def test_tails_may_be_learned_too_and_a_verdict_is_given_in_any_case() -> None:
    panel = wavy(900, 1)
    train, judged, _, windows, outcome = split(panel)
    assert not Ensemble().verdict.calibrated
    found = [
        Ensemble(tails=tails).fit([train], lookback=LOOKBACK, horizon=HORIZON, validation=[judged])
        for tails in (False, True)
    ]
    assert all("held-out windows of a, central 80% intervals held" in model.verdict.reason for model in found)
    assert crps(found[1], windows, outcome) <= 1.05 * crps(found[0], windows, outcome)
    newer = found[1].update([panel.rows(600, 900)])
    assert np.isfinite(newer.predict(windows, HORIZON, samples=20).paths).all()


def test_a_member_without_a_share_is_not_asked_and_the_forecast_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = wavy(3000)
    train, judged, _, windows, _ = split(panel)
    found = Ensemble().fit([train], lookback=LOOKBACK, horizon=HORIZON, validation=[judged])
    few = found.predict(windows, HORIZON, samples=20, seed=3).paths
    idle = [m for m, w in zip(found._members, sharing(found._weights(HORIZON), 20), strict=True) if not w]
    assert idle, "one of the members is not worth a twentieth"
    with monkeypatch.context() as patch:
        for member in idle:
            patch.setattr(member, "predict_as_is", _raises)
        assert np.array_equal(found.predict(windows, HORIZON, samples=20, seed=3).paths, few, equal_nan=True)
    assert not found.left_out
    monkeypatch.setattr("forecasting.ensemble.sharing", lambda weights, _: np.ones(weights.shape[-1], dtype=bool))
    assert np.array_equal(found.predict(windows, HORIZON, samples=20, seed=3).paths, few, equal_nan=True)


def test_slim_lets_go_of_who_has_no_weight_and_forecasts_the_same() -> None:
    panel = wavy(3000)
    train, judged, _, windows, _ = split(panel)
    found = Ensemble().fit([train], lookback=LOOKBACK, horizon=HORIZON, validation=[judged])
    idle = {name for name, weight in found.weights.items() if not weight.any()}
    assert idle, "one of the members has no weight"
    weights, size = found.weights, len(pickle.dumps(found))
    before = found.predict(windows, HORIZON, samples=200, seed=3).paths
    found.slim()
    assert set(found.weights) == set(weights) - idle
    for name, weight in found.weights.items():
        np.testing.assert_array_equal(weight, weights[name])
    after = found.predict(windows, HORIZON, samples=200, seed=3).paths
    assert np.nanmean(np.abs(after - before)) < 0.02 * np.nanstd(before), "of errors few are kept, in few digits"
    assert len(pickle.dumps(found)) - len(pickle.dumps(Ensemble())) < 0.5 * (size - len(pickle.dumps(Ensemble())))
    with pytest.raises(UsageError, match="fit it anew"):
        found.update([judged])
    again = found.fit([train], lookback=LOOKBACK, horizon=HORIZON, validation=[judged])
    np.testing.assert_array_equal(again.predict(windows, HORIZON, samples=200, seed=3).paths, before)


def test_a_day_in_which_nothing_happened_is_no_reason_to_leave_the_flow() -> None:
    quiet = np.full((1000, 1), 20.0)
    quiet[100:140] = 23.0  # whoever repeats the last value was exactly right ever since
    short, long = (
        Ensemble().fit([panel_of(np.tile(quiet, (days, 1)), step_s=60.0)], lookback=LOOKBACK, horizon=HORIZON)
        for days in (1, 14)
    )
    assert (short.weights["harmony"] > 0.7).all()
    assert (long.weights["harmony"] < short.weights["harmony"]).all()


def test_held_out_windows_reach_back_into_what_was_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    panel = wavy(1000, 1)
    train, judged = panel.rows(0, 800), panel.rows(800 - LOOKBACK, 900)
    seen: list[WindowBatch] = []

    def watched(self: Ensemble, windows: WindowBatch, *given: object) -> list[FloatArray]:
        seen.append(windows)
        return spared(self, windows, *given)  # type: ignore[arg-type]

    spared = Ensemble._each
    monkeypatch.setattr(Ensemble, "_each", watched)
    other = judged.replace(values=judged.values + 1.0)  # rows that differ are those of another service
    for validation in (judged, other):
        Ensemble().fit([train], lookback=LOOKBACK, horizon=HORIZON, validation=[validation])
    joined, alone = seen
    assert len(joined) == len(alone) == 100 - HORIZON + 1
    assert joined.end_s[0] == train.end_s
    assert joined.seasonal is not None
    assert alone.seasonal is not None
    assert not np.isnan(joined.seasonal[:, 0]).any()
    assert np.isnan(alone.seasonal[:, 0]).mean() > 0.5
    np.testing.assert_array_equal(joined.values[0], panel.values[800 - 144 : 800])
