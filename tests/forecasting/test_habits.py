"""What attention is on beyond habit: nothing where nothing is new, and what was planted first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forecasting import habits
from forecasting.attention import TimeBlock
from forecasting.base import ForecastModel
from forecasting.baselines.last_value import LastValue
from forecasting.config import ModelConfig, TrainingConfig
from forecasting.errors import DataError
from forecasting.explaining import explain
from forecasting.forecaster import Forecaster
from forecasting.panel import FloatArray, Indicator, Panel
from forecasting.windows import WindowBatch

DAY, STEP_S, LOOKBACK, PATCH = 288, 300.0, 144, 12
ROWS = 12 * DAY + 77


@pytest.fixture(scope="module")
def base() -> Forecaster:
    return Forecaster.base()


def repeating(rows: int = ROWS, noise: float = 0.0, seed: int = 0) -> FloatArray:
    """A wave and a pulse, the same every day."""
    t, rng = np.arange(rows), np.random.default_rng(seed)
    out: FloatArray = 10 + 3 * np.sin(2 * np.pi * t / DAY) + 8.0 * (t % DAY < 4) + noise * rng.normal(size=rows)
    return out


def panel_of(x: FloatArray) -> Panel:
    return Panel(x.reshape(len(x), -1)[:, :1], (Indicator("x"),), 0.0, STEP_S)


def found(model: ForecastModel, panel: Panel, horizon: int = 6) -> habits.BeyondHabit:
    out = explain(model, panel, horizon, samples=10).beyond_habit
    assert out is not None
    return out


# ---- the bundled model ------------------------------------------------------------------------------------------
def test_where_every_day_is_the_same_nothing_is_beyond_habit(base: Forecaster) -> None:
    out = found(base, panel_of(repeating()))
    assert (out.same_hour, out.windows, out.unusual) == (True, 11, 0.0)
    assert [s.share for s in out.stretches] == pytest.approx([1 / 12] * 12, abs=1e-12)
    assert "nothing beyond habit" in out.sentence


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_burst_in_what_repeats_ranks_first(base: Forecaster, noise: float) -> None:
    """In each of the older stretches, though every day has a pulse as high; without noise always."""
    first = []
    for k in range(1, 12):
        x = repeating(noise=noise, seed=k)
        x[ROWS - PATCH * (k + 1) + 3 : ROWS - PATCH * (k + 1) + 9] += 8.0
        out = found(base, panel_of(x))
        assert sum(s.share for s in out.stretches) == pytest.approx(1.0)
        assert out.unusual == 1.0 or noise
        shares = [s.share for s in out.stretches]
        first.append(int(np.argmax(shares)) == k)
        assert not first[-1] or f"on rows {PATCH * k + 1} to {PATCH * (k + 1)} back" in out.sentence or noise
    assert np.mean(first) >= 0.9


def test_habit_divides_out_what_is_there_every_day(base: Forecaster) -> None:
    """The attention itself is on parts of a daily wave as much as on a small burst; beyond habit it is less so."""
    beyond, alone = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = 10 + 5 * np.sin(2 * np.pi * (np.arange(ROWS) + rng.integers(DAY)) / DAY) + 0.25 * rng.normal(size=ROWS)
        k = 1 + int(rng.integers(11))
        x[ROWS - PATCH * (k + 1) + 3 : ROWS - PATCH * (k + 1) + 9] += 2.0
        panel = panel_of(x)
        beyond.append(int(np.argmax([s.share for s in found(base, panel).stretches])) == k)
        weights, rows = base.looks(WindowBatch.of(panel, [ROWS - 1], LOOKBACK), "x", 6)
        assert (weights.shape, rows) == ((1, 12), PATCH)
        alone.append(int(weights[0, ::-1].argmax()) == k)
    assert np.mean(beyond) >= 0.6
    assert np.mean(beyond) >= np.mean(alone) + 0.1


def test_units_and_other_indicators_change_nothing(base: Forecaster) -> None:
    x = repeating(noise=0.2)
    plain = found(base, panel_of(x))
    scaled = found(base, panel_of(1000.0 * x))
    assert [s.share for s in scaled.stretches] == pytest.approx([s.share for s in plain.stretches], abs=1e-4)
    beside = np.column_stack([x, np.random.default_rng(1).gamma(2.0, size=len(x))])
    panel = Panel(beside, (Indicator("x"), Indicator("y")), 0.0, STEP_S)
    assert [s.share for s in found(base, panel).stretches] == pytest.approx([s.share for s in plain.stretches])


def test_what_was_not_read_has_no_share(base: Forecaster) -> None:
    x = repeating(noise=0.2)
    x[ROWS - 5 * PATCH : ROWS - 3 * PATCH] = np.nan
    shares = [s.share for s in found(base, panel_of(x)).stretches]
    assert shares[3:5] == [0.0, 0.0]
    assert min(shares[:3] + shares[5:]) > 0.0
    assert sum(shares) == pytest.approx(1.0)


def test_far_ahead_it_reads_longer_stretches(base: Forecaster) -> None:
    out = found(base, panel_of(repeating(noise=0.2)), horizon=40)
    assert [(s.first, s.last) for s in out.stretches] == [(24 * k + 1, 24 * (k + 1)) for k in range(6)]


def test_it_is_left_out_where_habit_cannot_be_told(base: Forecaster) -> None:
    panel = panel_of(repeating())
    fitted = LastValue().fit([panel], lookback=24, horizon=2)
    assert fitted.explain(panel, 2).beyond_habit is None
    assert base.explain(WindowBatch.of(panel, [ROWS - 1], LOOKBACK, horizon=2), 2).beyond_habit is None
    short = base.explain(panel.rows(0, 2 * LOOKBACK), 2)
    assert short.beyond_habit is None
    assert short.to_json()["beyond_habit"] is None
    dead = panel.values.copy()
    dead[: -LOOKBACK + 5] = np.nan
    assert base.explain(panel.replace(values=dead), 2).beyond_habit is None


def test_in_plain_values_it_says_all(base: Forecaster) -> None:
    told = base.explain(panel_of(repeating(noise=0.2)), 2).to_json()["beyond_habit"]
    assert set(told) == {"stretches", "unusual", "windows", "same_hour", "sentence"}
    assert told["stretches"][1]["label"] == "rows 13 to 24 back"


def test_mistakes_are_named(base: Forecaster) -> None:
    windows = WindowBatch.of(panel_of(repeating()), [ROWS - 1], LOOKBACK)
    with pytest.raises(DataError, match="no indicator 'z' among"):
        base.looks(windows, "z", 2)
    with pytest.raises(DataError, match="knows nothing yet"):
        Forecaster().looks(windows, "x", 2)


def test_members_and_layers_are_read() -> None:
    panel = panel_of(repeating(600, noise=0.2))
    shape = ModelConfig(
        lookback=24, horizon=2, width=16, heads=2, patch=5, step_width=16, quantiles=6, free=4, temporal_layers=2
    )
    quick = TrainingConfig(steps=4, batch=16, check_every=4, warm_up=2, members=2)
    two = Forecaster(shape, quick).fit([panel], lookback=24, horizon=2)
    windows = WindowBatch.of(panel, [400, 500], 24)
    weights, rows = two.looks(windows, "x", 2)
    assert (weights.shape, rows) == ((2, 5), 5)
    assert weights.sum(axis=1) == pytest.approx([1.0, 1.0])
    alone = [Forecaster.of_networks([net]) for net in two.networks]
    for one in alone:
        one._stats = two._stats
    assert weights == pytest.approx(np.mean([one.looks(windows, "x", 2)[0] for one in alone], axis=0))
    out = found(two, panel, 2)
    assert [(s.first, s.last) for s in out.stretches] == [(1, 5), (6, 10), (11, 15), (16, 20), (21, 24)]
    assert not out.same_hour


# ---- the parts --------------------------------------------------------------------------------------------------
def test_the_weights_are_those_by_which_the_token_is_made() -> None:
    torch.manual_seed(0)
    block = TimeBlock(8, 1, 0.0).eval()
    x, mask = torch.randn(3, 6, 8), torch.ones(3, 6, dtype=torch.bool)
    mask[1, :2] = False
    weights = block.looks(x, mask)
    v = block.to_kv(block.norm(x)).chunk(2, dim=-1)[1]
    made = block.finish(x[:, -1:], (weights[:, None, None] @ v[:, None]))
    torch.testing.assert_close(made, block(x, mask, only_last=True))
    assert (weights[1, :2] == 0).all()


@given(st.integers(0, 10_000), st.integers(2, 20), st.integers(10, 40))
def test_shares_are_of_what_is_looked_at(seed: int, stretches: int, windows: int) -> None:
    rng = np.random.default_rng(seed)
    before = rng.dirichlet(np.ones(stretches), size=windows)
    now = rng.dirichlet(np.ones(stretches))
    hidden = rng.random(stretches) < 0.3
    hidden[rng.integers(stretches)] = False
    now = np.where(hidden, 0.0, now)
    shares, unusual = habits.contrasted(now, before)
    assert shares.sum() == pytest.approx(1.0)
    assert (shares[hidden] == 0).all()
    assert 0.0 <= unusual <= 1.0
    even, none = habits.contrasted(before.mean(axis=0), before)
    assert even == pytest.approx(np.full(stretches, 1 / stretches))
    assert none == 0.0
    assert habits.contrasted(3.0 * now, before)[0] == pytest.approx(shares)


def test_a_signal_is_found_under_any_habit() -> None:
    rng = np.random.default_rng(0)
    usual, signal = rng.dirichlet(np.full(12, 3.0)), np.ones(12)
    signal[int(usual.argmin())] = 3.0
    now = usual * signal
    shares, unusual = habits.contrasted(now / now.sum(), rng.dirichlet(4000 * usual, size=30))
    assert now.argmax() != usual.argmin()
    assert shares.argmax() == usual.argmin()
    assert unusual > 0.9


def test_ordinary_attention_is_rarely_called_unusual() -> None:
    rng = np.random.default_rng(0)
    called = [
        habits.contrasted(rng.dirichlet(np.ones(12)), rng.dirichlet(np.ones(12), size=19))[1] >= habits.UNUSUAL
        for _ in range(600)
    ]
    assert 0.05 < np.mean(called) < 0.15


def test_earlier_windows_share_no_row_with_this_one() -> None:
    ends, same_hour = habits.earlier_ends(ROWS - 1, LOOKBACK, STEP_S)
    assert same_hour
    assert list(ROWS - 1 - ends) == [DAY * k for k in range(11, 0, -1)]
    hourly, same_hour = habits.earlier_ends(40 * 24, LOOKBACK, 3600.0)
    assert same_hour
    assert hourly.max() == 40 * 24 - LOOKBACK, "six days back, where a window ends before this one begins"
    for end, step_s in ((5 * DAY, STEP_S), (5000, 86_400.0)):
        spread, same_hour = habits.earlier_ends(end, LOOKBACK, step_s)
        assert (same_hour, len(spread)) == (False, habits.MOST_SPREAD)
        assert (spread.min(), spread.max()) == (LOOKBACK - 1, end - LOOKBACK)
    assert len(habits.earlier_ends(2 * LOOKBACK - 2, LOOKBACK, STEP_S)[0]) == 0
    assert list(habits.earlier_ends(2 * LOOKBACK - 1, LOOKBACK, STEP_S)[0]) == [LOOKBACK - 1]


def test_words_for_each_case() -> None:
    panel = panel_of(repeating(noise=0.2))
    out = found(Forecaster.base(), panel)
    even = tuple(replace(s, share=1 / 12) for s in out.stretches)
    assert "on no stretch clearly more" in replace(out, stretches=even, unusual=1.0).sentence
    assert replace(out, unusual=0.5, same_hour=False).sentence == (
        "Its attention is where it is in earlier forecasts: nothing beyond habit."
    )
    steep = (replace(even[0], share=0.5), *(replace(s, share=0.5 / 11) for s in even[1:]))
    assert replace(out, stretches=steep, unusual=0.95).sentence == (
        "Beyond what it is on in earlier forecasts at this time of day, its attention is on rows 1 to 12 back (50 %)."
    )
