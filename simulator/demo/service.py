"""`DemoService`: the world of one simulated service: what was read, what serves, and who else scales it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from forecasting.distribution import ForecastDistribution
from forecasting.panel import FloatArray
from harmony.decision.risk import ROUND
from harmony.decision.trust import Trust
from harmony.loop.ledger import Row
from harmony.loop.managed import ManagedService
from harmony.loop.scoring import ForecastScores
from harmony.loop.shadow import Regret
from harmony.loop.state import Look, State, Terms, Turn
from harmony.model.authority import Mode
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime
from harmony.model.record import Record
from harmony.policies.harmony import SERVED, HarmonyPolicy
from harmony.policies.hpa import HpaPolicy
from simulator.demo.demand import STEP_S, Readings
from simulator.demo.specs import DemoSpec
from simulator.pool import GpuPool

__all__ = ["DemoService", "Enacted", "terms_of"]

PATIENCE_S = 600.0  # a request that waits longer is given up
DAY_ROWS = 1440
PAST_DAYS = 7  # of demand that a service is told of at its first turn, as Prometheus would
LATE_STEPS = 1  # the reading of the present row may be lost


@dataclass(frozen=True, slots=True)
class Enacted:
    """What came of a plan: the count that stands, the floor held (None: none), what held it, refused or not."""

    applied: int
    desired: int
    floor: int | None = None
    held_by: str = ""
    refused: bool = False


def terms_of(spec: DemoSpec) -> Terms:
    """What is agreed about a service of the demo."""
    return Terms(
        objective=spec.objective,
        policy=HarmonyPolicy(limits=spec.objective.behavior, kept=SERVED),
        capacity=Capacity.known(spec.per_replica),
        lead_time=LeadTime.measured(spec.guess_s),
        step_s=STEP_S,
        interval_s=STEP_S,
        mode=spec.mode,
        pause=spec.pause,
        gpu_type=spec.gpu_type,
    )


class DemoService:
    """The world of one service; each step: `look`, then `consider` and `conclude` if it is its turn, then `settle`."""

    def __init__(
        self, spec: DemoSpec, number: int, readings: Readings, row: int, managed: ManagedService | None = None
    ) -> None:
        """``managed``: a life to go on with; by default one that begins now."""
        self.spec = spec
        self.number = number
        self._row = row
        self._readings = readings
        self._rng = np.random.default_rng([spec.seed, 0x53455256])
        begin = self._needed(readings.need(number, row), 1.25)
        self.pool = GpuPool(begin, spec.start_up, STEP_S, self._rng)
        self._managed = ManagedService(terms_of(spec)) if managed is None else managed
        self._turn: Turn | None = None
        self.record: Record | None = None
        self.acted = Enacted(begin, begin)
        self._started: list[tuple[float, str]] = []  # that finished since the turn before
        self._rows: list[Row] = []  # of known demand, since the turn before
        self._took_s: list[float] = []  # for whoever shows them
        self.utilization = 0.0
        self.waiting = 0.0
        self._hpa = self._beside()

    def _beside(self) -> ManagedService | None:
        """The HorizontalPodAutoscaler that keeps the count where HARMONY was not granted it."""
        if self.spec.mode.moves_count or self.spec.hpa_target <= 0.0:
            return None
        lead = LeadTime.known(self.spec.guess_s)
        theirs = replace(
            self._managed.terms,
            policy=HpaPolicy(self.spec.hpa_target),
            lead_time=lead,
            mode=Mode.FULL,
            steps_back=False,
        )
        return ManagedService(theirs)

    def turns_every(self, seconds: float) -> None:
        """How often it has its turn from now on."""
        self._managed.adopt(replace(self._managed.terms, interval_s=seconds))

    # ---- what is known of it --------------------------------------------------------------------------------
    @property
    def managed(self) -> ManagedService:
        """Its loop, to be looked at."""
        return self._managed

    @property
    def terms(self) -> Terms:
        """What was agreed."""
        return self._managed.terms

    @property
    def state(self) -> State:
        """All that is known of it."""
        return self._managed.state

    @property
    def row(self) -> int:
        """The present row."""
        return self._row

    @property
    def mode(self) -> Mode:
        """The authority in force."""
        return self._managed.mode

    @property
    def trust(self) -> Trust:
        """Realised against stated risk."""
        return self._managed.trust

    @property
    def scores(self) -> ForecastScores:
        """Whether its forecasts came true."""
        return self._managed.state.scores

    @property
    def regret(self) -> Regret:
        """What the shadow would have saved and violated."""
        return self._managed.state.regret

    @property
    def age_rows(self) -> int:
        """Rows since demand was last read (at most a day)."""
        for age in range(DAY_ROWS):
            if not math.isnan(self._readings.demand(self.number, self._row - age)):
                return age
        return DAY_ROWS

    # ---- one step -------------------------------------------------------------------------------------------
    def look(self, row: int) -> None:
        """Move to ``row``: what has finished starting serves, and others than HARMONY have acted."""
        self._row = row
        self.pool.advance(row)
        started = self.pool.started()
        self._started += started
        self._took_s += [took for took, _ in started]
        if self._hpa is not None:
            self._follow_hpa(self._hpa)
        elif self._is_trimmed():
            self.pool.scale(row, min(self.pool.ordered, self._needed(self._readings.need(self.number, row), 1.5)))

    def horizon(self) -> int:
        """Steps ahead that the next turn wants a forecast for; 0 for none."""
        demand = self._readings.demand(self.number, self._row - self.age_rows)
        age_s = self.age_rows * STEP_S
        return self._managed.forecast_steps(demand, age_s, DAY_ROWS, self.pool.pending_s(self._row), LATE_STEPS)

    @property
    def is_due(self) -> bool:
        """Whether the next turn would replay a piece of the past, which may wait for a later one."""
        return self._managed.is_due

    def consider(
        self, forecast: ForecastDistribution | None, *, may_review: bool = True, with_past: bool = False
    ) -> Turn:
        """Learn from what came of the turns before, and decide; ``with_past`` tells of the time before the first."""
        look = self._seen()._replace(
            rows=self._rows,
            forecast=forecast,
            started=self._started,
            pending_s=self.pool.pending_s(self._row),
            past=self._past() if with_past and self._managed.wants_past else None,
            may_review=may_review,
        )
        self._turn = self._managed.consider(look)
        self._rows, self._started = [], []
        return self._turn

    def _seen(self) -> Look:
        """The service as anybody sees it: its counts and the newest demand."""
        age = self.age_rows
        demand = self._readings.demand(self.number, self._row - age)
        return Look(self._readings.time_s(self._row), demand, age * STEP_S, self.pool.ordered, self.pool.ready)

    def _past(self) -> FloatArray:
        """(rows,) what was read of the demand before this turn, one row a turn."""
        every = max(1, round(self.terms.interval_s / STEP_S))
        demand = self._readings.recent(self.number, self._row - every, PAST_DAYS * DAY_ROWS)[1]
        return demand[::-every][::-1]

    def conclude(self) -> Record:
        """Set what is permitted, and end the turn."""
        turn, self._turn = self._turn, None
        assert turn is not None
        self.acted = self._enact(turn)
        self.record = self._managed.conclude(turn, self.acted.applied)
        return self.record

    def take_started(self) -> list[float]:
        """Starts that finished since the call before, for whoever shows them; they are forgotten then."""
        took, self._took_s = self._took_s, []
        return took

    def _enact(self, turn: Turn) -> Enacted:
        """Set what the plan says; the cluster refuses now and then."""
        present, (wanted, desired, held_by) = self.pool.ordered, turn.plan
        if self.mode is Mode.FLOOR:
            return Enacted(present, present, floor=wanted, held_by=held_by)
        if desired == present:
            return Enacted(present, present, held_by=held_by)
        if self._rng.random() < self.spec.refused:
            return Enacted(present, desired, held_by=held_by, refused=True)
        self.pool.scale(self._row, desired)
        return Enacted(desired, desired, held_by=held_by)

    def settle(self) -> None:
        """The end of the step: it shows whether demand was carried."""
        asked, carried = self._readings.need(self.number, self._row), self.pool.ready * self.spec.per_replica
        self.utilization = min(1.0, asked / carried) if carried > 0 else 1.0
        self.waiting = min(max(0.0, self.waiting + (asked - carried) * STEP_S), PATIENCE_S * max(asked, carried))
        now_s, demand = self._readings.time_s(self._row), self._readings.demand(self.number, self._row)
        self._managed.served(now_s, self.pool.ordered, self.pool.ready)
        if not math.isnan(demand):
            self._rows.append((now_s, demand, math.nan))

    # ---- others ---------------------------------------------------------------------------------------------
    def _follow_hpa(self, hpa: ManagedService) -> None:
        """The HorizontalPodAutoscaler's turn; its minimum is our floor where that was granted."""
        turn = hpa.consider(self._seen())
        count = turn.plan.desired
        if self.mode is Mode.FLOOR and self.acted.floor is not None:
            count = max(count, self.acted.floor)
        self.pool.scale(self._row, count)
        hpa.conclude(turn, count)

    def _is_trimmed(self) -> bool:
        """True in the minute in which a person gives back what UpOnly keeps."""
        every = self.spec.trimmed_every_h * 60
        return every > 0 and self._row % every == 0

    def _needed(self, demand: float, margin: float) -> int:
        """Replicas for ``demand`` times ``margin``, within the bounds."""
        objective = self.spec.objective
        count = math.ceil(demand * margin / self.spec.per_replica - ROUND)
        return min(max(count, objective.min_replicas), objective.max_replicas)
