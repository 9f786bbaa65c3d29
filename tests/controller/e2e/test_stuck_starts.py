"""Starts that do not end: the count does not grow because of them, and the status says what is stuck."""

from __future__ import annotations

from typing import Any

import pytest

from controller.process.clock import rfc3339
from controller.service import Service
from harmony.decision.rule import decide
from harmony.model.lead_time import LeadTime
from harmony.model.observation import Observation
from tests.laws.worlds import BEGIN_S, GRID_S, PER_REPLICA, STEP_S, Cluster, Story, foretold

Json = dict[str, Any]
TURNS = 60
LOST = 20  # the turn in which pods that serve are lost for good
DEMAND = 1000  # half requests/s: twenty replicas of it, and what the forecast adds
WORDS = {
    "fine": "",
    "never-ready": "ContainersNotReady: containers with unready status: [s]",
    "unschedulable": "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    "quota": 'pods "chat-1" is forbidden: exceeded quota: gpus',
    "image-pull": 'ImagePullBackOff: Back-off pulling image "x:1"',
    "crash-loop": "CrashLoopBackOff: back-off 5m0s restarting failed container=s",
    "lost": "CrashLoopBackOff: back-off 5m0s restarting failed container=s",
    "out-of-memory": "OOMKilled: restarted 9 times, last exit code 137",
}


def _waits(reason: str, message: str) -> Json:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def _not_ready(**status: Any) -> Json:
    said = {"type": "Ready", "status": "False", "lastTransitionTime": rfc3339(GRID_S)}
    said |= {"reason": "ContainersNotReady", "message": "containers with unready status: [s]"}
    return {"phase": "Running", "conditions": [said], **status}


STATUS: dict[str, Json] = {
    "never-ready": _not_ready(containerStatuses=[{"state": {"running": {}}, "restartCount": 0}]),
    "unschedulable": {
        "phase": "Pending",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
            }
        ],
    },
    "image-pull": _not_ready(
        phase="Pending", containerStatuses=[_waits("ImagePullBackOff", 'Back-off pulling image "x:1"')]
    ),
    "crash-loop": _not_ready(
        containerStatuses=[_waits("CrashLoopBackOff", "back-off 5m0s restarting failed container=s")]
    ),
    "out-of-memory": _not_ready(
        containerStatuses=[
            {
                "state": {"running": {}},
                "restartCount": 9,
                "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
            }
        ]
    ),
}


class Stuck(Cluster):
    """Services whose pods do not become ready, each for another reason, told side by side through the controller."""

    def hour(self, kinds: list[str], story: Story) -> None:
        self._kinds: dict[str, str] = {}
        self._left = list(kinds)
        self.counts: dict[str, list[int]] = {kind: [] for kind in kinds}
        self.said: dict[str, list[dict[str, Json]]] = {kind: [] for kind in kinds}
        self._loop.run_until_complete(self.events.start())
        self.tell([story] * len(kinds))
        self._loop.run_until_complete(self.events.stop())
        self.told: dict[str, list[Json]] = {kind: [] for kind in kinds}
        for event in self._api.must("GET", "/apis/events.k8s.io/v1/namespaces/laws/events")["items"]:
            self.told[self._kinds[event["regarding"]["name"]]].append(event)

    def _begin(self, name: str, story: Story) -> None:
        self._kinds[name] = self._left.pop(0)
        super()._begin(name, story)

    def _pod(self, name: str, *, serves: bool, at_s: float = GRID_S - 20_000.0) -> None:
        super()._pod(name, serves=serves, at_s=at_s)
        status = STATUS.get(self._kinds[name])
        if status is not None and not serves:
            self._becomes(self._pods[name][-1].name, status)

    def _follow(self, name: str, service: Service) -> None:
        kind = self._kinds[name]
        self.counts[kind].append(service.view.ordered)
        path = f"/apis/autoscaling.harmony-autoscaler.io/v1alpha1/namespaces/laws/gpuautoscalers/{name}"
        self.said[kind].append({c["type"]: c for c in self._api.must("GET", path)["status"]["conditions"]})
        if kind == "quota":
            failed = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": WORDS["quota"]}
            path = f"/apis/apps/v1/namespaces/laws/deployments/{name}/status"
            self._api.must("PATCH", path, {"status": {"conditions": [failed]}})
            return
        super()._follow(name, service)
        turn = round((self.now_s - BEGIN_S) / STEP_S)
        if kind == "fine" or (kind == "lost" and turn < LOST):
            for pod in self._pods[name]:
                if not pod.serves:
                    pod.serves = True
                    at = {"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(self.now_s + STEP_S)}
                    self._becomes(pod.name, {"phase": "Running", "conditions": [at]})
        elif kind == "lost":
            for pod in self._pods[name]:
                if pod.serves:
                    pod.serves = False
                    since = {
                        "conditions": [
                            STATUS["crash-loop"]["conditions"][0] | {"lastTransitionTime": rfc3339(self.now_s)}
                        ]
                    }
                    self._becomes(pod.name, STATUS["crash-loop"] | since)

    def _becomes(self, pod: str, status: Json) -> None:
        self._api.must("PATCH", f"/api/v1/namespaces/laws/pods/{pod}/status", {"status": status})


STORY = Story(
    spec={
        "mode": "Full",
        "minReplicas": 1,
        "maxReplicas": 200,
        "stepSeconds": 60,
        "indicators": [{"name": "requests", "query": "sum(rate(x[1m]))", "kind": "Rate", "unit": "requests/s"}],
        "objective": {"perReplica": PER_REPLICA, "epsilon": 0.05},
        "leadTime": {"source": "Measured", "seconds": 120},
    },
    notes={},
    saved={},
    ready=0,
    pending=(0,),
    demand=(DEMAND,) * TURNS,
    before=DEMAND,
)


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Stuck:
    """An hour of one service of each kind."""
    with Stuck(tmp_path_factory.mktemp("stuck")) as cluster:
        cluster.hour(list(WORDS), STORY)
        return cluster


STUCK = [kind for kind in WORDS if kind != "fine"]
AFTER = round(STORY.terms.lead_time.stuck_after_s / STEP_S) + 6  # turns; orders take the first five to reach demand


def asked_for(lead_s: float) -> int:
    """What demand alone asks for where all starts take so long."""
    terms, demand = STORY.terms, DEMAND / 2
    seen = Observation(
        BEGIN_S,
        STEP_S,
        STEP_S,
        demand,
        1,
        1,
        terms.objective,
        terms.capacity,
        LeadTime.known(lead_s),
        foretold(demand, BEGIN_S),
        terms.objective.epsilon,
    )
    return decide(seen).replicas


def test_where_starts_end_the_count_is_what_demand_asks_for(hour: Stuck) -> None:
    counts, said = hour.counts["fine"], hour.said["fine"]
    assert DEMAND / 2 / PER_REPLICA <= counts[-1] <= asked_for(STORY.terms.lead_time.quantile_s(0.9))
    assert all(c["Ready"]["status"] == "True" for c in said)


@pytest.mark.parametrize("kind", STUCK)
def test_the_count_does_not_grow_because_starts_do_not_end(hour: Stuck, kind: str) -> None:
    lead_s = STORY.terms.lead_time.quantile_s(0.9)
    assert max(hour.counts[kind]) <= asked_for(2 * lead_s), hour.counts[kind]
    assert min(hour.counts[kind][10:]) >= DEMAND / 2 / PER_REPLICA, "what is stuck is no reason to give up either"


@pytest.mark.parametrize("kind", STUCK)
def test_conditions_and_one_event_say_what_is_stuck_in_the_pods_own_words(hour: Stuck, kind: str) -> None:
    begins = LOST if kind == "lost" else 0
    late = hour.said[kind][begins + AFTER :]
    assert late
    for conditions in late:
        for of in ("AbleToScale", "Ready"):
            assert conditions[of]["status"] == "False", conditions[of]
            assert conditions[of]["reason"] == ("PodsNotCreated" if kind == "quota" else "PodsNotReady")
            assert WORDS[kind] in conditions[of]["message"]
    warned = [e for e in hour.told[kind] if e["type"] == "Warning"]
    assert len(warned) == 1, [(e["reason"], e["note"]) for e in warned]
    assert WORDS[kind] in warned[0]["note"]
