"""Features of WERSA in Triton: a Haar transform along the sequence, level by level weighted, then ReLU(x W)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.autocast import in_declared_types
from kernels.once import differentiable_once
from kernels.triton.support import (
    LARGEST_HEAD,
    capability,
    interpreting,
    launch,
    launch_options,
    on_device,
    operands,
    padded,
)
from kernels.triton.tiles import FeatureTile, feature_tile

__all__ = ["haar_features", "haar_features_fit", "rows_at_once"]

_MOST_LEVELS = 5
_MOST_BYTES = 1 << 15
"""Of W as products take it, which stays in shared memory beside the rows."""


def haar_features_fit(d: int, m: int, levels: int, dtype: torch.dtype) -> bool:
    """Whether the kernels hold a transform of so many levels and ``m`` features of heads of size ``d``."""
    size = 2 if dtype == torch.bfloat16 else 4
    return levels <= _MOST_LEVELS and max(d, m) <= LARGEST_HEAD and padded(d) * padded(m) * size <= _MOST_BYTES


def rows_at_once(x: Tensor) -> int:
    """Rows of a chunk, which holds whole blocks of 2^5; where operands are large or stand in registers, fewer fit."""
    return feature_tile(capability(x), x.dtype).rows


def haar_features(x: Tensor, w: Tensor, factors: Tensor, *, causal: bool, mask: Tensor | None) -> Tensor:
    """ReLU(T(x) W), (B, H, L, m) in the type of x, 0 for hidden rows; gradients to x, ``w`` and ``factors``.

    Args:
        x: (B, H, L, D), float32, bfloat16 or float16, not empty; hidden rows count as 0.
        w: (D, m).
        factors: of each level of detail and the approximation, (B, J+1), or (B, L or 1, J+1) if causal. See
            `kernels.linear.wavelet` for T, and `haar_features_fit` for which D, m and J there are kernels.
        causal: the undecimated transform that only looks back, or the decimated one.
        mask: bool (B, L), True where a row may be seen.
    """
    factors = factors[:, None] if factors.ndim == 2 else factors
    steps = torch.cat([factors[..., :1], factors.diff(dim=-1)], dim=-1).float()
    found: Tensor = _Features.apply(x, w.float(), steps, mask, causal)
    return found


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    causal: bool
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...


class _Features(torch.autograd.Function):
    """The kernels with their backward pass, which recomputes the transform."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, w: Tensor, steps: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        from kernels.triton.haar_kernels import features

        w, steps = w.contiguous(), steps.contiguous()
        keys = None if mask is None else mask.contiguous().view(torch.uint8)
        how = _How(x, w, steps, keys, causal)
        found = torch.empty(*x.shape[:3], w.shape[1], dtype=x.dtype, device=x.device)
        with on_device(x):
            launch(
                features,
                how.parts * how.runs * x.shape[0] * x.shape[1],
                (x, x if keys is None else keys, steps, w, found, *x.stride(), *how.strides),
                (x.shape[1], x.shape[2], how.runs, how.parts),
                {**{n: c for n, c in how.fixed.items() if n != "BLOCK_D"}, "HOLD": how.holds, "PIECE": how.piece},
            )
        ctx.save_for_backward(x, w, steps, keys, found)
        ctx.causal = causal
        return found

    @staticmethod
    @differentiable_once
    @in_declared_types
    def backward(ctx: _Context, df: Tensor) -> tuple[Tensor | None, ...]:
        from kernels.triton.haar_kernels import features_backward, weight_grads

        x, w, steps, keys, found = ctx.saved_tensors
        (batch, heads, length, _), levels = x.shape, steps.shape[2]
        need_w, need_steps = ctx.needs_input_grad[1:3]
        how = _How(x, w, steps, keys, ctx.causal)
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        dsteps = torch.empty(batch, heads, length if need_steps else 0, levels, dtype=torch.float32, device=x.device)
        dw = torch.empty(how.runs * batch * heads if need_w else 0, *w.shape, dtype=torch.float32, device=x.device)
        with on_device(x):
            launch(
                features_backward,
                how.runs * batch * heads,
                (x, x if keys is None else keys, steps, w, found, df, dx, dsteps),
                (*x.stride(), *df.stride(), *how.strides, heads, length, how.runs),
                {**how.fixed, "BLOCK_M": how.block_back, "NEED_STEPS": need_steps},
            )
            if need_w:
                parts = -(-w.shape[1] // how.block_back)
                launch(
                    weight_grads,
                    parts * how.runs * batch * heads,
                    (x, x if keys is None else keys, steps, found, df, dw),
                    (*x.stride(), *df.stride(), *how.strides, heads, length, how.runs, parts),
                    {**how.fixed, "BLOCK_M": how.block_back},
                )
        summed = None
        if need_steps:
            summed = dsteps.sum(dim=1)
            summed = summed if steps.shape[1] > 1 or length == 1 else summed.sum(dim=1, keepdim=True)
        return dx, dw.sum(dim=0) if need_w else None, summed, None, None


@dataclass(frozen=True, slots=True)
class _How:
    """What both directions launch with."""

    x: Tensor
    w: Tensor
    steps: Tensor
    keys: Tensor | None
    causal: bool

    @property
    def tile(self) -> FeatureTile:
        """What the table has for this call."""
        return feature_tile(capability(self.x), self.x.dtype)

    @property
    def per(self) -> int:
        """Chunks of a run, which reads W once and gives one partial gradient of it; few where programs would lack."""
        rows = self.x.shape[0] * self.x.shape[1] * self.x.shape[2]
        return 1 if interpreting() else max(1, min(16, rows // (rows_at_once(self.x) * 1024)))

    @property
    def runs(self) -> int:
        """Runs of a sequence."""
        return -(-self.x.shape[2] // (rows_at_once(self.x) * self.per))

    @property
    def block_m(self) -> int:
        """Features of a program, of which each takes a column of W into registers."""
        return max(16, min(padded(self.w.shape[1]), self.tile.numbers // padded(self.w.shape[0])))

    @property
    def block_back(self) -> int:
        """The same going back, where a program holds gradients beside them."""
        return min(self.block_m, max(16, self.tile.numbers_back // padded(self.w.shape[0])))

    @property
    def holds(self) -> bool:
        """Whether a program keeps its part of W."""
        return self.tile.holds

    @property
    def piece(self) -> int:
        """Columns of x that make features at once: all of them where W is kept."""
        return min(padded(self.w.shape[0]), self.tile.piece)

    @property
    def parts(self) -> int:
        """Programs that share a row."""
        return -(-self.w.shape[1] // self.block_m)

    @property
    def strides(self) -> tuple[int, int]:
        """Steps between batches and between rows of the factors; 0 where all rows share them."""
        return self.steps.stride(0), self.steps.stride(1) if self.steps.shape[1] > 1 else 0

    @property
    def fixed(self) -> dict[str, object]:
        """The constants and launch options of both kernels."""
        (d, m), levels = self.w.shape, self.steps.shape[2] - 1
        operand, precision = operands(self.x.dtype)
        return {
            "D": d,
            "M": m,
            "BLOCK_D": padded(d),
            "BLOCK_M": self.block_m,
            "CHUNK": rows_at_once(self.x),
            "PER": self.per,
            "HALO": padded(1 << levels),
            "LEVELS": levels,
            "HAS_KEYS": self.keys is not None,
            "CAUSAL": self.causal,
            "OPERAND": operand,
            "PRECISION": precision,
            **launch_options(8, 2),
        }
