"""`/services`: the fleet, one service, its forecast and calibration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from forecasting.errors import DataError
from harmony.api.depends import Reader, StateOf
from harmony.api.etags import answer
from harmony.api.models import Calibration, FleetPage, Forecast, Service
from harmony.api.names import Name, Namespace
from harmony.api.pages import Cursor, Limit, read_cursor, write_cursor
from harmony.api.problems import Problem
from harmony.api.state import ApiState
from harmony.serving.snapshot import Snapshot
from harmony.serving.views import decision_json, forecast_json, history_json, number, numbers, summary_json

__all__ = ["router", "service_of"]

router = APIRouter(tags=["services"])
Json = dict[str, Any]
Sort = Literal[
    "service",
    "mode",
    "ordered",
    "ready",
    "recommended",
    "demand",
    "violation_probability",
    "realized",
    "gpu_hours_saved",
    "reason",
]
Word = Annotated[str | None, Query(max_length=64, pattern=r"^[A-Za-z]+$")]


def service_of(state: ApiState, namespace: str, name: str) -> Snapshot:
    """The newest snapshot; `Problem` "not-found" for none."""
    found = state.hub.latest(f"{namespace}/{name}")
    if found is None:
        raise Problem("not-found", "There is no service of that namespace and name.")
    return found


@router.get("/services", response_model=FleetPage, summary="The fleet")
async def services(
    request: Request,
    state: StateOf,
    _: Reader,
    namespace: Annotated[str | None, Query(max_length=63, pattern=r"^[a-z0-9-]+$")] = None,
    mode: Annotated[Word, Query(description="Mode in force, such as Recommend.")] = None,
    kind: Word = None,
    reason: Annotated[Word, Query(description="Why the count is what it is, such as Forecast.")] = None,
    search: Annotated[
        str | None, Query(max_length=64, pattern=r"^[a-z0-9./-]+$", description="Part of the name.")
    ] = None,
    sort: Sort = "service",
    order: Literal["asc", "desc"] = "asc",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response:
    """Newest state of all services, filtered, sorted (absent figures last) and page by page."""
    version, snapshots = state.hub.view()
    wanted = {"effective_mode": mode, "kind": kind, "reason": reason}
    rows = [
        row
        for row in map(summary_json, snapshots)
        if all(value is None or row[field] == value for field, value in wanted.items())
        and (namespace is None or row["service"].startswith(namespace + "/"))
        and (search is None or search in row["service"])
    ]
    keyed = sorted(((_place(row, sort), row) for row in rows), key=lambda pair: pair[0], reverse=order == "desc")
    if sort != "service":  # absent figures last, whichever way the others go
        keyed.sort(key=lambda pair: pair[1][sort] is None)
    start = _after(keyed, cursor, sort, order)
    page = keyed[start : start + limit]
    more = start + limit < len(keyed)
    return answer(
        request,
        {
            "items": [row for _, row in page],
            "next_cursor": write_cursor([sort, order, page[-1][1]["service"]]) if more else None,
            "total": len(rows),
            "version": version,
        },
    )


def _place(row: Json, sort: str) -> tuple[Any, str]:
    value = row[sort]
    return (0 if value is None else value, row["service"])


def _after(keyed: list[tuple[Any, Json]], cursor: str | None, sort: str, order: str) -> int:
    """Where the page begins: after the service that the page before ended with."""
    position = read_cursor(cursor, 3)
    if position is None:
        return 0
    if position[:2] != [sort, order]:
        raise Problem("unusable", "cursor: it belongs to another order; begin again without it.")
    for at, (_, row) in enumerate(keyed):
        if row["service"] == position[2]:
            return at + 1
    raise Problem("unusable", "cursor: that service is gone or no longer fits; begin again without it.")


@router.get("/services/{namespace}/{name}", response_model=Service, summary="One service")
async def service(request: Request, state: StateOf, _: Reader, namespace: Namespace, name: Name) -> Response:
    """All about one service: its newest decision with every alternative, forecast, recent demand, calibration."""
    found = service_of(state, namespace, name)
    return answer(
        request,
        {
            "summary": summary_json(found),
            "decision": {"id": None, **decision_json(found)},
            "forecast": forecast_json(found),
            "history": history_json(found),
            "calibration": calibration_json(found),
            "conditions": list(found.conditions),
        },
    )


@router.get("/services/{namespace}/{name}/forecast", response_model=Forecast, summary="The newest forecast")
async def forecast(
    request: Request,
    state: StateOf,
    _: Reader,
    namespace: Namespace,
    name: Name,
    paths: Annotated[int, Query(ge=0, le=1000, description="How many joint sample paths to add.")] = 0,
    level: Annotated[
        int | None, Query(ge=1, le=3, description="All indicators of this level; the demand alone by default.")
    ] = None,
) -> Response:
    """Quantiles per step ahead, and joint sample paths on demand."""
    found = service_of(state, namespace, name)
    made = found.record.observation.forecast
    if made is None:
        raise Problem("no-forecast", "The newest turn had no forecast: too little history yet, or its data are absent.")
    names: tuple[str, ...] = ()
    if level is not None:
        names = tuple(i.name for i in made.indicators if i.level == level)
        if not names:
            raise Problem("not-found", f"The forecast holds no indicator of level {level}.")
    try:
        view = forecast_json(found, paths, names)
    except DataError as error:
        raise Problem("not-found", str(error)) from error
    assert view is not None  # there is a forecast
    return answer(request, view)


@router.get("/services/{namespace}/{name}/calibration", response_model=Calibration, summary="Are probabilities true?")
async def calibration(request: Request, state: StateOf, _: Reader, namespace: Namespace, name: Name) -> Response:
    """Coverage of the forecast's central intervals, and stated beside realised risk."""
    return answer(request, calibration_json(service_of(state, namespace, name)))


def calibration_json(snapshot: Snapshot) -> Json:
    """Plain values of `Calibration`."""
    seen, agreed = snapshot.record.observation, snapshot.agreement
    observed = sorted(snapshot.coverage.items())
    shares = numbers(np.array([share for _, share in observed], dtype=np.float64))
    return {
        "service": snapshot.service,
        "coverage": [{"nominal": q, "observed": s} for (q, _), s in zip(observed, shares, strict=True)],
        "crps": number(snapshot.crps),
        "unit": snapshot.unit,
        "promised": seen.objective.epsilon,
        "stated": number(snapshot.stated),
        "realized": number(snapshot.realized),
        "realized_low": None if agreed is None else number(agreed.low),
        "realized_high": None if agreed is None else number(agreed.high),
        "judgement": None if agreed is None or agreed.judgement is None else str(agreed.judgement),
        "risk_level": number(seen.risk_level),
    }
