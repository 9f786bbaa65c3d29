"""What the network reads: normalisation, absence, quantiles, calendar, seasons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from forecasting.features import SEASONAL, calendar_features, make_inputs, normalise, series_stats
from forecasting.panel import FloatArray, Indicator, Panel
from forecasting.windows import DAY_S, WindowBatch

MONDAY = 1_704_067_200.0  # 2024-01-01 00:00 UTC


def panel(values: FloatArray, step_s: float = 600.0, *, calendar: bool = True) -> Panel:
    indicators = tuple(Indicator(f"x{i}", level=1 + i % 3) for i in range(values.shape[1]))
    return Panel(values, indicators, MONDAY, step_s, calendar=calendar)


def noise(rows: int, columns: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def window(values: FloatArray) -> WindowBatch:
    p = panel(values)
    return WindowBatch.of(p, [len(p) - 1], len(p), horizon=3)


def test_inputs_do_not_depend_on_the_unit() -> None:
    x = noise(40, 2)
    a = make_inputs(window(x), 3, quantiles=8)
    b = make_inputs(window(1e-9 * x), 3, quantiles=8)
    c = make_inputs(window(1e15 * x), 3, quantiles=8)
    torch.testing.assert_close(a.atoms, b.atoms)
    torch.testing.assert_close(a.summary, c.summary)


def test_small_changes_of_a_large_counter_are_kept() -> None:
    x = noise(40, 1).cumsum(0)
    large = window(4e16 + 1e12 * x)
    counter = replace(large, indicators=(Indicator("x", kind="counter"),))
    a = make_inputs(window(x - x.mean()), 3, quantiles=8)
    torch.testing.assert_close(make_inputs(counter, 3, quantiles=8).atoms, a.atoms, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e15])
def test_normalised_windows_have_mean_zero_and_at_most_unit_spread(size: float) -> None:
    v, mask, centre, scale = normalise(window(size * noise(50, 2)), {})
    assert mask.all()
    assert np.abs(v.mean(-1)).max() < 1e-9
    assert np.allclose(v.std(-1), 1.0, atol=1e-3)
    assert np.allclose(centre[..., None] + scale[..., None] * v, size * noise(50, 2).T[None])


def test_a_constant_window_stays_finite_and_is_centred() -> None:
    for level in (0.0, 7.0, 4e16):
        inputs = make_inputs(window(np.full((30, 1), level)), 3, quantiles=8)
        assert bool((inputs.values == 0).all())
        assert float(inputs.centre) == level
        for t in (inputs.summary, inputs.atoms, inputs.pace, inputs.scale):
            assert bool(torch.isfinite(t).all())


def test_absent_values_do_not_move_the_normalisation() -> None:
    x = noise(40, 1)
    holes = x.copy()
    holes[[3, 17, 39]] = np.nan
    v, mask, centre, scale = normalise(window(holes), {})
    kept = np.delete(x[:, 0], [3, 17, 39])
    assert centre[0, 0] == pytest.approx(kept.mean())
    assert scale[0, 0] == pytest.approx(kept.std(), rel=1e-2)
    assert mask.sum() == 37
    inputs = make_inputs(window(holes), 3, quantiles=8)
    assert float(inputs.values[0, 0, 3]) == float(inputs.values[0, 0, 2])
    assert float(inputs.mask[0, 0, 3]) == 0.0
    assert float(inputs.values[0, 0, -1]) == float(inputs.values[0, 0, -2])
    assert v[0, 0, 3] == 0.0


def test_the_newest_rows_alone_describe_a_window_where_so_wanted() -> None:
    x = noise(60, 2)
    x[:40] = 50.0 + 9.0 * x[:40]
    near = make_inputs(window(x[40:]), 3, quantiles=8)
    inputs = make_inputs(window(x), 3, quantiles=8, near=20)
    for name in ("summary", "atoms", "pace", "centre", "scale", "weight"):
        torch.testing.assert_close(getattr(inputs, name), getattr(near, name))
    torch.testing.assert_close(inputs.values[..., 40:], near.values)
    # The older rows are there, in the newest ones' units, though no farther than these can say.
    assert inputs.values.shape[-1] == 60
    assert bool((inputs.values[..., :40].abs() > 3.0).any())
    assert float(inputs.values.abs().max()) <= 12.0
    # A window no longer than that is as ever.
    a, b = (make_inputs(window(x), 3, quantiles=8, near=n) for n in (100, None))
    for name in ("summary", "atoms", "pace", "centre", "scale", "values"):
        assert torch.equal(getattr(a, name), getattr(b, name))


def test_a_window_without_any_newest_row_is_described_by_the_older_ones() -> None:
    x = noise(60, 1)
    x[40:] = np.nan
    _, _, centre, scale = normalise(window(x), {}, 20)
    assert centre[0, 0] == pytest.approx(x[:40].mean())
    assert scale[0, 0] == pytest.approx(x[:40].std(), rel=1e-2)


def test_what_is_absent_differs_from_what_is_zero() -> None:
    x = noise(40, 1)
    zero, absent = x.copy(), x.copy()
    zero[20:] = 0.0
    absent[20:] = np.nan
    a, b = (make_inputs(window(w), 3, quantiles=8) for w in (zero, absent))
    assert not torch.allclose(a.atoms, b.atoms)
    assert float(b.mask.mean()) == 0.5


def test_a_wholly_absent_indicator_is_marked() -> None:
    x = noise(40, 2)
    x[:, 1] = np.nan
    inputs = make_inputs(window(x), 3, quantiles=8)
    assert inputs.present.tolist() == [[True, False]]
    for t in (inputs.values, inputs.summary, inputs.atoms, inputs.pace):
        assert bool(torch.isfinite(t).all())


def test_atoms_are_values_of_the_window() -> None:
    x = np.where(np.arange(40) % 2 == 0, 5.0, 9.0)[:, None]
    inputs = make_inputs(window(x), 3, quantiles=8)
    raw = inputs.centre[0] + inputs.scale[0] * inputs.atoms[0, 0].double()
    assert np.allclose(np.unique(raw.numpy().round(6)), [5.0, 9.0])


def test_the_calendar_tells_hours_and_days_apart_and_is_silent_without_dates() -> None:
    p = panel(noise(2000, 1))
    ends = [10, 10 + 144, 10 + 144 * 5, 10 + 144 * 7]
    batch = WindowBatch.of(p, ends, 5, horizon=2)
    c = calendar_features(batch, 2)
    assert np.allclose(c[0, :, :8], c[1, :, :8])
    assert not np.allclose(c[0, :, -4:], c[1, :, -4:])
    assert np.allclose(c[0], c[3])
    assert c[2, 0, -2] == 1.0
    assert c[0, 0, -2] == 0.0
    undated = WindowBatch.of(panel(noise(50, 1), calendar=False), [20], 5, horizon=2)
    assert not calendar_features(undated, 2).any()


def test_seasonal_values_are_normalised_like_the_window_and_flagged() -> None:
    x = noise(400, 1)
    batch = WindowBatch.of(panel(x), [200], 30, horizon=3)
    inputs = make_inputs(batch, 3, quantiles=8)
    day = inputs.seasonal[0, 0, :, :SEASONAL].double()
    lag = round(DAY_S / 600.0)
    raw = inputs.centre[0, 0] + inputs.scale[0, 0] * day[:, 0]
    assert np.allclose(raw.numpy(), x[201 - lag : 204 - lag, 0], atol=1e-5)
    assert torch.allclose(day[:, 1], day[:, 0] - day[0, 0])
    assert day[:, 3].tolist() == [1.0, 1.0, 1.0]
    assert not inputs.seasonal[..., SEASONAL:].any()
    assert not inputs.without_seasons().seasonal.any()
    assert not make_inputs(replace(batch, seasonal=None), 3, quantiles=8).seasonal.any()


def test_series_stats_know_constants_bounds_and_usual_spread() -> None:
    x = np.column_stack([noise(500, 1)[:, 0], np.full(500, 3.0), np.full(500, np.nan)])
    stats = series_stats([panel(x)], 50)
    assert set(stats) == {"x0", "x1"}
    assert stats["x1"].spread == stats["x1"].window_spread == 0.0
    assert stats["x0"].low == x[:, 0].min()
    assert 0.8 < stats["x0"].window_spread < 1.1


def test_windows_steps_and_columns_can_be_picked() -> None:
    batch = WindowBatch.of(panel(noise(300, 3)), [100, 150, 200], 30, horizon=4)
    inputs = make_inputs(batch, 4, quantiles=8)
    picked = inputs.take(torch.tensor([2, 0])).columns([1]).steps(torch.tensor([0, 3]))
    assert picked.values.shape == (2, 1, 30)
    assert torch.equal(picked.seasonal[0, 0], inputs.seasonal[2, 1][[0, 3]])
    assert picked.ahead.tolist() == [1, 4]
    assert picked.names == ("x1",)
    assert picked.levels == (2,)
