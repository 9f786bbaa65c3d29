"""Sends requests: bounded, timed, with fresh credentials, and again where that is safe."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import aiohttp
import numpy as np

from controller.kube.errors import KubeError, TooManyRequests, Unauthorized, Unavailable, error_from_answer
from controller.kube.resources import LEASES
from controller.kube.retrying import BUDGET_S, pause_s
from controller.kube.wire import JSON, Ask, Call, lines, parse_answer, parse_event, translated
from forecasting.errors import UsageError

__all__ = ["Sender"]

_log = logging.getLogger(__name__)
_RENEW_AGAIN_S = 10.0
_WATCH_S = (240, 300)
_SILENCE_S = 120.0  # the API server sends a bookmark about every minute


class Sender:
    """Sends requests through `api` (the official client's ApiClient), and counts them.

    `calls` counts them as they are sent, `answers` as they are answered, by HTTP status (0: not at all). At most
    `concurrency` are under way at a time; watches and leases do not count. `renew` reads the configuration anew when
    the API server does not accept the credentials any more.
    """

    def __init__(
        self,
        api: Any,  # noqa: ANN401
        *,
        renew: Callable[[], Awaitable[Any]],
        concurrency: int,
        timeout_s: float,
        monotonic: Callable[[], float],
        jitter: np.random.Generator,
    ) -> None:
        self.calls: Counter[Call] = Counter()
        self.answers: Counter[tuple[Call, int]] = Counter()
        self._api = api
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        self._jitter = jitter
        self._renew = renew
        self._renewing = asyncio.Lock()
        self._renewed_s = float("-inf")
        self._credentials = 0

    async def close(self) -> None:
        """Give up all connections."""
        await self._api.close()

    async def ask(self, ask: Ask) -> JSON:
        """Send until it succeeds or must not be sent again."""
        slot = contextlib.nullcontext() if ask.call.group == LEASES.group else self._slots
        spent_s = 0.0
        attempt = 0
        while True:
            attempt += 1
            async with slot:
                began = self._monotonic()
                try:
                    return await self._once(ask, min(ask.timeout_s or self._timeout_s, max(BUDGET_S - spent_s, 1.0)))
                except Unavailable as refused:
                    error: KubeError = refused
                except TooManyRequests as refused:
                    error = refused
                spent_s += self._monotonic() - began
            wait_s = pause_s(error, ask.repeat, attempt, spent_s, self._jitter)
            if wait_s is None:
                raise error
            await asyncio.sleep(wait_s)
            spent_s += wait_s

    async def stream(self, ask: Ask) -> AsyncGenerator[tuple[str, JSON], None]:
        """Open a watch and give its events, the first of them an empty BOOKMARK; see `Kube.watch`."""
        ask.query["timeoutSeconds"] = str(int(self._jitter.integers(*_WATCH_S, endpoint=True)))
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=_SILENCE_S)
        async with translated(ask):
            async with asyncio.timeout(self._timeout_s):
                response = await self._authorised(ask, timeout)
            try:
                yield "BOOKMARK", {}
                async for line in lines(response.content):
                    yield parse_event(ask, line)
            except aiohttp.SocketTimeoutError:
                return
            finally:
                response.close()

    async def _once(self, ask: Ask, timeout_s: float) -> JSON:
        """Send once and read the answer."""
        async with translated(ask):
            response = await self._authorised(ask, aiohttp.ClientTimeout(total=timeout_s))
            body = await response.read()
        return parse_answer(ask, response.headers.get("Content-Type", ""), body)

    async def _authorised(self, ask: Ask, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """Send, with new credentials if the present ones are not accepted any more; raises for any refusal."""
        credentials = self._credentials
        try:
            return await self._send(ask, timeout)
        except Unauthorized:
            if not await self._renew_credentials(credentials):
                raise
        return await self._send(ask, timeout)

    async def _send(self, ask: Ask, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """Send the request and wait for the answer's head; raises for any refusal."""
        path = f"{ask.path}?{urlencode(ask.query)}" if ask.query else ask.path
        headers = {"Accept": "application/json", "Content-Type": ask.content_type}
        method, url, headers, _, _ = await self._api.param_serialize(
            ask.method, path, header_params=headers, auth_settings=["BearerToken"]
        )
        self.calls[ask.call] += 1
        code = 0
        try:
            answer = await self._api.call_api(method, url, headers, ask.body, _request_timeout=timeout)
            response: aiohttp.ClientResponse = answer.response
            code = response.status
        finally:
            self.answers[ask.call, code] += 1
        if response.status >= 300:
            error = error_from_answer(ask.action, response.status, response.headers, await response.read())
            if isinstance(error, Unavailable):
                error.unknown = ask.writes and response.status not in (401, 503)
            raise error
        return response

    async def _renew_credentials(self, used: int) -> bool:
        """Read the configuration anew (rotated token files, expired plugin tokens); True if there is a newer one."""
        async with self._renewing:
            if self._credentials != used:
                return True
            if self._monotonic() - self._renewed_s < _RENEW_AGAIN_S:
                return False
            self._renewed_s = self._monotonic()
            try:
                fresh = await self._renew()
            except UsageError as error:
                _log.warning("credentials are not accepted, and there are no new ones: %s", error)
                return False
            self._api.configuration.api_key = fresh.api_key
            self._api.configuration.refresh_api_key_hook = fresh.refresh_api_key_hook
            self._credentials += 1
            return True
