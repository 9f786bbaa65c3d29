"""`ManagedService`: THE LOOP: observe -> forecast -> decide -> guard -> actuate -> journal -> learn, in every world.

A turn is made of values alone: the `Terms` of a service, its `State`, and one `Look` at it. A world (a cluster, a demo,
a replay) gives the look, does what the plan says, and tells what was applied; it decides nothing by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from harmony.decision.authority import permitted
from harmony.decision.rule import lead_window, window_steps
from harmony.decision.trust import Trust
from harmony.decision.turn import decide_turn
from harmony.loop.ledger import Note
from harmony.loop.persistence import state_from_json, state_to_json
from harmony.loop.ports import RecordSink, Replicas
from harmony.loop.scoring import ForecastScores
from harmony.loop.shadow import Shadow
from harmony.loop.state import Learned, Look, ScalePlan, State, Terms, Turn
from harmony.model.authority import Mode, Pause
from harmony.model.memory import GuardMemory, TurnMemory
from harmony.model.observation import Observation, Outcome
from harmony.model.record import Record

__all__ = ["GPU_BUDGET", "WARM_UP_ROWS", "ZERO_BY_HAND", "ManagedService", "conclude", "consider", "observe"]

WARM_UP_ROWS = 12  # known readings before the first forecast
MOST_STEPS = 96  # furthest look ahead, unless the terms themselves speak of more
ZERO_BY_HAND = "scaled to zero by hand"
GPU_BUDGET = "GPU budget"
WARMING_UP = "warming up"
ONE_WAY = frozenset({"paused-scale-in", "paused-scale-out"})
NO_PAUSE = Pause()


class ManagedService:
    """One service under its terms: its state, and the two halves of a turn; a world calls them every `interval_s`.

    It owns no thread, timer, clock or connection. ``saved`` is what `to_json` gave before a restart (anything at all
    may stand there); `notes` says what of it could not be read. Records of turns go to ``journal``.
    """

    __slots__ = ("_journal", "_state", "_terms", "notes")

    def __init__(
        self, terms: Terms, state: State | None = None, *, saved: object = None, journal: RecordSink | None = None
    ) -> None:
        self._terms = terms
        self._journal = journal
        self.notes: tuple[str, ...] = ()
        if state is None:
            state, self.notes = state_from_json(saved, terms)
        self._state = state

    @property
    def terms(self) -> Terms:
        """What was agreed."""
        return self._terms

    @property
    def state(self) -> State:
        """All that is known."""
        return self._state

    @property
    def learned(self) -> Learned:
        """What decisions are made of."""
        return self._state.learned

    @property
    def mode(self) -> Mode:
        """The authority in force: what was granted, less what trust took back."""
        return self._state.learned.mode(self._terms.mode)

    @property
    def trust(self) -> Trust:
        """Realised against stated risk; as if nothing was seen yet where nobody judges it."""
        return self._state.learned.trust or Trust.start(self._terms.objective.epsilon)

    @property
    def wants_past(self) -> bool:
        """Whether the next look should bring the demand of the time before (`Look.past`)."""
        return self._terms.policy.wants_past(self._state.learned.memory)

    @property
    def is_due(self) -> bool:
        """Whether the next turn brings long work, which the look may put off (`Look.may_review`)."""
        return self._terms.policy.is_due(self._state.learned.memory)

    # ---- a turn ---------------------------------------------------------------------------------------------
    def forecast_steps(
        self, demand: float, age_s: float, known_rows: int, pending_s: Sequence[float], late_steps: int
    ) -> int:
        """Steps ahead that the next turn wants to see; 0 while there is nothing to make a forecast from.

        The decision's window, and ``late_steps`` for readings that are not in yet. ``demand`` and ``age_s`` are of the
        newest reading, ``known_rows`` counts those that a forecast could be made of, ``pending_s`` are ages of starts
        that still run; no decision looks further than `MOST_STEPS`, or than the terms' own lead time asks for.
        """
        terms = self._terms
        if math.isnan(_present(terms, demand, age_s)) or known_rows < WARM_UP_ROWS:
            return 0
        lead = self._state.learned.lead_time.expected(pending_s)
        agreed = window_steps(terms.lead_time, terms.step_s, terms.interval_s)
        steps = window_steps(lead, terms.step_s, terms.interval_s)
        return min(steps, max(MOST_STEPS - late_steps, agreed)) + late_steps

    def consider(self, look: Look) -> Turn:
        """The first half of a turn: judge, learn, decide and plan; nothing is set yet.

        What was seen is kept before deciding (a world tells a start only once), and what was decided when it is
        complete: if the policy fails, nothing is half changed and the next turn goes on.
        """
        self._state, outcome = observe(self._terms, self._state, look)
        self._state, turn = consider(self._terms, self._state, look, outcome)
        return turn

    def conclude(self, turn: Turn, applied: int) -> Record:
        """The second half: the turn's record, with the count that stands now (``applied``); see `conclude`."""
        self._state, record = conclude(self._terms, self._state, turn, applied)
        if self._journal is not None:
            self._journal.append(record)
        return record

    def served(self, now_s: float, ordered: int, ready: int) -> None:
        """Who serves from ``now_s`` on, from a world that knows it before the next look."""
        state = self._state
        last = state.ledger.newest
        if last is None or (state.shadow is None and last.ordered == ordered and last.ready == ready):
            return
        shadow = Replicas(ordered, ready) if state.shadow is None else state.shadow.at(now_s).replicas
        note = Note(now_s, ordered, ready, shadow.ordered, shadow.ready, last.teaches, last.answers)
        self._state = state._replace(ledger=state.ledger.add(note, self._terms.keep_s, math.inf))

    # ---- terms and memory -----------------------------------------------------------------------------------
    def adopt(self, terms: Terms, *, other_readings: bool = False) -> None:
        """Go on under changed terms; what was learned stays where it still means the same.

        ``other_readings``: demand is read from elsewhere, or on another grid, from now on.
        """
        self._state = adopted(self._state, self._terms, terms, other_readings=other_readings)
        self._terms = terms

    def to_json(self) -> dict[str, Any]:
        """All that must survive a restart, small enough for an object's status."""
        return state_to_json(self._terms, self._state)


# ---- the first half ------------------------------------------------------------------------------------------
def observe(terms: Terms, state: State, look: Look) -> tuple[State, Outcome]:
    """What is known after a look: who serves, what came of the turns before, and what that teaches."""
    now_s = look.now_s
    if look.gpu_type or look.started:
        state = _on_gpu_type(terms, state, look)
    mode = state.learned.mode(terms.mode)
    if mode is not Mode.FULL or state.shadow is not None:
        state = _with_shadow(state, look, mode)
    learned = state.learned
    shadow = state.shadow
    ordered, ready = look.ordered, look.ready
    if shadow is not None:
        ordered, ready = shadow.replicas.ordered, shadow.serving
    guards = learned.guards if state.held_by is not None else _window_begun(terms, learned.guards, now_s, ordered)

    gate, teaches = state.gate, False
    if terms.objective.bound is not None:  # nothing else teaches what a replica carries
        gate = gate.see(now_s, look.ordered, look.ready)
        teaches = not look.pending_s and gate.is_open(now_s)
    answers_from_s = _answers_from(terms, state, look, mode)
    note = Note(now_s, look.ordered, look.ready, ordered, ready, teaches, now_s >= answers_from_s)
    lead_s = learned.lead_time.stuck_after_s
    book, steps = state.ledger.add(note, terms.keep_s, lead_s).judge(
        look.rows,
        learned.capacity.median,
        None if terms.objective.bound is None else terms.objective.bound.at_most,
        look.settled_before_s,
        terms.max_gap_s,
        lead_s,
    )
    scores, regret = state.scores, state.regret
    known = violated = real_known = real_violated = shadow_violated = 0
    samples: tuple[tuple[float, bool], ...] = ()
    for step in steps:
        if terms.scored:
            scores = scores.settle(step.at_s, step.demand, terms.step_s)
        missed = step.missed if shadow is None else step.shadow_missed
        if step.missed is not None:
            real_known += 1
            real_violated += step.missed
            shadow_violated += step.shadow_missed
        blameless = shadow is None and step.covered  # the starts are to blame, and ordering more would not help
        if missed is not None and step.note.answers and not blameless:
            known += 1
            violated += missed
        if step.held is not None and not math.isnan(step.load_per_replica):
            samples += ((step.load_per_replica, step.held),)
        if shadow is not None:
            _, a, b, c, d, *_ = step.note
            gpus = terms.objective.gpus_per_replica
            per_replica = learned.capacity.median
            regret = regret.add(terms.step_s, step.demand, per_replica, Replicas(a, b), Replicas(c, d), gpus)
    beside = (0, 0) if shadow is None else (real_known, shadow_violated)
    outcome = Outcome(known, violated, samples, look.failed_s, real_known, real_violated, *beside)
    after = State(  # by position, in the order of its fields: replays make millions of these
        _learned(terms, learned, guards, look, state.gpu_type, outcome),
        book,
        shadow,
        state.shadow_since_s,
        scores,
        regret,
        state.lead_times,
        state.gpu_type,
        state.finished_starts + len(look.started),
        state.failed_starts + len(look.failed_s),
        state.starts_since_s if look.starts_since_s is None else look.starts_since_s,
        gate,
        answers_from_s,
        state.held_by,
        state.violations.add(outcome),
    )
    return after, outcome


def _on_gpu_type(terms: Terms, state: State, look: Look) -> State:
    """Go on with what is known of starts on the GPU type of the newest replicas."""
    kind = look.gpu_type or state.gpu_type
    others, learned = state.lead_times, state.learned
    if kind != state.gpu_type:
        others, lead = others.move(state.gpu_type, kind, learned.lead_time, terms.lead_time)
        learned = replace(learned, lead_time=lead)
    elsewhere = [(took, on) for took, on in look.started if on and on != kind]
    if elsewhere:
        others = others.observe(elsewhere, terms.lead_time)
    return state._replace(lead_times=others, learned=learned, gpu_type=kind)


def _with_shadow(state: State, look: Look, mode: Mode) -> State:
    """While there is no authority, go on with what would have been set; otherwise with what is."""
    if mode.acts:
        if state.shadow is None:
            return state
        # What was only set in the shadow must not count against the rate of real changes.
        guards = replace(state.learned.guards, ups=(), downs=(), stage=None)
        return state._replace(shadow=None, learned=replace(state.learned, guards=guards))
    shadow = Shadow(look.ordered) if state.shadow is None else state.shadow.at(look.now_s)
    since_s = look.now_s if math.isnan(state.shadow_since_s) else state.shadow_since_s
    return state._replace(shadow=shadow, shadow_since_s=since_s)


def _window_begun(terms: Terms, guards: GuardMemory, now_s: float, ordered: int) -> GuardMemory:
    """Before the first turn: the current replicas count as recommended just now, unless newer marks were restored.

    The HorizontalPodAutoscaler begins so too: what came before is unknown, and that is no reason to scale down.
    """
    behavior = terms.behavior
    window_s = 0.0 if behavior is None else behavior.scale_down.stabilization_window_s
    if window_s <= 0.0 or any(at > now_s - window_s for at, _ in guards.highs):
        return guards
    return replace(guards, highs=((now_s, ordered),))


def _answers_from(terms: Terms, state: State, look: Look, mode: Mode) -> float:
    """From when on the counts are what was decided, and have been for as long as a start takes.

    They are not while the user holds them or another writer owns the target: such violations are nobody's mistake here.
    """
    pause = terms.pause
    if pause.paused or pause.replicas is not None:
        return math.inf
    if (pause.scale_in or pause.scale_out) and (state.held_by is None or state.held_by in ONE_WAY):
        return math.inf
    if look.rival and terms.writes_count and mode.moves_count:
        return math.inf
    if _is_zero_by_hand(terms, look) or state.held_by == GPU_BUDGET:
        return math.inf
    if state.answers_from_s == math.inf:
        return look.now_s + state.learned.lead_time.quantile_s(0.9)
    return state.answers_from_s


def _is_zero_by_hand(terms: Terms, look: Look) -> bool:
    """Nothing of ours sets 0 where the minimum is more: somebody did, and means it."""
    return look.ordered == 0 and terms.objective.min_replicas > 0 and terms.pause.replicas is None


def _learned(
    terms: Terms, before: Learned, guards: GuardMemory, look: Look, gpu_type: str, outcome: Outcome
) -> Learned:
    """What is known after the outcome of the turns before and the starts that ended since."""
    lead_time, capacity, trust = before.lead_time, before.capacity, before.trust
    for took_s, on in look.started:
        if not on or on == gpu_type:
            lead_time = lead_time.observe(took_s)
    for age_s in outcome.failed_s:
        lead_time = lead_time.observe_failed(age_s)
    if before.learned_s is not None and not capacity.is_known:
        capacity = capacity.drift(look.now_s - before.learned_s)
    for load, held in outcome.bound_samples:
        capacity = capacity.observe_held(load, held)
    if trust is not None:
        trust = trust.learn(outcome, lead_time.steps(terms.step_s))
    return Learned(
        capacity=capacity,
        lead_time=lead_time,
        feedback=before.feedback.learn(outcome),
        guards=guards,
        memory=before.memory,
        trust=trust,
        absent_turns=before.absent_turns,
        forecast_seen=before.forecast_seen,
        served=before.served,
        learned_s=look.now_s,
    )


def consider(terms: Terms, state: State, look: Look, outcome: Outcome) -> tuple[State, Turn]:
    """Decide on what `observe` left known; what is remembered of the decision, and the turn."""
    learned = state.learned
    shadow = state.shadow
    ordered, ready = look.ordered, look.ready
    if shadow is not None:
        ordered, ready = shadow.replicas.ordered, shadow.serving
    observation = Observation(
        now_s=look.now_s,
        step_s=terms.step_s,
        interval_s=terms.interval_s,
        demand=_present(terms, look.demand, look.demand_age_s),
        ordered=ordered,
        ready=ready,
        objective=terms.objective.at(look.now_s),
        capacity=learned.capacity,
        lead_time=learned.lead_time.expected(look.pending_s) if look.pending_s else learned.lead_time,
        forecast=look.forecast,
        risk_level=learned.feedback.level,
        memory=learned.memory,
        indicators=look.indicators,
        past=look.past,
        may_review=look.may_review,
        missed=_missed_between(terms, outcome),
    )
    policy = terms.policy
    before = TurnMemory(
        learned.guards, learned.absent_turns, learned.forecast_seen, bool(policy.forecaster), learned.served, policy.cap
    )
    decision, after = decide_turn(observation, policy.decide, terms.behavior, before)
    trust = learned.trust
    if trust is not None:
        trust = trust.state(decision.violation_probability)
    decided = Learned(
        capacity=learned.capacity,
        lead_time=learned.lead_time,
        feedback=learned.feedback,
        guards=after.guards,
        memory=decision.memory,
        trust=trust,
        absent_turns=after.absent_turns,
        forecast_seen=after.forecast_seen,
        served=after.served,
        learned_s=learned.learned_s,
    )
    scores = state.scores
    if terms.scored and look.forecast is not None:
        demand_name = terms.objective.demand or look.forecast.names[0]
        scores = scores.keep(look.forecast, demand_name, max(1, lead_window(observation)))
    plan = _plan(terms, decided, look, observation, decision.replicas)
    after_turn = State(decided, state.ledger, shadow, state.shadow_since_s, scores, *state[5:])
    return after_turn, Turn(observation, decision, plan, outcome, before)


def _missed_between(terms: Terms, outcome: Outcome) -> float:
    """The violated share of the steps since the last turn, where there is more than one; NaN otherwise."""
    if terms.interval_s <= terms.step_s or not outcome.steps:
        return math.nan
    return outcome.violated / outcome.steps


def _present(terms: Terms, demand: float, age_s: float) -> float:
    """The newest reading as present demand; NaN where it is too old (or as far in the future)."""
    return demand if age_s == 0.0 or abs(age_s) <= terms.stale_s else math.nan


def _plan(terms: Terms, learned: Learned, look: Look, seen: Observation, wanted: int) -> ScalePlan:
    """What the granted authority makes of the count that was decided."""
    current = look.ordered
    if _is_zero_by_hand(terms, look):
        return ScalePlan(wanted, 0, ZERO_BY_HAND)
    mode = learned.mode(terms.mode)
    desired, held_by = wanted, ""
    if mode is not Mode.FULL or terms.pause != NO_PAUSE:
        allowed = permitted(mode, terms.pause, current, wanted)
        desired, held_by = allowed.replicas, allowed.bound_by
    if desired < current:
        kept = min(current, seen.objective.max_replicas)
        blind = terms.policy.forecaster and seen.forecast is None and terms.pause.replicas is None
        if blind and desired < kept:
            return ScalePlan(wanted, kept, WARMING_UP)  # a few readings are no reason to give replicas away
        if look.hold_down:
            return ScalePlan(wanted, current, look.hold_down)
    return ScalePlan(wanted, desired, held_by)


# ---- the second half -----------------------------------------------------------------------------------------
def conclude(terms: Terms, state: State, turn: Turn, applied: int) -> tuple[State, Record]:
    """End a turn with the count that stands now; without authority, with what the shadow set instead.

    Rate limits and stages go on from what was applied, not from what was decided.
    """
    seen, wanted = turn.observation, turn.decision.replicas
    learned, shadow = state.learned, state.shadow
    if shadow is not None:
        applied = wanted
        if wanted != seen.ordered:
            shadow = shadow.order(wanted, seen.now_s, learned.lead_time.median_s)
            counts = shadow.replicas
            state = state._replace(ledger=state.ledger.then(counts.ordered, counts.ready))
    if applied != wanted and terms.behavior is not None:
        learned = replace(learned, guards=learned.guards.corrected(seen.now_s, seen.ordered, applied))
    if learned is not state.learned or shadow is not state.shadow or turn.plan.held_by != state.held_by:
        state = state._replace(learned=learned, shadow=shadow, held_by=turn.plan.held_by)
    return state, Record(seen, turn.decision, applied, turn.outcome, turn.before)


# ---- changed terms -------------------------------------------------------------------------------------------
def adopted(state: State, old: Terms, new: Terms, *, other_readings: bool = False) -> State:
    """The state under changed terms: what was learned stays where it still means the same."""
    learned, fresh = state.learned, Learned.fresh(new)
    same_demand = old.measures == new.measures and old.objective.bound == new.objective.bound
    if old.capacity != new.capacity or not same_demand:
        learned = replace(learned, capacity=fresh.capacity)
    if old.lead_time != new.lead_time:
        learned = replace(learned, lead_time=fresh.lead_time)
        state = state._replace(lead_times=State.fresh(new).lead_times)
    if old.objective.epsilon != new.objective.epsilon or not same_demand:
        learned = replace(learned, feedback=fresh.feedback, trust=fresh.trust)
    if not same_demand:
        learned = replace(learned, memory=None)
        state = state._replace(scores=ForecastScores())
    if (old.step_s, old.interval_s) != (new.step_s, new.interval_s):  # rows of another length: the past is read again
        learned = replace(learned, memory=new.policy.restored(old.policy.saved(learned.memory)))
    if other_readings:
        state = state._replace(ledger=State.fresh(new).ledger)
    return state._replace(learned=learned)
