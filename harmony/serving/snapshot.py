"""`Snapshot`: one service after one turn, as the API, the dashboard and the journal see it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from forecasting.panel import FloatArray
from harmony.decision.agreement import Agreement, Judgement, agreement
from harmony.decision.bill import bill_per_hour, idle_per_hour
from harmony.decision.guards import GuardMemory
from harmony.decision.rule import lead_window
from harmony.loop.violations import ViolationCounts
from harmony.model.authority import Mode
from harmony.model.objective import Behavior
from harmony.model.record import Record

if TYPE_CHECKING:
    from harmony.loop.managed import ManagedService

__all__ = ["HISTORY_ROWS", "Judged", "Snapshot", "judged"]

HISTORY_ROWS = 288
SHADOWED = frozenset(str(mode) for mode in Mode if not mode.acts)


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One service after one turn; never changed once published, so that threads may share it.

    Attributes:
        service: "namespace/name".
        kind: GPUAutoscaler, HorizontalPodAutoscaler, ScaledObject or Demo.
        target: what is scaled, such as "Deployment chat".
        mode, effective_mode: the authority that was granted, and the one in force after a step back.
        unit, demand_name, gpu_type, currency: what numbers mean; empty where not known.
        record: the turn: observation (with the forecast's sample paths), decision, applied, outcome.
        guards_before: what the guards remembered before this decision.
        behavior: the limits that the guards applied; None for none.
        ordered, ready: replicas of the real target (the record's are the shadow's while there is no authority).
        desired: what was set within the authority.
        held_by: what kept the order from the recommendation ("mode Recommend", "paused"); empty for nothing.
        history_s, history: (rows,) times and demand, oldest first, at most `HISTORY_ROWS`; NaN where absent.
        conditions: as in the object's status (type, status, reason, message).
        coverage: share of readings inside each central interval of the forecast; NaN before anything was scored.
        crps: mean continuous ranked probability score, in the demand's unit.
        realized, stated: share of judged steps that were violated, and the mean probability stated for them.
        violations: steps that the real replicas and the shadow's violated since counting began; None where not known.
        agreement: whether stated and realised risk agree; None where nothing was stated or judged.
        gpu_hours_saved, misses_avoided_s, misses_caused_s, shadow_s: running totals against what really happened
            (`harmony.loop.shadow.Regret`), and the seconds they were counted over.
    """

    service: str
    kind: str
    target: str
    mode: str
    effective_mode: str
    unit: str
    demand_name: str
    gpu_type: str
    currency: str
    record: Record
    guards_before: GuardMemory
    behavior: Behavior | None
    ordered: int
    ready: int
    desired: int
    held_by: str
    history_s: FloatArray
    history: FloatArray
    conditions: tuple[dict[str, str], ...] = ()
    coverage: dict[float, float] = field(default_factory=dict)
    crps: float = float("nan")
    realized: float | None = None
    stated: float | None = None
    violations: ViolationCounts | None = None
    agreement: Agreement | None = None
    gpu_hours_saved: float = 0.0
    misses_avoided_s: float = 0.0
    misses_caused_s: float = 0.0
    shadow_s: float = 0.0
    cache: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)  # views of it, made once

    @property
    def at_s(self) -> float:
        """When the decision was made, seconds since the Unix epoch."""
        return self.record.observation.now_s

    @property
    def name(self) -> str:
        """The service's name without its namespace."""
        return self.service.rpartition("/")[2]

    @property
    def namespace(self) -> str:
        """The service's namespace; empty where there is none."""
        return self.service.rpartition("/")[0]

    @property
    def has_shadow(self) -> bool:
        """Whether the record's counts are a shadow's: without authority nothing that was decided is carried out."""
        return self.effective_mode in SHADOWED

    @property
    def bill_per_hour(self) -> float:
        """What the current replicas of the real target cost, in money per hour, used or not."""
        return bill_per_hour(self.ordered, self.record.observation)

    @property
    def idle_per_hour(self) -> float:
        """The part of `bill_per_hour` for replicas that present demand does not need; NaN where demand is absent."""
        return idle_per_hour(self.ordered, self.record.observation)

    @property
    def most_risk(self) -> float:
        """The most risk that one decision may state: the objective, or its cap where a price decides."""
        by_price = not math.isnan(self.record.decision.price)
        return self.record.observation.objective.epsilon * (self.record.before.cap if by_price else 1.0)

    @property
    def states_too_much(self) -> bool:
        """Whether the recommended count's stated risk is more than that; False where none is stated."""
        return self.record.decision.violation_probability > self.most_risk * (1 + 1e-9)

    @property
    def breaks_objective(self) -> bool:
        """Whether the real replicas have violated more than the objective allows, beyond chance."""
        counts, seen = self.violations, self.record.observation
        if counts is None or not (counts.real_rate or 0.0) > seen.objective.epsilon:
            return False
        found = agreement(seen.objective.epsilon, counts.real_violated, counts.real_steps, lead_window(seen))
        return found is not None and found.judgement is Judgement.UNDERSTATED

    @property
    def recommended(self) -> int:
        """Replicas that full authority would set."""
        return self.record.decision.replicas


class Judged(TypedDict):
    """What a `Snapshot` says of how its service was judged so far (its fields of the same names)."""

    effective_mode: str
    behavior: Behavior | None
    coverage: dict[float, float]
    crps: float
    realized: float | None
    stated: float | None
    violations: ViolationCounts | None
    agreement: Agreement | None
    gpu_hours_saved: float
    misses_avoided_s: float
    misses_caused_s: float
    shadow_s: float


def judged(managed: ManagedService) -> Judged:
    """The same in every world, of what its loop knows."""
    state, trust = managed.state, managed.trust
    regret = state.regret
    return Judged(
        effective_mode=str(managed.mode),
        behavior=managed.terms.behavior,
        coverage=state.scores.coverage,
        crps=state.scores.crps,
        realized=trust.realized,
        stated=trust.stated,
        violations=state.violations,
        agreement=trust.agreement,
        gpu_hours_saved=regret.gpu_hours_saved,
        misses_avoided_s=regret.misses_avoided_s,
        misses_caused_s=regret.misses_caused_s,
        shadow_s=regret.seconds,
    )
