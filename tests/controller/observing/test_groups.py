"""Pods and replicas: how many pods one replica is, and that it is said where it cannot be known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.observing.groups import Groups
from controller.observing.starts import Starts
from controller.reporting.status import conditions_of
from controller.service import Service
from tests.controller.lives import T0, acted, service, turn

BOUND = {
    "objective": {"perReplica": 25, "bound": {"indicator": "wait", "atMost": 1.0}},
    "indicators": [{"name": "requests", "query": "sum(a)"}, {"name": "wait", "query": "max(b)"}],
}


NOTHING = Groups()


def after(minutes: int, ordered: int, pods: int, ready: int, groups: Groups = NOTHING) -> Groups:
    start = 0.0 if groups.now_s != groups.now_s else groups.now_s + 30
    for k in range(minutes * 2 + 1):
        groups = groups.see(start + 30.0 * k, ordered, pods, ready)
    return groups


@pytest.mark.parametrize(("ordered", "pods", "size"), [(2, 8, 4), (3, 6, 2), (1, 16, 16), (5, 5, 1), (4, 4, 1)])
def test_a_target_at_rest_tells_how_many_pods_a_replica_is(ordered: int, pods: int, size: int) -> None:
    assert after(9, ordered, pods, pods).size == 1, "not before ten minutes"
    groups = after(10, ordered, pods, pods)
    assert (groups.size, groups.ready(pods), groups.problem) == (size, ordered, "")


def test_what_is_known_lasts_while_pods_start_and_changes_when_the_target_does() -> None:
    groups = after(10, 2, 8, 8)
    growing = after(30, 4, 16, 11, groups)
    assert (growing.size, growing.ready(11)) == (4, 2), "two whole groups serve"
    assert after(10, 4, 4, 4, growing).size == 1


@pytest.mark.parametrize(("ordered", "pods"), [(10, 11), (2, 7), (3, 4)])
def test_pods_that_are_no_whole_number_each_are_told(ordered: int, pods: int) -> None:
    assert after(9, ordered, pods, pods).problem == ""
    groups = after(10, ordered, pods, pods)
    assert f"{pods} pods are ready for {ordered} replicas" in groups.problem
    assert groups.size == 1
    assert after(1, ordered, ordered, ordered, groups).problem == ""


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12), st.integers(0, 12)), max_size=40))
def test_no_short_state_says_what_a_replica_is(counts: list[tuple[int, int, int]]) -> None:
    """However the counts move, what holds for less than ten minutes teaches nothing."""
    groups, now_s = Groups(), 0.0
    for n, (ordered, pods, ready) in enumerate(counts):
        groups = groups.see(now_s, ordered, pods, min(ready, pods))
        now_s += 500.0 if n % 2 else 90.0
        groups = groups.see(now_s - 1, ordered, pods + 1, 0)
    assert (groups.size, groups.problem) == (1, "")


def lived(ordered: int, pods: int, minutes: int = 60) -> Service:
    of = service(**BOUND)
    for k in range(minutes):
        of.history.write(1, np.array([(T0 + k * 60) // 60 * 60]), np.array([0.3]))
        turn(of, T0 + k * 60, 100.0 + k % 5, ordered, starts=Starts(pods=pods, ready=pods))
    return of


def test_what_a_group_carries_is_learned() -> None:
    """Two replicas of three pods each carry 50 a replica well: more than the first guess of 25."""
    of = lived(2, 6)
    assert of.learned.capacity.median > 40
    assert of.view.ready == 2
    assert of.warnings == ()


def test_the_size_of_a_group_outlives_a_restart() -> None:
    saved = json.loads(json.dumps(lived(2, 6).to_json()))
    again = service(**BOUND, saved=saved)
    turn(again, T0 + 3600, 100.0, 2, starts=Starts(pods=6, ready=4))
    assert again.view.ready == 1, "two of three pods of one group are not ready"
    other = service(
        **BOUND, scaleTargetRef={"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"}, saved=saved
    )
    turn(other, T0 + 3600, 100.0, 2, starts=Starts(pods=6, ready=6))
    assert other.view.ready == 6, "it was learned of another target"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.just("x"), st.lists, max_leaves=5))
def test_whatever_was_saved_a_group_has_a_sane_size(saved: object) -> None:
    assert 1 <= Groups.from_json(saved, "x").size <= 10_000
    assert Groups.from_json([4, "x"], "x").size == 4
    assert Groups.from_json([4, "y"], "x").size == 1


def test_a_canary_keeps_capacity_unlearned_and_says_so() -> None:
    of = lived(2, 3)
    assert of.learned.capacity.median == pytest.approx(25, rel=0.01)
    ready = next(c for c in conditions_of(of, acted(of)) if c.type == "Ready")
    assert (ready.status, ready.reason) == ("True", "WorkingWithWarnings")
    assert "3 pods are ready for 2 replicas" in ready.message
