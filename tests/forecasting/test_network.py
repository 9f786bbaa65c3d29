"""The network: valid flow parameters for any number of indicators, rows and steps, and who may influence whom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from forecasting.config import ModelConfig
from forecasting.errors import UsageError
from forecasting.features import NetworkInputs, make_inputs
from forecasting.network import ForecastNet
from forecasting.panel import Indicator, Panel
from forecasting.windows import WindowBatch

SMALL = ModelConfig(lookback=24, horizon=6, width=16, heads=2, patch=6, step_width=16, quantiles=6, free=4, dropout=0.0)


def inputs(levels: list[int], lookback: int = 24, horizon: int = 4, batch: int = 3, seed: int = 0) -> NetworkInputs:
    x = np.random.default_rng(seed).normal(size=(lookback + batch, len(levels))).cumsum(0)
    indicators = tuple(Indicator(f"x{i}", level=level) for i, level in enumerate(levels))
    windows = WindowBatch.of(
        Panel(x, indicators, 0.0, 60.0), range(lookback - 1, lookback - 1 + batch), lookback, horizon=horizon
    )
    return make_inputs(windows, horizon, quantiles=SMALL.quantiles)


def net(config: ModelConfig = SMALL) -> ForecastNet:
    torch.manual_seed(0)
    made = ForecastNet(config).eval()
    with torch.no_grad():  # away from the neutral start, so that every path carries something
        for p in made.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made


@pytest.mark.parametrize("levels", [[1], [1, 2, 3], [1, 1, 3, 3, 3], [3], [1 + i % 3 for i in range(40)]])
@pytest.mark.parametrize(("lookback", "horizon"), [(24, 6), (7, 1), (2, 3)])
def test_flow_parameters_are_valid_for_any_shape(levels: list[int], lookback: int, horizon: int) -> None:
    ordered = sorted(levels)
    with torch.no_grad():
        context = net()(inputs(ordered, lookback, horizon))
    cells = len(levels) * horizon
    assert context.means.shape[:2] == (3, cells)
    torch.testing.assert_close(context.log_weights.exp().sum(-1), torch.ones(3, cells))
    assert float(context.scales.min()) > 0
    rows = torch.linalg.vector_norm(context.factor, dim=-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))
    assert bool((context.factor.triu(1) == 0).all())
    assert float(torch.diagonal(context.factor, dim1=1, dim2=2).min()) > 0


def test_deeper_indicators_do_not_change_the_forecast_of_those_above() -> None:
    x = inputs([1, 2, 3])
    changed = replace(x, values=x.values.clone(), summary=x.summary.clone(), atoms=x.atoms.clone())
    changed.values[:, 2] += 1.0
    changed.summary[:, 2] += 1.0
    changed.atoms[:, 2] += 1.0
    with torch.no_grad():
        a, b = net()(x), net()(changed)
    torch.testing.assert_close(a.means[:, :8], b.means[:, :8], rtol=0, atol=0)
    torch.testing.assert_close(a.factor[:, :8], b.factor[:, :8], rtol=0, atol=0)
    assert not torch.allclose(a.means[:, 8:], b.means[:, 8:])


def test_swapping_indicators_of_one_level_swaps_their_marginals() -> None:
    x = inputs([1, 2, 2])
    with torch.no_grad():
        a, b = net()(x), net()(x.columns([0, 2, 1]))
    order = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7]
    torch.testing.assert_close(b.means, a.means[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(b.scales, a.scales[:, order], rtol=1e-4, atol=1e-5)


def test_wanted_cells_are_those_of_the_full_answer() -> None:
    x = inputs([1, 1, 2, 3])
    with torch.no_grad():
        full, some = net()(x), net()(x, [2, 0])
    cells = [8, 9, 10, 11, 0, 1, 2, 3]
    torch.testing.assert_close(some.means, full.means[:, cells])
    torch.testing.assert_close(some.factor, full.factor[:, cells, :12])


def test_gradients_reach_every_weight() -> None:
    made = net()
    context = made(inputs([1, 2, 3]))
    (context.means.mean() + context.scales.mean() + (context.log_weights.exp() ** 2).mean()).backward(retain_graph=True)
    (context.factor**3).sum().backward()
    untouched = [name for name, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert untouched == ["identity.weight"]


def test_a_fresh_network_starts_near_the_window_and_its_newest_value() -> None:
    torch.manual_seed(0)
    made = ForecastNet(SMALL).eval()
    x = inputs([1], horizon=1)
    with torch.no_grad():
        context = made(x)
    on_quantiles = context.log_weights[0, 0, : SMALL.quantiles].exp().sum()
    assert 0.3 < float(on_quantiles) < 0.7
    torch.testing.assert_close(context.means[:, 0, : SMALL.quantiles], x.atoms[:, 0], rtol=0, atol=0.2)


def test_zero_masks_are_a_choice_that_matters() -> None:
    plain, zero = net(), net(replace(SMALL, compat_zero_mask=True))
    x = inputs([1, 2, 3])
    with torch.no_grad():
        assert not torch.allclose(plain(x).means, zero(x).means)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="not a multiple of heads"):
        ModelConfig(width=10, heads=4)
    with pytest.raises(UsageError, match="horizon is 0"):
        ModelConfig(horizon=0)
    with pytest.raises(UsageError, match="dropout"):
        ModelConfig(dropout=1.0)
    with pytest.raises(UsageError, match="no setting 'widht' in ModelConfig; did you mean 'width'"):
        ModelConfig.from_dict({"widht": 3})
