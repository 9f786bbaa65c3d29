"""Start-up times from pods: each start teaches once, whoever looks and how often."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.observing.starts import PodStarts, gpu_type_of, parse_time
from controller.observing.targets import _trim_pod
from controller.process.clock import rfc3339

Json = dict[str, Any]
T0 = 1_700_000_000.0


def pod(name: str, created: float, ready: float | None = None, **status: Any) -> Json:
    conditions = (
        [] if ready is None else [{"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(T0 + ready)}]
    )
    return {
        "metadata": {"name": name, "uid": name, "creationTimestamp": rfc3339(T0 + created)},
        "spec": {},
        "status": {"phase": "Running", "conditions": conditions} | status,
    }


def test_a_start_is_counted_when_it_ends() -> None:
    starts = PodStarts()
    seen = starts.look([pod("a", 0), pod("b", 10)], T0 + 30)
    assert (seen.pods, seen.ready, seen.took_s, seen.pending_s, seen.stuck) == (2, 0, (), (20.0, 30.0), "Starting")
    seen = starts.look([pod("a", 0, 40), pod("b", 10)], T0 + 41)
    assert (seen.ready, seen.took_s, seen.pending_s) == (1, (40.0,), (31.0,))
    assert starts.look([pod("a", 0, 40), pod("b", 10)], T0 + 42).took_s == ()


def test_two_that_become_ready_in_one_second_both_count() -> None:
    starts = PodStarts()
    starts.look([pod("a", 0), pod("b", 0)], T0 + 1)
    assert starts.look([pod("a", 0, 20), pod("b", 0)], T0 + 20).took_s == (20.0,)
    assert starts.look([pod("a", 0, 20), pod("b", 0, 20)], T0 + 20.5).took_s == (20.0,)


def test_readiness_lost_and_regained_is_no_second_start() -> None:
    starts = PodStarts()
    assert starts.look([pod("a", 0, 20)], T0 + 30).took_s == (20.0,)
    starts.look([pod("a", 0)], T0 + 60)
    assert starts.look([pod("a", 0, 300)], T0 + 301).took_s == ()


def unready(name: str, created: float, began: float, turned: float) -> Json:
    """A pod that runs and is not ready, with the times that Kubernetes notes."""
    times = {"type": "Ready", "status": "False", "lastTransitionTime": rfc3339(T0 + turned)}
    return pod(name, created, None, startTime=rfc3339(T0 + began), conditions=[times])


def test_pods_that_lose_readiness_are_not_starting() -> None:
    """Three of twelve three-day-old pods turn unready: none starts, whatever the age says; and none teaches later."""
    day = 86_400.0
    starts = PodStarts()
    names = [f"p{i}" for i in range(12)]
    assert starts.look([pod(n, -3 * day, -3 * day + 60) for n in names], T0).pending_s == ()
    mixed = [pod(n, -3 * day) if i < 3 else pod(n, -3 * day, -3 * day + 60) for i, n in enumerate(names)]
    seen = starts.look(mixed, T0 + 30)
    assert (seen.pods, seen.ready, len(seen.unready_s), seen.pending_s) == (12, 9, 3, ())
    assert starts.look([pod(n, -3 * day, 60) for n in names], T0 + 61).took_s == ()


@pytest.mark.parametrize("age_s", [600.0, 3 * 86_400.0])
def test_after_a_restart_readiness_that_has_turned_since_the_pod_began_tells_it_was_ready(age_s: float) -> None:
    lost = unready("a", -age_s, -age_s + 20, -40)
    starts = PodStarts(since_s=T0 - 60)
    seen = starts.look([lost], T0)
    assert (seen.unready_s, seen.pending_s) == ((40.0,), ())
    assert starts.look([pod("a", -age_s, 30)], T0 + 31).took_s == ()


def test_a_pod_that_comes_back_under_its_name_is_another_start() -> None:
    """A StatefulSet gives its pods the same names for ever; what they are told apart by is new."""
    starts = PodStarts()
    first = pod("chat-0", 0, 20)
    assert starts.look([first], T0 + 30).took_s == (20.0,)
    second = pod("chat-0", 100)
    second["metadata"]["uid"] = "another"
    seen = starts.look([second], T0 + 110)
    assert (seen.pending_s, seen.unready_s) == ((10.0,), ()), "it was not ready before: that was another pod"
    ready = pod("chat-0", 100, 150)
    ready["metadata"]["uid"] = "another"
    assert starts.look([ready], T0 + 151).took_s == (50.0,)


@pytest.mark.parametrize("ahead_s", [60.0, 7200.0])
def test_a_node_whose_clock_is_ahead_makes_no_start_longer(ahead_s: float) -> None:
    """It notes readiness by its own clock; creation is noted by the API server's. The looks themselves tell."""
    starts = PodStarts()
    starts.look([pod("old", -900, -880)], T0 - 10)
    starts.look([pod("a", 0), pod("old", -900, -880)], T0 + 1)
    starts.look([pod("a", 0), pod("old", -900, -880)], T0 + 61)
    ahead = pod("a", 0, 75 + ahead_s)
    seen = starts.look([ahead, pod("old", -900, -880)], T0 + 76)
    assert (seen.ready, seen.took_s) == (2, (75.0,))
    assert starts.since_s <= T0 + 76, "nor does it hide the starts on other nodes"
    assert starts.look([ahead, pod("old", -900, -880)], T0 + 76 + 300).settled == 2, "it has served for long enough"


def test_readiness_that_lies_ahead_and_was_not_watched_teaches_nothing() -> None:
    starts = PodStarts()
    seen = starts.look([pod("a", 0, 900), pod("b", 0, 20)], T0 + 30)
    assert (seen.ready, seen.took_s) == (2, (20.0,))
    assert starts.look([pod("a", 0, 900), pod("b", 0, 20)], T0 + 1000).took_s == ()


def restarted(name: str, created: float, ready: float | None, times: int) -> Json:
    return pod(name, created, ready, containerStatuses=[{"name": "main", "restartCount": times}])


def test_containers_that_end_and_begin_again_are_no_starts_whoever_watches() -> None:
    """Ready after a minute, killed after twenty, ready again: no start of 22 minutes, nor after a restart of ours."""
    starts = PodStarts()
    assert starts.look([pod("a", 0, 60)], T0 + 70).took_s == (60.0,)
    assert starts.look([restarted("a", 0, None, 1)], T0 + 1210).pending_s == ()
    assert starts.look([restarted("a", 0, 1320, 1)], T0 + 1330).took_s == ()
    again = PodStarts(since_s=starts.since_s)
    trimmed = _trim_pod(restarted("a", 0, 1320, 1))
    assert again.look([trimmed], T0 + 1500).took_s == ()


def test_containers_that_end_before_they_were_ever_ready_are_one_long_start() -> None:
    starts = PodStarts()
    for times in range(4):
        assert starts.look([restarted("a", 0, None, times)], T0 + 30 + 60 * times).pending_s == (30.0 + 60 * times,)
    assert starts.look([restarted("a", 0, 290, 4)], T0 + 300).took_s == (290.0,)


@pytest.mark.parametrize("age_s", [30.0, 7000.0])
def test_a_pod_that_was_never_ready_is_starting_however_old(age_s: float) -> None:
    """Its readiness was noted as absent when it began to run and has not turned since: a slow start, and it teaches."""
    slow = unready("a", -age_s, -age_s + 10, -age_s + 10)
    starts = PodStarts(since_s=T0 - 60)
    assert starts.look([slow], T0).pending_s == (age_s,)
    assert starts.look([pod("a", -age_s, 30)], T0 + 31).took_s == (age_s + 30,)


def test_a_pod_that_waits_for_a_node_is_starting_however_old() -> None:
    waiting = pod("a", -90_000, phase="Pending")
    assert PodStarts().look([waiting], T0).pending_s == (90_000.0,)


def test_old_pods_that_nobody_watched_teach_nothing() -> None:
    assert PodStarts().look([pod("a", -7200, 20)], T0 + 30).took_s == ()


def test_a_restart_forgets_no_start_and_counts_none_twice() -> None:
    first = PodStarts()
    pods = [pod("a", 0, 20), pod("b", 5, 50)]
    assert sorted(first.look(pods, T0 + 60).took_s) == [20.0, 45.0]
    second = PodStarts(since_s=first.since_s)
    assert second.look([*pods, pod("c", 60, 90)], T0 + 100).took_s == (30.0,)


@pytest.mark.parametrize(
    ("status", "failed"),
    [({"phase": "Failed"}, (50.0,)), ({"phase": "Succeeded"}, ())],
)
def test_starts_that_are_given_up(status: Json, failed: tuple[float, ...]) -> None:
    starts = PodStarts()
    starts.look([pod("a", 0)], T0 + 10)
    assert starts.look([pod("a", 0, **status)], T0 + 50).failed_s == failed
    assert starts.look([pod("a", 0, **status)], T0 + 60).failed_s == ()


def test_a_start_that_was_cancelled_says_nothing() -> None:
    starts = PodStarts()
    starts.look([pod("a", 0)], T0 + 10)
    seen = starts.look([], T0 + 20)
    assert (seen.failed_s, seen.took_s, seen.pods) == ((), (), 0)


def test_what_most_pods_wait_for_is_named() -> None:
    crash = {"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}
    unscheduled = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}
    seen = PodStarts().look([pod("a", 0, **crash), pod("b", 0, **crash), pod("c", 0, **unscheduled)], T0 + 5)
    assert seen.stuck == "CrashLoopBackOff"
    assert PodStarts().look([pod("c", 0, **unscheduled)], T0 + 5).stuck == "Unschedulable"


def test_the_oldest_says_it_in_its_own_words() -> None:
    def waiting(text: str) -> Json:
        state = {"waiting": {"reason": "ImagePullBackOff", "message": text}}
        return {"initContainerStatuses": [{"state": state}]}

    seen = PodStarts().look([pod("a", 5, **waiting("young")), pod("b", 0, **waiting("old")), pod("c", -60)], T0 + 9)
    assert (seen.stuck, seen.words) == ("ImagePullBackOff", "old"), "before pods of which nothing is known to be wrong"
    ended = {"restartCount": 3, "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}
    again = PodStarts().look([pod("a", 0, containerStatuses=[ended])], T0 + 9)
    assert (again.stuck, again.words) == ("OOMKilled", "restarted 3 times, last exit code 137")


def test_overdue_are_those_that_start_or_are_lost_for_too_long() -> None:
    starts = PodStarts()
    starts.look([pod("a", 0, 20)], T0 + 30)
    seen = starts.look([unready("a", 0, 1, 100), pod("b", 0), pod("c", 390)], T0 + 400)
    assert seen.overdue_s(200.0) == (400.0, 300.0)
    assert seen.overdue_s(350.0) == (400.0,)
    assert seen.overdue_s(400.0) == ()


def test_gpu_types() -> None:
    wanted = pod("a", 0)
    wanted["spec"] = {"nodeName": "n1", "nodeSelector": {"nvidia.com/gpu.product": "L4"}}
    assert gpu_type_of(wanted, {"n1": "H100"}.__getitem__) == "H100"
    assert gpu_type_of(wanted, lambda _: "") == "L4"
    assert gpu_type_of(pod("a", 0), lambda _: "") == ""
    assert PodStarts().look([wanted], T0 + 1, lambda _: "H100").gpu_type == "H100"


def test_times() -> None:
    assert parse_time("2023-11-14T22:13:20Z") == T0
    assert parse_time("2023-11-14T22:13:20.000000Z") == T0
    assert parse_time(None) != parse_time(None), "none is NaN"


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 300), st.none() | st.integers(0, 600)), max_size=12),
    st.lists(st.integers(0, 700), min_size=1, max_size=20),
    st.sets(st.integers(0, 19)),
)
def test_each_start_is_counted_at_most_once(
    lives: list[tuple[int, int, int | None]], looks: list[int], restarts: set[int]
) -> None:
    """Pods come, become ready and go; looks come at any time, and sometimes from a new process."""
    starts = PodStarts()
    counted: list[float] = []
    for number, at in enumerate(sorted(looks)):
        if number in restarts:
            starts = PodStarts(since_s=starts.since_s)
        pods = [
            pod(str(i), created, created + took if at >= created + took else None)
            for i, (created, took, gone) in enumerate(lives)
            if created <= at and (gone is None or at < created + gone)
        ]
        seen = starts.look(pods, T0 + at)
        counted += seen.took_s
        assert seen.ready + len(seen.pending_s) == seen.pods == len(pods)
        assert len(seen.took_on) == len(seen.took_s)
    possible = sorted(float(took) for _, took, _ in lives)
    for took in counted:
        possible.remove(took)  # a ValueError: counted twice, or never happened


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 300)), max_size=8), st.integers(5, 60))
def test_a_steady_look_misses_no_start_that_it_saw(lives: list[tuple[int, int]], every: int) -> None:
    starts = PodStarts()
    counted: Counter[float] = Counter()
    for at in range(0, 600 + every, every):
        pods = [pod(str(i), c, c + t if at >= c + t else None) for i, (c, t) in enumerate(lives) if c <= at]
        counted.update(starts.look(pods, T0 + at).took_s)
    assert Counter(float(t) for _, t in lives if t > every) <= counted <= Counter(float(t) for _, t in lives)
