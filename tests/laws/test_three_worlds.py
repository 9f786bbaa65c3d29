"""THE LAW: equal state and equal inputs give equal decision, plan and next state in replay, demo and cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from controller.resource.group import Annotation
from controller.service import Service
from harmony.loop.managed import ManagedService
from harmony.loop.state import Look
from simulator.demo.service import DemoService
from simulator.pool import GpuPool
from tests.laws.worlds import (
    BEGIN_S,
    PER_REPLICA,
    STEP_S,
    Cluster,
    Story,
    differences,
    foretold,
    in_demo,
    in_replay,
)

Json = dict[str, Any]
AT_ONCE = 6
EXAMPLES = 51  # times `AT_ONCE`: 306 stories

REQUESTS = {"name": "requests", "query": "sum(rate(x[1m]))", "kind": "Rate", "unit": "requests/s"}
MODES = ("Observe", "Recommend", "Floor", "UpOnly", "Full")
BEHAVIORS: tuple[Json, ...] = (
    {"scaleDown": {"stabilizationWindowSeconds": 0}},
    {"scaleDown": {"stabilizationWindowSeconds": 600}},
    {
        "scaleUp": {"stabilizationWindowSeconds": 60, "policies": [{"type": "Pods", "value": 2, "periodSeconds": 120}]},
        "scaleDown": {
            "stabilizationWindowSeconds": 0,
            "policies": [{"type": "Percent", "value": 40, "periodSeconds": 60}],
        },
    },
)
SCHEDULES: tuple[list[Json], ...] = (
    [],
    [{"name": "noon", "timezone": "UTC", "startTime": "11:00", "endTime": "12:02", "minReplicas": 4}],
    [{"name": "calm", "timezone": "Europe/Berlin", "startTime": "12:00", "endTime": "14:00", "maxReplicas": 9}],
)
NOTES: tuple[dict[str, str], ...] = (
    {},
    {},
    {},
    {Annotation.PAUSED: "true"},
    {Annotation.PAUSED_REPLICAS: "3"},
    {Annotation.PAUSED_SCALE_IN: "true"},
    {Annotation.PAUSED_SCALE_OUT: "true"},
)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """A service with a past, in any mode, and some minutes of it."""
    spec: Json = {
        "mode": draw(st.sampled_from(MODES)),
        "minReplicas": draw(st.sampled_from([0, 1, 2])),
        "maxReplicas": 12,
        "stepSeconds": 60,
        "indicators": [dict(REQUESTS)],
        "objective": {"perReplica": PER_REPLICA, "epsilon": draw(st.sampled_from([0.01, 0.05, 0.2]))},
        "leadTime": {"source": "Measured", "seconds": draw(st.sampled_from([360, 600]))},
        "behavior": draw(st.sampled_from(BEHAVIORS)),
    }
    if schedules := draw(st.sampled_from(SCHEDULES)):
        spec["schedules"] = schedules
    if draw(st.booleans()):
        spec["fallback"] = {"failureThreshold": draw(st.integers(1, 3)), "replicas": draw(st.integers(1, 9))}
    known = draw(st.lists(st.integers(0, 500), max_size=3))
    absent = draw(st.integers(0 if known else 1, 3))
    ready = draw(st.integers(0, 5))
    pending = tuple(draw(st.lists(st.integers(1, 30), max_size=3)))
    past = draw(st.sampled_from([0, 0, 230, 300])) if known else 0  # of which the policy is told at the first turn
    story = Story(
        spec,
        draw(st.sampled_from(NOTES)),
        {},
        ready,
        pending,
        (*known, *[None] * absent),
        draw(st.integers(0, 500)),
        past,
    )
    turns = draw(st.integers(0, 40) | st.just(150))
    return story if turns == 0 else _with_past(story, draw(st.integers(0, 10_000)), turns)


def _with_past(story: Story, seed: int, turns: int) -> Story:
    """The same service after so many turns of a life that went well or badly, as its status would tell it."""
    rng = np.random.default_rng(seed)
    service = ManagedService(story.terms)
    ordered, misses, level = story.ordered, rng.random() < 0.5, 100.0
    for k in range(turns):
        now_s = BEGIN_S - (turns - k) * STEP_S
        level = max(0.0, level + float(rng.normal(0, 15)))
        demand = float("nan") if rng.random() < 0.1 else level
        rows = [(now_s - STEP_S, 1e6 if misses or rng.random() < 0.05 else level, float("nan"))]
        started = [(float(rng.uniform(100, 900)), "")] if rng.random() < 0.2 else []
        made = None if rng.random() < 0.2 else foretold(float(round(level)), now_s)
        look = Look(now_s, demand, 0.0, ordered, ordered, rows=rows, started=started, forecast=made)
        turn = service.consider(look)
        service.conclude(turn, turn.plan.desired)
        ordered = turn.plan.desired
    saved = json.loads(json.dumps(service.to_json()))
    return replace(story, saved=saved)


TEN_AND_THREE = Story(  # ten are ordered, three are wanted, and there is no forecast
    {
        "mode": "Full",
        "maxReplicas": 20,
        "stepSeconds": 60,
        "indicators": [REQUESTS],
        "objective": {"perReplica": PER_REPLICA},
        "leadTime": {"source": "Measured", "seconds": 600},
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
    },
    {},
    {},
    ready=10,
    pending=(),
    demand=(119, 119),
    before=119,
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One controller and one API server for all stories."""
    with Cluster(tmp_path_factory.mktemp("laws")) as made:
        yield made


def disagreements(cluster: Cluster, told: list[Story]) -> list[str]:
    """Where the three worlds do not agree about these stories."""
    found = []
    for story, in_cluster in zip(told, cluster.tell(told), strict=True):
        worlds = {"cluster": in_cluster, "replay": in_replay(story), "demo": in_demo(story)}
        found += [f"{what}\n  in {story}" for what in differences(story, worlds)]
    return found


@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a story at a time says enough; telling it again is slow
    suppress_health_check=list(HealthCheck),
)
@example([TEN_AND_THREE])
@given(told=st.lists(stories(), min_size=AT_ONCE, max_size=AT_ONCE))
def test_equal_state_and_inputs_give_equal_decision_plan_and_next_state(cluster: Cluster, told: list[Story]) -> None:
    assert disagreements(cluster, told) == []


def test_ten_are_held_where_three_are_wanted_and_nothing_is_foretold(cluster: Cluster) -> None:
    for told in (cluster.tell([TEN_AND_THREE])[0], in_replay(TEN_AND_THREE), in_demo(TEN_AND_THREE)):
        assert [tuple(t.plan) for t in told] == [(3, 10, "warming up")] * 2
        assert [t.record.applied for t in told] == [10, 10]


# ---- the law sees what it is there for: one difference planted in one world at a time ---------------------------
STARTING = Story(
    {**TEN_AND_THREE.spec, "mode": "Full"}, {}, {}, ready=2, pending=(29, 30, 30), demand=(100, 140, None, None, None)
)


def test_who_is_taken_away_serves_no_more_before_the_next_look(cluster: Cluster) -> None:
    """The user holds three where demand needs five of the five that serve: the step is violated in every world."""
    note = {"autoscaling.harmony-autoscaler.io/paused-replicas": "3"}
    held = Story(STARTING.spec, note, {}, ready=5, pending=(5,), demand=(202, 308, None, None), before=129, past=230)
    assert disagreements(cluster, [held]) == []


def test_the_law_holds_for_the_planted_story_without_the_plant(cluster: Cluster) -> None:
    assert disagreements(cluster, [STARTING]) == []


def test_the_law_holds_for_a_service_with_a_past_of_its_own(cluster: Cluster) -> None:
    """Told of it at the first turn, all worlds choose the same setting from it and go on alike."""
    spec = {**TEN_AND_THREE.spec, "objective": {"perReplica": PER_REPLICA, "epsilon": 0.05}}
    told = Story(spec, {}, {}, ready=6, pending=(2,), demand=(240, 238, 250, 260, None, None), before=236, past=300)
    assert disagreements(cluster, [told]) == []
    memory = in_replay(told)[-1].state.learned.memory
    assert memory.recalled
    assert memory.past.setting is not None
    assert len(memory.past.history) == 306


def test_a_replay_that_forgets_what_still_starts_is_found(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    told = cluster.tell([STARTING])[0]
    assert differences(STARTING, {"cluster": told, "replay": in_replay(STARTING)}) == []
    monkeypatch.setattr(GpuPool, "pending_s", lambda self, step: ())
    found = differences(STARTING, {"cluster": told, "replay": in_replay(STARTING)})
    assert any("seen" in what for what in found)


def test_a_demo_that_takes_old_readings_for_new_is_found(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    told = cluster.tell([STARTING])[0]
    assert differences(STARTING, {"cluster": told, "demo": in_demo(STARTING)}) == []
    monkeypatch.setattr(DemoService, "settle", lambda self: None)
    found = differences(STARTING, {"cluster": told, "demo": in_demo(STARTING)})
    assert any("learned" in what for what in found)


def test_a_cluster_that_gives_replicas_away_in_warm_up_is_found(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    consider = Service.consider

    def eager(self: Service, *args: Any, **told: Any) -> Any:
        plan = consider(self, *args, **told)
        if plan is not None:
            self._plan = plan._replace(desired=plan.wanted)
        return self._plan

    monkeypatch.setattr(Service, "consider", eager)
    found = disagreements(cluster, [TEN_AND_THREE])
    assert any("plan" in what for what in found)
    assert any("applied" in what for what in found)
