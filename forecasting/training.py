"""Finding the weights: windows from panels, likelihood (and CRPS) as the loss, a fixed validation set to stop by."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from forecasting.base import Progress
from forecasting.config import ModelConfig, TrainingConfig
from forecasting.errors import DataError, UsageError
from forecasting.features import NetworkInputs, SeriesStats, make_inputs
from forecasting.flow import JointFlow, mixture_crps
from forecasting.network import ForecastNet
from forecasting.panel import Panel
from forecasting.windows import WindowBatch

__all__ = ["Examples", "TrainedNet", "examples_of", "losses", "score_examples", "train"]

_SCORED_WINDOWS, _SCORED_TOKENS = 256, 500_000
"""Validation windows, and tokens of theirs, that are looked at together."""
TOLD_EVERY = 10
"""Steps between two words of progress."""

_READ_VALUES = 4_000_000
"""Readings that are prepared together, in float64 and several copies."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Windows with what came after them, in normalised units.

    ``targets`` (B, N*S) and ``observed`` (B, N*S) are indicator-major, as the flow's cells are.
    """

    inputs: NetworkInputs
    targets: Tensor
    observed: Tensor

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.inputs)

    def take(self, index: Tensor) -> Examples:
        """The windows of the given numbers."""
        return Examples(self.inputs.take(index), self.targets[index], self.observed[index])

    def steps(self, index: Tensor) -> Examples:
        """Only some steps ahead, by their place."""
        n, steps = len(self.inputs.names), len(self.inputs.ahead)
        cells = (torch.arange(n)[:, None] * steps + index).flatten()
        return Examples(self.inputs.steps(index), self.targets[:, cells], self.observed[:, cells])

    def without_seasons(self) -> Examples:
        """The same windows when nothing before the lookback may be read."""
        return Examples(self.inputs.without_seasons(), self.targets, self.observed)


def examples_of(
    panel: Panel,
    config: ModelConfig,
    *,
    lookback: int,
    horizon: int,
    stats: Mapping[str, SeriesStats],
    first: int = 0,
    limit: int | None = None,
    seasons: bool = True,
) -> Examples | None:
    """Windows of one panel whose first forecast row is ``first`` or later; None if there is not one.

    Args:
        panel: what was observed.
        config: decides the features.
        lookback: rows read.
        horizon: steps ahead.
        stats: from `series_stats`.
        first: forecast rows before this one are only history.
        limit: keep at most this many windows, evenly spread.
        seasons: give the values one day and one week before (as the caller of `predict` may).
    """
    start = max(first - 1, min(lookback, len(panel)) // 4)
    ends = np.arange(start, len(panel) - horizon)
    if limit is not None and len(ends) > limit:
        ends = ends[np.linspace(0, len(ends) - 1, limit).round().astype(np.int64)]
    if len(ends) == 0:
        return None
    ahead = panel.values[ends[:, None] + np.arange(1, horizon + 1)].swapaxes(1, 2)
    kept = ~np.isnan(ahead).all(axis=(1, 2))
    if not kept.any():
        return None
    ends, ahead = ends[kept], ahead[kept]
    together = max(1, _READ_VALUES // (lookback * len(panel.indicators)))
    parts = []
    for begin in range(0, len(ends), together):
        some = ends[begin : begin + together]
        windows = WindowBatch.of(panel, some, lookback, horizon=horizon if seasons else 0)
        parts.append(make_inputs(windows, horizon, quantiles=config.quantiles, stats=stats, near=config.near_rows))
    inputs = NetworkInputs.concat(parts)
    observed = ~np.isnan(ahead) & inputs.present.numpy()[..., None]
    scaled = (ahead - inputs.centre.numpy()[..., None]) / inputs.scale.numpy()[..., None]
    # A jump of hundreds of spreads says "very far" all the same; the likelihood must not drown in it.
    targets = np.clip(np.where(observed, scaled, 0.0), -60.0, 60.0)
    return Examples(
        inputs,
        torch.from_numpy(targets.reshape(len(ends), -1).astype(np.float32)),
        torch.from_numpy(observed.reshape(len(ends), -1)),
    )


def losses(net: ForecastNet, flow: JointFlow, e: Examples) -> tuple[Tensor, Tensor, Tensor]:
    """Mean marginal negative log-likelihood, copula part (both per cell), and weighted CRPS of a batch."""
    context = net(e.inputs)
    steps = e.inputs.calendar.shape[1]
    log_density, log_copula = flow.log_prob_parts(e.targets, e.observed, context)
    seen = e.observed.to(log_density.dtype)
    cells = seen.sum().clamp_min(1.0)
    # Beyond 6 nats a cell counts by the logarithm: one outlier must not steer a whole batch.
    excess = (-log_density - 6.0).clamp_min(0.0)
    marginal = ((-log_density).clamp_max(6.0) + torch.log1p(excess)).mul(seen).sum() / cells
    copula = -log_copula.sum() / cells
    weight = e.inputs.weight.clamp(0.02, 10.0).repeat_interleave(steps, dim=1) * seen
    crps = (mixture_crps(e.targets, context) * weight).sum() / cells
    return marginal, copula, crps


def score_examples(
    net: ForecastNet, sets: Sequence[Examples], config: TrainingConfig
) -> tuple[float, float, float, float]:
    """(what training minimises, marginal NLL, copula NLL, CRPS), means over all windows of ``sets``, no dropout."""
    flow = JointFlow()
    net.eval()
    total = np.zeros(3)
    count = 0
    with torch.no_grad():
        for examples in sets:
            tokens = len(examples.inputs.names) * net.config.tokens(examples.inputs.values.shape[-1])
            batch = max(1, min(_SCORED_WINDOWS, _SCORED_TOKENS // tokens))
            for index in torch.split(torch.arange(len(examples)), batch):
                part = losses(net, flow, examples.take(index))
                total += len(index) * np.array([float(p) for p in part])
                count += len(index)
    nll, copula, crps = (float(t) for t in total / max(count, 1))
    return config.likelihood_weight * (nll + copula) + config.crps_weight * crps, nll, copula, crps


@dataclass(frozen=True, eq=False)
class TrainedNet:
    """The averaged weights that scored best on validation, that score, and how long it took to get there."""

    net: ForecastNet
    score: float
    steps: int


def train(
    net: ForecastNet,
    training: Sequence[Examples],
    validation: Sequence[Examples],
    config: TrainingConfig,
    *,
    seed: int,
    keep_start: bool = False,
    progress: Progress | None = None,
    on_check: Callable[[int, tuple[float, float, float, float]], None] | None = None,
    checkpoint: Path | None = None,
) -> TrainedNet:
    """AdamW with a cosine schedule on batches of one example set at a time; the running average is what is kept.

    ``keep_start`` lets the starting weights win if nothing scores better. ``checkpoint`` is a file that is written at
    every look at the validation windows; where it exists training goes on from there, to the very weights that it
    would have found in one go. Raises `DataError` without windows, and `UsageError` for a checkpoint of other windows
    or settings.
    """
    training = [e for e in training if len(e)]
    if not training:
        raise DataError("no window to learn from: the panels are shorter than the lookback and the horizon ask for")
    validation = [e for e in validation if len(e)] or training
    torch_state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        course = _Course(net, training, validation, config, seed, keep_start)
        return course.run(progress, on_check, checkpoint)
    finally:
        torch.set_rng_state(torch_state)


class _Course:
    """One training: the weights and all that the next step depends on."""

    def __init__(
        self,
        net: ForecastNet,
        training: Sequence[Examples],
        validation: Sequence[Examples],
        config: TrainingConfig,
        seed: int,
        keep_start: bool,
    ) -> None:
        self._net, self._validation, self._config = net, validation, config
        self._flow = JointFlow()
        self._averaged = copy.deepcopy(net)
        self._best: TrainedNet | None = None
        if keep_start:
            self._best = TrainedNet(copy.deepcopy(net), score_examples(net, validation, config)[0], 0)
        self._optimiser = torch.optim.AdamW(_groups(net, config), lr=config.learning_rate)
        self._order = _Batches(training, config, np.random.default_rng(seed))
        self._step, self._stale = 0, 0
        sizes = [[len(e) for e in sets] for sets in (training, validation)]
        self._about = repr((config.to_dict(), net.config.to_dict(), list(net.names), seed, keep_start, sizes))

    def run(
        self,
        progress: Progress | None,
        on_check: Callable[[int, tuple[float, float, float, float]], None] | None,
        checkpoint: Path | None,
    ) -> TrainedNet:
        """Step until there are enough, or nothing has got better for long."""
        config = self._config
        if checkpoint is not None and checkpoint.exists():
            self._restore(checkpoint)
        told = ""
        while self._step < config.steps and self._stale < config.patience:
            self._learn()
            last = self._step == config.steps
            if self._step % config.check_every == 0 or last:
                scores = self._look()
                if on_check is not None:
                    on_check(self._step, scores)
                told = f"validation {scores[0]:.4f}"
                if checkpoint is not None:
                    self._save(checkpoint)
                if self._stale >= config.patience:
                    break
            if progress is not None and (self._step % TOLD_EVERY == 0 or last):
                progress(self._step, config.steps, told)
        if self._best is None:
            raise AssertionError("the last step always looks at the validation windows")
        self._best.net.eval()
        return self._best

    def _learn(self) -> None:
        """One optimiser step, and the running average after it."""
        net, config = self._net, self._config
        self._step += 1
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak"] * _schedule(self._step, config)
        net.train()
        self._optimiser.zero_grad(set_to_none=True)
        for _ in range(config.batches_per_step):
            marginal, copula, crps = losses(net, self._flow, self._order.next())
            loss = config.likelihood_weight * (marginal + copula) + config.crps_weight * crps
            torch.autograd.backward(loss / config.batches_per_step)
        norm = nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        if bool(torch.isfinite(norm)):
            self._optimiser.step()
        _average(self._averaged, net, min(config.averaging, self._step / (self._step + 9.0)))

    def _look(self) -> tuple[float, float, float, float]:
        """Scores of the averaged weights on the validation windows; they are kept where they are the best."""
        scores = score_examples(self._averaged, self._validation, self._config)
        if self._best is None or scores[0] < self._best.score:
            self._best, self._stale = TrainedNet(copy.deepcopy(self._averaged), scores[0], self._step), 0
        else:
            self._stale += 1
        return scores

    def _save(self, path: Path) -> None:
        """Write all that the next step depends on, whole or not at all."""
        best = self._best
        state = {
            "about": self._about,
            "step": self._step,
            "stale": self._stale,
            "net": self._net.state_dict(),
            "averaged": self._averaged.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "order": self._order.state(),
            "torch": torch.get_rng_state(),
            "best": None if best is None else [best.net.state_dict(), best.score, best.steps],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        torch.save(state, part)
        part.replace(path)

    def _restore(self, path: Path) -> None:
        """Go back to where `_save` was called; no code runs on reading."""
        state = torch.load(path, weights_only=True)
        if state["about"] != self._about:
            raise UsageError(f"{path}: a checkpoint of other windows or settings; remove it to begin anew")
        self._step, self._stale = state["step"], state["stale"]
        self._net.load_state_dict(state["net"])
        self._averaged.load_state_dict(state["averaged"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._order.restore(state["order"])
        torch.set_rng_state(state["torch"])
        if state["best"] is not None:
            weights, score, steps = state["best"]
            best = copy.deepcopy(self._averaged)
            best.load_state_dict(weights)
            self._best = TrainedNet(best, score, steps)


class _Batches:
    """Batches of one example set each, sets in proportion to their windows, every window once a round."""

    def __init__(self, sets: Sequence[Examples], config: TrainingConfig, generator: np.random.Generator) -> None:
        self._sets, self._config, self._generator = sets, config, generator
        self._queue: list[tuple[int, np.ndarray]] = []

    def state(self) -> dict[str, object]:
        """What is left of this round and the generator, in plain values and tensors."""
        return {
            "sets": [i for i, _ in self._queue],
            "windows": [torch.from_numpy(index) for _, index in self._queue],
            "generator": json.dumps(self._generator.bit_generator.state),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` gave."""
        self._queue = [(i, index.numpy()) for i, index in zip(state["sets"], state["windows"], strict=True)]
        self._generator.bit_generator.state = json.loads(state["generator"])

    def next(self) -> Examples:
        """The next batch; a new round is shuffled when the last one is used up."""
        if not self._queue:
            for i, examples in enumerate(self._sets):
                shuffled = self._generator.permutation(len(examples))
                pieces = max(1, round(len(shuffled) / self._config.batch))
                self._queue.extend((i, part) for part in np.array_split(shuffled, pieces))
            self._generator.shuffle(self._queue)
        i, index = self._queue.pop()
        batch = self._sets[i].take(torch.from_numpy(np.sort(index)))
        steps = len(batch.inputs.ahead)
        if steps > self._config.steps_ahead:
            # A random choice of steps is as good a lesson as all of them, at a fraction of the cost.
            at = self._generator.choice(steps, self._config.steps_ahead, replace=False)
            batch = batch.steps(torch.from_numpy(np.sort(at)))
        if self._generator.random() < self._config.hide_seasons:
            batch = batch.without_seasons()
        return batch


def _groups(net: ForecastNet, config: TrainingConfig) -> list[dict[str, object]]:
    """Parameter groups: matrices decay, the rest does not."""
    decayed = [p for name, p in net.named_parameters() if p.ndim > 1 and not name.startswith(("functionals", "step"))]
    plain = [p for name, p in net.named_parameters() if p.ndim <= 1 or name.startswith(("functionals", "step"))]
    peak = config.learning_rate
    return [
        {"params": decayed, "weight_decay": config.weight_decay, "peak": peak},
        {"params": plain, "weight_decay": 0.0, "peak": peak},
    ]


def _schedule(step: int, config: TrainingConfig) -> float:
    """Share of the peak learning rate: linear up, cosine down to a fiftieth."""
    if step <= config.warm_up:
        return step / max(1, config.warm_up)
    along = (step - config.warm_up) / max(1, config.steps - config.warm_up)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * along))


@torch.no_grad()
def _average(averaged: nn.Module, net: nn.Module, decay: float) -> None:
    """Move the running average of the weights towards the present ones."""
    for a, p in zip(averaged.parameters(), net.parameters(), strict=True):
        a.lerp_(p, 1.0 - decay)
