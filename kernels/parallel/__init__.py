"""Context parallelism: attention over a sequence whose parts lie in several processes, exact to one process."""

from __future__ import annotations

from kernels.parallel.ranks import Ranks
from kernels.parallel.ring import ring_attention
from kernels.parallel.scans import parallel_lightning
from kernels.parallel.shards import own_positions
from kernels.parallel.ulysses import two_dimensional_attention, ulysses_attention
from kernels.parallel.windows import parallel_sliding_window

__all__ = [
    "Ranks",
    "own_positions",
    "parallel_lightning",
    "parallel_sliding_window",
    "ring_attention",
    "two_dimensional_attention",
    "ulysses_attention",
]
