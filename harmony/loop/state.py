"""The values that a turn is made of: `Terms` and `State` of a managed service, the `Look` at it, and its `Turn`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from forecasting.distribution import ForecastDistribution
from forecasting.panel import FloatArray
from harmony.decision.feedback import RiskFeedback
from harmony.decision.learning import LearningGate
from harmony.decision.trust import Trust
from harmony.loop.lead_times import LeadTimes
from harmony.loop.ledger import KEEP_S, Ledger, Row
from harmony.loop.scoring import ForecastScores
from harmony.loop.shadow import Regret, Shadow
from harmony.loop.violations import ViolationCounts
from harmony.model.authority import Mode, Pause
from harmony.model.capacity import Capacity
from harmony.model.decision import Decision
from harmony.model.lead_time import LeadTime
from harmony.model.memory import GuardMemory, TurnMemory
from harmony.model.objective import Behavior, Objective
from harmony.model.observation import Observation, Outcome
from harmony.policies.base import Policy

__all__ = ["Learned", "Look", "ScalePlan", "State", "Terms", "Turn"]

STALE_STEPS = 2.5  # demand older than this many steps (and never younger than `STALE_S`) is absent
STALE_S = 60.0
SETTLE_S = 120.0  # replicas that became ready within this time are cold: such steps teach nothing about capacity


@dataclass(frozen=True, slots=True)
class Terms:
    """What was agreed about a service: it changes when a person changes it, and by nothing else.

    Attributes:
        objective: the bound on violations, with prices, bounds, schedules, fallback and indicator bound.
        policy: who decides, with the guards that go with it.
        capacity, lead_time: known, or what learning starts from.
        step_s: seconds that one reading of demand stands for; `interval_s`: seconds from turn to turn.
        mode, pause: what the user lets us do, and what is stopped for now.
        writes_count: False where another autoscaler reads our figure and writes the count.
        stale_after_s: how old the newest reading may be and still be present demand; None for 2.5 steps, at least 60 s.
        steps_back: authority is taken back when realised risk exceeds the objective (not in a replay: every policy
            keeps to the end what it was given).
        scored: forecasts are kept and compared with what came (a replay has figures of its own).
        gpu_type: what the first starts are taken to run on; empty where nobody said.
        measures: a mark of what is measured: what was learned of demand means nothing under another.

    What follows from them, so that no turn has to work it out again:
        stale_s: age beyond which the newest reading is no present demand any more.
        max_gap_s: how long after the last look its counts still say who served.
        keep_s: how long notes are kept: longer than any step can wait to be judged.
        behavior: the policy's guards; None for none.
    """

    objective: Objective
    policy: Policy
    capacity: Capacity
    lead_time: LeadTime
    step_s: float
    interval_s: float
    mode: Mode = Mode.FULL
    pause: Pause = field(default_factory=Pause)
    writes_count: bool = True
    stale_after_s: float | None = None
    steps_back: bool = True
    scored: bool = True
    gpu_type: str = ""
    measures: str = ""

    stale_s: float = field(init=False)
    max_gap_s: float = field(init=False)
    keep_s: float = field(init=False)
    behavior: Behavior | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        given, step_s = self.stale_after_s, self.step_s
        max_gap_s = max(2.5 * self.interval_s, step_s)
        derived: dict[str, Any] = {
            "stale_s": max(STALE_S, STALE_STEPS * step_s) if given is None else given,
            "max_gap_s": max_gap_s,
            "keep_s": max(KEEP_S, max_gap_s + 4 * step_s),
            "behavior": self.policy.behavior,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


@dataclass(slots=True)
class Learned:
    """What a service's turns have learned and must remember to decide; a value: never changed in place.

    Attributes:
        capacity, lead_time, feedback: what a replica carries, how long it takes to start, which risk level to use.
        guards: what stabilisation and rate limits remember.
        memory: what the policy wants to see again.
        trust: realised against stated risk; None where nobody judges it.
        absent_turns: turns in a row in which demand or forecast were absent.
        forecast_seen: True once there was a forecast: its absence is a loss from then on, no longer a warm-up.
        served: True once a replica was ready, since the count last was 0.
        learned_s: time of the newest turn, seconds since the epoch; None before the first.
    """

    capacity: Capacity
    lead_time: LeadTime
    feedback: RiskFeedback
    guards: GuardMemory = field(default_factory=GuardMemory)
    memory: Any = None
    trust: Trust | None = None
    absent_turns: int = 0
    forecast_seen: bool = False
    served: bool = False
    learned_s: float | None = None

    @classmethod
    def fresh(cls, terms: Terms) -> Learned:
        """What is known of a service that was never seen."""
        epsilon, steps = terms.objective.epsilon, terms.lead_time.steps(terms.step_s)
        return cls(
            capacity=terms.capacity,
            lead_time=terms.lead_time,
            feedback=RiskFeedback.per_lead(epsilon, steps, scale=terms.policy.risk_scale),
            trust=Trust.start(epsilon, steps) if terms.steps_back else None,
        )

    def mode(self, granted: Mode) -> Mode:
        """The authority in force: what was granted, less what trust took back.

        Whoever alone moves the count keeps moving it up: to freeze it would only add to what is violated.
        """
        if self.trust is None:
            return granted
        left = self.trust.mode(granted)
        return Mode.UP_ONLY if granted.moves_count and not left.moves_count else left


class State(NamedTuple):
    """All that is known of a service from turn to turn.

    Attributes:
        learned: what decisions are made of.
        ledger: who served when, for the steps that are not judged yet.
        shadow: the counts that would have been, while there is no authority; None otherwise.
        shadow_since_s: when the shadow first began; NaN before.
        scores, regret: whether forecasts came true, and what the shadow would have saved and violated.
        lead_times: start-up times on the GPU types that are not the present one.
        gpu_type: the present one; empty where unknown.
        finished_starts, failed_starts: starts seen so far.
        starts_since_s: starts that ended before this moment have been counted.
        gate: whether steps may teach what a replica carries.
        answers_from_s: from when on the counts are what was decided.
        held_by: what held the last plan back; None before the first turn (of this process).
        violations: steps that were violated since counting began, by the real replicas and by the shadow's.
    """

    learned: Learned
    ledger: Ledger = Ledger()
    shadow: Shadow | None = None
    shadow_since_s: float = math.nan
    scores: ForecastScores = ForecastScores()
    regret: Regret = Regret()
    lead_times: LeadTimes = LeadTimes()
    gpu_type: str = ""
    finished_starts: int = 0
    failed_starts: int = 0
    starts_since_s: float = -math.inf
    gate: LearningGate = LearningGate(SETTLE_S)
    answers_from_s: float = -math.inf
    held_by: str | None = None
    violations: ViolationCounts = ViolationCounts()

    @classmethod
    def fresh(cls, terms: Terms) -> State:
        """A service that was never seen."""
        return cls(Learned.fresh(terms), gpu_type=terms.gpu_type)


class Look(NamedTuple):
    """One look at a service: all that a turn learns from its world.

    Attributes:
        now_s: the moment, seconds since the Unix epoch.
        demand, demand_age_s: the newest reading (NaN for none) and how old it is.
        ordered, ready: replicas asked for, and of those the ones that serve.
        rows: (time, demand, value of the objective's bound) of steps that are over, oldest first; steps that were
            judged before may be among them.
        settled_before_s: an absent demand that is older than this stays absent, and is waited for no longer.
        forecast: joint sample paths from now on; None for none.
        started: starts that ended since the last look: seconds from order to ready, and the GPU type (empty: the
            present one).
        failed_s, pending_s: ages at which starts failed since the last look, and ages of those that still run.
        gpu_type: of the newest replica; empty where nothing says.
        starts_since_s: starts that ended before this moment have been counted by the world; None where it counts none.
        rival: who else moves the count; empty for nobody.
        hold_down: why the count must not be lowered now; empty for no reason.
        indicators: newest values of what else the world measures (see `Observation.indicators`).
        past: demand before this moment, once, where the policy wants it (as in `Observation.past`).
        may_review: whether the policy may do long work in this turn.
    """

    now_s: float
    demand: float
    demand_age_s: float
    ordered: int
    ready: int
    rows: Sequence[Row] = ()
    settled_before_s: float = math.inf
    forecast: ForecastDistribution | None = None
    started: Sequence[tuple[float, str]] = ()
    failed_s: tuple[float, ...] = ()
    pending_s: Sequence[float] = ()
    gpu_type: str = ""
    starts_since_s: float | None = None
    rival: str = ""
    hold_down: str = ""
    indicators: Mapping[str, float] | None = None
    past: FloatArray | None = None
    may_review: bool = True


class ScalePlan(NamedTuple):
    """What one turn wants done: `wanted` with full authority, `desired` with what is granted, and what held it back."""

    wanted: int
    desired: int
    held_by: str = ""


class Turn(NamedTuple):
    """A turn that was considered and not yet concluded: what was seen, decided and planned.

    `outcome` is what came of the turns before, `before` what was remembered when it was decided.
    """

    observation: Observation
    decision: Decision
    plan: ScalePlan
    outcome: Outcome
    before: TurnMemory
