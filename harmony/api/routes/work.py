"""Ad-hoc forecasts, backtest jobs and models."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from harmony.api.ad_hoc import AdHoc
from harmony.api.depends import Operator, Reader, StateOf, audited, needed
from harmony.api.etags import answer
from harmony.api.job_state import JobState
from harmony.api.jobs import Jobs, JobsFull
from harmony.api.models import (
    AdHocForecast,
    AdHocRequest,
    BacktestRequest,
    Job,
    JobPage,
    ModelCard,
    ModelPage,
)
from harmony.api.names import JobId
from harmony.api.problems import Problem
from harmony.api.state import ApiState
from harmony.serving.views import utc

__all__ = ["router"]

router = APIRouter(tags=["work"])


@router.post("/forecast", response_model=AdHocForecast, summary="Forecast a posted history")
async def forecast(request: Request, _: Reader, history: AdHocRequest) -> AdHocForecast:
    """Joint quantiles of all indicators of a history, without any service being known here."""
    ad_hoc: AdHoc | None = request.app.state.ad_hoc
    return await needed(ad_hoc, "a forecaster").forecast(history)


@router.post("/jobs/backtests", response_model=Job, status_code=202, summary="Start a backtest")
async def start_backtest(state: StateOf, caller: Operator, backtest: BacktestRequest) -> Job:
    """Replay a history of demand under each policy; takes minutes, ask `/jobs/{id}` for it."""
    jobs = _jobs(state)
    rows, policies = len(backtest.demand), list(backtest.policies)
    await audited(state, caller, "jobs.start", {"kind": "backtest", "rows": rows, "policies": policies})
    try:
        return _job(await asyncio.to_thread(jobs.start, "backtest", backtest.model_dump(), caller.id))
    except JobsFull:
        raise Problem("rate-limited", "Too many jobs wait.", {"retry-after": "60"}) from None


@router.get("/jobs", response_model=JobPage, summary="Jobs, newest first")
async def list_jobs(request: Request, state: StateOf, _: Reader) -> Response:
    """Those under way and the newest that have ended, without results."""
    items = [_job(job).model_copy(update={"result": None}) for job in await asyncio.to_thread(_jobs(state).all)]
    return answer(request, JobPage(items=items))


@router.get("/jobs/{job_id}", response_model=Job, summary="Progress and result of a job")
async def job(request: Request, state: StateOf, _: Reader, job_id: JobId) -> Response:
    """Poll with If-None-Match: 304 while nothing has changed."""
    return answer(request, _job(_known(await asyncio.to_thread(_jobs(state).get, job_id))))


@router.delete("/jobs/{job_id}", response_model=Job, summary="Cancel a job")
async def cancel_job(state: StateOf, caller: Operator, job_id: JobId) -> Job:
    """Ends it; a job that has ended stays as it is."""
    jobs = _jobs(state)
    _known(await asyncio.to_thread(jobs.get, job_id))
    await audited(state, caller, "jobs.cancel", {"id": job_id})
    return _job(_known(await asyncio.to_thread(jobs.cancel, job_id)))


@router.get("/models", response_model=ModelPage, summary="Forecasters of this server")
async def models(request: Request, state: StateOf, _: Reader) -> Response:
    """Model cards: version and shape, and validation scores where a model brings them."""
    found = await asyncio.to_thread(needed(state.models, "a list of models"))
    return answer(request, ModelPage(items=[ModelCard.model_validate(card) for card in found]))


def _jobs(state: ApiState) -> Jobs:
    return needed(state.jobs, "jobs")


def _known(job: JobState | None) -> JobState:
    if job is None:
        raise Problem("not-found", "There is no job of that id; ended ones are kept for a while only.")
    return job


def _job(state: JobState) -> Job:
    return Job(
        id=state.id,
        kind=state.kind,
        state=state.state,
        by=state.by,
        created=utc(state.created_s),
        started=None if state.started_s is None else utc(state.started_s),
        ended=None if state.ended_s is None else utc(state.ended_s),
        progress=state.progress,
        note=state.note,
        error=state.error,
        result=None if state.result is None else dict(state.result),
    )
