"""The pages' routes."""

from __future__ import annotations

import logging
from typing import Annotated, Any
from urllib.parse import parse_qs, quote, urlencode

from fastapi import APIRouter, Depends, Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from forecasting.errors import DataError, UsageError
from harmony.api.auth import Credentials
from harmony.api.depends import require
from harmony.api.limits import counted_as
from harmony.api.problems import Problem
from harmony.api.roles import Role
from harmony.api.transport import is_secure
from harmony.dashboard import sessions
from harmony.dashboard.dashboard import LOGIN, Dashboard
from harmony.dashboard.figures import View, span_s
from harmony.dashboard.fleet import BY_KEY, COLUMNS, FleetQuery, fleet
from harmony.dashboard.rendering import REPORT_HEADERS
from harmony.dashboard.reports import Report
from harmony.dashboard.service import page_of
from harmony.dashboard.sliders import sliders
from harmony.dashboard.states import STALE_S
from harmony.dashboard.timerange import TimeRange
from harmony.serving import utc

__all__ = ["router"]

log = logging.getLogger(__name__)
THEMES = ("auto", "light", "dark")
YEAR_S = 31_536_000
WHAT_IF = "/api/v1/services/{}/what-if"


def dashboard_of(request: Request) -> Dashboard:
    """The application's dashboard."""
    found: Dashboard = request.app.state.dashboard
    return found


Our = Annotated[Dashboard, Depends(dashboard_of)]
router = APIRouter()
private = APIRouter(dependencies=[Depends(require(Role.READ))])


def page(request: Request, our: Dashboard, template: str, status: int = 200, **values: Any) -> Response:  # noqa: ANN401
    """A page with what every page shows."""
    theme = request.cookies.get("harmony_theme", "auto")
    query = request.url.query
    caller = request.scope.get("caller")
    common = {
        "theme": theme if theme in THEMES else "auto",
        "here": request.url.path,
        "back": request.url.path + (f"?{query}" if query else ""),
        "notice": "" if caller is None else our.state.notice(),
        "demo": our.trail.is_simulated,
        "speed": our.speed,
        "signed_in": caller is not None,
        "can_sign_out": sessions.COOKIE in request.cookies and caller is not None,
    }
    return our.renderer.page(template, status, **common, **values)


# ---- pages --------------------------------------------------------------------------------------------------
@private.get("/")
def fleet_page(request: Request, our: Our) -> Response:
    """The fleet table."""
    ages, snapshots = our.ages(), our.hub.all()
    asked = FleetQuery.of(dict(request.query_params))
    column = BY_KEY[asked.sort]
    return page(
        request,
        our,
        "fleet",
        fleet=fleet(snapshots, asked, ages),
        columns=COLUMNS,
        sorted_by=f"{column.title}, {'descending' if asked.down else 'ascending'}",
        age_s=min(map(ages.age_s, snapshots), default=None),
        stale_s=min(map(ages.stale_after_s, snapshots), default=STALE_S),
    )


@private.get("/services/{namespace}/{name}")
def service_page(request: Request, our: Our, namespace: str, name: str) -> Response:
    """One service."""
    snapshot = our.hub.latest(f"{namespace}/{name}")
    if snapshot is None:
        detail = f"There is no service {namespace}/{name}, or nothing has been decided about it yet."
        return page(request, our, "problem", 404, title="No such service", detail=detail)
    try:
        chosen = TimeRange.of(request.query_params)
    except UsageError as error:
        return page(request, our, "problem", 400, title="No such range of time", detail=f"{error}.")
    usual = span_s(snapshot)
    first_s, last_s = chosen.span_s(snapshot, usual)
    lengths, moves = chosen.links(snapshot, usual, request.url.path)
    ages = our.ages()
    url = WHAT_IF.format("/".join(quote(part, safe="") for part in (namespace, name)))
    return page(
        request,
        our,
        "service",
        page=page_of(snapshot, our.history.of(snapshot, first_s, last_s), ages, View(first_s, last_s, chosen.key)),
        lengths=lengths,
        moves=moves,
        shown=(utc(first_s), utc(min(last_s, snapshot.at_s))),
        past=chosen.until_s is not None,
        age_s=ages.age_s(snapshot),
        at=utc(snapshot.at_s),
        stale_s=ages.stale_after_s(snapshot),
        what_if_url=url,
        sliders=sliders(snapshot),
    )


@private.get("/about")
def about_page(request: Request, our: Our) -> Response:
    """This server, and what its words mean."""
    snapshots = our.hub.all()
    models = sorted({s.record.decision.model for s in snapshots if s.record.decision.model})
    return page(request, our, "about", services=len(snapshots), models=models, now=utc(our.ages().now_s))


# ---- reports ------------------------------------------------------------------------------------------------
def report_url(report: Report) -> str:
    """The address of a report's page."""
    return f"/reports/{quote(report.name, safe='')}"


@private.get("/reports")
def reports_page(request: Request, our: Our, q: str = "") -> Response:
    """All replay reports, or those that match."""
    every, words = our.reports.all(), q.strip()[:100]
    found = [{"report": r, "url": report_url(r), "at": utc(r.written_s)} for r in every if r.matches(words)]
    comparable = [r.name for r in every if r.figures is not None]
    return page(
        request,
        our,
        "reports",
        reports=found,
        folder=our.reports.folder is not None,
        q=words,
        total=len(every),
        comparable=comparable if len(comparable) > 1 else [],
    )


@private.get("/compare")
def compare_page(request: Request, our: Our, a: str = "", b: str = "") -> Response:
    """Two reports side by side, in a sandbox as they are."""
    missing = next((n for n in (a, b) if (r := our.reports.get(n)) is None or r.figures is None), None)
    if missing is not None:
        detail = f"{missing[:80]!r} is no report with figures; choose two on the page of reports."
        return page(request, our, "problem", 404, title="Nothing to compare", detail=detail)
    return page(request, our, "compare", a=a, b=b, url="/compare/page.html?" + urlencode({"a": a, "b": b}))


@private.get("/compare/page.html")
def compare_file(our: Our, a: str = "", b: str = "") -> Response:
    """The comparison itself."""
    try:
        return HTMLResponse(our.reports.compared(a, b), headers=REPORT_HEADERS)
    except DataError as error:
        raise Problem("not-found", f"{error}.") from error


@private.get("/reports/{name}")
def report_page(request: Request, our: Our, name: str) -> Response:
    """One report in its sandbox."""
    found = our.reports.get(name)
    if found is None:
        return page(request, our, "problem", 404, title="No such report", detail="It may have been removed.")
    return page(request, our, "report", report=found, url=report_url(found))


@private.get("/reports/{name}/report.html")
def report_file(request: Request, our: Our, name: str) -> Response:
    """The report itself, as it was written."""
    found = our.reports.get(name)
    if found is None:
        return page(request, our, "problem", 404, title="No such report", detail="It may have been removed.")
    return FileResponse(found.path, media_type="text/html; charset=utf-8", headers=REPORT_HEADERS)


# ---- open to everybody --------------------------------------------------------------------------------------
@router.get("/static/{digest}/{name}")
def static_file(request: Request, our: Our, digest: str, name: str) -> Response:
    """A file that pages load; kept by browsers for as long as they like, because its address names its content."""
    asset = our.assets.get(name)
    if asset is None:
        raise Problem("not-found", "There is no such file.")
    headers = {
        "vary": "accept-encoding",
        "cache-control": f"public, max-age={YEAR_S}, immutable" if digest == asset.digest else "no-cache",
    }
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        return Response(asset.gzipped, 200, headers, asset.media_type)
    return Response(asset.body, 200, headers, asset.media_type)


def inside(path: str) -> str:
    """A path of this site to go back to; "/" for anything that could lead elsewhere."""
    harmless = path.startswith("/") and not path.startswith("//") and path.isprintable() and "\\" not in path
    return path if harmless and len(path) < 2000 else "/"


@router.get("/theme/{theme}")
def theme(request: Request, theme: str, back: str = "/") -> Response:
    """Remember a theme (for browsers without JavaScript) and go back."""
    answer = RedirectResponse(inside(back), 303)
    if theme in THEMES:
        answer.set_cookie("harmony_theme", theme, max_age=YEAR_S, samesite="lax", secure=is_secure(request))
    return answer


@router.get(LOGIN)
def login_page(request: Request, our: Our, next: str = "/") -> Response:
    """The form."""
    if our.state.settings.is_open:
        return RedirectResponse(inside(next), 303)
    return page(request, our, "login", problem="", next=inside(next))


@router.post(LOGIN)
async def login(request: Request, our: Our) -> Response:
    """Begin a session if the key is valid."""
    try:
        fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
    except ValueError:
        raise Problem("bad-request", "Send the two fields of the form.") from None
    key, following = fields.get("key", [""])[0].strip(), inside(fields.get("next", ["/"])[0])
    address = counted_as(request.client.host) if request.client is not None else "unknown"
    if wait_s := our.guesses.take(address, our.state.monotonic_s()):  # before anybody is asked whose token it is
        said = f"Too many wrong keys; try again in {wait_s:.0f} s."
        return page(request, our, "login", 429, problem=said, next=following)
    try:
        await request.app.state.authenticator.caller(Credentials(key), address)
    except Problem as problem:
        wrong = problem.slug == "unauthenticated"
        if wrong:
            log.info("a wrong key or token", extra={"address": address})
        said = "That key is unknown, revoked or expired." if wrong else problem.detail
        return page(request, our, "login", problem.status, problem=said, next=following)
    our.guesses.give_back(address)
    answer = RedirectResponse(following, 303)
    _set_session(request, answer, our.sessions.begin(key))
    return answer


@router.post("/logout")
def logout(request: Request, our: Our) -> Response:
    """End the session."""
    our.sessions.end(request.cookies.get(sessions.COOKIE, ""))
    answer = RedirectResponse("/", 303)
    answer.delete_cookie(sessions.COOKIE, httponly=True, samesite="strict", secure=is_secure(request))
    return answer


def _set_session(request: Request, answer: Response, value: str) -> None:
    answer.set_cookie(
        sessions.COOKIE,
        value,
        max_age=int(sessions.LIFE_S),
        httponly=True,
        samesite="strict",
        secure=is_secure(request),
    )


router.include_router(private)
