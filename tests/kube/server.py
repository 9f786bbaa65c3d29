"""The fake API server: HTTP in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from aiohttp import web

from .api import ApiServer, Call, Json, User
from .discovery import discovery
from .errors import ApiError, bad_request, forbidden, method_not_allowed, unauthorized, unsupported_media
from .faults import Fault
from .kinds import Kind, Registry
from .openapi import openapi
from .operations import Answer, Operations
from .rbac import allows, reviewed, token_reviewed
from .routes import Route, parse
from .storage import Storage, dumps
from .watch import Watch

T = TypeVar("T")
PROTOBUF = "application/vnd.kubernetes.protobuf"
Response = web.StreamResponse
_USERS: dict[User, str] = {"controller": "system:serviceaccount:harmony-system:harmony", "admin": "system:admin"}
_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_OPEN_PATHS = ("/healthz", "/readyz", "/livez", "/version", "/api", "/apis", "/openapi/v3")


def utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class FakeApiServer(ApiServer):
    """An API server over real HTTP on a free loopback port, started on construction or by `with`.

    `bookmark_interval_s` may be changed at any time; all methods may be called from any thread. With ``serves_late``
    a custom kind is not there for so many requests after its definition was made, as on a real server for a moment.
    """

    def __init__(
        self,
        *,
        timestamp: Callable[[], str] = utc_now,
        bookmark_interval_s: float = 1.0,
        port: int = 0,
        serves_late: int = 0,
    ) -> None:
        self.bookmark_interval_s = bookmark_interval_s
        self.tokens = {"controller": "controller-token", "admin": "admin-token"}
        self.people: dict[str, tuple[str, list[str]]] = {}  # whose a token is, for TokenReviews: name and groups
        self._storage = Storage()
        self._registry = Registry.builtin()
        self._registry.serves_late = serves_late
        self._operations = Operations(self._storage, self._registry, timestamp)
        self._calls: list[Call] = []
        self._faults: list[Fault] = []
        self._rules: Sequence[Json] | None = None
        self._watches: dict[Watch, web.BaseRequest] = {}
        self._loop = asyncio.new_event_loop()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._stopped = False
        self._seed()
        self._thread = threading.Thread(target=self._serve, name="fake-api-server", daemon=True)
        self._thread.start()
        self._runner = self._on_loop(self._open(port))

    # ---- life

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _open(self, port: int) -> web.ServerRunner:
        server = web.Server(self._handle, handler_cancellation=True, access_log=None, keepalive_timeout=120)
        runner = web.ServerRunner(server, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
        await site.start()
        host, bound = runner.addresses[0][:2]
        self.url = f"http://{host}:{bound}"
        return runner

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self.thaw()
        self.cut_watches()
        self._on_loop(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _tell(self, work: Callable[[], None]) -> None:
        """Runs `work` in the server's thread and waits until it is done."""

        async def run() -> None:
            work()

        self._on_loop(run())

    def _seed(self) -> None:
        kind = self._registry.find("", "v1", "namespaces")
        assert kind is not None
        for name in _NAMESPACES:
            self._operations.create(kind, "", dumps({"metadata": {"name": name}}), {})

    # ---- what tests do to it

    @property
    def calls(self) -> list[Call]:
        return list(self._calls)

    def clear_calls(self) -> None:
        self._tell(self._calls.clear)

    def enforce(self, rules: Sequence[Json] | None) -> None:
        self._rules = rules

    def fault(
        self,
        match: Callable[[Call], bool] = lambda call: True,
        *,
        status: int | None = None,
        times: int | None = 1,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        delay_s: float = 0.0,
        drop: bool = False,
        held: bool = False,
    ) -> Fault:
        """Makes the next `times` matching calls of any user but admin go wrong (None = all until `.cancel()`).

        With ``held`` they wait until `.release()`: what a test does in between has been done when they go on,
        however slow the machine is.
        """
        made = Fault(match, status, times, dict(headers or {}), body, delay_s, drop, held)
        self._faults.append(made)
        return made

    def cut_watches(self, match: Callable[[Kind], bool] = lambda kind: True, *, clean: bool = False) -> int:
        """Breaks open watches (connection reset), or with `clean` ends them; returns how many."""
        hit = 0

        def cut() -> None:
            nonlocal hit
            for watch, request in list(self._watches.items()):
                if match(watch.kind):
                    hit += 1
                    if clean or request.transport is None:
                        watch.end()
                    else:
                        request.transport.abort()

        self._tell(cut)
        return hit

    def compact(self, *, expire_watches: bool = False) -> None:
        """Forgets past changes: watches from an older version get 410; with `expire_watches` the open ones too."""

        def forget() -> None:
            self._storage.compact()
            if expire_watches:
                for watch in self._watches:
                    watch.expire()

        self._tell(forget)

    def freeze(self) -> None:
        """Answers nothing until `thaw`, watches included."""
        self._tell(self._thawed.clear)

    def thaw(self) -> None:
        self._tell(self._thawed.set)

    @property
    def open_watches(self) -> int:
        return len(self._watches)

    # ---- serving

    async def _handle(self, request: web.BaseRequest) -> Response:
        query = request.query
        route = parse(request.method, request.path, query)
        user = self._user(request)
        raw = await request.content.read()
        if not self._thawed.is_set():
            await self._thawed.wait()
        call = _call(route, request, user, raw, self._loop.time())
        fault = None if user == "admin" else next((one for one in self._faults if one.takes(call)), None)
        if fault is not None:
            response = await self._fail(fault, request)
            if response is not None:
                self._log(call, 0 if fault.drop else response.status)
                return response
        watch: Watch | None = None
        try:
            if user is None:
                raise unauthorized()
            self._authorise(route, user)
            kind = self._kind(route)
            if kind is None:
                response = self._other(route)
            elif route.verb == "watch":
                watch = Watch(self._storage, kind, _where(route), _watched(route, query))
                response = Response(headers={"Content-Type": "application/json"})
            else:
                response = _respond(self._answer(kind, route, raw, query, request.content_type))
        except ApiError as failure:
            response = web.Response(
                status=failure.code, body=failure.body(), headers=failure.headers, content_type="application/json"
            )
        self._log(call, response.status)
        return response if watch is None else await self._stream(watch, request, response)

    def _user(self, request: web.BaseRequest) -> User | None:
        """Who asks; without a token it is the controller, with an unknown one nobody."""
        header = request.headers.get("Authorization", "")
        if not header:
            return "controller"
        token = header.removeprefix("Bearer ").strip()
        return next((user for user, known in self.tokens.items() if known == token), None)

    def _log(self, call: Call, code: int) -> None:
        self._calls.append(
            Call(
                call.verb,
                call.group,
                call.version,
                call.resource,
                call.subresource,
                call.namespace,
                call.name,
                call.user_agent,
                code,
                call.at,
                call.user,
            )
        )

    async def _fail(self, fault: Fault, request: web.BaseRequest) -> Response | None:
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        fault.waiting += 1
        try:
            while fault.held and not self._stopped:
                await asyncio.sleep(0.005)
        finally:
            fault.waiting -= 1
        if fault.drop:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        if fault.status is None:
            return None
        body = fault.body
        if body is None:
            body = ApiError(fault.status, fault.reason, "injected failure").body()
        kind = "application/json" if body.startswith(b"{") else "text/plain"
        return web.Response(status=fault.status, body=body, headers={"Content-Type": kind} | dict(fault.headers))

    def _authorise(self, route: Route, user: User) -> None:
        if self._rules is None or user == "admin":
            return
        if not route.resource or route.group == "authorization.k8s.io":
            return
        names = {"verb": route.verb, "group": route.group, "resource": route.resource, "subresource": route.subresource}
        if not allows(self._rules, **names, name=route.name, namespace=route.namespace):
            plural = f"{route.resource}/{route.subresource}" if route.subresource else route.resource
            raise forbidden(_USERS[user], route.verb, plural, route.group, route.namespace, route.name)

    def _kind(self, route: Route) -> Kind | None:
        kind = self._registry.find(route.group, route.version, route.resource)
        if kind is None or (route.subresource and route.subresource not in kind.subresources):
            return None
        if route.name and kind.namespaced != bool(_where(route)):
            return None
        return None if self._registry.is_late(kind) else kind

    def _other(self, route: Route) -> web.Response:
        if route.path.startswith(_OPEN_PATHS) and not route.resource:
            if route.path.split("/")[1] in ("healthz", "readyz", "livez"):
                return web.Response(text="ok")
            document = openapi(self._registry, route.path) or discovery(self._registry, route.path)
            if document is not None:
                return web.json_response(document)
        served = (k for k in self._registry.of_group(route.group) if k.version == route.version and not k.custom)
        if route.resource and any(served):
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        return web.Response(status=404, text="404 page not found\n")

    def _answer(self, kind: Kind, route: Route, raw: bytes, query: Mapping[str, str], content_type: str) -> Answer:
        if kind.plural in ("selfsubjectaccessreviews", "tokenreviews"):
            return self._review(kind, route, raw)
        if query.get("dryRun", "All") != "All":
            raise bad_request(f'Invalid value: "{query["dryRun"]}": dryRun: supported values: "All"')
        if raw and content_type == PROTOBUF:
            raise unsupported_media(["application/json", "application/yaml"])
        operations, space, name, sub = self._operations, _where(route), route.name, route.subresource
        match route.verb:
            case "get":
                return operations.get(kind, space, name, sub)
            case "list":
                return operations.list_all(kind, space, query)
            case "create" if not name:
                return operations.create(kind, space, raw, query)
            case "update" if name:
                return operations.update(kind, space, name, sub, raw, query)
            case "patch" if name:
                return operations.patch(kind, space, name, sub, raw, query, content_type)
            case "deletecollection":
                return operations.delete_all(kind, space, raw, query)
            case "delete" if name and not sub:
                return operations.delete(kind, space, name, raw, query)
        raise method_not_allowed(route.resource, route.group)

    def _review(self, kind: Kind, route: Route, raw: bytes) -> Answer:
        if route.verb != "create":
            raise method_not_allowed(route.resource, route.group)
        if kind.plural == "tokenreviews":
            return Answer(201, dumps(token_reviewed(json.loads(raw), self.people)))
        return Answer(201, dumps(reviewed(json.loads(raw), self._rules)))

    async def _stream(self, watch: Watch, request: web.BaseRequest, response: Response) -> Response:
        response.enable_chunked_encoding()
        self._watches[watch] = request
        try:
            await response.prepare(request)
            async for chunk in watch.chunks(self._loop.time, lambda: self.bookmark_interval_s):
                await self._thawed.wait()
                await response.write(chunk)
            await response.write_eof()
        except ConnectionError:
            pass  # the client went away: what it missed it will ask for again
        finally:
            watch.close()
            self._watches.pop(watch, None)
        return response


def _where(route: Route) -> str:
    """The namespace of the stored object ("" for namespaces themselves)."""
    return "" if not route.group and route.resource == "namespaces" else route.namespace


def _watched(route: Route, query: Mapping[str, str]) -> Mapping[str, str]:
    """A watch of one named object is a watch with a field selector."""
    return dict(query) | {"fieldSelector": f"metadata.name={route.name}"} if route.name else query


def _respond(answer: Answer) -> web.Response:
    response = web.Response(status=answer.code, body=answer.body, content_type="application/json")
    for warning in answer.warnings:
        response.headers.add("Warning", f"299 - {json.dumps(warning)}")
    return response


def _call(route: Route, request: web.BaseRequest, user: User | None, raw: bytes, at: float) -> Call:
    return Call(
        route.verb,
        route.group,
        route.version,
        route.resource,
        route.subresource,
        route.namespace,
        route.name or (_name_in(raw) if route.verb == "create" else ""),
        request.headers.get("User-Agent", ""),
        0,
        at,
        user or "unknown",
    )


def _name_in(raw: bytes) -> str:
    """The name of a new object, as far as the body can be read."""
    try:
        name = json.loads(raw)["metadata"]["name"]
    except (ValueError, KeyError, TypeError):
        return ""
    return name if isinstance(name, str) else ""
