"""`DemoService`: one simulated service under the real control loop, with the authority that its mode grants."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from forecasting.distribution import ForecastDistribution
from harmony.decision.authority import permitted
from harmony.decision.feedback import RiskFeedback
from harmony.decision.risk import ROUND
from harmony.decision.rule import lead_window
from harmony.decision.trust import Trust
from harmony.loop.loop import ControlLoop, Learned, Turn
from harmony.loop.ports import Reading, Replicas
from harmony.loop.scoring import ForecastScores
from harmony.loop.shadow import Regret, ShadowPool
from harmony.model.authority import Mode, Pause
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime
from harmony.model.observation import Outcome
from harmony.model.record import Record
from harmony.policies.harmony import HarmonyPolicy
from harmony.policies.hpa import HpaPolicy
from simulator.demo.demand import STEP_S, Readings
from simulator.demo.specs import DemoSpec
from simulator.pool import GpuPool

__all__ = ["Acted", "DemoService"]

STALE_ROWS = 2  # demand older than this many rows is absent
PATIENCE_S = 600.0  # a request that waits longer is given up
DAY_ROWS = 1440


@dataclass(frozen=True, slots=True)
class Acted:
    """What came of a turn: the count that stands, the floor held (None: none), what held the order, refused or not."""

    applied: int
    desired: int
    floor: int | None = None
    held_by: str = ""
    refused: bool = False


class DemoService:
    """The world of one service; each step: `look`, then `consider` and `conclude` if it is its turn, then `settle`.

    It is the loop's clock, metric source, forecast source and scale target. While it has no authority the loop lives
    with a shadow of it, as in a cluster.
    """

    def __init__(self, spec: DemoSpec, number: int, readings: Readings, row: int) -> None:
        self.spec = spec
        self.number = number
        self.row = row
        self._readings = readings
        self._rng = np.random.default_rng([spec.seed, 0x53455256])
        self._first_row = row
        self.capacity = Capacity.known(spec.per_replica)
        begin = self._needed(readings.need(number, row), 1.25)
        self.pool = GpuPool(begin, spec.start_up, STEP_S, self._rng)
        self.scores = ForecastScores()
        self.regret = Regret()
        self.shadow: ShadowPool | None = None
        self.forecast: ForecastDistribution | None = None
        self.turn: Turn | None = None
        self.record: Record | None = None
        self.acted = Acted(begin, begin)
        self.took_s: list[float] = []  # starts that finished since the turn before
        self.utilization = 0.0
        self.waiting = 0.0
        self._outcome = Outcome()
        self._placed: list[tuple[int, int]] = []  # (row, count) of orders that may still be starting
        self.loop = self._loop()
        self.hpa = self._beside()

    def _loop(self) -> ControlLoop:
        lead = LeadTime.measured(self.spec.guess_s)
        epsilon, steps = self.spec.objective.epsilon, lead.steps(STEP_S)
        return ControlLoop(
            objective=self.spec.objective,
            policy=HarmonyPolicy(limits=self.spec.objective.behavior),
            learned=Learned(
                capacity=self.capacity,
                lead_time=lead,
                feedback=RiskFeedback.per_lead(epsilon, steps),
                trust=Trust.start(epsilon, steps),
            ),
            metrics=self,
            target=self,
            clock=self,
            step_s=STEP_S,
            interval_s=STEP_S,
            forecasts=self,
            pending=self._pending_s,
        )

    def _beside(self) -> ControlLoop | None:
        """The HorizontalPodAutoscaler that keeps the count where HARMONY was not granted it."""
        if self.spec.mode.rank >= Mode.UP_ONLY.rank:
            return None
        return ControlLoop(
            objective=self.spec.objective,
            policy=HpaPolicy(self.spec.hpa_target),
            learned=Learned(self.capacity, LeadTime.known(self.spec.guess_s), RiskFeedback.start(0.01)),
            metrics=_Plain(self),
            target=_Plain(self),
            clock=self,
            step_s=STEP_S,
            interval_s=STEP_S,
        )

    # ---- the loop's world -----------------------------------------------------------------------------------
    def now_s(self) -> float:
        """Simulated time of the present row."""
        return self._readings.time_s(self.row)

    @property
    def demand(self) -> float:
        """The newest demand that is not too old; NaN when it is absent."""
        age = self.age_rows
        return math.nan if age > STALE_ROWS else self._readings.demand(self.number, self.row - age)

    @property
    def age_rows(self) -> int:
        """Rows since demand was last read (at most a day)."""
        for age in range(DAY_ROWS):
            if not math.isnan(self._readings.demand(self.number, self.row - age)):
                return age
        return DAY_ROWS

    def read(self) -> Reading:
        """The newest demand and what came of the steps since the last turn."""
        outcome, self._outcome = self._outcome, Outcome()
        return Reading(self.demand, outcome)

    def latest(self, now_s: float) -> ForecastDistribution | None:
        """The forecast that was made for this turn."""
        return self.forecast

    def replicas(self) -> Replicas:
        """The real counts, or the shadow's while there is no authority."""
        return self.real if self.shadow is None else self.shadow.replicas()

    @property
    def real(self) -> Replicas:
        """What really is ordered and serves."""
        return Replicas(self.pool.ordered, self.pool.ready)

    def started_s(self) -> list[float]:
        """Real starts since the turn before."""
        return self.took_s

    def scale(self, replicas: int) -> int:
        """Order replicas of the shadow or of the real pool."""
        if self.shadow is not None:
            return self.shadow.scale(replicas)
        return self.order(replicas)

    def order(self, replicas: int) -> int:
        """Order replicas of the real pool; always accepted."""
        if replicas > self.pool.ordered:
            self._placed.append((self.row, replicas - self.pool.ordered))
        self.pool.scale(self.row, replicas)
        return replicas

    def _pending_s(self) -> list[float]:
        """Ages of the real starts that still run: the newest orders, as many as there are replicas starting."""
        starting = self.pool.ordered - self.pool.ready
        ages: list[float] = []
        still = []
        for row, count in reversed(self._placed):
            part = min(count, starting - len(ages))
            if part <= 0:
                break
            ages += [(self.row - row) * STEP_S] * part
            still.append((row, part))
        self._placed = still[::-1]
        return ages

    # ---- authority ------------------------------------------------------------------------------------------
    @property
    def trust(self) -> Trust:
        """Realised against stated risk."""
        trust = self.loop.learned.trust
        assert trust is not None  # `_loop` gives one and nothing takes it away
        return trust

    @property
    def mode(self) -> Mode:
        """The authority in force: what was granted, less what trust took back (the one who alone scales scales up)."""
        granted = self.spec.mode
        left = self.trust.mode(granted)
        return Mode.UP_ONLY if granted.rank >= Mode.UP_ONLY.rank > left.rank else left

    def _cast_shadow(self) -> None:
        if self.mode.rank >= Mode.FLOOR.rank:
            self.shadow = None
            return
        lead = self.loop.learned.lead_time
        if self.shadow is None:
            self.shadow = ShadowPool(self, lead, self.pool.ordered)
        self.shadow.lead_time = lead

    # ---- one step -------------------------------------------------------------------------------------------
    def look(self, row: int) -> None:
        """Move to ``row``: what has finished starting serves, and others than HARMONY have acted."""
        self.row = row
        self.pool.advance(row)
        self.took_s += self.pool.started_s()
        if self.hpa is not None:
            self._follow_hpa(self.hpa)
        elif self._is_trimmed():
            self.order(min(self.pool.ordered, self._needed(self._readings.need(self.number, row), 1.5)))

    def horizon(self) -> int:
        """Steps ahead that a decision now needs."""
        lead = self.loop.learned.lead_time.with_pending(self._pending_s())
        return lead.steps(STEP_S) + round(self.loop.interval_s / STEP_S)

    def consider(self, forecast: ForecastDistribution | None) -> Turn:
        """Learn from what came of the turns before, and decide."""
        self.forecast = forecast
        self._cast_shadow()
        self.turn = self.loop.consider()
        if forecast is not None:
            self.scores.keep(forecast, "requests", max(1, lead_window(self.turn.observation)))
        return self.turn

    def conclude(self) -> Record:
        """Order what is permitted, and end the turn."""
        turn, self.turn = self.turn, None
        assert turn is not None
        self.acted = self._act(turn.decision.replicas)
        applied = self.acted.applied
        if self.shadow is not None:
            applied = self.shadow.scale(turn.decision.replicas)
        self.record = self.loop.conclude(turn, applied)
        return self.record

    def take_started(self) -> list[float]:
        """Starts that finished since the turn before, for whoever shows them; they are forgotten then."""
        took, self.took_s = self.took_s, []
        return took

    def _act(self, wanted: int) -> Acted:
        """What the mode makes of the wish for ``wanted`` replicas."""
        present, mode = self.pool.ordered, self.mode
        allowed = permitted(mode, Pause(), present, wanted)
        if mode is Mode.FLOOR:
            return Acted(present, present, floor=wanted, held_by=allowed.bound_by)
        if allowed.replicas == present:
            return Acted(present, present, held_by=allowed.bound_by)
        if self._rng.random() < self.spec.refused:
            return Acted(present, allowed.replicas, held_by=allowed.bound_by, refused=True)
        return Acted(self.order(allowed.replicas), allowed.replicas, held_by=allowed.bound_by)

    def settle(self) -> None:
        """The end of the step: it shows whether demand was carried."""
        asked, carried = self._readings.need(self.number, self.row), self.pool.ready * self.spec.per_replica
        self.utilization = min(1.0, asked / carried) if carried > 0 else 1.0
        self.waiting = min(max(0.0, self.waiting + (asked - carried) * STEP_S), PATIENCE_S * max(asked, carried))
        self._judge(self._readings.demand(self.number, self.row))

    def _follow_hpa(self, hpa: ControlLoop) -> None:
        """The HorizontalPodAutoscaler's turn; its minimum is our floor where that was granted."""
        turn = hpa.consider()
        count = turn.decision.replicas
        if self.mode is Mode.FLOOR and self.acted.floor is not None:
            count = max(count, self.acted.floor)
        hpa.conclude(turn, count if count == self.pool.ordered else self.order(count))

    def _is_trimmed(self) -> bool:
        """True in the minute in which a person gives back what UpOnly keeps."""
        every = self.spec.trimmed_every_h * 60
        return every > 0 and self.row % every == 0

    def _judge(self, demand: float) -> None:
        """Keep the outcome of this step for all that learns from it; absent demand is neither kept nor missed."""
        self.scores.settle(self.now_s(), demand, STEP_S)
        living, per_replica = self.replicas(), self.spec.per_replica
        if not math.isnan(demand):
            missed = demand / per_replica - living.ready > ROUND
            self._outcome = Outcome(self._outcome.steps + 1, self._outcome.violated + missed)
        if self.shadow is not None:
            gpus = self.spec.objective.gpus_per_replica
            self.regret = self.regret.add(STEP_S, demand, per_replica, self.real, living, gpus)

    def _needed(self, demand: float, margin: float) -> int:
        """Replicas for ``demand`` times ``margin``, within the bounds."""
        objective = self.spec.objective
        count = math.ceil(demand * margin / self.spec.per_replica - ROUND)
        return min(max(count, objective.min_replicas), objective.max_replicas)


class _Plain:
    """The service as another autoscaler sees it: real counts, the newest demand, nothing learned."""

    def __init__(self, service: DemoService) -> None:
        self._service = service

    def read(self) -> Reading:
        return Reading(self._service.demand, Outcome())

    def replicas(self) -> Replicas:
        return self._service.real

    def started_s(self) -> list[float]:
        return []

    def scale(self, replicas: int) -> int:
        return self._service.order(replicas)
