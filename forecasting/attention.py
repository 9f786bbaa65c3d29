"""Attention blocks of the forecaster: over the time of one indicator, and in a cascade across indicator levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernels import attention, hierarchical_attention
from kernels.readouts.contrast import attention_rows

__all__ = ["CascadeBlock", "TimeBlock", "level_ranks"]


def level_ranks(levels: Sequence[int]) -> tuple[int, ...]:
    """Levels renumbered 1, 2, ... without gaps, so that the cascade also flows where a level has no indicator."""
    order = {level: rank for rank, level in enumerate(sorted({level for level in levels if level > 0}), start=1)}
    return tuple(order.get(level, -1) for level in levels)


class _Block(nn.Module):
    """Projections, residual sums and the feed-forward part that both kinds of attention share (pre-norm)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.drop = nn.Dropout(dropout)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, width) to (B, heads, T, width / heads)."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Residual sums after the attention output ``mixed`` (B, heads, T, width / heads)."""
        x = x + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        fed: Tensor = x + self.drop(self.feed(self.feed_norm(x)))
        return fed


class TimeBlock(_Block):
    """One layer of attention over the patches of one indicator's window."""

    def forward(self, x: Tensor, key_mask: Tensor, *, only_last: bool = False) -> Tensor:
        """Tokens (B, T, width) with ``key_mask`` (B, T); ``only_last`` returns just the last token, (B, 1, width)."""
        h = self.norm(x)
        asks, x = (h[:, -1:], x[:, -1:]) if only_last else (h, x)
        k, v = self.to_kv(h).chunk(2, dim=-1)
        mixed = attention(self.split(self.to_q(asks)), self.split(k), self.split(v), key_mask=key_mask)
        return self.finish(x, mixed)

    def looks(self, x: Tensor, key_mask: Tensor) -> Tensor:
        """(B, T) how much the last token attends to each, the mean over heads; tokens as in `forward`."""
        h = self.norm(x)
        k = self.to_kv(h).chunk(2, dim=-1)[0]
        weights = attention_rows(self.split(self.to_q(h[:, -1:])), self.split(k), key_mask=key_mask)
        return weights[:, :, 0].mean(1)


class CascadeBlock(_Block):
    """One layer of cascading hierarchical attention across the indicators of a service.

    References: HARMONY (arXiv 2408.01000), with true masks unless ``zero_mask``.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, zero_mask: bool) -> None:
        super().__init__(width, heads, dropout)
        self.zero_mask = zero_mask

    def forward(self, x: Tensor, levels: Sequence[int], present: Tensor) -> Tensor:
        """Tokens (B, N, width) of indicators at ``levels``; ``present`` (B, N) is False for an absent indicator."""
        h = self.norm(x)
        k, v = self.to_kv(h).chunk(2, dim=-1)
        mixed = hierarchical_attention(
            self.split(self.to_q(h)),
            self.split(k),
            self.split(v),
            levels,
            token_mask=None if bool(present.all()) else present,
            zero_mask=self.zero_mask,
        )
        out: Tensor = self.finish(x, mixed)
        return torch.where(present[..., None], out, torch.zeros_like(out))
