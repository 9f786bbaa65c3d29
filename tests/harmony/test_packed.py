"""Packed arrays come back as they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of

from harmony.decision.past.packed import Packed

KINDS = st.sampled_from([np.uint8, np.uint16, np.int64, np.float32, np.float64])


@settings(max_examples=60, deadline=None)
@given(KINDS.flatmap(lambda kind: of.arrays(kind, of.array_shapes(max_dims=2, min_side=0, max_side=9))))
def test_unpacked_it_is_the_same_to_the_bit(array: np.ndarray) -> None:
    """Of any type and shape, empty ones and NaN among them, and nobody can write into it."""
    found = Packed.of(array).array
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
    with pytest.raises(ValueError, match="read-only"):
        found[...] = 0


def test_equal_neighbours_take_little() -> None:
    """Counts of many settings that differ in few rows."""
    counts = np.repeat(np.random.default_rng(0).integers(1, 9, (60, 20)), 60, axis=1).astype(np.uint8)
    assert Packed.of(counts).nbytes < counts.nbytes / 10
