"""Masks of long-context training as rules for the block-sparse engine."""

from __future__ import annotations

from kernels.masks.longca import MASKS

__all__ = ["MASKS"]
