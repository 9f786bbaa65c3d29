"""The size of a CapacityBuffer: the upper quantile of what the paths need, less what is ordered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.outputs.buffer import buffer_name, buffer_replicas
from controller.resource.parsing import parse_autoscaler
from forecasting.distribution import ForecastDistribution
from harmony.model.capacity import Capacity
from tests.controller.resource.builders import autoscaler


def size(paths: np.ndarray, desired: int, quantile: float = 0.9, maximum: int = 100) -> int | None:
    settings = parse_autoscaler(autoscaler(maxReplicas=maximum, capacityBuffer={"enabled": True, "quantile": quantile}))
    indicators = tuple(q.indicator for q in settings.queries)
    forecast = ForecastDistribution(paths[:, :, None], indicators, 0.0, 60.0)
    return buffer_replicas(settings, forecast, Capacity.known(25.0), desired)


def test_the_quantile_of_the_peaks() -> None:
    paths = np.array([[25.0 * n, 0.0] for n in range(1, 101)])  # path n needs n replicas in its first step
    assert size(paths, 10) == 91 - 10
    assert size(paths, 10, quantile=0.5) == 51 - 10
    assert size(paths, 95) == 0
    assert size(paths, 10, maximum=40) == 30


def test_absent_says_nothing() -> None:
    assert size(np.array([[25.0, math.nan], [25.0, 50.0]]), 1) is None


def test_its_name_is_the_objects() -> None:
    assert buffer_name(parse_autoscaler(autoscaler())) == "chat-harmony"


@given(
    st.lists(st.floats(0, 5000), min_size=1, max_size=40),
    st.integers(0, 120),
    st.sampled_from([0.5, 0.9, 0.99]),
)
def test_with_it_that_share_of_the_paths_has_nodes(peaks: list[float], desired: int, quantile: float) -> None:
    made = size(np.array(peaks)[:, None], desired, quantile, maximum=100)
    assert made is not None
    assert made >= 0
    total = max(desired, desired + made)
    served = np.mean([p <= total * 25.0 + 1e-6 for p in peaks])
    assert served >= quantile - 1 / len(peaks) or total >= 100
    assert desired + made <= max(desired, 100)


@pytest.mark.parametrize("desired", [0, 5])
def test_zero_demand_needs_no_nodes(desired: int) -> None:
    assert size(np.zeros((10, 3)), desired) == 0
