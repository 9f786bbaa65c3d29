"""One service's page: the newest turn with its figures, tables and words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from harmony.dashboard import figures
from harmony.dashboard.fleet import FleetTableRow, table_row
from harmony.dashboard.history import Course
from harmony.dashboard.states import Ages
from harmony.decision.bill import bill_per_hour
from harmony.decision.past.tried import why_not
from harmony.decision.rule import lead_window
from harmony.decision.switching import weight_under
from harmony.model.decision import Decision
from harmony.serving import Snapshot, sentence
from harmony.serving.further import Further, further
from harmony.serving.views import forecast_json, number, utc
from harmony.serving.words import duration, rescaled_from

__all__ = ["Page", "page_of"]

Json = dict[str, Any]
RECENT = 12  # readings and turns in the tables that stand in for the charts


@dataclass(frozen=True, slots=True)
class Page:
    """What the template of a service needs; absent figures are None."""

    row: FleetTableRow
    sentence: str
    announcement: str
    figures: dict[str, figures.Figure]
    candidates: list[Json]
    candidates_weighed: int
    weighed: str
    forecast: list[Json]
    readings: list[Json]
    turns: list[Json]
    note: str
    coverage: list[tuple[float, float]]
    capacity: Json
    lead: Json
    bill: float | None
    idle: float | None
    window_s: float
    rescaled: float | None
    crps: float | None
    stated: float | None
    level: float | None
    budget: dict[str, float | None] | None
    tried: list[Json]
    further: tuple[Further, ...]

    @property
    def snapshot(self) -> Snapshot:
        """What it is made of."""
        return self.row.snapshot


def page_of(snapshot: Snapshot, course: Course, ages: Ages, view: figures.View | None = None) -> Page:
    """Everything about one service at one moment; charts over time show ``view``."""
    seen, decision = snapshot.record.observation, snapshot.record.decision
    view = view or figures.View.usual(snapshot)
    points, every_s = course.points, course.every_s
    drawn = [
        figures.demand(snapshot, points, view, every_s),
        figures.experts(snapshot),
        figures.replicas(snapshot, points, view, every_s),
        figures.budget(snapshot, points, view, every_s),
        figures.candidates(snapshot),
        figures.calibration(snapshot),
    ]
    low, high = seen.capacity.interval(0.9)
    direction = "up" if snapshot.desired > snapshot.ordered else "down"
    return Page(
        row=table_row(snapshot, ages),
        sentence=sentence(snapshot),
        announcement=""
        if snapshot.desired == snapshot.ordered
        else f"{snapshot.name}: scaling {direction} from {snapshot.ordered} to {snapshot.desired} replicas.",
        figures={f.name: f for f in drawn if f is not None},
        candidates=_candidates(snapshot),
        weighed=_weighed(decision),
        candidates_weighed=0 if decision.candidates is None else len(decision.candidates),
        forecast=_forecast(snapshot),
        readings=[
            {"at": utc(t), "value": number(v)}
            for t, v in zip(snapshot.history_s.tolist(), snapshot.history.tolist(), strict=True)
            if t <= view.last_s
        ][: -RECENT - 1 : -1],
        turns=[
            {"at": utc(p.at_s), "ordered": p.ordered, "ready": p.ready, "recommended": p.recommended}
            for p in points[: -RECENT - 1 : -1]
        ],
        note=_note(course),
        coverage=sorted((q, c) for q, c in snapshot.coverage.items() if math.isfinite(c)),
        capacity={"median": seen.capacity.median, "low": low, "high": high, "known": seen.capacity.is_known},
        lead={
            "median_s": seen.lead_time.median_s,
            "p90_s": seen.lead_time.quantile_s(0.9),
            "known": seen.lead_time.is_known,
        },
        bill=number(snapshot.bill_per_hour),
        idle=number(snapshot.idle_per_hour),
        window_s=lead_window(seen) * seen.step_s,
        rescaled=rescaled_from(snapshot.record),
        crps=number(snapshot.crps),
        stated=number(snapshot.stated),
        level=number(seen.risk_level),
        budget=None
        if math.isnan(decision.budget_left)
        else {
            "left": decision.budget_left,
            "burn": number(decision.burn_rate),
            "price": number(decision.price),
        },
        tried=_tried(snapshot),
        further=further(decision),
    )


def _weighed(decision: Decision) -> str:
    """What the rule weighed of every count beside its bill, for a heading; empty where it weighed nothing else."""
    if not math.isnan(decision.price):
        return "bill and violations" if decision.stood < 0 else "bill, violations and changes"
    return "" if decision.setting else "idle and missing"


def _candidates(snapshot: Snapshot) -> list[Json]:
    """Every count that is shown with its bill and what was weighed, money per hour."""
    seen, decision = snapshot.record.observation, snapshot.record.decision
    rows, hourly = [], seen.objective.replica_price_per_hour
    change = 0.0 if decision.stood < 0 else weight_under(seen.objective) * hourly
    for row in figures.shown_candidates(snapshot):
        bill = bill_per_hour(row["replicas"], seen)
        violated = decision.price * row["violated_time"] * hourly + change * abs(row["replicas"] - decision.stood)
        rows.append(row | {"bill": bill, "weighed": row["expected_cost"] if math.isnan(violated) else bill + violated})
    return rows


def _note(course: Course) -> str:
    """What to know of the turns that are drawn; empty for nothing."""
    said = [course.trouble] if course.trouble else []
    if course.every_s:
        said.append(
            f"One turn of every {duration(course.every_s)} is drawn: that in which demand was highest for the replicas "
            "that were ready."
        )
    return " ".join(said)


def _tried(snapshot: Snapshot) -> list[Json]:
    """What the best setting of every family would have set, cost and violated on the service's own past."""
    tried, objective = snapshot.record.decision.tried, snapshot.record.observation.objective
    if tried is None:
        return []
    return [
        {
            "family": str(tried.family[i]),
            "setting": str(tried.setting[i]),
            "replicas": number(float(tried.replicas[i])),
            "cost": number(float(tried.replicas[i]) * objective.replica_price_per_hour),
            "violated": number(float(tried.violated[i])),
            "why": why_not(tried, i),
        }
        for i in range(len(tried))
    ]


def _forecast(snapshot: Snapshot) -> list[Json]:
    """Quantiles of demand per step ahead, for the table beside the fan."""
    forecast = forecast_json(snapshot)
    if forecast is None:
        return []
    levels = forecast["indicators"][forecast["demand"]]["quantiles"]
    names = ("0.05", "0.5", "0.95", "0.99")
    return [
        {"at": at, "lead": h < forecast["lead_steps"], "values": [levels[q][h] for q in names]}
        for h, at in enumerate(forecast["times"])
    ]
