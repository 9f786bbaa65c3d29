"""Decisions of the journal, their explanation, and what would be decided instead."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from harmony.api.depends import JournalOf, Reader, StateOf, needed
from harmony.api.etags import answer
from harmony.api.models import Decision, DecisionPage, Explanation, WhatIf, WhatIfRequest
from harmony.api.models.decisions import LARGE
from harmony.api.names import DecisionId, Name, Namespace
from harmony.api.pages import Cursor, Limit, read_cursor, write_cursor
from harmony.api.problems import Problem
from harmony.api.routes.services import service_of
from harmony.api.what_if import what_if as compare
from harmony.serving.views import decision_json

__all__ = ["router"]

router = APIRouter(tags=["decisions"])


@router.get("/services/{namespace}/{name}/decisions", response_model=DecisionPage, summary="Decisions, newest first")
async def decisions(
    request: Request,
    journal: JournalOf,
    _: Reader,
    namespace: Namespace,
    name: Name,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """The journal of one service without the alternatives (see `/decisions/{id}`); empty for a service without any."""
    position = read_cursor(cursor, 1)
    before = None if position is None else str(position[0])
    found = await asyncio.to_thread(journal.decisions, f"{namespace}/{name}", before=before, limit=limit + 1)
    page = found[:limit]
    items = [{"id": d.id, **decision_json(d.snapshot), **dict.fromkeys(LARGE)} for d in page]
    more = len(found) > limit
    return answer(request, {"items": items, "next_cursor": write_cursor([page[-1].id]) if more else None})


@router.get("/decisions/{decision_id}", response_model=Decision, summary="One decision")
async def decision(request: Request, journal: JournalOf, _: Reader, decision_id: DecisionId) -> Response:
    """A decision with every alternative that was weighed."""
    found = await asyncio.to_thread(journal.decision, decision_id)
    if found is None:
        raise Problem("not-found", "The journal has no decision of that id.")
    return answer(request, {"id": found.id, **decision_json(found.snapshot)})


@router.get("/decisions/{decision_id}/explanation", response_model=Explanation, summary="A decision recomputed")
async def explanation(request: Request, state: StateOf, _: Reader, decision_id: DecisionId) -> Response:
    """Computes the decision again from what the journal holds, and says whether it is the same."""
    found = await asyncio.to_thread(needed(state.explain, "a journal (--journal)"), decision_id)
    if found is None:
        raise Problem("not-found", "The journal has no decision of that id.")
    return answer(request, dict(found))


@router.post("/services/{namespace}/{name}/what-if", response_model=WhatIf, summary="What would you do if")
async def what_if(state: StateOf, _: Reader, namespace: Namespace, name: Name, changes: WhatIfRequest) -> WhatIf:
    """The decision rule on the newest observation with these changes, beside what it gives without; changes nothing."""
    return await asyncio.to_thread(compare, service_of(state, namespace, name), changes)
