"""Triton kernels for the engines; `import kernels` does not import Triton, the first call that needs it does."""

from __future__ import annotations
