"""Random features: maps whose dot products stand for a kernel of the vectors themselves."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.errors import KernelError

__all__ = [
    "FEATURE_MAPS",
    "check_feature_map",
    "favor_features",
    "random_projection",
    "relu_features",
    "relu_projection",
]

FEATURE_MAPS = ("relu", "favor+")


def check_feature_map(name: object) -> str:
    """``name`` if there is such a map, else `KernelError`."""
    if name not in FEATURE_MAPS:
        raise KernelError(f"feature_map is {name!r}, expected one of {FEATURE_MAPS}")
    return str(name)


def random_projection(head_dim: int, features: int, feature_map: str = "relu", *, seed: int = 0) -> Tensor:
    """A (D, m) matrix in float32: N(0, 1/D) entries for "relu"; orthogonal columns of N(0, I) length for "favor+".

    The same seed gives the same matrix on every device.
    """
    g = torch.Generator().manual_seed(seed)
    if check_feature_map(feature_map) == "relu":
        return torch.randn(head_dim, features, generator=g) / math.sqrt(head_dim)
    squares = torch.randn(-(-features // head_dim), head_dim, head_dim, generator=g)
    orthogonal: Tensor = torch.linalg.qr(squares).Q.transpose(0, 1).flatten(1)
    lengths = torch.randn(features, head_dim, generator=g).norm(dim=1)
    scaled: Tensor = orthogonal[:, :features] * lengths
    return scaled


def relu_features(x: Tensor, projection: Tensor, beta: Tensor | float) -> Tensor:
    """ReLU(x W / beta) / sqrt(m); its expected dot product is the order-1 arc-cosine kernel. (B, H, L, m)."""
    return torch.relu(x @ relu_projection(projection, beta))


def relu_projection(projection: Tensor, beta: Tensor | float) -> Tensor:
    """W / (beta sqrt(m)): positive factors pass through ReLU, so they go to the small matrix (D, m)."""
    return projection / (beta * math.sqrt(projection.shape[1]))


def favor_features(x: Tensor, projection: Tensor, scale: float, *, over_keys: bool) -> Tensor:
    """exp(W x' - |x'|^2 / 2) / sqrt(m) with x' = sqrt(scale) x, up to a factor per query or per set of keys.

    The factor keeps the exponents at or below 0 and cancels in a normalised sum; ``over_keys`` makes it common to all
    rows, as the keys need. Source: FAVOR+, arXiv 2009.14794.
    """
    x = x * math.sqrt(scale)
    exponents = x @ projection - x.square().sum(dim=-1, keepdim=True) / 2
    top = exponents.amax(dim=(-2, -1) if over_keys else -1, keepdim=True) if exponents.numel() else 0.0
    top = top.detach() if isinstance(top, Tensor) else top
    return torch.exp(exponents - top) / math.sqrt(projection.shape[1])
