"""What an HPA makes of our metric: its tolerance swallows small steps unless it is set to 0.

KEDA makes an HPA with one External metric, AverageValue 1. kubernetes/pkg/controller/podautoscaler/
replica_calculator.go (GetExternalPerPodMetricReplicas): ratio = value / (target * current); nothing happens while
|1 - ratio| <= tolerance, else desired = ceil(value / target). `desired_replicas` is that rule for a metric that is
summed over the pods.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.keda import externalscaler_pb2 as pb
from harmony.policies.hpa import desired_replicas
from tests.controller.keda.client import world

DEFAULT = 0.1  # --horizontal-pod-autoscaler-tolerance


def followed(ours: int, current: int, tolerance: float) -> int:
    """What the HPA orders when our scaler says ``ours`` and ``current`` replicas are ready, over real gRPC."""

    async def main() -> tuple[float, float]:
        async with world() as w:
            w.post(ours)
            ref = pb.ScaledObjectRef(name="chat", namespace="serving")
            (spec,) = (await w.stub.GetMetricSpec(ref)).metricSpecs
            asked = pb.GetMetricsRequest(scaledObjectRef=ref, metricName=spec.metricName)
            (metric,) = (await w.stub.GetMetrics(asked)).metricValues
            return metric.metricValueFloat, spec.targetSizeFloat

    value, target = asyncio.run(main())
    return desired_replicas(value, target, current, current, tolerance)


@pytest.mark.parametrize(
    ("current", "ours", "default", "remedied"),
    [
        (10, 11, 10, 11),  # ratio 1.1: on the edge of the tolerance, ignored
        (20, 22, 20, 22),  # two replicas too few, for as long as we say 22
        (10, 9, 10, 9),  # and one too many
        (10, 12, 12, 12),
        (9, 10, 10, 10),  # below ten replicas every step is larger than a tenth
        (10, 10, 10, 10),
    ],
)
def test_small_steps_need_tolerance_zero(current: int, ours: int, default: int, remedied: int) -> None:
    assert followed(ours, current, DEFAULT) == default
    assert followed(ours, current, 0.0) == remedied


@given(st.integers(1, 500), st.integers(0, 500))
def test_with_tolerance_zero_the_hpa_orders_what_we_say(current: int, ours: int) -> None:
    assert desired_replicas(float(ours), 1.0, current, current, 0.0) == ours


@given(st.integers(1, 500), st.integers(1, 500))
def test_with_the_default_tolerance_it_is_never_off_by_more_than_a_tenth(current: int, ours: int) -> None:
    assert abs(desired_replicas(float(ours), 1.0, current, current, DEFAULT) - ours) <= DEFAULT * current + 1e-9
