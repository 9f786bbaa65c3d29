"""The budget of GPUs that all services share: read and set while the loop runs."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from harmony.api.depends import JournalOf, Operator, Reader, StateOf, audited, needed
from harmony.api.etags import answer
from harmony.api.models import GpuBudget, GpuBudgetRequest
from harmony.api.ports import JournalPort
from harmony.journal.stored import GPU_BUDGET_SET, gpus_of
from harmony.serving.views import utc

__all__ = ["router"]

router = APIRouter(tags=["fleet"])
FLAG = "a budget of GPUs (--gpu-budget)"


@router.get("/gpu-budget", response_model=GpuBudget, summary="GPUs that all services share")
async def gpu_budget(request: Request, state: StateOf, journal: JournalOf, _: Reader) -> Response:
    """What was set last, or what the server was started with."""
    return answer(request, await _in_force(needed(state.gpu_budget or None, FLAG), journal))


@router.put("/gpu-budget", response_model=GpuBudget, summary="Set it")
async def set_gpu_budget(state: StateOf, journal: JournalOf, caller: Operator, wanted: GpuBudgetRequest) -> GpuBudget:
    """From the next turn on. Nobody loses a replica by it: below what is in use it stops growth only.

    The audit's entry is the setting itself, so it outlives a restart and all replicas of the server know it.
    """
    given = needed(state.gpu_budget or None, FLAG)
    await audited(state, caller, GPU_BUDGET_SET, {"gpus": wanted.gpus})
    return await _in_force(given, journal)


async def _in_force(given: int, journal: JournalPort) -> GpuBudget:
    found = await asyncio.to_thread(journal.audits, before=None, limit=1, action=GPU_BUDGET_SET)
    gpus = gpus_of(found[0]) if found else None
    if gpus is None:
        return GpuBudget(gpus=given, set_by=None, at=None, given=given)
    return GpuBudget(gpus=gpus, set_by=found[0].actor, at=utc(found[0].at_s), given=given)
