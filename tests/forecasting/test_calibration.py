"""Widths found on validation: what is too wide is narrowed, what fits is left alone, densities stay densities."""

from __future__ import annotations

import math

import pytest
import torch

from forecasting.calibration import UNCHANGED, WIDTHS, _best, _tally, cell_widths, with_widths
from forecasting.flow import FlowContext, MixtureTransform


def context(windows: int, sigma: float) -> FlowContext:
    """One indicator, one step: two logistic components around 0, about normal with standard deviation sigma."""
    apart = torch.tensor([-0.4, 0.4]).expand(windows, 1, 2) * sigma
    scale = torch.full((windows, 1, 2), 0.5 * sigma)
    return FlowContext(torch.full((windows, 1, 2), math.log(0.5)), apart, scale, torch.ones(windows, 1, 1))


class Outcomes:
    """The part of `Examples` that tallies read."""

    def __init__(self, targets: torch.Tensor) -> None:
        self.targets, self.observed = targets, torch.ones_like(targets, dtype=torch.bool)


@pytest.mark.parametrize(("believed", "expected"), [(1.0, 1.0), (1.4, 0.7), (0.85, 1.15)])
def test_the_width_that_covers_80_percent_is_found(believed: float, expected: float) -> None:
    true = context(4000, 1.0)
    u = torch.randn(4000, 1, generator=torch.Generator().manual_seed(2))
    targets, _ = MixtureTransform().inverse(u, true)
    counts = _tally(context(4000, believed), Outcomes(targets), 1, 1)[:, :, 0]  # type: ignore[arg-type]
    found = _best(counts)
    inside = counts[WIDTHS.index(found), 1] / 4000
    assert float(inside) == pytest.approx(0.8, abs=0.025)
    assert min(found) == pytest.approx(expected, abs=0.11)


def test_few_outcomes_change_nothing() -> None:
    counts = _tally(context(20, 3.0), Outcomes(torch.zeros(20, 1)), 1, 1)[:, :, 0]  # type: ignore[arg-type]
    assert _best(counts) == UNCHANGED


@pytest.mark.parametrize("width", [(0.6, 0.6), (1.0, 0.2), (1.3, 1.3)])
def test_density_still_integrates_to_one_and_the_mean_stays(width: tuple[float, float]) -> None:
    grid = torch.linspace(-30, 30, 60_001)
    many = context(len(grid), 1.0)
    wide = with_widths(many, cell_widths({"a": width}, ["a"], 1))
    density = MixtureTransform.marginals(grid[:, None], wide)[1].exp()[:, 0]
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1.0, abs=1e-4)
    assert float(torch.trapezoid(density * grid, grid)) == pytest.approx(0.0, abs=1e-4)


def test_indicators_without_a_width_are_left_alone() -> None:
    plain = context(3, 1.0)
    assert with_widths(plain, cell_widths({"other": (0.5, 0.5)}, ["a"], 1)) is plain
