"""The status: camelCase outside, absent parts left out, numbers a person can read."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from controller.resource.status import (
    MAX_CANDIDATES,
    QuantileStatus,
    RiskStatus,
    ScaleCandidate,
    ScaleDecision,
    Status,
    StatusCondition,
)

NOON = datetime(2026, 3, 1, 12, 0, 0, 999_999, tzinfo=UTC)


def test_to_json_leaves_out_what_is_absent() -> None:
    status = Status(
        observed_generation=4,
        last_scale_time=NOON.astimezone(timezone(timedelta(hours=2))),
        violation_probability=math.nan,
        risk=RiskStatus(promised=0.01, stated=1 / 3, realized=math.inf, steps=0),
        learned={"lead_time": None, "n": [1, None]},
    )
    assert status.to_json() == {
        "observedGeneration": 4,
        "lastScaleTime": "2026-03-01T12:00:00Z",
        "risk": {"promised": 0.01, "stated": 0.333333, "steps": 0},  # a count of zero is a figure, not absence
        "learned": {"lead_time": None, "n": [1, None]},
    }


def test_it_reads_back_what_it_wrote_and_what_a_later_version_added() -> None:
    decision = ScaleDecision(
        time=NOON,
        from_replicas=2,
        to_replicas=3,
        direction="Up",
        reason="Forecast",
        quantiles=(QuantileStatus(quantile=0.5, values=(1.0, 2.5)),),
        candidates=(ScaleCandidate(replicas=3, violation_probability=0.008),),
    )
    condition = StatusCondition(type="Ready", status="True", last_transition_time=NOON, reason="Controlled", message="")
    written = Status(last_scale_decision=decision, conditions=(condition,)).to_json()
    assert Status.model_validate(written | {"fromTheFuture": {"x": 1}}).to_json() == written


def test_limits_of_the_definition_are_kept() -> None:
    with pytest.raises(ValidationError):
        ScaleDecision(
            time=NOON,
            direction="None",
            reason="Fixed",
            candidates=tuple(ScaleCandidate(replicas=n) for n in range(MAX_CANDIDATES + 1)),
        )
    with pytest.raises(ValidationError):  # a time without zone could be any hour
        Status(last_scale_time=datetime(2026, 3, 1))
    with pytest.raises(ValidationError):
        StatusCondition(type="Ready", status="True", last_transition_time=NOON, reason="not a word", message="")
