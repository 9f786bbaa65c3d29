"""Training a forecaster on one trace: what `harmony train` does with its options."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forecasting.config import ModelConfig, TrainingConfig
from forecasting.errors import UsageError
from forecasting.evaluation import Protocol, SeriesScores, Settings, Split, score_model
from forecasting.forecaster import Forecaster
from forecasting.panel import Panel
from forecasting.windows import DAY_S

__all__ = ["Trained", "TrainingChoice", "train_on"]

SAMPLES = 100  # of the forecasts that the model is judged by


@dataclass(frozen=True, slots=True)
class TrainingChoice:
    """What a person chooses of a training.

    Attributes:
        out: folder that the model is saved in.
        shape: of the network; None for the usual one.
        base: start from the bundled model; None for where the shape allows it.
        lookback, horizon: rows read, and rows forecast.
        validation: share of the rows, at their end, that training is judged on.
        steps: optimiser steps at most; None for the forecaster's own.
        seed: of everything random.

    Raises `UsageError` for a choice that cannot be met, or a folder that holds other things.
    """

    out: Path
    shape: ModelConfig | None
    base: bool | None
    lookback: int
    horizon: int
    validation: float
    steps: int | None
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1:
            raise UsageError(f"--validation {self.validation:g}: expected a share between 0 and 1")
        if self.shape is not None and self.base:
            raise UsageError(
                "--base has its own shape: leave it out to give --temporal-attention, --patch or --near-rows"
            )
        _check_target(self.out)


@dataclass(frozen=True, slots=True)
class Trained:
    """A model that was trained and saved, and how it did on the ``judged`` rows after its own ``rows``."""

    saved: Path
    version: str
    chosen: TrainingChoice
    from_base: bool
    demand: str
    rows: int
    judged: int
    scores: SeriesScores

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "model": str(self.saved),
            "version": self.version,
            "start": "base" if self.from_base else "scratch",
            "demand": self.demand,
            "lookback": self.chosen.lookback,
            "horizon": self.chosen.horizon,
            "seed": self.chosen.seed,
            "rows": {"training": self.rows, "validation": self.judged},
            "validation": self.scores.to_json(),
        }


def train_on(panel: Panel, chosen: TrainingChoice, progress: Callable[[int, int, str], None]) -> Trained:
    """Train on the rows before the judged ones, score on those, and save; interrupted, nothing is saved."""
    lookback, horizon, seed = chosen.lookback, chosen.horizon, chosen.seed
    protocol = Protocol("train", 1 - chosen.validation, chosen.validation)
    settings = Settings(protocol, lookback, horizon, samples=SAMPLES, seed=seed)
    split = Split.of(panel, settings)
    shape = chosen.shape
    base = shape is None if chosen.base is None else chosen.base
    day = round(DAY_S / panel.step_s)
    if not base and (shape is None or shape.near_rows is None) and 0 < day < lookback:
        # Weeks do not have the spread of today: normalised by all of them, forecasts are worse (docs/forecasting.md).
        shape = replace(shape or ModelConfig(), near_rows=day)
    training = TrainingConfig() if chosen.steps is None else TrainingConfig(steps=chosen.steps)
    model = Forecaster(shape, training, start="base" if base else None)
    began = time.perf_counter()
    model.fit(
        [panel.rows(0, split.test)],
        lookback=lookback,
        horizon=horizon,
        validation=[panel.rows(max(0, split.test - lookback), split.rows)],
        seed=seed,
        progress=progress,
    )
    scores = score_model(model, panel, split, settings, fit_seconds=time.perf_counter() - began)
    return Trained(
        saved=model.save(chosen.out),
        version=model.version,
        chosen=chosen,
        from_base=base,
        demand=panel.names[0],
        rows=split.test,
        judged=split.rows - split.test,
        scores=scores,
    )


def _check_target(out: Path) -> None:
    """Refuse a target that saving would refuse, before the minutes of training."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: that is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "model.json").is_file():
        raise UsageError(f"--out {out}: that folder holds other things; name a new or empty folder, or a model's")
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):  # nothing is left behind where the training does not come to its end
            pass
    except OSError as error:
        raise UsageError(f"--out {out}: nothing can be written there ({error.strerror or error})") from error
