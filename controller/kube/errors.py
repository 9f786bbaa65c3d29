# ruff: noqa: N818 (the classes are named after the API server's own reasons)
"""What can go wrong with the API server; every text says verb, resource, object, HTTP status and the server's reason.

KubeError
├── NotFound             404: the object, or the kind itself, is not there
│   └── UnknownKind      the API server serves no such kind (raised by `Kube.discover`)
├── Conflict             409: changed by somebody else since it was read
│   └── AlreadyExists    409: a new object has the name of an old one
├── Forbidden            403: RBAC does not allow it
├── Invalid              400, 422: the API server refuses the content; `causes` say which fields
├── TooManyRequests      429: flow control; `retry_after_s`
├── Expired              410: the resource version or continue token is too old; list again
└── Unavailable          no answer, 5xx, or an answer that is not the API server's; `unknown` = may have taken effect
    └── Unauthorized     401: credentials not accepted (mostly while a token is being renewed)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forecasting.errors import HarmonyError, UsageError

__all__ = [
    "AlreadyExists",
    "Cause",
    "Conflict",
    "Expired",
    "Forbidden",
    "Invalid",
    "KubeError",
    "NoCluster",
    "NotFound",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "UnknownKind",
    "error_from_answer",
    "error_from_status",
]

_LINE_LENGTH = 400


class KubeError(HarmonyError):
    """The API server did not do what was asked: `action` (verb, resource, object), `status` (HTTP), `message`."""

    def __init__(self, action: str, message: str, *, status: int | None = None, reason: str = "") -> None:
        self.action = action
        self.message = one_line(message)
        self.status = status
        self.reason = reason
        code = "" if status is None else f"HTTP {status}: "
        super().__init__(f"{action}: {code}{self.message}")


class NoCluster(UsageError):
    """Nothing says where a cluster is: no kubeconfig was found, and this is no pod."""


class NotFound(KubeError):
    """The object, or the kind itself, is not there."""


class UnknownKind(NotFound):
    """The API server serves no such kind: its CRD is not installed, or it is misspelt."""


class Conflict(KubeError):
    """Somebody else changed the object since it was read; read it again."""


class AlreadyExists(Conflict):
    """The name of a new object is taken."""


class Forbidden(KubeError):
    """RBAC does not allow it."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Which field the API server objects to, and why."""

    field: str
    message: str


class Invalid(KubeError):
    """The API server refuses the content; `causes` has the fields it objects to."""

    causes: tuple[Cause, ...] = ()


class TooManyRequests(KubeError):
    """The API server asks for patience: `retry_after_s` seconds of it, None if it did not say."""

    retry_after_s: float | None = None


class Expired(KubeError):
    """The resource version or continue token is too old to go on from; list again."""


class Unavailable(KubeError):
    """No answer, a 5xx, or an answer that is not the API server's; `unknown`: a write may have taken effect."""

    retry_after_s: float | None = None
    unknown: bool = False


class Unauthorized(Unavailable):
    """The credentials are not accepted."""


_BY_STATUS: dict[int, type[KubeError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    408: Unavailable,
    409: Conflict,
    410: Expired,
    422: Invalid,
    429: TooManyRequests,
}


def one_line(text: str) -> str:
    """Cut a text to one line of bearable length."""
    line = " ".join(text.split())
    return line if len(line) <= _LINE_LENGTH else line[: _LINE_LENGTH - 3] + "..."


def error_from_answer(action: str, status: int, headers: Mapping[str, str], body: bytes) -> KubeError:
    """The error for an HTTP answer that is not a success, whatever its body holds."""
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict) or parsed.get("kind") != "Status":
        kind = headers.get("Content-Type", "no content type")
        text = one_line(body[:2000].decode("utf-8", "replace"))[:120]
        parsed = {"message": f"answer is not the API server's ({kind}): {text}" if text else "empty answer"}
    return error_from_status(action, {**parsed, "code": status}, _seconds(headers.get("Retry-After")))


def error_from_status(action: str, status: Mapping[str, Any], retry_after_s: float | None = None) -> KubeError:
    """The error for a `Status` object (the body of a refused request, or of an ERROR event of a watch)."""
    code = status.get("code")
    code = code if isinstance(code, int) else None
    reason = str(status.get("reason") or "")
    kind = _BY_STATUS.get(code or 0, Unavailable if code is None or code >= 500 else KubeError)
    if reason == "AlreadyExists":
        kind = AlreadyExists
    error = kind(action, str(status.get("message") or reason or "no reason given"), status=code, reason=reason)
    details = status.get("details")
    details = details if isinstance(details, dict) else {}
    if isinstance(error, TooManyRequests | Unavailable):
        error.retry_after_s = _seconds(details.get("retryAfterSeconds")) if retry_after_s is None else retry_after_s
    if isinstance(error, Invalid):
        error.causes = tuple(
            Cause(str(cause.get("field") or ""), one_line(str(cause.get("message") or cause.get("reason") or "")))
            for cause in details.get("causes") or ()
            if isinstance(cause, dict)
        )
    return error


def _seconds(value: object) -> float | None:
    """Seconds out of a Retry-After; None for its date form, which would need both clocks to agree."""
    try:
        seconds = float(str(value))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
