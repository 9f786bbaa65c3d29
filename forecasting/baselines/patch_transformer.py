"""`PatchTransformer`: PatchTST, a deep network that is trained on the series (extra ``deep``)."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from forecasting.base import Progress
from forecasting.baselines.common import Baseline, Draws, fill_forward
from forecasting.baselines.extras import library
from forecasting.baselines.stated_quantiles import paths_of
from forecasting.errors import UsageError
from forecasting.panel import FloatArray, Panel
from forecasting.windows import WindowBatch

__all__ = ["PatchTransformer"]

LEVELS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.995)


class PatchTransformer(Baseline):
    """PatchTST (Nie et al. 2023) of neuralforecast, one network for all indicators, trained on quantiles of each step.

    It gives the quantiles `LEVELS` of each step by itself; beyond them the tails are Gaussian. Steps and indicators are
    drawn by themselves. Sizes and rates are its authors' for small data, in as many steps as ``steps`` says; it learns
    nothing on an update but what the highest value is.

    Args:
        steps: optimiser steps.
        cap: see `Baseline`.

    Raises `UsageError` when neuralforecast is not installed.
    """

    method = "patch_transformer"

    def __init__(self, *, steps: int = 1000, cap: float | None = 2.0) -> None:
        super().__init__(cap=cap)
        if steps < 1:
            raise UsageError(f"steps {steps}: at least 1 is needed")
        self.steps = steps
        self._library()
        self._fitted: Any = None
        self._middle: FloatArray = np.empty(0)
        self._spread: FloatArray = np.empty(0)

    def _library(self) -> Any:  # noqa: ANN401
        with _quiet():
            return library("neuralforecast", self.method, "neuralforecast", "deep")

    def _learn(
        self, panels: Sequence[Panel], validation: Sequence[Panel], rng: np.random.Generator, progress: Progress | None
    ) -> None:
        seen = np.ma.masked_invalid(np.concatenate([panel.values for panel in panels]))
        self._middle, spread = seen.mean(axis=0).filled(0.0), seen.std(axis=0).filled(0.0)
        self._spread = np.where(spread > 0, spread, 1.0)
        series = [column for panel in panels for column in self._scaled(panel.values[None])[0].T if len(column)]
        whole = [column for column in series if not np.isnan(column).any()]
        with _quiet():
            module = self._library()
            models = library("neuralforecast.models", self.method, "neuralforecast", "deep")
            losses = library("neuralforecast.losses.pytorch", self.method, "neuralforecast", "deep")
            patch = max(2, min(16, self.lookback // 4))
            network = models.PatchTST(
                h=self.horizon,
                input_size=self.lookback,
                patch_len=patch,
                stride=max(1, patch // 2),
                encoder_layers=3,
                n_heads=4,
                hidden_size=32,
                linear_hidden_size=64,
                loss=losses.MQLoss(quantiles=list(LEVELS)),
                learning_rate=1e-3,
                num_lr_decays=3,
                max_steps=self.steps,
                windows_batch_size=256,
                random_seed=int(rng.integers(2**31)),
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            self._fitted = module.NeuralForecast(models=[network], freq=1) if whole else None
            if self._fitted is not None:
                self._fitted.fit(_long(whole))

    def _scaled(self, values: FloatArray) -> FloatArray:
        """(batch, time, indicators) without holes, in spreads around the middle of what was learned from."""
        return np.asarray((fill_forward(values) - self._middle) / self._spread)

    def _paths(self, windows: WindowBatch, draws: Draws) -> FloatArray:
        count, columns = len(windows), draws.columns
        newest = windows.values[:, -self.lookback :, columns]
        still = np.fmax.reduce(newest, axis=1) == np.fmin.reduce(newest, axis=1)
        scaled = self._scaled(windows.values)[:, -self.lookback :, columns]
        flat = scaled.transpose(0, 2, 1).reshape(count * len(columns), -1)
        known = ~np.isnan(flat).any(axis=1)
        found = np.repeat(np.repeat(flat[:, -1:, None], draws.horizon, axis=1), len(LEVELS), axis=2)
        if known.any() and self._fitted is not None:
            with _quiet():
                told = self._fitted.predict(df=_long(list(flat[known])))
            names = [c for c in told.columns if c.startswith("PatchTST")]
            if len(names) != len(LEVELS):
                raise UsageError(f"{self.method}: neuralforecast answers {len(names)} quantiles, not {len(LEVELS)}")
            quantiles = told[names].to_numpy(np.float64).reshape(int(known.sum()), self.horizon, len(LEVELS))
            found[known] = np.sort(quantiles, axis=2)[:, : draws.horizon]
        found = found.reshape(count, len(columns), draws.horizon, len(LEVELS)).swapaxes(1, 2)
        found = self._middle[columns, None] + self._spread[columns, None] * found
        out = paths_of(found, np.asarray(LEVELS), draws, fitted=(len(self.indicators), self.horizon))
        for i in range(len(columns)):  # what did not move is copied exactly
            out[still[:, i], :, :, i] = np.fmax.reduce(newest[still[:, i], :, i], axis=1)[:, None, None]
        return out


def _long(series: Sequence[FloatArray]) -> Any:  # noqa: ANN401
    """The series as the long table that neuralforecast reads."""
    import pandas as pd

    sizes = [len(one) for one in series]
    return pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(len(series)), sizes),
            "ds": np.concatenate([np.arange(size) for size in sizes]),
            "y": np.concatenate(series).astype(np.float32),
        }
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what its framework says of devices and loaders: nobody asked for these."""
    loud = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning", "lightning_fabric")]
    before = [(one, one.level) for one in loud]
    try:
        for one in loud:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in before:
            one.setLevel(level)
