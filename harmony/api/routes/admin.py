"""Who am I, keys and the audit."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from harmony.api.auth import Authenticator
from harmony.api.depends import Admin, JournalOf, Reader, StateOf, audited
from harmony.api.etags import answer
from harmony.api.keys import new_key, usable
from harmony.api.models import Audit, AuditPage, Key, KeyPage, KeyRequest, Me, NewKeyAnswer
from harmony.api.names import KeyId
from harmony.api.pages import Cursor, Limit, read_cursor, write_cursor
from harmony.api.problems import Problem
from harmony.journal.stored import ApiKey
from harmony.serving.views import utc

__all__ = ["router"]

router = APIRouter(tags=["administration"])


@router.get("/me", response_model=Me, summary="Who am I")
async def me(request: Request, caller: Reader) -> Response:
    """Whom the server takes the caller for, and what they may do."""
    return answer(request, Me(id=caller.id, name=caller.name, role=str(caller.role), method=caller.method))  # type: ignore[arg-type]


@router.get("/keys", response_model=KeyPage, summary="All keys")
async def keys(request: Request, journal: JournalOf, _: Admin) -> Response:
    """Keys without their secrets, revoked ones too."""
    found = await asyncio.to_thread(journal.keys)
    return answer(request, KeyPage(items=[_key(record) for record in usable(found)]))


@router.post("/keys", response_model=NewKeyAnswer, status_code=201, summary="Make a key")
async def create_key(
    request: Request, state: StateOf, journal: JournalOf, caller: Admin, wanted: KeyRequest
) -> NewKeyAnswer:
    """The answer holds the key: it is shown this once."""
    fresh, now_s = new_key(), state.now_s()
    expires_s = None if wanted.expires_in_s is None else now_s + wanted.expires_in_s
    record = ApiKey(fresh.id, wanted.name, wanted.role, fresh.secret_hash, now_s, expires_s)
    await audited(state, caller, "keys.create", {"id": fresh.id, "name": wanted.name, "role": wanted.role})
    await asyncio.to_thread(journal.add_key, record)
    _authenticator(request).forget_keys()
    return NewKeyAnswer(**_key(record).model_dump(), key=fresh.text)


@router.delete("/keys/{key_id}", status_code=204, summary="Revoke a key")
async def revoke_key(request: Request, state: StateOf, journal: JournalOf, caller: Admin, key_id: KeyId) -> Response:
    """At once on this server, within seconds on its replicas."""
    known = {record.id: record for record in await asyncio.to_thread(journal.keys)}
    if key_id not in known or known[key_id].revoked_s is not None:
        raise Problem("not-found", "There is no key of that id, or it was revoked before.")
    await audited(state, caller, "keys.revoke", {"id": key_id})
    await asyncio.to_thread(journal.revoke_key, key_id)
    _authenticator(request).forget_keys()
    return Response(None, 204)


@router.get("/audit", response_model=AuditPage, summary="Who did what")
async def audit(request: Request, journal: JournalOf, _: Admin, limit: Limit = 100, cursor: Cursor = None) -> Response:
    """Every mutation, newest first."""
    position = read_cursor(cursor, 1)
    before = None if position is None else str(position[0])
    found = await asyncio.to_thread(journal.audits, before=before, limit=limit + 1)
    items = [
        Audit(id=a.id, at=utc(a.at_s), actor=a.actor, action=a.action, detail=dict(a.detail)) for a in found[:limit]
    ]
    more = write_cursor([items[-1].id]) if len(found) > limit else None
    return answer(request, AuditPage(items=items, next_cursor=more))


def _authenticator(request: Request) -> Authenticator:
    found: Authenticator = request.app.state.authenticator
    return found


def _key(record: ApiKey) -> Key:
    return Key(
        id=record.id,
        name=record.name,
        role=record.role,  # type: ignore[arg-type]
        created=utc(record.created_s),
        expires=None if record.expires_s is None else utc(record.expires_s),
        revoked=None if record.revoked_s is None else utc(record.revoked_s),
    )
