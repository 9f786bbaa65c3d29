"""`FaultyProxy`: stands between a client and a Prometheus and passes on, alters, delays or breaks what comes back."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp
from aiohttp import web

Fault = Literal[
    "pass", "500", "503", "429", "401", "redirect", "hang", "cut", "html", "nan", "empty", "other", "many", "truncate",
    "replay", "backwards", "no-post", "422", "413",
]  # fmt: skip


class FaultyProxy:
    """``async with FaultyProxy(url) as proxy``: set `fault` for good, or queue faults for the next requests in `next`.

    ``replay`` answers with the newest answer that was passed on, whatever is asked; ``other`` renames the series.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.rstrip("/")
        self.fault: Fault = "pass"
        self.next: deque[Fault] = deque()
        self.choose: Callable[[str], Fault] | None = None  # by the text of the query, where neither is set
        self.seen: list[tuple[str, str, dict[str, str], dict[str, str]]] = []  # method, path, parameters, headers
        self._kept: dict[str, bytes] = {}  # the last answer to each query

    async def __aenter__(self) -> Self:
        self._client = aiohttp.ClientSession()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._client.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        form = {k: str(v) for k, v in (await request.post()).items()}
        self.seen.append((request.method, request.path, dict(request.query) | form, dict(request.headers)))
        fault = self.next.popleft() if self.next else self.fault
        if fault == "pass" and self.choose is not None:
            fault = self.choose(form.get("query", ""))
        if fault in ("500", "503", "429", "401", "413"):
            return web.Response(status=int(fault), text=f"fault {fault}")
        if fault == "422":
            return web.json_response({"status": "error", "errorType": "execution", "error": "overload"}, status=422)
        if fault == "no-post" and request.method == "POST":
            return web.Response(status=405)
        if fault == "redirect":
            return web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"})
        if fault == "html":
            return web.Response(text="<html><body>Please sign in</body></html>", content_type="text/html")
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "replay":
            return web.Response(body=self._kept.get(form.get("query", ""), b""), content_type="application/json")
        status, body = await self._upstream(request, form)
        if fault == "cut":
            return await _cut(request, body)
        if fault == "pass":
            self._kept[form.get("query", "")] = body
        return web.Response(status=status, body=_altered(fault, body), content_type="application/json")

    async def _upstream(self, request: web.Request, form: dict[str, str]) -> tuple[int, bytes]:
        path = "/api/" + request.path.partition("/api/")[2]
        async with self._client.request(
            request.method, self.upstream + path, params=list(request.query.items()), data=form or None
        ) as answer:
            return answer.status, await answer.read()


async def _cut(request: web.Request, body: bytes) -> web.StreamResponse:
    """Half of the body, then the connection is dropped."""
    response = web.StreamResponse(headers={"Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    assert request.transport is not None
    request.transport.abort()
    return response


def _altered(fault: Fault, body: bytes) -> bytes:
    if fault == "truncate":
        return body[: len(body) // 2]
    if fault not in ("nan", "empty", "other", "many", "backwards"):
        return body
    answer: dict[str, Any] = json.loads(body)
    result = answer.get("data", {}).get("result")
    if not isinstance(result, list) or answer["data"]["resultType"] == "scalar":
        return body
    if fault == "empty":
        result.clear()
    if fault == "many":
        result += [entry | {"metric": {"pod": "copy"}} for entry in list(result)]
    for entry in result:
        if fault == "other":
            entry["metric"] = {"__name__": "another"}
        if fault == "backwards":
            entry["values"] = entry["values"][::-1]
        if fault == "nan":
            for point in entry.get("values") or [entry["value"]]:
                point[1] = "NaN"
    return json.dumps(answer).encode()
