"""A window for every head of a trained forecaster (MoA, arXiv 2406.14909): profile, optimise, validate.

How much the loss would change without each block of tokens is measured at short lookbacks; plans of a window per head
come from a whole-number programme; the one that scores best at a longer lookback, which was not measured, is kept.
Targets are what came true: a forecaster has them, where the paper takes a dense model's own answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from forecasting.config import TrainingConfig
from forecasting.errors import DataError, UsageError
from forecasting.flow import JointFlow
from forecasting.forecaster import Forecaster
from forecasting.network import ForecastNet
from forecasting.panel import Panel
from forecasting.training import Examples, losses, score_examples
from kernels import KernelError, build
from kernels.windows.span_search import (
    Span,
    SpanPlan,
    choose_spans,
    influence,
    span_density,
    span_grid,
    span_losses,
)

__all__ = ["Judged", "WindowPlan", "plan_windows"]

_DENSE = "sdpa"
_WINDOWED = "elastic_window"
_TOGETHER = 8
"""Windows whose gradients are taken together."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Windows never measured, read by all tokens, by the plan, and by one window for all heads that costs as much.

    Scores are what training minimises, smaller is better; CRPS in units of each indicator's usual spread.
    """

    rows: int
    windows: int
    dense: float
    plan: float
    uniform: float
    dense_crps: float
    plan_crps: float
    uniform_crps: float


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Options of `elastic_window` for a forecaster's attention among rows, and what they cost and lose.

    Attributes:
        options: `temporal_options` of the method "elastic_window": a span per head, and the block.
        uniform: the same with one span for all heads, the widest that costs no more.
        profiled: by rows of the lookback, the loss that the plan was estimated to add.
        densities: by rows, the mean share of tokens that a query sees.
        plans: that no other plan beat at every lookback, of which this one scored best.
        judged: at the lookback that was not measured.
    """

    options: dict[str, Any]
    uniform: dict[str, Any]
    profiled: dict[int, float]
    densities: dict[int, float]
    plans: int
    judged: Judged

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "method": _WINDOWED,
            "options": self.options,
            "uniform": self.uniform,
            "profiled": {str(n): x for n, x in self.profiled.items()},
            "densities": {str(n): x for n, x in self.densities.items()},
            "plans": self.plans,
            "judged": asdict(self.judged),
        }


def plan_windows(
    forecaster: Forecaster,
    panel: Panel,
    *,
    lookbacks: Sequence[int] | None = None,
    judged_at: int | None = None,
    density: float = 0.5,
    windows: int = 64,
    validation: float = 0.3,
) -> WindowPlan:
    """Choose a window per head for a forecaster whose rows attend to all rows.

    Args:
        forecaster: trained with ``temporal_attention="sdpa"``; its first member is measured.
        panel: what was observed. Its first rows are measured, its last ones judged.
        lookbacks: rows at which influence is measured; a quarter and half of ``judged_at`` if None.
        judged_at: rows at which plans are compared, longer than those; all that the forecaster reads if None.
        density: the mean share of tokens that a query may see, at most, at every lookback.
        windows: windows of each lookback that are measured, and judged.
        validation: share of the rows, at the end, that plans are judged on.

    Raises:
        UsageError: for a forecaster that has no such attention, or numbers that do not fit.
        DataError: for a panel that is too short.
    """
    config = forecaster.config
    if config.temporal_attention != _DENSE:
        given = config.temporal_attention or "no attention among rows"
        raise UsageError(f"the model has {given}; windows per head are chosen for temporal_attention {_DENSE!r}")
    unseen = config.lookback if judged_at is None else judged_at
    rows = sorted({max(unseen // 4, 1), max(unseen // 2, 1)} if lookbacks is None else set(lookbacks))
    if not 0 < unseen <= config.lookback or not rows or rows[0] < config.patch or rows[-1] >= unseen:
        raise UsageError(
            f"lookbacks {', '.join(map(str, rows))} judged at {unseen}: expected at least the {config.patch} rows of a "
            f"token, less than the lookback judged at, and that at most the model's {config.lookback}"
        )
    if not 0.0 < validation < 1.0 or windows < 1:
        raise UsageError(f"validation {validation:g} and windows {windows}: expected a share and a number of windows")
    cut = round((1.0 - validation) * len(panel))
    tokens = {n: config.tokens(n) for n in (*rows, unseen)}
    block = max(1, tokens[rows[0]] // 8)
    spans = _candidates([tokens[n] for n in rows], tokens[unseen], block)
    measured = {
        n: _examples(forecaster, panel.rows(0, cut), lookback=n, first=min(n, cut - 1), limit=windows) for n in rows
    }
    late = _examples(forecaster, panel, lookback=unseen, first=max(cut, unseen), limit=windows)
    net, training = forecaster.networks[0], TrainingConfig()
    found = {}
    for n in rows:
        by_span = span_losses(
            _influence(net, measured[n], training, block), spans, length=tokens[n], causal=False, block=block
        )
        found[tokens[n]] = by_span[None]
    plans = _plans(found, spans, density, tokens[unseen], block)
    scored = [(_score(net, late, training, plan.options(0), block), plan) for plan in plans]
    score, plan = min(scored, key=lambda pair: pair[0][0])
    own = plan.densities[tokens[unseen]]
    same = [s for s in spans if span_density(s, tokens[unseen], block=block, causal=False) <= own + 1e-12]
    if not same:
        raise UsageError(f"no single window has a density of {own:.3g} or less at {unseen} rows; ask for more")
    one = max(same, key=lambda s: (span_density(s, tokens[unseen], block=block, causal=False), s))
    uniform = {"alpha": one.alpha, "beta": one.beta, "block": block}
    of_uniform = _score(net, late, training, {"alpha": one.alpha, "beta": one.beta}, block)
    dense = score_examples(net, [late], training)
    judged = Judged(unseen, len(late), dense[0], score[0], of_uniform[0], dense[3], score[3], of_uniform[3])
    return WindowPlan(
        options={**plan.options(0), "block": block},
        uniform=uniform,
        profiled={n: plan.losses[tokens[n]] for n in rows},
        densities={n: plan.densities[tokens[n]] for n in (*rows, unseen)},
        plans=len(plans),
        judged=judged,
    )


def _candidates(measured: Sequence[int], unseen: int, block: int) -> tuple[Span, ...]:
    """Spans in blocks that grow with the input by eighths of it, for lookbacks of so many tokens."""
    alphas = [float(block * n) for n in range(-4, 9)]
    found = span_grid([*measured, unseen], alphas=alphas)
    if not found:
        raise UsageError(f"{min(measured)} tokens are too few to choose windows of: take longer lookbacks")
    return found


def _plans(found: dict[int, Tensor], spans: Sequence[Span], density: float, unseen: int, block: int) -> list[SpanPlan]:
    """Plans that keep the density, near it if there are such."""
    for least in (0.9, 0.0):
        try:
            return choose_spans(
                found, spans, density=density, least=least, also_at=(unseen,), block=block, causal=False
            )
        except KernelError as error:
            refused = error
    raise UsageError(f"density {density:g}: {refused}")


def _examples(forecaster: Forecaster, panel: Panel, *, lookback: int, first: int, limit: int) -> Examples:
    """Windows with what came after; `DataError` if there is none."""
    found = forecaster.inputs_of(panel, lookback=lookback, first=first, limit=limit)
    if found is None or len(found) == 0:
        raise DataError(f"{len(panel):,} rows hold no window of {lookback:,} with {forecaster.config.horizon} after it")
    return found


def _influence(net: ForecastNet, examples: Examples, training: TrainingConfig, block: int) -> Tensor:
    """The influence of each block of tokens on the loss by head, (heads, blocks, blocks), summed over layers.

    All layers share their options, so that what counts is the sum.
    """
    total: Tensor | None = None
    flow = JointFlow()
    net.eval()
    for index in torch.split(torch.arange(len(examples)), _TOGETHER):
        part = examples.take(index)
        with _captured(net) as seen:
            marginal, copula, crps = losses(net, flow, part)
            loss = training.likelihood_weight * (marginal + copula) + training.crps_weight * crps
            grads = torch.autograd.grad(loss, [out for *_, out in seen])
        for (q, k, v, mask, _), grad in zip(seen, grads, strict=True):
            found = influence(q, k, v, grad, causal=False, key_mask=mask, block=block) * len(index)
            total = found if total is None else total + found
    if total is None:
        raise AssertionError("there are windows here")
    return total / len(examples)


_Seen = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]


@contextmanager
def _captured(net: ForecastNet) -> Iterator[list[_Seen]]:
    """Queries, keys, values, mask and output of every attention among rows, layer by layer, while it lasts."""
    seen: list[_Seen] = []

    def keep(_: object, given: tuple[Tensor, ...], named: dict[str, Any], out: Tensor) -> None:
        q, k, v = (x.detach() for x in given)
        seen.append((q, k, v, named["key_mask"], out))

    with ExitStack() as hooks:
        for mixer in net.mix:
            handle = mixer.attend.core.register_forward_hook(keep, with_kwargs=True)  # type: ignore[union-attr]
            hooks.callback(handle.remove)
        yield seen


def _score(
    net: ForecastNet, late: Examples, training: TrainingConfig, spans: dict[str, Any], block: int
) -> tuple[float, float, float, float]:
    """`score_examples` with other windows, which are taken back after."""
    cores = [mixer.attend.core for mixer in net.mix]  # type: ignore[union-attr]
    try:
        for mixer in net.mix:
            attend: Any = mixer.attend
            attend.core = build(_WINDOWED, heads=attend.query_heads, head_dim=attend.head_dim, block=block, **spans)
        return score_examples(net, [late], training)
    finally:
        for mixer, core in zip(net.mix, cores, strict=True):
            setattr(mixer.attend, "core", core)  # noqa: B010
