"""`create_app`: the API as a FastAPI application; pages may be added to it, the gate covers them as well."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.routing import compile_path

from forecasting.errors import HarmonyError, InputError
from harmony import __version__
from harmony.api.ad_hoc import AdHoc
from harmony.api.auth import Authenticator
from harmony.api.gate import Gate
from harmony.api.models import ProblemDetails
from harmony.api.problems import Problem, render
from harmony.api.reference import reference
from harmony.api.routes import admin, budget, decisions, services, system, work
from harmony.api.state import ApiState

__all__ = ["create_app"]

log = logging.getLogger(__name__)
PREFIX = "/api/v1"
RENDERING = 4  # threads
PARTS = (services, decisions, work, admin, system, budget)
PROBLEM: dict[str, Any] = {
    "model": ProblemDetails,
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
}
ABOUT = """
Forecasts, decisions and their reasons, as HARMONY makes them. Errors are problem details (RFC 9457): act on `type`.

Authenticate with an API key (`X-API-Key: hk_...` or `Authorization: Bearer hk_...`) or a Kubernetes token.
GETs carry an ETag: ask again with If-None-Match and get 304 while nothing has changed.
"""


def create_app(state: ApiState) -> FastAPI:
    """The application over these ports.

    Nothing is open without a key but health, the paths that the settings name, and all of it where `is_open`.
    """
    app = FastAPI(
        title="HARMONY",
        version=__version__,
        description=ABOUT,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # its pages would fetch their scripts from elsewhere; ours is `reference`
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be built from the Host header
        lifespan=_lifespan,
        responses={code: PROBLEM for code in ("4XX", "5XX")},
    )
    app.state.api = state
    app.state.authenticator = Authenticator(state)
    app.state.ad_hoc = None if state.forecast is None else AdHoc(state.forecast, state.explain_forecast)
    app.state.stopping = asyncio.Event()
    api = APIRouter(prefix=PREFIX, responses={422: PROBLEM})
    for part in PARTS:
        api.include_router(part.router)
    app.include_router(api)
    for path in (
        "/healthz",
        "/readyz",
    ):  # one answer: what does not work is not ready, and nothing else is to be waited for
        app.add_api_route(path, system.health, include_in_schema=False)
    # Where people and scrapers look first.
    app.add_api_route("/metrics", system.metrics, include_in_schema=False)
    app.add_api_route("/docs", reference, include_in_schema=False)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(InputError, _unusable)
    app.add_exception_handler(HarmonyError, _unavailable)
    app.add_middleware(GZipMiddleware, minimum_size=2048, compresslevel=5)
    app.add_middleware(Gate, state=state, authenticator=app.state.authenticator)
    if state.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=state.settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type", "If-None-Match"],
            expose_headers=["ETag", "Retry-After"],
        )
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """What ends with the application."""
    app.state.stopping = asyncio.Event()
    # What renders pages computes: more threads would only take the interpreter from each other, and from the loop.
    anyio.to_thread.current_default_thread_limiter().total_tokens = RENDERING
    try:
        yield
    finally:
        app.state.stopping.set()
        if app.state.ad_hoc is not None:
            app.state.ad_hoc.close()
        if app.state.api.jobs is not None:
            await asyncio.to_thread(app.state.api.jobs.close)


# ---- errors ---------------------------------------------------------------------------------------------------
async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return render(error)


async def _invalid(_: Request, error: Exception) -> Response:
    """Where and what, never the value itself: it may be a secret in the wrong place."""
    assert isinstance(error, RequestValidationError)
    found = []
    for one in error.errors()[:20]:
        at = ".".join(str(part) for part in one["loc"])
        found.append({"at": _clean(at), "message": _clean(str(one["msg"]))})
    return render(Problem("invalid-request", "See errors.", errors=found))


async def _http(request: Request, error: Exception) -> Response:
    """What the framework raises itself."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return render(Problem("not-found", "There is nothing at this path."))
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods(request.url.path))) or (error.headers or {}).get("Allow", "GET")
        return render(Problem("method-not-allowed", f"Here: {allowed}.", {"allow": allowed}))
    if error.status_code == 413:
        return render(Problem("too-large", "The body is too large."))
    if 400 <= error.status_code < 500:
        return render(Problem("bad-request", "The request could not be parsed."))
    return render(Problem("unavailable", "Not available right now."))


async def _unusable(_: Request, error: Exception) -> Response:
    return render(Problem("unusable", _clean(str(error))))


async def _unavailable(_: Request, error: Exception) -> Response:
    log.warning("something that an answer needs is not available: %s", error)
    return render(Problem("unavailable", "The journal is not available right now.", {"retry-after": "5"}))


def _methods(path: str) -> set[str]:
    """All methods that the API has at this path."""
    return {method for pattern, methods in _routes() if pattern.match(path) for method in methods}


@functools.cache
def _routes() -> tuple[tuple[re.Pattern[str], frozenset[str]], ...]:
    """Pattern and methods of every route of the API."""
    routes = [route for part in PARTS for route in part.router.routes if isinstance(route, APIRoute)]
    return tuple((compile_path(PREFIX + route.path)[0], frozenset(route.methods or ())) for route in routes)


def _clean(text: str) -> str:
    """Text that any encoder takes, of bounded length."""
    return text.encode("utf-8", "replace").decode()[:500]
