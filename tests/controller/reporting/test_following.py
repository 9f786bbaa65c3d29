"""A controller that stands by repeats the leader's figures, and nothing that is not one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.keda.board import Board
from controller.reporting.following import post_from_statuses
from controller.resource.settings import ServiceKey

KEY = ServiceKey("GPUAutoscaler", "serving", "chat")


def written(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "chat", "namespace": "serving"}, "spec": {"maxReplicas": 20}, "status": status}


def active(truth: str = "True") -> list[dict[str, str]]:
    return [{"type": "Ready", "status": "True"}, {"type": "ScalingActive", "status": truth}]


def posted(obj: dict[str, Any], now_s: float = 1000.0) -> Any:
    board = Board()
    post_from_statuses([obj], board, now_s)
    return board.read(KEY)


def test_the_leaders_figure_is_posted_as_current() -> None:
    decision = {"reason": "Forecast"}
    found = posted(written(desiredReplicas=7, effectiveMode="Full", conditions=active(), lastScaleDecision=decision))
    assert (found.desired_replicas, found.reason, found.mode, found.max_replicas) == (7, "Forecast", "Full", 20)
    assert found.at_s == 1000.0


def test_zero_is_a_figure() -> None:
    assert posted(written(desiredReplicas=0, conditions=active())).desired_replicas == 0


@pytest.mark.parametrize("truth", ["False", "Unknown"])
def test_a_service_that_is_not_active_has_no_figure(truth: str) -> None:
    assert posted(written(desiredReplicas=7, conditions=active(truth))).desired_replicas is None


@pytest.mark.parametrize("status", [{}, {"conditions": active()}, {"desiredReplicas": 7}])
def test_what_was_never_decided_has_no_figure(status: dict[str, Any]) -> None:
    found = posted(written(**status))
    assert found.desired_replicas is None
    assert found.reason == "NotDecidedYet"


def test_an_object_without_status_or_spec() -> None:
    assert posted({"metadata": {"name": "chat", "namespace": "serving"}}).desired_replicas is None


@given(st.one_of(st.none(), st.text(max_size=3), st.integers(max_value=-1), st.floats(), st.lists(st.integers())))
def test_nonsense_is_no_figure(value: Any) -> None:
    assert posted(written(desiredReplicas=value, conditions=active())).desired_replicas is None
