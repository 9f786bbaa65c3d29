"""Attention among the tokens of a window: any mechanism trains, predicts, is saved, and leaves absent rows alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forecasting import Forecaster
from forecasting.config import ModelConfig, TrainingConfig
from forecasting.errors import UsageError
from forecasting.features import NetworkInputs, make_inputs
from forecasting.network import ForecastNet
from forecasting.panel import Indicator, Panel
from forecasting.temporal import MixBlock, methods
from forecasting.windows import WindowBatch
from kernels import available

SMALL = ModelConfig(lookback=48, horizon=3, width=16, heads=2, patch=2, step_width=16, quantiles=6, free=4, dropout=0.0)
QUICK = TrainingConfig(steps=30, batch=16, check_every=10, warm_up=5)


def panel(rows: int = 300) -> Panel:
    rng = np.random.default_rng(0)
    day = 10 + 3 * np.sin(2 * np.pi * np.arange(rows) / 48)
    x = day[:, None] * np.array([1.0, 0.1]) * rng.lognormal(0, 0.1, size=(rows, 2))
    return Panel(x, (Indicator("rps", level=1), Indicator("cpu", level=2)), 0.0, 300.0)


def inputs(values: np.ndarray, near: int | None = None) -> NetworkInputs:
    rows = Panel(values, panel().indicators, 0.0, 300.0)
    windows = WindowBatch.of(rows, [len(values) - 1], SMALL.lookback, horizon=3)
    return make_inputs(windows, 3, quantiles=SMALL.quantiles, near=near)


def test_every_method_is_offered_but_those_that_cannot_serve() -> None:
    needs_a_rule, layers, needs_rows = {"masked"}, {"diffqkv", "moh", "sqa"}, {"neighborhood"}
    assert set(methods()) == set(available()) - needs_a_rule - layers - needs_rows


@pytest.mark.parametrize("method", ["mala", None])
def test_rows_older_than_the_near_ones_are_read_by_attention_alone(method: str | None) -> None:
    torch.manual_seed(0)
    net = ForecastNet(replace(SMALL, temporal_attention=method, near_rows=12)).eval()
    values = panel().values[:48]
    old = values.copy()
    old[5] *= 1.5
    a, b = (inputs(x, 12) for x in (values, old))
    with torch.no_grad():
        assert torch.equal(net._hidden(a, net.tokens(a))[1], net._hidden(b, net.tokens(b))[1])
        assert not torch.allclose(net(a).means, net(b).means)


@pytest.mark.parametrize("method", methods())
def test_every_method_lets_old_rows_reach_the_forecast_and_learns(method: str) -> None:
    torch.manual_seed(0)
    net = ForecastNet(replace(SMALL, temporal_attention=method))
    values = panel().values[:48]
    old = values.copy()
    old[5] *= 1.5
    with torch.no_grad():
        before, after = (net.eval()(inputs(x)).means for x in (values, old))
    assert not torch.allclose(before, after)
    net.train()
    net(inputs(values)).means.square().sum().backward()
    for block in net.mix:
        for name, p in block.named_parameters():
            if "core" not in name:  # a gate may be shut
                assert p.grad is not None, name
                assert bool(torch.isfinite(p.grad).all()), name
    assert any(float(p.grad.abs().max()) > 0 for p in net.mix.parameters() if p.grad is not None)


@pytest.mark.parametrize("method", ["wersa", "mala", "lightning", "sliding_window", "sdpa"])
def test_tokens_that_were_not_seen_influence_no_other(method: str) -> None:
    torch.manual_seed(0)
    block = MixBlock(16, 2, 0.0, method=method, options={}).eval()
    x = torch.randn(1, 20, 16)
    seen = torch.ones(1, 20, dtype=torch.bool)
    seen[0, 4:9] = False
    other = x.clone()
    other[0, 4:9] = torch.randn(5, 16)
    with torch.no_grad():
        a, b = block(x, seen), block(other, seen)
        torch.testing.assert_close(a[seen], b[seen], rtol=0, atol=1e-6)
        all_seen = block(x, torch.ones_like(seen))
        torch.testing.assert_close(all_seen, block(x, None))
    assert not torch.allclose(a[seen], all_seen[seen], atol=1e-4)


@pytest.mark.parametrize(
    ("method", "options"), [("wersa", {"levels": 2, "features": 16}), ("sliding_window", {"window": 6})]
)
def test_it_trains_predicts_and_comes_back_from_a_file(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    config = replace(SMALL, temporal_attention=method, temporal_options=options, temporal_mixers=2)
    model = Forecaster(config, QUICK).fit([panel()], lookback=48, horizon=3)
    windows = WindowBatch.of(panel(), range(200, 210), 48, horizon=3)
    got = model.predict(windows, 3, samples=20)
    assert got.paths.shape == (10, 20, 3, 2)
    assert bool(np.isfinite(got.paths).all())
    back = Forecaster.load(model.save(tmp_path / "model"))
    assert back.version == model.version
    assert back.config == config
    assert np.array_equal(back.predict(windows, 3, samples=20).paths, got.paths)
    short = WindowBatch.of(panel(), [200], 7, horizon=3)
    assert bool(np.isfinite(model.predict(short, 3, samples=5).paths).all())


def test_a_window_with_gaps_is_forecast_from_what_is_there() -> None:
    config = replace(SMALL, temporal_attention="mala")
    model = Forecaster(config, QUICK).fit([panel()], lookback=48, horizon=3)
    values = panel().values[:48].copy()
    values[3:21, 0] = np.nan
    values[:, 1] = np.nan
    gappy = Panel(values, panel().indicators, 0.0, 300.0)
    paths = model.predict(WindowBatch.of(gappy, [47], 48, horizon=3), 3, samples=20).paths
    assert bool(np.isfinite(paths[..., 0]).all())
    assert bool(np.isnan(paths[..., 1]).all())


def test_without_it_weights_and_files_are_as_before() -> None:
    assert not any(name.startswith("mix") for name in ForecastNet(SMALL).state_dict())
    assert "temporal_attention" not in SMALL.to_dict()
    assert ModelConfig.from_dict(SMALL.to_dict()) == SMALL


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temporal_attention": "wersaa"}, "no temporal_attention 'wersaa'; did you mean 'wersa'"),
        ({"temporal_attention": "sqa"}, "no temporal_attention 'sqa'"),
        ({"temporal_options": {"window": 3}}, "no temporal_attention that would take them"),
        ({"temporal_attention": "mala", "temporal_options": {"windw": 3}}, "'mala' has no option 'windw'"),
        ({"temporal_attention": "sliding_window", "temporal_options": {"window": -1}}, "window"),
        ({"temporal_attention": "sliding_window", "temporal_options": {"window": "wide"}}, "window"),
        ({"temporal_attention": "wersa", "temporal_options": {"gates": object()}}, "expected a plain value or a list"),
        ({"temporal_attention": "wersa", "temporal_mixers": 0}, "temporal_mixers is 0, expected 1 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelConfig(**settings)
