"""A campaign of lies: whatever Prometheus says, no count falls below what the last whole reading justified.

60 turns a run, in the loop's own world and through the controller over HTTP; `HARMONY_LIES=10` tells ten times as many.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from controller.observing.starts import Starts
from controller.observing.targets import TargetView
from controller.prometheus.feed import Feed
from controller.prometheus.history import History
from controller.reporting.status import conditions_of
from controller.resource.parsing import parse_autoscaler
from controller.resource.settings import ServiceKey, ServiceSettings
from controller.service import Service
from tests.controller.lives import T0, acted, certain
from tests.controller.lying import KINDS, PER_REPLICA, SILENT, TOLD_S, LyingSource
from tests.controller.resource.builders import autoscaler
from tests.laws.worlds import BEGIN_S, KIND, NAMES, Cluster, Story
from tests.prom.lying import Lying

TURNS = 60
MORE = int(os.environ.get("HARMONY_LIES", "1"))
RUNS = 60 * MORE
IN_CLUSTER = 20 * MORE
MOST = 40
SPEC = {
    "mode": "Full",
    "minReplicas": 1,
    "maxReplicas": MOST,
    "behavior": {
        "scaleDown": {"stabilizationWindowSeconds": 0},
        "scaleUp": {"policies": [{"type": "Pods", "value": 50, "periodSeconds": 15}]},
    },
    "indicators": [{"name": "requests", "query": 'sum(requests{service="chat"})', "level": 1, "unit": "requests/s"}],
    "objective": {"perReplica": PER_REPLICA, "epsilon": 0.05},
}


def feed_of(made: ServiceSettings, source: LyingSource) -> Feed:
    feed = Feed(Lying(source), made.queries, History([q.indicator for q in made.queries], made.step_s, 40))
    feed.reads_past = False
    return feed


def need(demand: float) -> int:
    return 0 if math.isnan(demand) else min(MOST, math.ceil(demand / PER_REPLICA - 1e-6))


class Witness:
    """Holds one service to the two promises, turn by turn."""

    def __init__(self, source: LyingSource, count: int) -> None:
        self.source = source
        self.count = count
        self.justified = 0

    def look(self, of: Service, applied: int) -> None:
        source, before = self.source, self.count
        complete = source.complete
        if not math.isnan(complete):
            self.justified = need(complete)
        self.count = applied
        said = f"{source.kind}, {before} -> {applied}, the last whole reading needs {self.justified}"
        assert applied >= min(before, self.justified), said
        if source.kind == "right":
            assert applied >= need(source.steps[max(source.steps)].demand), said
        told = {c.type: c for c in conditions_of(of, acted(of))}
        available = told["MetricsAvailable"]
        named = available.status == "False" or available.message != "all indicators are read"
        age_s = source.now_s - of.history.newest(0)[0]
        if source.kind not in SILENT and source.kind != "right":
            assert named, f"{source.kind} is not named: {available}"
        if age_s > TOLD_S:
            assert available.status == "False", f"nothing for {age_s} s is not named: {available}"
        kept = of.history.recent_between(0, 0.0, source.now_s)
        for at_s, value in zip(*kept, strict=True):
            step = source.steps.get(float(at_s))
            if step is not None and not math.isnan(value):
                assert step.kind == "right", f"a reading of a step that was {step.kind} is kept"
                assert value == pytest.approx(step.demand, rel=1e-5)


# ---- the loop's own world -------------------------------------------------------------------------------------
class InTheLoop(RuleBasedStateMachine):
    """One service of real settings, feed and loop; every rule is a turn."""

    def __init__(self) -> None:
        super().__init__()
        made = parse_autoscaler(autoscaler(**SPEC))
        self.source = LyingSource()
        self.service = Service(made, feed_of(made, self.source), interval_s=60.0)
        self.loop = asyncio.new_event_loop()
        self.count, self.turns = 4, 0
        self.witness = Witness(self.source, self.count)

    @rule(kind=st.sampled_from(KINDS), demand=st.integers(1, 900), share=st.floats(0.0, 0.95))
    def turn(self, kind: str, demand: int, share: float) -> None:
        if self.turns >= TURNS:
            return
        self.turns += 1
        of, source = self.service, self.source
        now_s = T0 + 60.0 * self.turns + 5.0
        source.begin(now_s, kind, float(demand), self.count, share)
        starts = Starts(pods=self.count, ready=self.count, settled=self.count)
        view = TargetView(ordered=self.count, starts=starts)
        of.expects(view, now_s)
        of.saw(view, self.loop.run_until_complete(of.feed.refresh(now_s)))
        known = of.history.newest(0)[1]
        plan = of.consider(now_s, certain(now_s // 60 * 60, known) if of.wants(now_s) else None)
        assert plan is not None
        of.conclude(plan.desired)
        self.count = plan.desired
        self.witness.look(of, self.count)

    def teardown(self) -> None:
        while self.turns < TURNS:
            self.turn("right", 100, 1.0)
        assert self.service.view.ready >= 1
        self.loop.close()


def test_no_lie_takes_replicas_away_from_the_loop() -> None:
    run_state_machine_as_test(
        InTheLoop,
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=TURNS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate] if MORE == 1 else list(Phase),
        ),
    )


# ---- through the controller -----------------------------------------------------------------------------------
class LyingCluster(Cluster):
    """The controller's tick over a fake API server, each service with a source of its own; pods serve at once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sources: dict[str, LyingSource] = {}

    def _feed(self, settings: ServiceSettings) -> Feed:
        return feed_of(settings, self.sources[settings.key.name])

    def _follow(self, name: str, service: Service) -> None:
        pods, found = self._pods[name], self._api.must("GET", f"/apis/apps/v1/namespaces/laws/deployments/{name}")
        wanted = int(found["spec"]["replicas"])
        while len(pods) < wanted:
            self._pod(name, serves=True)
        while len(pods) > wanted:
            gone = pods.pop()
            self._api.must("DELETE", f"/api/v1/namespaces/laws/pods/{gone.name}?gracePeriodSeconds=0")

    def lie(self, runs: int, rng: random.Random) -> dict[str, int]:
        """So many services side by side for 60 turns; how many turns there were of each kind."""
        story = Story(SPEC, {}, {}, 4, (), (8,) * TURNS)
        names = [f"lied-{next(NAMES)}" for _ in range(runs)]
        self._stories = dict.fromkeys(names, story)
        self.sources = {name: LyingSource() for name in names}
        witnesses = {name: Witness(self.sources[name], 4) for name in names}
        for name in names:
            self._begin(name, story)
        seen = dict.fromkeys(KINDS, 0)
        for turn in range(TURNS):
            self.now_s = BEGIN_S + turn * 60.0
            for name, source in self.sources.items():
                kind = rng.choice(KINDS)
                source.begin(self.now_s, kind, float(rng.randint(1, 300)), len(self._pods[name]), rng.uniform(0, 0.95))
                seen[source.kind] += 1
            self._loop.run_until_complete(self._in_step())
            report = self._loop.run_until_complete(self._tick.run())
            assert report.errors == 0
            for name, witness in witnesses.items():
                service = self.fleet.services[ServiceKey(KIND, "laws", name)]
                assert not service.error, service.error
                self._follow(name, service)
                witness.look(service, len(self._pods[name]))
        for name in names:
            self._end(name)
        return seen


def test_no_lie_takes_replicas_away_through_the_controller(tmp_path: Path) -> None:
    with LyingCluster(tmp_path) as cluster:
        seen = cluster.lie(IN_CLUSTER, random.Random(11))
    assert min(seen.values()) > 0, seen
