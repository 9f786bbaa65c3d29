"""Scopes in which torch's global state is as the forecaster needs it, and after which it is as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread", "seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's own generator starts from ``seed``."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread.

    The network's pieces are too small for more: threads gain a little on an idle machine and cost ten times the time
    on a busy one, where they wait for each other by spinning. Results then do not depend on the number of cores either.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
