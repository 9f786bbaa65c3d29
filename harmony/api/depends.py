"""What routes ask for: the state, the caller with enough of a role, the journal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from harmony.api.auth import caller_of
from harmony.api.ports import JournalPort
from harmony.api.problems import Problem
from harmony.api.roles import Caller, Role
from harmony.api.state import ApiState

__all__ = ["Admin", "JournalOf", "Operator", "Reader", "StateOf", "audited", "journal_of", "needed", "require"]

audit_log = logging.getLogger("harmony.api.audit")
T = TypeVar("T")

# Only for the OpenAPI document: the gate has read the credentials before any route is found.
_BEARER = HTTPBearer(auto_error=False, scheme_name="bearer", description="An API key, or a Kubernetes token.")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="key", description="An API key.")


def require(role: Role) -> Callable[..., Caller]:
    """A dependency: the caller, if their role is ``role`` or above; `Problem` "forbidden" otherwise."""

    async def caller(request: Request, _bearer: Any = Security(_BEARER), _key: Any = Security(_HEADER)) -> Caller:  # noqa: ANN401, B008
        found = caller_of(request.scope)
        if found.role < role:
            raise Problem("forbidden", f"This needs the role {role}; the caller has {found.role}.")
        return found

    caller.role = role  # type: ignore[attr-defined]  # tests ask every route for it
    return caller  # type: ignore[return-value]


# Dependencies are coroutines throughout: plain functions would queue for the thread pool behind slow pages, and with
# them every answer that needs no thread, health first of all.
async def state_of(request: Request) -> ApiState:
    """The application's state."""
    state: ApiState = request.app.state.api
    return state


def needed(port: T | None, what: str) -> T:
    """The port; `Problem` "not-configured" where the server has none."""
    if port is None:
        raise Problem("not-configured", f"This server was started without {what}.")
    return port


async def journal_of(request: Request) -> JournalPort:
    """The journal."""
    return needed((await state_of(request)).journal, "a journal (--journal)")


StateOf = Annotated[ApiState, Depends(state_of)]
JournalOf = Annotated[JournalPort, Depends(journal_of)]
Reader = Annotated[Caller, Depends(require(Role.READ))]
Operator = Annotated[Caller, Depends(require(Role.OPERATE))]
Admin = Annotated[Caller, Depends(require(Role.ADMIN))]


async def audited(state: ApiState, caller: Caller, action: str, detail: Mapping[str, Any]) -> None:
    """Write down a mutation before it is done: what cannot be audited is not done."""
    audit_log.info("%s by %s", action, caller.id, extra={"detail": dict(detail)})
    if state.journal is not None:
        await asyncio.to_thread(state.journal.audit, caller.id, action, detail)
