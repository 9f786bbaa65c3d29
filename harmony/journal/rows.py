"""Snapshots as rows of the tables, and rows as snapshots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
from sqlalchemy import Double, Text

from forecasting.distribution import ForecastDistribution
from forecasting.errors import DataError
from forecasting.panel import FloatArray
from harmony.decision.agreement import Agreement
from harmony.journal.cells import LATEST_S, checked, json_object, shortened
from harmony.journal.ids import decision_id
from harmony.journal.inputs import (
    Inputs,
    capacity_header,
    decode_forecast,
    decode_inputs,
    encode_forecast,
    encode_inputs,
    whole,
)
from harmony.journal.packing import pack, unpack
from harmony.journal.tables import DECIDED, DECISIONS
from harmony.loop.violations import ViolationCounts
from harmony.model.capacity import Capacity
from harmony.model.decision import Decision
from harmony.model.lead_time import LeadTime
from harmony.model.memory import TurnMemory
from harmony.model.objective import Behavior, Objective
from harmony.model.observation import Observation, Outcome
from harmony.model.record import Record
from harmony.schema.exact import dumps, jsonable, loads, rebuilt, restored
from harmony.schema.fields import fields_of, is_table
from harmony.serving.points import Point
from harmony.serving.snapshot import Snapshot

__all__ = ["POINT_COLUMNS", "SCORES", "Encoded", "encode", "point_of", "snapshot_of"]

TEXTS = ("kind", "target", "mode", "effective_mode", "unit", "demand_name", "gpu_type", "currency", "held_by")
SCORES = (
    "crps", "realized", "stated", "gpu_hours_saved", "misses_avoided_s", "misses_caused_s", "shadow_s",
)  # fmt: skip

POINT_COLUMNS = ("id", "at_s", "demand", "ordered", "ready", "replicas", "context")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One snapshot as rows: of `decisions`, `inputs` and `services`."""

    decision: Row
    inputs: Row
    service: Row


def encode(snapshot: Snapshot, *, whole_forecast: bool) -> Encoded:
    """The rows of a snapshot; `DataError` for what cannot be kept (a time before 1970, text that is no text).

    ``whole_forecast`` keeps all of the newest forecast for those who follow the journal (see `JournalStore.latest`).
    """
    record, seen = snapshot.record, snapshot.record.observation
    decided = {f.name: getattr(record.decision, f.name) for f in fields_of(type(record.decision))}
    row_id = decision_id(_text(snapshot.service), seen.now_s)
    scores = _scores(snapshot)
    row: Row = {name: _text(getattr(snapshot, name)) for name in TEXTS} | {
        "id": row_id,
        "service": snapshot.service,
        "at_s": seen.now_s,
        "step_s": seen.step_s,
        "interval_s": seen.interval_s,
        "demand": _absent(seen.demand),
        "seen_ordered": whole(seen.ordered),
        "seen_ready": whole(seen.ready),
        "risk_level": _absent(seen.risk_level),
        "ordered": whole(snapshot.ordered),
        "ready": whole(snapshot.ready),
        "desired": whole(snapshot.desired),
        "applied": whole(record.applied),
        "outcome_steps": whole(record.outcome.steps),
        "outcome_violated": whole(record.outcome.violated),
        **{name: _cell(name, decided.pop(name)) for name in DECIDED},
        "context": _context(snapshot, scores, decided),
    }
    summary = {"conditions": snapshot.conditions, "scores": scores}
    service = {
        "service": snapshot.service,
        "at_s": seen.now_s,
        "decision_id": row_id,
        "summary": _text(dumps(summary)),
        "series": _series(snapshot, whole_forecast),
    }
    return Encoded(row, {"decision_id": row_id, "blob": encode_inputs(record)}, service)


def snapshot_of(
    row: Mapping[str, Any], blob: bytes | None = None, summary: str | None = None, series: bytes | None = None
) -> Snapshot:
    """The snapshot of a row of `decisions`, as much of it as there is.

    With ``blob`` (its inputs) it has the demand's forecast over the decision's window, with ``series`` (of the
    service, for its newest decision) the recent history and perhaps the whole forecast. Raises `DataError` with its id
    for a row that is damaged, or holds what this version does not know.
    """
    try:
        return _snapshot_of(checked(DECISIONS, row), blob, summary, series)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, MemoryError) as error:
        told = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        raise DataError(f"journal: decision {shortened(row['id'])} cannot be read: {shortened(told)}") from error


def point_of(row: Mapping[str, Any]) -> Point:
    """What charts over time need of a row with `POINT_COLUMNS`; `DataError` as `snapshot_of`."""
    try:
        cells = checked(DECISIONS, row, POINT_COLUMNS)
        context = json_object(cells["context"], "context")
        decided = context.get("decision", {})  # older rows know no budget
        left, least, most = (_number(decided.get(f"budget_{name}")) for name in ("left", "least", "most"))
        return Point(
            cells["at_s"], cells["ordered"], cells["ready"], cells["replicas"],
            restored(Capacity, context["capacity"]).median, left, (least, most), _number(cells["demand"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, MemoryError) as error:
        told = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        raise DataError(f"journal: decision {shortened(row['id'])} cannot be read: {shortened(told)}") from error


def _snapshot_of(row: Mapping[str, Any], blob: bytes | None, summary: str | None, series: bytes | None) -> Snapshot:
    if row["id"] != decision_id(row["service"], row["at_s"]):
        raise DataError(f"its id is not that of {row['service']} at {row['at_s']} s")
    context = json_object(row["context"], "context")
    inputs = None if blob is None else decode_inputs(blob)
    header, arrays = ({}, {}) if series is None else unpack(series)
    forecast = None if inputs is None else inputs.forecast
    if "forecast" in header:
        forecast = decode_forecast(header["forecast"], arrays)
    about = {} if summary is None else json_object(summary, "summary")
    scores = about.get("scores", context["scores"])
    record = _record(row, context, inputs, forecast)
    none = np.empty(0)
    named: dict[str, Any] = {name: row[name] for name in TEXTS}
    named |= {name: None if scores[name] is None else float(scores[name]) for name in SCORES}
    counts, agreed = scores.get("violations"), scores.get("agreement")  # older rows have neither
    return Snapshot(
        service=row["service"],
        **named,
        violations=None if counts is None else ViolationCounts.from_json(counts),
        agreement=None if agreed is None else Agreement(*(float(x) for x in agreed)),
        record=record,
        guards_before=record.before.guards,
        behavior=None if context["behavior"] is None else restored(Behavior, context["behavior"]),
        ordered=row["ordered"],
        ready=row["ready"],
        desired=row["desired"],
        history_s=arrays.get("history_s", none),
        history=arrays.get("history", none),
        conditions=tuple(about.get("conditions", ())),
        coverage={float(level): float(share) for level, share in scores["coverage"].items()},
    )


def _record(
    row: Mapping[str, Any], context: Mapping[str, Any], inputs: Inputs | None, forecast: ForecastDistribution | None
) -> Record:
    for name in ("step_s", "interval_s"):
        if not 0.0 < row[name] < LATEST_S:
            raise DataError(f"{name} is {row[name]:g} s, expected a positive number")
    seen = Observation(
        now_s=row["at_s"],
        step_s=row["step_s"],
        interval_s=row["interval_s"],
        demand=_number(row["demand"]),
        ordered=row["seen_ordered"],
        ready=row["seen_ready"],
        objective=restored(Objective, context["objective"]),
        capacity=restored(Capacity, context["capacity"]) if inputs is None else inputs.capacity,
        lead_time=restored(LeadTime, context["lead_time"]),
        forecast=forecast,
        risk_level=_number(row["risk_level"]),
    )
    decided = {name: row[name] for name in DECIDED if row[name] is not None}
    decided |= {name: loads(decided[name]) for name in ("candidates", "quantiles") if name in decided}
    samples, failed = ((), ()) if inputs is None else (inputs.bound_samples, inputs.failed_s)
    outcome = Outcome(
        row["outcome_steps"], row["outcome_violated"], samples, failed, *map(int, context.get("outcome", ()))
    )
    return Record(
        seen,
        rebuilt(Decision, decided | context.get("decision", {})),
        row["applied"],
        outcome,
        TurnMemory() if inputs is None else inputs.before,
    )


# ---- parts ---------------------------------------------------------------------------------------------------
def _absent(value: float) -> float | None:
    """NULL for NaN (SQLite makes no difference between them, so no database shall)."""
    return None if math.isnan(value) else float(value)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _text(value: str) -> str:
    """Text that every database takes."""
    if "\x00" in value:
        raise DataError(f"journal: text with a NUL character: {value[:40]!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"journal: text that is no Unicode: {value[:40]!r}") from None
    return value


def _cell(name: str, value: Any) -> Any:  # noqa: ANN401
    """A field of a decision as its column takes it."""
    if value is None:
        return None
    kind = DECISIONS.c[name].type
    if isinstance(kind, Text):
        return _text(str(value) if isinstance(value, str) else orjson.dumps(_parts(value)).decode())
    return _absent(value) if isinstance(kind, Double) else whole(value)


def _parts(value: Any) -> Any:  # noqa: ANN401
    """Arrays by level, or a table's columns; anything else as it is."""
    if isinstance(value, dict):
        return {repr(float(level)): jsonable(values) for level, values in value.items()}
    if is_table(type(value)):
        return {f.name: jsonable(getattr(value, f.name)) for f in fields_of(type(value))}
    return jsonable(value)


def _scores(snapshot: Snapshot) -> dict[str, Any]:
    scores = {name: jsonable(getattr(snapshot, name)) for name in SCORES}
    counts, agreed = snapshot.violations, snapshot.agreement
    scores["violations"] = None if counts is None else list(counts)
    scores["agreement"] = None if agreed is None else jsonable(astuple(agreed))
    return scores | {"coverage": {repr(float(k)): jsonable(float(v)) for k, v in snapshot.coverage.items()}}


def _context(snapshot: Snapshot, scores: dict[str, Any], decided: dict[str, Any]) -> str:
    seen = snapshot.record.observation
    came = snapshot.record.outcome
    value: dict[str, Any] = {
        "objective": orjson.Fragment(_settings(seen.objective)),
        "behavior": None if snapshot.behavior is None else orjson.Fragment(_settings(snapshot.behavior)),
        "capacity": capacity_header(seen.capacity),
        "lead_time": orjson.Fragment(_settings(seen.lead_time)),
        "scores": scores,
        "outcome": [came.real_steps, came.real_violated, came.shadow_steps, came.shadow_violated],
    }
    if decided:
        value["decision"] = {name: _parts(part) for name, part in decided.items()}
    return _text(orjson.dumps(value).decode())


@lru_cache(maxsize=4096)
def _settings(settings: Objective | Behavior | LeadTime) -> bytes:
    """Settings as JSON; the same ones come again with every turn."""
    return _text(dumps(settings)).encode()


def _series(snapshot: Snapshot, whole_forecast: bool) -> bytes:
    header: dict[str, Any] = {}
    arrays: dict[str, FloatArray] = {
        "history_s": np.asarray(snapshot.history_s, dtype=np.float64),
        "history": np.asarray(snapshot.history, dtype=np.float64),
    }
    forecast = snapshot.record.observation.forecast
    if whole_forecast and forecast is not None:
        header["forecast"], more = encode_forecast(forecast)
        arrays |= more
    return pack(header, arrays)
