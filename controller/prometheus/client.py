"""`Prometheus`: an asynchronous client of Prometheus's HTTP API (also Thanos, Mimir, VictoriaMetrics and the like).

API: https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import numpy as np
from yarl import URL

from controller.prometheus.access import Access
from controller.prometheus.answers import Answer, Series, as_one, parse_answer, refusal
from controller.prometheus.clock import ServerClock
from controller.prometheus.errors import PrometheusError, PrometheusUnreachable, QueryRefused, Slow
from controller.prometheus.shared import TickCache
from forecasting.errors import UsageError

__all__ = ["Prometheus", "PrometheusError", "PrometheusUnreachable", "QueryRefused", "Series", "Slow"]

MOST_POINTS = 11_000  # Prometheus refuses more per series and request
MOST_BYTES = 64 * 2**20
CLOCK_AGE_S = 60.0  # how long the server's clock is carried on before it is asked again
RETRY_S = (0.1, 0.5)  # jitter before the one retry

OnPart = Callable[[int, int], None]  # (requests done, of)


class Prometheus:
    """Queries one Prometheus; belongs to one event loop, closed by `close` or by ``async with``.

    Args:
        url: address with any path prefix (``https://host/prometheus``); user and password may stand in it.
        token_file, ca_file, headers, cert_file, key_file, proxy: see `Access`.
        params: further query parameters of every request, such as a tenant.
        timeout_s: how long one request may take, seconds.
        concurrency: requests under way at the same time; others wait.
        points_per_request: a range with more points is asked for in parts.
        monotonic: a clock of this machine that nobody sets, seconds.
        rng: draws the jitter before a retry.

    Raises `UsageError` for an address or a CA bundle that cannot be used.
    """

    def __init__(
        self,
        url: str,
        token_file: str | Path | None = None,
        ca_file: str | Path | None = None,
        params: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        timeout_s: float = 10.0,
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
        proxy: str = "",
        concurrency: int = 16,
        points_per_request: int = MOST_POINTS,
        monotonic: Callable[[], float] = time.monotonic,
        rng: np.random.Generator | None = None,
    ) -> None:
        if not timeout_s > 0:
            raise UsageError(f"Prometheus timeout {timeout_s} s: expected a positive number of seconds")
        if concurrency < 1 or not 1 <= points_per_request <= MOST_POINTS:
            raise UsageError(f"expected a concurrency of at least 1 and 1 to {MOST_POINTS} points per request")
        pairs = list(params.items()) if isinstance(params, Mapping) else list(params)
        self._base = _checked(url).extend_query(pairs)
        self._access = Access(token_file, headers, ca_file, cert_file, key_file, proxy)
        if self._access.has_token and self._base.user is not None:
            raise UsageError("give Prometheus a token file or a user in the address, not both")
        self.url = str(self._base.with_user(None).with_query(None)).rstrip("/")
        self.timeout_s = timeout_s
        self.clock = ServerClock(monotonic)
        self.tick_cache = TickCache(monotonic)
        self.past_gate = asyncio.Semaphore(max(1, concurrency // 2))  # long ranges leave room for short ones
        self.requests = 0
        self._concurrency = concurrency
        self._points = points_per_request
        self._monotonic = monotonic
        self._rng = rng or np.random.default_rng()
        self._session: aiohttp.ClientSession | None = None
        self._gate = asyncio.Semaphore(concurrency)
        self._method = "POST"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a later query opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # ---- queries ----------------------------------------------------------------------------------------------
    async def query(self, promql: str, at_s: float | None = None) -> list[Series]:
        """The value of ``promql`` at one time (Prometheus's present by default), one point per series.

        Raises `PrometheusUnreachable`, `QueryRefused` or `Slow`.
        """
        form = {"query": promql} | ({} if at_s is None else {"time": _stamp(at_s)})
        return (await self._ask("query", form)).series

    async def query_range(
        self,
        promql: str,
        start_s: float,
        end_s: float,
        step_s: float,
        *,
        on_part: OnPart | None = None,
    ) -> list[Series]:
        """The values of ``promql`` at start, start + step, ... up to the end (both included), all series.

        Raises `PrometheusUnreachable`, `QueryRefused` or `Slow`.
        """
        return (await self.answer(promql, start_s, end_s, step_s, on_part=on_part)).series

    async def answer(
        self,
        promql: str,
        start_s: float,
        end_s: float,
        step_s: float,
        *,
        on_part: OnPart | None = None,
    ) -> Answer:
        """The same with what Prometheus said beside it: whether something is missing from it."""
        if not (step_s > 0 and math.isfinite(end_s - start_s)):
            raise UsageError(f"range {start_s}..{end_s} by {step_s} s: expected finite times and a positive step")
        form = {"query": promql, "step": f"{step_s:.3f}"}
        points = math.floor((end_s - start_s) / step_s + 1e-6) + 1
        starts = range(0, points, self._points)
        parts: list[Answer] = []
        for number, first in enumerate(starts, 1):
            last = min(first + self._points, points) - 1
            span = {"start": _stamp(start_s + first * step_s), "end": _stamp(start_s + last * step_s)}
            parts.append(await self._ask("query_range", form | span))
            if on_part is not None:
                on_part(number, len(starts))
        return as_one(parts) if parts else Answer([])

    # ---- the server's clock -------------------------------------------------------------------------------------
    async def now_s(self) -> float:
        """Prometheus's present time, Unix seconds: asked for once a minute, carried on by a monotonic clock between.

        While Prometheus does not answer, the carried time goes on; raises only if it has never answered.
        """
        if self.clock.age_s > CLOCK_AGE_S:
            try:
                await self._hear_clock()
            except PrometheusError:
                if math.isinf(self.clock.age_s):
                    raise
        return self.clock.now_s()

    async def _hear_clock(self) -> None:
        sent = self._monotonic()
        answer = await self._ask("query", {"query": "time()"})
        received = self._monotonic()
        if len(answer.series) != 1 or len(answer.series[0]) != 1 or not math.isfinite(answer.series[0].values[0]):
            raise PrometheusUnreachable(f"{self.url} does not tell the time; is it a Prometheus?")
        self.clock.learn(float(answer.series[0].values[0]), sent, received)

    # ---- one request --------------------------------------------------------------------------------------------
    async def _ask(self, path: str, form: dict[str, str]) -> Answer:
        """Ask, and once more after a moment if the connection failed or the server was not ready."""
        form = form | {"timeout": f"{self.timeout_s:.3f}"}
        async with self._gate:
            try:
                return await self._once(path, form)
            except PrometheusUnreachable as error:
                if not error.transient:
                    raise
            await asyncio.sleep(float(self._rng.uniform(*RETRY_S)))
            return await self._once(path, form)

    async def _once(self, path: str, form: dict[str, str]) -> Answer:
        self.requests += 1
        try:
            status, body = await self._send(path, form)
            if status in (405, 501) and self._method == "POST":
                self._method = "GET"  # some gateways let only GET through
                status, body = await self._send(path, form)
        except aiohttp.ConnectionTimeoutError as error:
            raise PrometheusUnreachable(
                f"{self.url}: no connection in time; check the address and network policies"
            ) from error
        except TimeoutError as error:
            raise Slow(
                f"{self.url}: no answer within {self.timeout_s:g} s; make the query cheaper (record it as a rule) "
                "or see how busy Prometheus is"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._broken(error) from error
        if status != 200:
            raise refusal(status, body, self.url, self.timeout_s)
        return parse_answer(body, self.url)

    async def _send(self, path: str, form: dict[str, str]) -> tuple[int, bytes]:
        """One HTTP exchange; returns status and body (`QueryRefused` if that is larger than can be handled)."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._concurrency)
            limits = aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=max(self.timeout_s / 2, 0.05))
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=limits, cookie_jar=aiohttp.DummyCookieJar()
            )
        url = self._base.joinpath("api", "v1", path)
        url = url.with_query(self._base.query)
        if self._method == "GET":
            url = url.extend_query(form)
        data = form if self._method == "POST" else None
        async with self._session.request(
            self._method,
            url,
            data=data,
            headers=self._access.headers(),
            allow_redirects=False,
            ssl=self._access.tls(),
            proxy=self._access.proxy,
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_chunked(2**16):
                body += chunk
                if len(body) > MOST_BYTES:
                    raise QueryRefused(f"the answer is larger than {MOST_BYTES >> 20} MiB; aggregate with sum(...)")
            return response.status, bytes(body)

    def _broken(self, error: Exception) -> PrometheusUnreachable:
        """A connection that could not be made or broke."""
        if isinstance(error, aiohttp.ClientHttpProxyError | aiohttp.ClientProxyConnectionError):
            return PrometheusUnreachable(
                f"{self.url}: the proxy {self._access.proxy} does not let it through ({error})"
            )
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError | ssl.SSLError):
            return PrometheusUnreachable(
                f"{self.url}: TLS fails ({error}); give the CA that signed its certificate, and "
                "a client certificate where it asks for one"
            )
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return PrometheusUnreachable(
                f"{self.url}: host not found; check the name and its namespace", transient=True
            )
        if isinstance(error, aiohttp.ClientConnectorError):
            return PrometheusUnreachable(
                f"{self.url}: {error.os_error.strerror or error}; is Prometheus running?", transient=True
            )
        return PrometheusUnreachable(
            f"{self.url}: the connection broke ({error or type(error).__name__})", transient=True
        )


def _checked(url: str) -> URL:
    """The address as a URL; `UsageError` for one that no request can be sent to."""
    try:
        parsed = URL(url.strip())
        usable = parsed.scheme in ("http", "https") and bool(parsed.host) and not parsed.fragment
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"{url!r} is no address of Prometheus; expected one such as http://prometheus:9090")
    return parsed


def _stamp(seconds: float) -> str:
    return f"{seconds:.3f}"
