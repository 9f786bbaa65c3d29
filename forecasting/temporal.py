"""Attention among the tokens of one window by any mechanism of `kernels`: what reads long histories cheaply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from forecasting.config import shown
from forecasting.errors import UsageError, suggest
from kernels import KernelError, MultiHead, available, describe

__all__ = ["MixBlock", "check_method", "methods"]

_PLAIN = (bool, int, float, str, type(None))
_TRIALS = (1, 5)
_MOST_OPTION = 100_000
_WRONG_KIND = (TypeError, AttributeError, LookupError, MemoryError)
"""What mechanisms raise for options of another kind than theirs."""
_NOT_SHORT = ("neighborhood",)
"""Methods that refuse sequences shorter than their kernel, as the windows of a young service are."""


def methods() -> tuple[str, ...]:
    """Methods of `kernels.available()` that serve windows of any length with options that a settings file can hold."""
    found = (describe(name) for name in available() if name not in _NOT_SHORT)
    return tuple(d.name for d in found if not d.layer and "required" not in d.options.values())


def check_method(method: str, options: Mapping[str, Any], heads: int, width: int) -> None:
    """Raise `UsageError` for a method, an option or a value that the mechanism refuses; names the near ones.

    It is tried on one token and on five, which finds values of a wrong kind as well.
    """
    if not isinstance(method, str) or method not in methods():
        raise UsageError(f"no temporal_attention {shown(method)}; {suggest(str(method)[:40], methods())}")
    if not isinstance(options, Mapping):
        raise UsageError(f"temporal_options is {shown(options)}, expected options by name such as {{'window': 128}}")
    for name, value in options.items():
        items = value if isinstance(value, list | tuple) else (value,)
        if not all(isinstance(item, _PLAIN) for item in items):
            raise UsageError(
                f"temporal_options[{shown(name)}] is a {type(value).__name__}, expected a plain value or a list"
            )
        if any(isinstance(item, int) and abs(item) > _MOST_OPTION for item in items):
            raise UsageError(f"temporal_options[{shown(name)}] is {shown(value)}, expected at most {_MOST_OPTION}")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            block = MixBlock(width, heads, 0.0, method=method, options=options)
            for tokens in _TRIALS:
                block(torch.zeros(1, tokens, width), None)
        except (KernelError, ValueError, RuntimeError, ArithmeticError, *_WRONG_KIND) as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise UsageError(
                f"temporal_attention {method!r} with temporal_options {shown(dict(options))}: {first[:200]}"
            ) from error


class MixBlock(nn.Module):
    """One layer in which the tokens of a window attend to each other (pre-norm, residual, feed-forward).

    A method that is causal only lets a token see the older ones, itself included; all others see both ways.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, method: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.causal = describe(method).causal == "causal only"
        self.norm = nn.LayerNorm(width)
        self.attend = MultiHead(width, heads=heads, method=method, options=options)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, key_mask: Tensor | None) -> Tensor:
        """Tokens (B, T, width), oldest first; those that are False in ``key_mask`` (B, T) influence no other."""
        x = x + self.drop(self.attend(self.norm(x), causal=self.causal, key_mask=key_mask))
        fed: Tensor = x + self.drop(self.feed(self.feed_norm(x)))
        return fed
