"""One story told in three worlds: a replay, the demo, and a cluster over HTTP; what each makes of every turn."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from controller.fleet.fleet import Fleet
from controller.keda.board import Board
from controller.kube.client import Kube
from controller.kube.events import Events
from controller.observing.targets import Targets
from controller.outputs.actuation import Actuator
from controller.process.clock import LiveClock, rfc3339
from controller.prometheus.client import Prometheus
from controller.prometheus.feed import Feed
from controller.prometheus.history import History
from controller.prometheus.states import FeedReason, FeedState, IndicatorState
from controller.reporting.writing import Reporter
from controller.resource.crd import crd_manifest
from controller.resource.group import API_VERSION, KIND
from controller.resource.parsing import parse_autoscaler
from controller.resource.settings import ServiceKey, ServiceSettings
from controller.service import Service, terms_of
from controller.tick import Tick
from forecasting.base import LOOKBACK, ForecastModel
from forecasting.distribution import ForecastBatch, ForecastDistribution
from forecasting.fleet import FleetForecaster
from forecasting.panel import Indicator
from forecasting.windows import WindowBatch
from harmony.loop.managed import ManagedService
from harmony.loop.persistence import state_from_json
from harmony.loop.state import Look, ScalePlan, State, Terms, Turn
from harmony.metrics import Metrics
from harmony.model.record import Record
from harmony.policies.harmony import Replayed
from simulator.demo import service as demo
from simulator.demo.specs import DemoSpec
from simulator.fluid import FluidWorld
from simulator.pool import GpuPool, StartUp
from simulator.traces.profiles import PROFILES
from tests.kube.server import FakeApiServer

Json = dict[str, Any]
GROUP = "/apis/autoscaling.harmony-autoscaler.io/v1alpha1"
STEP_S = 60.0
GRID_S = 1_767_614_400.0  # 2026-01-05T12:00:00Z, a Monday
BEGIN_S = GRID_S + 30.0  # turns fall between two rows of a history, so that a reading and its row are told apart
PER_REPLICA = 25.0
NEVER = StartUp(1e9, 1.01)  # no start ends within a story
DEMAND = Indicator("requests", "requests/s", 1, "rate")
PATHS = np.exp(np.random.default_rng(7).normal(0.0, 0.15, (50, 96)).cumsum(axis=1) * 0.2)
NAMES = itertools.count()


@dataclass(frozen=True)
class Story:
    """A service at one moment, and what happens to it from then on.

    Attributes:
        spec: its object's spec, as a person wrote it; `notes` its annotations.
        saved: what was learned of it before.
        ready: replicas that serve, besides those that start since so many minutes (`pending`).
        demand: half requests/s of each turn, None for no reading; an odd number breaks the forecaster.
        before: half requests/s of the time before.
        past: rows of demand before the first turn, of which the policy is told; none for 0.
    """

    spec: Json
    notes: dict[str, str]
    saved: Json
    ready: int
    pending: tuple[int, ...]
    demand: tuple[int | None, ...]
    before: int = 8
    past: int = 0

    @property
    def ordered(self) -> int:
        """Replicas asked for when it begins."""
        return self.ready + len(self.pending)

    @property
    def settings(self) -> ServiceSettings:
        """What the controller reads in the object."""
        return parse_autoscaler(autoscaler(self, "chat"))

    @property
    def terms(self) -> Terms:
        """What is agreed."""
        return terms_of(self.settings, STEP_S)

    @property
    def told_past(self) -> np.ndarray:
        """Demand of the rows before the first turn: a rhythm that ends near `before`, with gaps."""
        at = np.arange(self.past) - self.past
        rows = np.round(self.before * (1.0 + 0.4 * np.sin(at / 40.0)) + 5.0 * np.cos(at * 1.7)) / 2
        rows = np.where((at % 37 == 5) & (at < -1), np.nan, np.maximum(rows, 0.0))
        rows[-1:] = self.before / 2
        return rows

    @property
    def readings(self) -> list[float]:
        """Demand of each turn, requests/s; NaN for none."""
        return [math.nan if d is None else d / 2 for d in self.demand]


@dataclass(frozen=True, eq=False)
class Told:
    """What a world made of one turn: the record, the plan, and what is known after it."""

    record: Record
    plan: ScalePlan
    state: State

    def to_json(self) -> Json:
        """Everything that must be equal, as plain values: the observation, decision, plan, and the next state.

        Left out is what only names rows: times at which steps are filed, and when a waiting forecast is due.
        """
        seen, state = self.record.observation, self.state
        learned, note = state.learned, state.ledger.newest
        return {
            "seen": [
                repr(x)
                for x in (
                    seen.now_s,
                    seen.demand,
                    seen.ordered,
                    seen.ready,
                    seen.objective,
                    seen.capacity,
                    seen.lead_time,
                    seen.risk_level,
                )
            ],
            "decision": self.record.decision.to_json(),
            "plan": list(self.plan),
            "applied": self.record.applied,
            "outcome": repr(self.record.outcome),
            "learned": {name: repr(getattr(learned, name)) for name in learned.__slots__ if name != "memory"},
            "memory": _remembered(learned.memory),
            "shadow": repr(state.shadow),
            "regret": repr(state.regret),
            "scores": [repr(x) for x in (state.scores.weight, state.scores.covered, state.scores.crps_sum)],
            "waiting": [paths.tolist() for _, paths in state.scores.waiting],
            "kept": [repr(getattr(state, n)) for n in State._fields if n not in ("learned", "ledger", "scores")],
            "noted": None if note is None else list(note[1:]),
        }


def _remembered(memory: Any) -> Json:
    """The policy's memory as plain values."""
    if not isinstance(memory, Replayed):
        return {"kept": repr(memory)}
    past = memory.past
    return {
        "history": np.nan_to_num(past.history.rows, nan=-1.0).tolist(),
        "tally": [past.tally.cost.tolist(), past.tally.missed.tolist()],
        "rest": repr((past.budget, past.grid, past.chosen, past.recent, past.allowed, past.next_review, past.told)),
        "said": repr((memory.stated, memory.recalled)),
    }


class Watched(ManagedService):
    """A managed service that keeps what came of its turns; it changes nothing of them."""

    __slots__ = ("past", "plan", "told")

    def __init__(self, terms: Terms, state: State, past: np.ndarray | None = None) -> None:
        super().__init__(terms, state)
        self.told: list[Told] = []
        self.past = past

    def consider(self, look: Look) -> Turn:
        if self.past is not None and self.wants_past:
            look = look._replace(past=self.past)
        turn = super().consider(look)
        self.plan = turn.plan
        return turn

    def conclude(self, turn: Turn, applied: int) -> Record:
        record = super().conclude(turn, applied)
        self.told.append(Told(record, self.plan, self.state))
        return record

    def served(self, now_s: float, ordered: int, ready: int) -> None:
        super().served(now_s, ordered, ready)
        if self.told and now_s == self.told[-1].record.observation.now_s:
            self.told[-1] = replace(self.told[-1], state=self.state)


def autoscaler(story: Story, name: str) -> Json:
    """The object of a story."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": "laws", "annotations": story.notes, "generation": 1, "uid": name},
        "spec": {"scaleTargetRef": target, **story.spec},
    }


# ---- the forecast, the same function in every world -------------------------------------------------------------
def foretold(demand: float, origin_s: float, horizon: int = 96) -> ForecastDistribution | None:
    """Sample paths that follow from the newest reading; None where making them fails."""
    if math.isnan(demand) or round(2 * demand) % 2:
        return None
    return ForecastDistribution((demand * PATHS[:, :horizon])[:, :, None], (DEMAND,), origin_s, STEP_S, "law 1")


class Foretelling(ForecastModel):
    """The same as a model that the cluster's forecaster calls with windows."""

    @property
    def name(self) -> str:
        return "law 1"

    def predict(
        self, windows: WindowBatch, horizon: int, *, samples: int, seed: int, only: Sequence[str] | None = None
    ) -> ForecastBatch:
        made = []
        for values, end_s in zip(windows.values[:, :, 0], windows.end_s, strict=True):
            forecast = foretold(float(values[~np.isnan(values)][-1]), float(end_s), horizon)
            if forecast is None:
                raise RuntimeError("no forecast of an odd demand")
            made.append(forecast.paths)
        return ForecastBatch(np.stack(made), (DEMAND,), windows.end_s, STEP_S, "law 1")


def _complete(story: Story, turn: int) -> float:
    """The reading that a forecast of this turn is made of: the newest of a step that is over."""
    known = [d for d in story.demand[:turn] if d is not None]
    return (known[-1] if known else story.before) / 2


def _is_present(story: Story, turn: int) -> bool:
    """Whether a reading of this turn or one before is young enough to be present demand."""
    young = math.floor(story.terms.stale_s / STEP_S)
    return any(d is not None for d in story.demand[max(0, turn - young) : turn + 1])


# ---- replay -----------------------------------------------------------------------------------------------------
class _Script:
    """A replay's forecasts."""

    def __init__(self, story: Story) -> None:
        self._story = story

    def latest(self, now_s: float) -> ForecastDistribution | None:
        turn = round((now_s - BEGIN_S) / STEP_S)
        return foretold(_complete(self._story, turn), now_s) if _is_present(self._story, turn) else None


def in_replay(story: Story) -> list[Told]:
    """The story in a replay's world."""
    service = Watched(story.terms, state_from_json(story.saved, story.terms)[0], story.told_past)
    pool = _pool(GpuPool(story.ready, NEVER, STEP_S, np.random.default_rng(1)), story, 0)
    world = FluidWorld(np.array(story.readings), PER_REPLICA, pool, BEGIN_S, STEP_S, lives_already=True)
    world.run(service, _Script(story))
    return service.told


def _pool(pool: GpuPool, story: Story, row: int) -> GpuPool:
    """As many replicas as there are, some of which still start."""
    pool.begin(story.ready)
    for number, minutes in enumerate(sorted(story.pending, reverse=True), 1):
        pool.scale(row - minutes, story.ready + number)
    return pool


# ---- demo -------------------------------------------------------------------------------------------------------
class _Readings:
    """What is read in the demo; turn 0 is row 0."""

    def __init__(self, story: Story) -> None:
        self._story = story

    def time_s(self, row: int) -> float:
        return BEGIN_S + row * STEP_S

    def demand(self, service: int, row: int) -> float:
        return self._story.readings[row] if row >= 0 else math.nan

    def recent(self, service: int, row: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        return np.empty(0), self._story.told_past

    def need(self, service: int, row: int) -> float:
        found = self.demand(service, row)
        return 0.0 if math.isnan(found) else found


def in_demo(story: Story) -> list[Told]:
    """The story in the demo's world."""
    settings = story.settings
    lead = settings.lead_time.median_s
    spec = DemoSpec(
        namespace="laws",
        name="chat",
        mode=settings.mode,
        pause=settings.pause,
        demand=PROFILES["chat"],
        seed=0,
        per_replica=PER_REPLICA,
        objective=settings.objective,
        start_up=NEVER,
        guess_s=lead,
        gpu_type="",
        hpa_target=0.0,
    )
    assert demo.terms_of(spec).lead_time == settings.lead_time
    watched = Watched(story.terms, state_from_json(story.saved, story.terms)[0])
    service = demo.DemoService(spec, 0, _Readings(story), 0, watched)  # type: ignore[arg-type]
    _pool(service.pool, story, 0)
    for row, _ in enumerate(story.demand):
        service.look(row)
        made = foretold(_complete(story, row), BEGIN_S + row * STEP_S) if service.horizon() else None
        service.consider(made, with_past=True)
        service.conclude()
        service.settle()
    return watched.told


# ---- cluster ----------------------------------------------------------------------------------------------------
class _Scripted(Feed):
    """Readings of a story in place of Prometheus."""

    def __init__(self, settings: ServiceSettings, story: Story) -> None:
        history = History([q.indicator for q in settings.queries], settings.step_s, LOOKBACK)
        super().__init__(Prometheus("http://127.0.0.1:9"), settings.queries, history)
        self.story = story
        seen = story.demand[0] is not None
        if story.past:
            at = GRID_S + STEP_S * np.arange(1 - story.past, 1)
            self.history.write(0, at, story.told_past)
        # without a first reading, the last one is too old to be present demand
        rows = range(0) if story.past else range(-40, 1 if seen else -3)
        times = np.array([GRID_S + k * STEP_S for k in rows])
        self.history.write(0, times, np.full(times.size, story.before / 2))

    @property
    def has_past(self) -> bool:
        return self.story.past > 0

    async def refresh(self, now_s: float) -> FeedState:
        value = self.story.readings[round((now_s - BEGIN_S) / STEP_S)]
        if not math.isnan(value):
            self.history.write(0, np.array([now_s]), np.array([value]))
        age = now_s - self.history.newest(0)[0]
        fresh = FeedReason.EMPTY if math.isnan(value) else FeedReason.FRESH
        return FeedState(now_s, (IndicatorState("requests", fresh, "", age),), age, not math.isnan(value))


@dataclass
class _Pod:
    """A pod as the test's kubelet keeps it."""

    name: str
    serves: bool


@dataclass
class Cluster:
    """A controller's tick over a fake API server; tells many stories at once, each with a service of its own."""

    folder: Path
    now_s: float = BEGIN_S
    _stamp_s: float = BEGIN_S  # what the API server's clock shows
    _stories: dict[str, Story] = field(default_factory=dict)
    _pods: dict[str, list[_Pod]] = field(default_factory=dict)
    _uids: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self._api = FakeApiServer(timestamp=lambda: rfc3339(self._stamp_s))
        self._api.must("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd_manifest())
        self._api.ensure_namespace("laws")
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._stop())
        self._loop.close()
        self._api.stop()

    async def _start(self) -> None:
        self._kube = await Kube.connect(self._api.kubeconfig(self.folder / "kubeconfig"))
        clock = LiveClock(lambda: 0.0, lambda: self.now_s)
        clock.begin_at(self.now_s)
        self._metrics = Metrics("1", process=False)
        self.fleet = Fleet(self._kube, None, "", self._feed, interval_s=STEP_S)
        self.targets = Targets(self._kube, None, read_nodes=False)
        self.events = events = Events(self._kube, "laws", lambda: self.now_s)

        def leads() -> bool:
            return True

        self._tick = Tick(
            kube=self._kube,
            clock=clock,
            fleet=self.fleet,
            targets=self.targets,
            forecaster=FleetForecaster(Foretelling()),
            actuator=Actuator.over(self._kube, Board(), self._metrics, leads),
            reporter=Reporter(self._kube, self.fleet, events, leads),
            events=events,
            metrics=self._metrics,
            deadline_s=300.0,
        )
        await self.fleet.start()
        await self.targets.start()

    async def _stop(self) -> None:
        await self._tick.finish()
        await self.fleet.stop()
        await self.targets.stop()
        await self._kube.close()

    def _feed(self, settings: ServiceSettings) -> Feed:
        return _Scripted(settings, self._stories[settings.key.name])

    # ---- one telling ----------------------------------------------------------------------------------------
    def tell(self, stories: Sequence[Story]) -> list[list[Told]]:
        """All these stories side by side, turn by turn."""
        names = [f"chat-{next(NAMES)}" for _ in stories]
        self._stories = dict(zip(names, stories, strict=True))
        self.now_s = BEGIN_S
        for name, story in self._stories.items():
            self._begin(name, story)
        told: dict[str, list[Told]] = {name: [] for name in names}
        for turn in range(max(len(s.demand) for s in stories)):
            self.now_s = BEGIN_S + turn * STEP_S
            for name, story in list(self._stories.items()):
                if turn >= len(story.demand):
                    self._end(name)
            self._loop.run_until_complete(self._in_step())
            self._loop.run_until_complete(self._tick.run())
            for name in self._stories:
                service = self.fleet.services[ServiceKey(KIND, "laws", name)]
                assert not service.error, service.error
                assert service.record is not None
                assert service.plan is not None
                told[name].append(Told(service.record, service.plan, service.state))
                self._follow(name, service)
        for name in list(self._stories):
            self._end(name)
        self._loop.run_until_complete(self._in_step())
        return [told[name] for name in names]

    def _begin(self, name: str, story: Story) -> None:
        """Target, pods and object."""
        labels = {"app": name}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "s", "image": "x:1"}]}}
        body = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": "laws"},
            "spec": {"replicas": story.ordered, "selector": {"matchLabels": labels}, "template": template},
        }
        made = self._api.must("POST", "/apis/apps/v1/namespaces/laws/deployments", body)
        self._uids[name] = made["metadata"]["uid"]
        self._pods[name] = []
        for _ in range(story.ready):
            self._pod(name, serves=True)
        for minutes in sorted(story.pending, reverse=True):
            self._pod(name, serves=False, at_s=BEGIN_S - minutes * 60.0)
        self._stamp_s = BEGIN_S
        path = f"{GROUP}/namespaces/laws/gpuautoscalers"
        made = autoscaler(story, name)
        made["metadata"] = {k: v for k, v in made["metadata"].items() if k in ("name", "namespace", "annotations")}
        self._api.must("POST", path, made)
        if story.saved:
            self._api.must("PATCH", f"{path}/{name}/status", {"status": {"learned": story.saved}})

    def _pod(self, name: str, *, serves: bool, at_s: float = GRID_S - 20_000.0) -> None:
        """A pod that serves for long (and so teaches no start-up time), or one that starts since ``at_s``."""
        self._stamp_s = at_s
        pod = f"{name}-{len(self._pods[name])}-{next(NAMES)}"
        spec = {"containers": [{"name": "s", "image": "x:1"}]}
        owner = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": name,
            "uid": self._uids[name],
            "controller": True,
        }
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod, "namespace": "laws", "labels": {"app": name}, "ownerReferences": [owner]},
            "spec": spec,
        }
        self._api.must("POST", "/api/v1/namespaces/laws/pods", body)
        if serves:
            ready = {"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(GRID_S - 10_000.0)}
            status = {"phase": "Running", "conditions": [ready]}
            self._api.must("PATCH", f"/api/v1/namespaces/laws/pods/{pod}/status", {"status": status})
        self._pods[name].append(_Pod(pod, serves))

    def _follow(self, name: str, service: Service) -> None:
        """What the cluster makes of an order: new pods start, and of too many the newest that start go first."""
        assert service.record is not None
        pods, found = self._pods[name], self._api.must("GET", f"/apis/apps/v1/namespaces/laws/deployments/{name}")
        wanted = int(found["spec"]["replicas"])
        while len(pods) < wanted:
            self._pod(name, serves=False, at_s=self.now_s)
        while len(pods) > wanted:
            starting = [p for p in pods if not p.serves]
            gone = starting[-1] if starting else pods[-1]
            pods.remove(gone)
            self._api.must("DELETE", f"/api/v1/namespaces/laws/pods/{gone.name}?gracePeriodSeconds=0")

    def _end(self, name: str) -> None:
        """The story is told; what is left of it is in nobody's way."""
        self._api.must("DELETE", f"{GROUP}/namespaces/laws/gpuautoscalers/{name}")
        del self._stories[name]

    async def _in_step(self) -> None:
        """Wait until the controller's watches have told everything that happened."""
        await asyncio.to_thread(self._versions)
        deadline = self._loop.time() + 60.0
        while not self._is_in_step():
            assert self._loop.time() < deadline, "the watches are not in step"
            await asyncio.sleep(0.002)

    def _versions(self) -> None:
        found = self._api.must("GET", "/apis/apps/v1/namespaces/laws/deployments")
        self._deployments = {d["metadata"]["name"]: d["metadata"]["resourceVersion"] for d in found["items"]}

    def _is_in_step(self) -> bool:
        objects = {o["metadata"]["name"]: o for o in self.fleet.autoscalers()}
        if set(objects) != set(self._stories):
            return False
        kept = {n: objects[n].get("status") or {} for n, s in self._stories.items() if s.saved}
        if not all("learned" in status or "memory" in status for status in kept.values()):
            return False
        for cache in self.targets.caches[1:]:
            known = {o["metadata"]["name"]: o["metadata"].get("resourceVersion") for o in cache.items()}
            if known != self._deployments:
                return False
        pods: dict[str, int] = {name: 0 for name in self._stories}
        for pod in self.targets.pods.items():
            owner = (pod["metadata"].get("labels") or {}).get("app", "")
            serves = any((c["type"], c["status"]) == ("Ready", "True") for c in pod["status"]["conditions"])
            if owner in pods:
                pods[owner] += 1 if serves == self._serves(owner, pod["metadata"]["name"]) else 10**6
        return all(pods[name] == len(self._pods[name]) for name in self._stories)

    def _serves(self, owner: str, name: str) -> bool | None:
        return next((p.serves for p in self._pods[owner] if p.name == name), None)


def differences(story: Story, worlds: dict[str, list[Told]]) -> list[str]:
    """Where the worlds do not agree, turn by turn; empty where they do."""
    found = []
    (first, told), *others = worlds.items()
    for name, other in others:
        if len(told) != len(other):
            found.append(f"{first} has {len(told)} turns, {name} has {len(other)}")
        for turn, (a, b) in enumerate(zip(told, other, strict=False)):
            left, right = a.to_json(), b.to_json()
            found += [
                f"turn {turn}, {key}: {first} {json.dumps(left[key])[:600]} / {name} {json.dumps(right[key])[:600]}"
                for key in left
                if json.dumps(left[key]) != json.dumps(right[key])
            ]
    return found
