"""Settings of the forecaster: the network's shape and how it is trained. Frozen, checked, and stored in artefacts."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, get_type_hints

from forecasting.errors import UsageError, suggest

__all__ = ["ModelConfig", "TrainingConfig", "shown"]


_MOST = 1_000_000
_MOST_WIDTH = 2_048
_MOST_LAYERS = 64
_EXPECTED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    int | None: "a whole number or nothing",
    str | None: "a name or nothing",
    Mapping[str, Any]: "options by name",
}


def shown(value: object) -> str:
    """A value in one line of bounded length, for messages."""
    return reprlib.repr(value)[:80]


def _fits(value: Any, hint: Any) -> bool:  # noqa: ANN401
    """Whether a plain value is of a setting's type; a whole number is a number, a truth value is none."""
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300
    if hint in (int, int | None):
        return (value is None and hint is not int) or (isinstance(value, int) and not isinstance(value, bool))
    if hint is bool:
        return isinstance(value, bool)
    if hint == str | None:
        return value is None or isinstance(value, str)
    return isinstance(value, Mapping)


class _Settings:
    """Shared by the settings classes: reading from a mapping with helpful errors."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Settings from plain values; `UsageError` names an unknown one and what is near."""
        known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        hints = get_type_hints(cls)
        for name, value in values.items():
            if name not in known:
                raise UsageError(f"no setting {str(name)[:40]!r} in {cls.__name__}; {suggest(str(name)[:40], known)}")
            if not _fits(value, hints[name]):
                raise UsageError(f"{cls.__name__}.{name} is {shown(value)}, expected {_EXPECTED[hints[name]]}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` reads back."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def _positive(self, *names: str, most: float = _MOST) -> None:
        for name in names:
            value = getattr(self, name)
            if value < 1:
                raise UsageError(f"{type(self).__name__}.{name} is {value}, expected 1 or more")
            if value > most:
                raise UsageError(f"{type(self).__name__}.{name} is {shown(value)}, expected at most {most}")


@dataclass(frozen=True, slots=True)
class ModelConfig(_Settings):
    """Shape of the network; everything that decides which weights exist."""

    lookback: int = 144
    """Rows read at most; longer windows are cut to their newest rows, shorter ones are read as they are."""
    horizon: int = 24
    """Steps ahead at most; farther steps are forecast on a coarser grid."""
    width: int = 48
    """Size of an indicator's token."""
    heads: int = 4
    """Attention heads, over time and across indicators; divides `width`."""
    patch: int = 12
    """Rows per token of the attention over time."""
    near_rows: int | None = None
    """Newest rows by which a window is normalised and from which its quantiles and averages are taken; what is older
    is read by the attention over time only. None takes them all."""
    temporal_layers: int = 1
    """Layers of attention over time; the last one only feeds the summary token."""
    temporal_attention: str | None = None
    """How the tokens of a window attend to each other before the summary token reads them, one of
    `forecasting.temporal.methods()`; None leaves these layers out."""
    temporal_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of that method, plain values such as {"window": 128}."""
    temporal_mixers: int = 1
    """Layers of `temporal_attention`."""
    cascade_layers: int = 1
    """Layers of cascading attention across indicator levels."""
    quantiles: int = 16
    """Mixture components that sit on quantiles of the window, so that plateaus are copied exactly."""
    free: int = 10
    """Mixture components around learned linear functionals of the window (last value, averages, lags)."""
    functionals: int = 16
    """Learned linear functionals of the window."""
    anchors: int = 4
    """Linear predictors that the free components gather around."""
    step_width: int = 64
    """Hidden size of the head of one indicator at one step."""
    copula_rank: int = 4
    """Rank of the dependence between indicators and between steps."""
    dropout: float = 0.1
    """Share of activations dropped in training."""
    compat_zero_mask: bool = False
    """Mask levels by zero keys, as the public release of the paper does, instead of truly."""

    def __post_init__(self) -> None:
        self._positive("lookback", "horizon", "patch")
        self._positive("width", "step_width", "heads", "quantiles", "free", most=_MOST_WIDTH)
        self._positive("functionals", "anchors", "copula_rank", most=_MOST_WIDTH)
        self._positive("temporal_layers", "temporal_mixers", most=_MOST_LAYERS)
        if not 0 <= self.cascade_layers <= _MOST_LAYERS:
            raise UsageError(f"ModelConfig.cascade_layers is {self.cascade_layers}, expected 0 to {_MOST_LAYERS}")
        if self.near_rows is not None:
            self._positive("near_rows")
        if self.width % self.heads:
            raise UsageError(f"ModelConfig.width {self.width} is not a multiple of heads {self.heads}")
        if not 0.0 <= self.dropout < 1.0:
            raise UsageError(f"ModelConfig.dropout is {self.dropout}, expected 0 <= dropout < 1")
        if self.temporal_attention is not None:
            from forecasting.temporal import check_method  # lazily: it imports torch

            check_method(self.temporal_attention, self.temporal_options, self.heads, self.width)
        elif self.temporal_options:
            raise UsageError("ModelConfig.temporal_options are given, but no temporal_attention that would take them")

    def to_dict(self) -> dict[str, Any]:
        """Plain values; those of long histories only where they are used, so that other files stay as they are."""
        values = _Settings.to_dict(self)
        if self.near_rows is None:
            del values["near_rows"]
        if self.temporal_attention is None:
            for name in ("temporal_attention", "temporal_options", "temporal_mixers"):
                del values[name]
        return values

    def near(self, rows: int) -> int:
        """How many of the newest of ``rows`` rows the numbers that describe a window are taken from."""
        return rows if self.near_rows is None else min(rows, self.near_rows)

    def tokens(self, rows: int) -> int:
        """Tokens per indicator that attention over time reads in a window of ``rows`` rows."""
        return -(-min(rows, self.lookback) // self.patch)


@dataclass(frozen=True, slots=True)
class TrainingConfig(_Settings):
    """How the weights are found."""

    steps: int = 1200
    """Optimiser steps at most."""
    batch: int = 32
    """Windows per step."""
    batches_per_step: int = 1
    """Batches (each of one panel) whose gradients make one step."""
    steps_ahead: int = 6
    """Steps ahead that a batch is scored on, drawn anew each time where the horizon has more."""
    hide_seasons: float = 0.5
    """Share of batches without the values of a day and a week before, so that forecasts do not depend on them."""
    learning_rate: float = 1.5e-3
    """Peak of the cosine schedule."""
    warm_up: int = 50
    """Steps until the peak."""
    weight_decay: float = 0.02
    """Decoupled weight decay (AdamW)."""
    averaging: float = 0.99
    """Decay of the running average of the weights, which is what is kept."""
    crps_weight: float = 1.0
    """Weight of the marginal CRPS (in units of each indicator's usual window spread) beside the likelihood."""
    likelihood_weight: float = 0.2
    """Weight of the joint likelihood."""
    check_every: int = 100
    """Steps between looks at the validation windows."""
    patience: int = 5
    """Looks without a better score before training ends."""
    max_windows: int = 40_000
    """Training windows kept at most, evenly spread over the rows."""
    max_validation: int = 600
    """Validation windows looked at, evenly spread: always the same ones."""
    update_steps: int = 200
    """Optimiser steps of an update; about 25 s on one core."""
    members: int = 1
    """Networks trained from different seeds; their mixtures are joined."""

    def __post_init__(self) -> None:
        self._positive(
            "steps", "batch", "check_every", "patience", "max_windows", "max_validation", "members", "update_steps"
        )
        self._positive("batches_per_step", "steps_ahead")
        if not self.learning_rate > 0:
            raise UsageError(f"TrainingConfig.learning_rate is {self.learning_rate}, expected a positive number")
