"""`ServiceState`: how a service is doing, in a few words, and how urgently a person should look."""

from __future__ import annotations

from dataclasses import dataclass

from harmony.model.decision import Reason
from harmony.serving import Snapshot
from harmony.serving.words import allowed, chance, duration, percent

__all__ = ["LEVELS", "STALE_S", "Ages", "ServiceState", "service_state"]

LEVELS = ("bad", "warn", "info", "good")  # most urgent first
STALE_INTERVALS = 3.0  # turns that may fail to come before figures are called stale
STALE_S = 90.0  # and never before that
DEMO_STALE_S = 15.0  # where a minute passes in a second
FALSE_IS_BAD = ("Ready", "AbleToScale", "MetricsAvailable")
TRUE_IS_BAD = ("TargetConflict",)


@dataclass(frozen=True, slots=True)
class ServiceState:
    """`level` is one of `LEVELS`, `text` a few words for a table, `detail` a sentence or empty."""

    level: str
    text: str
    detail: str = ""

    @property
    def rank(self) -> int:
        """0 for the most urgent level."""
        return LEVELS.index(self.level)


@dataclass(frozen=True, slots=True)
class Ages:
    """How old snapshots are, in seconds of a person's life.

    `now_s` is the present on the snapshots' scale, of which `speed` seconds pass in one of life (1, but for a demo).
    """

    now_s: float
    speed: float = 1.0

    def age_s(self, snapshot: Snapshot) -> float:
        """Seconds since its turn, 0 or more."""
        return max(0.0, self.now_s - snapshot.at_s) / self.speed

    def stale_after_s(self, snapshot: Snapshot) -> float:
        """Age from which its figures are stale: some turns are overdue."""
        least = STALE_S if self.speed == 1.0 else DEMO_STALE_S
        return max(least, STALE_INTERVALS * snapshot.record.observation.interval_s / self.speed)

    def is_stale(self, snapshot: Snapshot) -> bool:
        """True when turns are overdue."""
        return self.age_s(snapshot) > self.stale_after_s(snapshot)


def service_state(snapshot: Snapshot, ages: Ages) -> ServiceState:
    """The most urgent thing to say about a service."""
    if ages.is_stale(snapshot):
        ago = duration(ages.age_s(snapshot))
        return ServiceState("bad", f"Stale for {ago}", f"No turn since {ago}; nothing here is current.")
    return _trouble(snapshot) or _limits(snapshot) or _above(snapshot) or _movement(snapshot)


def _trouble(snapshot: Snapshot) -> ServiceState | None:
    decision = snapshot.record.decision
    if decision.reason is Reason.FALLBACK:
        return ServiceState("bad", "Fallback: data absent", "Demand or forecast have been absent for several turns.")
    if decision.reason is Reason.ABSENT_DATA:
        return ServiceState(
            "bad", "Data absent, count held", f"{decision.bound_by or 'Absent data'}: the count is held."
        )
    if decision.reason is Reason.UNREACHABLE:
        return ServiceState(
            "bad", "Objective out of reach", "Even at the maximum the stated risk exceeds the objective."
        )
    for condition in snapshot.conditions:
        kind, status = condition.get("type", ""), condition.get("status", "")
        if (kind in FALSE_IS_BAD and status == "False") or (kind in TRUE_IS_BAD and status == "True"):
            return ServiceState("bad", f"{kind}: {condition.get('reason', '')}", condition.get("message", ""))
    if snapshot.effective_mode != snapshot.mode:
        text = f"Stepped back to {snapshot.effective_mode}"
        return ServiceState("warn", text, f"Granted {snapshot.mode}; the realised risk exceeds the objective by far.")
    return None


def _limits(snapshot: Snapshot) -> ServiceState | None:
    decision = snapshot.record.decision
    if "paused" in snapshot.held_by:
        return ServiceState("warn", "Paused", f"Held at {snapshot.desired} replicas ({snapshot.held_by}).")
    if decision.reason is Reason.MAX_REPLICAS:
        return ServiceState("warn", "At the maximum", f"{decision.unconstrained} replicas are wanted.")
    if decision.reason is Reason.WARMING_UP:
        return ServiceState("info", "Warming up", "Too little history for a forecast yet.")
    return None


def _above(snapshot: Snapshot) -> ServiceState | None:
    """What is above the objective: the figures that pages show in red."""
    objective, counts = snapshot.record.observation.objective, snapshot.violations
    if counts is not None and counts.real_rate is not None and snapshot.breaks_objective:
        share = percent(counts.real_rate, objective.epsilon)
        detail = f"{share} of {counts.real_steps} steps were violated by the real replicas since counting began; the "
        detail += f"objective allows {allowed(objective.epsilon)}, and chance does not explain it."
        return ServiceState("warn", "Objective not kept", detail)
    if snapshot.states_too_much:
        decision = snapshot.record.decision
        risk = chance(decision.violation_probability, decision.paths, snapshot.most_risk)
        detail = f"Stated risk {risk}; one decision may take {allowed(snapshot.most_risk)}."
        return ServiceState("warn", "Stated risk too high", detail)
    return None


def _movement(snapshot: Snapshot) -> ServiceState:
    wanted, ordered = snapshot.recommended, snapshot.ordered
    if snapshot.desired > ordered:
        return ServiceState("info", f"Scaling up to {snapshot.desired}")
    if snapshot.desired < ordered:
        return ServiceState("info", f"Scaling down to {snapshot.desired}")
    if snapshot.ready < ordered:
        n = ordered - snapshot.ready
        return ServiceState("info", f"{n} replica{'s'[: n > 1]} starting")
    if wanted != ordered:
        word = "add" if wanted > ordered else "remove"
        return ServiceState("info", f"Would {word} {abs(wanted - ordered)}")
    if snapshot.record.decision.reason is Reason.STABILIZED:
        return ServiceState("good", "Steady, waiting to go down")
    return ServiceState("good", "Steady")
