"""Calibration: how wide each indicator's forecasts should be, found on validation windows after training.

Training stops on a mean over indicators, so a single one may end too wide or too narrow. Its marginals are then
contracted or stretched about their means, or the components of its mixture alone are narrowed (plateaus stay where
they are): means and joint structure stay, and the density stays exact because what results is again a mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from forecasting.features import NetworkInputs
from forecasting.flow import FlowContext, MixtureTransform, mixture_crps
from forecasting.training import Examples

__all__ = ["Width", "cell_widths", "fitted_widths", "with_widths"]

# (stretch of the component centres about the mean, stretch of the component scales)
Width = tuple[float, float]
UNCHANGED: Width = (1.0, 1.0)
WIDTHS: tuple[Width, ...] = (
    *((w / 100, w / 100) for w in range(50, 131, 5)),
    *((1.0, s) for s in (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85)),
)
CENTRAL_80 = 1.2815515655446004  # |u| below this: inside the central 80 % interval
NO_WORSE = 1.005  # a width may cost this much of the CRPS at width 1
LEAST_WINDOWS = 50


def with_widths(context: FlowContext, widths: Tensor) -> FlowContext:
    """The marginals with other ``widths`` (C, 2), one `Width` per cell."""
    if bool((widths == 1.0).all()):
        return context
    centre = (context.log_weights.exp() * context.means).sum(-1, keepdim=True)
    apart, scale = widths.to(context.means.dtype).unbind(-1)
    means = centre + (context.means - centre) * apart[:, None]
    return FlowContext(context.log_weights, means, context.scales * scale[:, None], context.factor)


def cell_widths(widths: Mapping[str, Width], names: Sequence[str], steps: int) -> Tensor:
    """(C, 2) the width of every cell (indicator-major): 1, 1 for an indicator without one."""
    return torch.tensor([widths.get(n, UNCHANGED) for n in names]).repeat_interleave(steps, dim=0)


def fitted_widths(forecast: Callable[[NetworkInputs], FlowContext], sets: Sequence[Examples]) -> dict[str, Width]:
    """Width per indicator whose central 80 % interval covers nearest to 80 % of the validation outcomes.

    Widths that worsen the indicator's CRPS by more than half a percent are not considered: forecasts of plateaus
    cover more than their level by nature and are left alone. ``sets`` share their indicators' names or not; an
    indicator with fewer than 50 outcomes keeps width 1.
    """
    tally: dict[str, Tensor] = {}
    with torch.no_grad():
        for examples in sets:
            names, steps = examples.inputs.names, len(examples.inputs.ahead)
            for index in torch.split(torch.arange(len(examples)), 256):
                part = examples.take(index)
                counts = _tally(forecast(part.inputs), part, len(names), steps)
                for n, name in enumerate(names):
                    tally[name] = tally.get(name, torch.zeros(len(WIDTHS), 3)) + counts[:, :, n].cpu()
    return {name: width for name, counts in tally.items() if (width := _best(counts)) != UNCHANGED}


def _tally(context: FlowContext, part: Examples, indicators: int, steps: int) -> Tensor:
    """(widths, 3, indicators): summed CRPS, outcomes inside the central 80 % interval, and outcomes."""
    seen = part.observed.float()
    rows = []
    for width in WIDTHS:
        wide = with_widths(context, torch.tensor(width).expand(indicators * steps, 2))
        u, _ = MixtureTransform.marginals(part.targets, wide)
        inside = (u.abs() <= CENTRAL_80).float()
        columns = (mixture_crps(part.targets, wide) * seen, inside * seen, seen)
        rows.append(torch.stack([c.view(-1, indicators, steps).sum((0, 2)) for c in columns]))
    return torch.stack(rows)


def _best(counts: Tensor) -> Width:
    """The width from (widths, 3) tallies."""
    scores, inside, seen = counts.double().unbind(1)
    if float(seen[0]) < LEAST_WINDOWS:
        return UNCHANGED
    one = WIDTHS.index(UNCHANGED)
    allowed = scores <= scores[one] * NO_WORSE
    off = (inside / seen - 0.8).abs() + torch.where(allowed, 0.0, torch.inf)
    off[one] -= 1e-9  # ties stay as trained
    return WIDTHS[int(off.argmin())]
