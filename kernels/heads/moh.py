"""Mixture-of-Head is a layer: its router reads the tokens before they are projected."""

from __future__ import annotations

from kernels.layers.moh import MixtureOfHeads
from kernels.registry import Mechanism

__all__ = ["MECHANISM"]

MECHANISM = Mechanism(
    name="moh",
    summary="a layer in which each token uses some of the heads; only their scores are computed",
    paper="MoH, Mixture-of-Head attention, arXiv 2410.11842",
    cost="O((shared + active) Lq Lk D) time in place of O(H Lq Lk D)",
    use="heads of their own for daily, weekly and sudden patterns; which hours use which head can be read off",
    build=MixtureOfHeads,
    layer=True,
)
