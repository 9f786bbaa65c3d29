"""`Client`: the API from Python, with the same models; errors say what to do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2 as httpx

from forecasting.errors import HarmonyError, UsageError
from harmony import __version__
from harmony.api import models

__all__ = ["ApiError", "Client", "Unreachable"]

M = TypeVar("M", bound=models.Model)
TRIES = 4
WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
HINTS = {
    "unauthenticated": "give a valid key (--key or HARMONY_API_KEY); `harmony keys create NAME` makes one",
    "forbidden": "use a key with a higher role; `harmony keys create NAME --role operate|admin` makes one",
    "rate-limited": "ask less often",
    "not-configured": "start `harmony serve` with what is missing",
    "not-found": "`harmony services` lists what there is",
    "no-forecast": "wait for the next turns",
}


class ApiError(HarmonyError):
    """The server refused; `type` is the stable name of the problem, such as "urn:harmony:problem:not-found"."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.type = str(problem.get("type", "about:blank"))
        self.detail = str(problem.get("detail", ""))
        self.errors: Sequence[Mapping[str, str]] = problem.get("errors") or ()
        hint = HINTS.get(self.type.rpartition(":")[2], "")
        wrong = "; ".join(f"{e.get('at')}: {e.get('message')}" for e in self.errors)
        told = ". ".join(part.strip(" .") for part in (wrong or self.detail, hint) if part)
        super().__init__(f"{problem.get('title', 'the server answered with')} ({status}): {told}")


class Unreachable(HarmonyError):  # noqa: N818
    """No answer came."""


class Client:
    """A connection to `harmony serve`.

    Args:
        url: its address, such as ``http://127.0.0.1:8000``.
        key: an API key or Kubernetes token; empty for a server that is open.
        timeout_s: how long an answer may take.
        verify: certificates: True for the system's, or a CA file.
        sleep: how to wait between tries.

    429 and 503 are tried again (after what Retry-After says), as are reads that got no answer. Methods raise
    `ApiError` for what the server refuses, `Unreachable` for no answer. Safe to use from several threads.
    """

    def __init__(
        self,
        url: str,
        key: str = "",
        *,
        timeout_s: float = 30.0,
        verify: bool | str = True,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"url {url!r}: expected http://HOST:PORT or https://HOST:PORT")
        headers = {"user-agent": f"harmony-client/{__version__}", "accept": "application/json"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        self.url = url.rstrip("/")
        self._sleep = sleep
        self._http = httpx.Client(base_url=self.url + "/api/v1", headers=headers, timeout=timeout_s, verify=verify)

    def close(self) -> None:
        """Give up the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- services -------------------------------------------------------------------------------------------
    def services(self, **filters: Any) -> Iterator[models.FleetRow]:  # noqa: ANN401
        """All services; ``filters`` as the API has them (namespace, mode, kind, reason, search, sort, order, limit)."""
        cursor: str | None = None
        while True:
            page = self._get("/services", models.FleetPage, **filters, cursor=cursor)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def service(self, service: str) -> models.Service:
        """All about "namespace/name"."""
        return self._get(_path(service), models.Service)

    def forecast(self, service: str, *, paths: int = 0, level: int | None = None) -> models.Forecast:
        """The newest forecast."""
        return self._get(_path(service) + "/forecast", models.Forecast, paths=paths or None, level=level)

    def calibration(self, service: str) -> models.Calibration:
        """Are the stated probabilities true?"""
        return self._get(_path(service) + "/calibration", models.Calibration)

    # ---- decisions ------------------------------------------------------------------------------------------
    def decisions(self, service: str, limit: int = 50) -> Iterator[models.Decision]:
        """Newest first, at most ``limit``, without the alternatives."""
        cursor: str | None = None
        while limit > 0:
            size = min(limit, 500)
            page = self._get(_path(service) + "/decisions", models.DecisionPage, limit=size, cursor=cursor)
            yield from page.items
            limit, cursor = limit - len(page.items), page.next_cursor
            if cursor is None:
                return

    def decision(self, decision_id: str) -> models.Decision:
        """One decision with every alternative."""
        return self._get(f"/decisions/{_segment(decision_id)}", models.Decision)

    def explanation(self, decision_id: str) -> models.Explanation:
        """The decision recomputed from the journal."""
        return self._get(f"/decisions/{_segment(decision_id)}/explanation", models.Explanation)

    def what_if(self, service: str, **changes: Any) -> models.WhatIf:  # noqa: ANN401
        """What would be decided with ``changes`` (fields of `models.WhatIfRequest`)."""
        return self._post(_path(service) + "/what-if", changes, models.WhatIf)

    # ---- work -----------------------------------------------------------------------------------------------
    def ad_hoc(self, request: models.AdHocRequest | Mapping[str, Any]) -> models.AdHocForecast:
        """The joint forecast of a history."""
        return self._post("/forecast", _plain(request), models.AdHocForecast)

    def start_backtest(self, request: models.BacktestRequest | Mapping[str, Any]) -> models.Job:
        """Start a backtest; ask `job` for it."""
        return self._post("/jobs/backtests", _plain(request), models.Job)

    def job(self, job_id: str) -> models.Job:
        """Progress and result."""
        return self._get(f"/jobs/{_segment(job_id)}", models.Job)

    def cancel_job(self, job_id: str) -> models.Job:
        """End a job."""
        return models.Job.model_validate_json(self._ask("DELETE", f"/jobs/{_segment(job_id)}"))

    def model_cards(self) -> Sequence[models.ModelCard]:
        """Forecasters of the server."""
        return self._get("/models", models.ModelPage).items

    # ---- the fleet's budget ---------------------------------------------------------------------------------
    def gpu_budget(self) -> models.GpuBudget:
        """GPUs that all services share."""
        return self._get("/gpu-budget", models.GpuBudget)

    def set_gpu_budget(self, gpus: int) -> models.GpuBudget:
        """Another budget from the next turn on; nobody loses a replica by it."""
        return models.GpuBudget.model_validate_json(self._ask("PUT", "/gpu-budget", json={"gpus": gpus}))

    # ---- administration -------------------------------------------------------------------------------------
    def me(self) -> models.Me:
        """Whom the server takes us for."""
        return self._get("/me", models.Me)

    def keys(self) -> Sequence[models.Key]:
        """All keys."""
        return self._get("/keys", models.KeyPage).items

    def create_key(self, name: str, role: str = "read", expires_in_s: float | None = None) -> models.NewKeyAnswer:
        """A new key; its text is in the answer, this once."""
        body = {"name": name, "role": role, "expires_in_s": expires_in_s}
        return self._post("/keys", body, models.NewKeyAnswer)

    def revoke_key(self, key_id: str) -> None:
        """End a key."""
        self._ask("DELETE", f"/keys/{_segment(key_id)}")

    def audit(self, limit: int = 100) -> Sequence[models.Audit]:
        """Who did what, newest first."""
        return self._get("/audit", models.AuditPage, limit=limit).items

    def health(self) -> models.Health:
        """Whether the server works; a failing one answers as well."""
        return models.Health.model_validate_json(self._ask("GET", "/healthz", accepted=(200, 503)))

    def changes(self, seconds: float = 3600.0) -> Generator[dict[str, Any], None, None]:
        """{"version", "changed", "gone"} with every change of the fleet, for that long or until the server ends."""
        timeout = httpx.Timeout(30.0, read=60.0)
        try:
            with self._http.stream("GET", "/events", params={"seconds": seconds}, timeout=timeout) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refused(response)
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        yield json.loads(line[6:])
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    # ---- asking ---------------------------------------------------------------------------------------------
    def _get(self, path: str, model: type[M], **query: Any) -> M:  # noqa: ANN401
        given = {name: value for name, value in query.items() if value is not None}
        return model.model_validate_json(self._ask("GET", path, params=given))

    def _post(self, path: str, body: Mapping[str, Any], model: type[M]) -> M:
        return model.model_validate_json(self._ask("POST", path, json=dict(body)))

    def _ask(self, method: str, path: str, *, accepted: tuple[int, ...] = (), **options: Any) -> bytes:  # noqa: ANN401
        """The body of a good answer; tried again where that may help and does no harm."""
        for left in range(TRIES - 1, -1, -1):
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if left and method == "GET" and not isinstance(error, httpx.ConnectError):
                    self._sleep(WAIT_S * 2 ** (TRIES - 1 - left))
                    continue
                raise self._unreachable(error) from error
            if response.is_success or response.status_code in accepted:
                return response.content
            if left and response.status_code in (429, 503) and not _final(response):
                self._sleep(_pause_s(response, WAIT_S * 2 ** (TRIES - 1 - left)))
                continue
            raise _refused(response)
        raise AssertionError("the last try returns or raises")

    def _unreachable(self, error: httpx.TransportError) -> Unreachable:
        why = str(error) or type(error).__name__
        return Unreachable(
            f"no answer from {self.url}: {why}; is `harmony serve` running there? (--url or HARMONY_URL)"
        )


def _refused(response: httpx.Response) -> ApiError:
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": "that was no answer of harmony's; check the address"}
    return ApiError(response.status_code, problem)


def _final(response: httpx.Response) -> bool:
    """A server that was started without something will not have it a second later."""
    return "retry-after" not in response.headers


def _pause_s(response: httpx.Response, otherwise: float) -> float:
    told = response.headers.get("retry-after", "")
    return min(LONGEST_WAIT_S, float(told)) if told.isascii() and told.isdigit() else otherwise


def _plain(request: Any) -> dict[str, Any]:  # noqa: ANN401
    if isinstance(request, models.AdHocRequest | models.BacktestRequest):
        return request.model_dump(mode="json")
    return dict(request)


def _path(service: str) -> str:
    namespace, slash, name = service.partition("/")
    if not slash or not namespace or not name or "/" in name:
        raise UsageError(f"service {service!r}: expected NAMESPACE/NAME, such as serving/chat")
    return f"/services/{_segment(namespace)}/{_segment(name)}"


def _segment(text: str) -> str:
    """A name as one part of a path, whatever stands in it."""
    from urllib.parse import quote

    if not text or text in (".", ".."):
        raise UsageError(f"{text!r} is no name")
    return quote(text, safe="")
