"""Finding the weights: windows, thinning, a fixed validation score, and that likelihood training finds the truth."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from forecasting import training
from forecasting.config import ModelConfig, TrainingConfig
from forecasting.errors import DataError, UsageError
from forecasting.features import series_stats
from forecasting.network import ForecastNet
from forecasting.panel import FloatArray, Indicator, Panel
from forecasting.training import Examples, examples_of, score_examples, train

SMALL = ModelConfig(lookback=12, horizon=4, width=8, heads=2, patch=6, step_width=16, quantiles=6, free=4, dropout=0.0)
QUICK = TrainingConfig(steps=30, batch=16, check_every=10, warm_up=5)


def panel(values: FloatArray) -> Panel:
    return Panel(values, tuple(Indicator(f"x{i}", level=i % 3 + 1) for i in range(values.shape[1])), 0.0, 600.0)


def made(values: FloatArray, horizon: int = 4, **options: int) -> Examples:
    p = panel(values)
    found = examples_of(p, SMALL, lookback=12, horizon=horizon, stats=series_stats([p], 12), **options)
    assert found is not None
    return found


def noise(rows: int, columns: int = 2, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def test_targets_are_what_came_after_in_the_windows_own_scale() -> None:
    x = noise(60)
    e = made(x)
    scale, centre = e.inputs.scale, e.inputs.centre
    raw = (e.targets.view(len(e), 2, 4).double() * scale[..., None] + centre[..., None]).numpy()
    ends = np.arange(3, 56)
    assert np.allclose(raw[:, 1, 2], x[ends + 3, 1], atol=1e-4)
    assert bool(e.observed.all())


def test_absent_outcomes_are_not_observed() -> None:
    x = noise(60)
    x[30, 1] = np.nan
    e = made(x)
    assert int((~e.observed).sum()) == 4
    assert bool(torch.isfinite(e.targets).all())


def test_history_rows_of_validation_are_not_scored_and_limits_spread_evenly() -> None:
    e = made(noise(100), first=40)
    assert len(e) == 100 - 4 - 39
    assert len(made(noise(100), limit=7)) == 7


def test_too_short_a_panel_gives_no_window() -> None:
    assert examples_of(panel(noise(5)), SMALL, lookback=12, horizon=4, stats={}, first=4) is None
    with pytest.raises(DataError, match="no window to learn from"):
        train(ForecastNet(SMALL), [], [], QUICK, seed=0)


def test_steps_and_seasons_can_be_taken_away() -> None:
    e = made(noise(300))
    some = e.steps(torch.tensor([0, 3]))
    assert torch.equal(some.targets.view(-1, 2, 2)[:, 1], e.targets.view(-1, 2, 4)[:, 1][:, [0, 3]])
    assert bool(e.inputs.seasonal.any())
    assert not e.without_seasons().inputs.seasonal.any()


def fitted(seed: int, examples: Examples) -> ForecastNet:
    torch.manual_seed(seed)
    return train(ForecastNet(SMALL), [examples], [examples], QUICK, seed=seed).net


@pytest.mark.slow
def test_equal_seeds_give_equal_weights_and_torchs_generator_is_left_alone() -> None:
    e = made(noise(200))
    net = ForecastNet(SMALL)
    before = torch.get_rng_state()
    train(net, [e], [e], replace(QUICK, steps=2), seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    a, b, c = fitted(1, e), fitted(1, e), fitted(2, e)
    same = [torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(b.head.weight, c.head.weight)


class GoneError(Exception):
    """Stands for a machine that goes away."""


def test_training_that_was_interrupted_ends_with_the_weights_of_training_in_one_go(tmp_path: Path) -> None:
    e, judge = made(noise(200)), made(noise(80, seed=1))
    config = replace(QUICK, hide_seasons=0.5, steps_ahead=2)
    shape = replace(SMALL, dropout=0.2)

    def learn(path: Path | None, until: int = 1000) -> training.TrainedNet:
        def stop(step: int, scores: tuple[float, float, float, float]) -> None:
            if step > until:
                raise GoneError

        torch.manual_seed(0)
        return train(ForecastNet(shape), [e], [judge], config, seed=5, on_check=stop, checkpoint=path)

    whole = learn(None)
    path = tmp_path / "made" / "checkpoint"
    with pytest.raises(GoneError):
        learn(path, until=10)
    torch.manual_seed(77)
    resumed = learn(path)
    assert (resumed.score, resumed.steps) == (whole.score, whole.steps)
    for a, b in zip(resumed.net.parameters(), whole.net.parameters(), strict=True):
        assert torch.equal(a, b)
    again = learn(path)  # nothing is left to do
    assert again.score == whole.score
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint"]


def test_a_checkpoint_of_other_windows_or_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    train(ForecastNet(SMALL), [made(noise(80))], [], QUICK, seed=0, checkpoint=path)
    for rows, config, seed in ((90, QUICK, 0), (80, replace(QUICK, learning_rate=0.1), 0), (80, QUICK, 1)):
        with pytest.raises(UsageError, match="a checkpoint of other windows or settings; remove it to begin anew"):
            train(ForecastNet(SMALL), [made(noise(rows))], [], config, seed=seed, checkpoint=path)


def test_the_best_weights_by_validation_are_kept_and_a_good_start_can_win() -> None:
    e = made(noise(200))
    net = fitted(0, e)
    start = score_examples(net, [e], QUICK)[0]
    hopeless = TrainingConfig(steps=20, batch=16, check_every=10, warm_up=1, learning_rate=1.0)
    kept = train(net, [e], [e], hopeless, seed=0, keep_start=True)
    assert kept.steps == 0
    assert kept.score == start


def test_progress_and_checks_are_told() -> None:
    told: list[tuple[int, int]] = []
    train(ForecastNet(SMALL), [made(noise(80))], [], QUICK, seed=0, progress=lambda i, n, note: told.append((i, n)))
    assert told == [(10, 30), (20, 30), (30, 30)]


def test_an_outlier_does_not_break_training() -> None:
    x = noise(200)
    x[100] = 1e9
    net = fitted(0, made(x))
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())


@pytest.mark.slow
def test_likelihood_alone_finds_the_entropy_of_white_noise() -> None:
    e, fresh = made(noise(1500, 1), horizon=1), made(noise(600, 1, seed=9), horizon=1)
    config = TrainingConfig(steps=150, batch=64, crps_weight=0.0, likelihood_weight=1.0, check_every=50, warm_up=10)
    torch.manual_seed(0)
    net = train(ForecastNet(SMALL), [e], [fresh], config, seed=0).net
    _, nll, _, _ = score_examples(net, [fresh], config)
    # In the window's own scale noise has about unit spread: entropy log(sqrt(2 pi e)) = 1.42, and a little more since
    # mean and spread are estimated from 12 values.
    assert 1.40 < nll < 1.72


def test_settings_are_checked() -> None:
    with pytest.raises(UsageError, match="learning_rate"):
        TrainingConfig(learning_rate=0.0)
    with pytest.raises(UsageError, match="steps is 0"):
        TrainingConfig(steps=0)
    assert TrainingConfig.from_dict(QUICK.to_dict()) == QUICK


def test_windows_prepared_in_parts_are_those_prepared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=(200, 3))
    values[::7, 1] = np.nan
    both = []
    for together in (10**9, 12 * 3 * 7):
        monkeypatch.setattr(training, "_READ_VALUES", together)
        both.append(made(values))
    whole, parted = both
    assert len(whole) == len(parted) > 100
    for part in fields(whole.inputs):
        a, b = (getattr(x.inputs, part.name) for x in (whole, parted))
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, part.name
    assert torch.equal(whole.targets, parted.targets)
