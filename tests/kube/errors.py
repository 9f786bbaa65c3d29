"""Refusals as the API server words them: metav1.Status with code, reason and details."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cause:
    """One finding of a validation, as in `status.details.causes`."""

    reason: str
    field: str
    message: str


class ApiError(Exception):
    """A request that is answered with a failure Status."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = dict(details or {})
        self.headers = dict(headers or {})

    def status(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        if self.details:
            body["details"] = self.details
        return body | {"code": self.code}

    def body(self) -> bytes:
        return json.dumps(self.status()).encode()


def qualified(plural: str, group: str) -> str:
    return f"{plural}.{group}" if group else plural


def _who(name: str, group: str, kind: str) -> dict[str, Any]:
    return {key: value for key, value in (("name", name), ("group", group), ("kind", kind)) if value}


def not_found(plural: str, group: str, name: str) -> ApiError:
    return ApiError(404, "NotFound", f'{qualified(plural, group)} "{name}" not found', _who(name, group, plural))


def already_exists(plural: str, group: str, name: str) -> ApiError:
    text = f'{qualified(plural, group)} "{name}" already exists'
    return ApiError(409, "AlreadyExists", text, _who(name, group, plural))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(plural: str, group: str, name: str, why: str = MODIFIED) -> ApiError:
    text = f'Operation cannot be fulfilled on {qualified(plural, group)} "{name}": {why}'
    return ApiError(409, "Conflict", text, _who(name, group, plural))


def disputed_fields(owners: Mapping[tuple[str, ...], str]) -> ApiError:
    """An apply that is not forced would change fields of other managers."""
    texts = [f'conflict with "{manager}": .{".".join(path)}' for path, manager in owners.items()]
    many = "conflicts" if len(texts) > 1 else "conflict"
    causes = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{manager}"', "field": f".{'.'.join(path)}"}
        for path, manager in owners.items()
    ]
    return ApiError(409, "Conflict", f"Apply failed with {len(texts)} {many}: {', '.join(texts)}", {"causes": causes})


def invalid(kind: str, group: str, name: str, causes: Iterable[Cause]) -> ApiError:
    found = list(causes)
    texts = [f"{cause.field}: {cause.message}" for cause in found]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = _who(name, group, kind)
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in found]
    return ApiError(422, "Invalid", f'{qualified(kind, group)} "{name}" is invalid: {text}', details)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


class UndecodableError(ApiError):
    """A body whose types do not fit; in a patch it is the patch that is invalid."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "BadRequest", message)

    def of_patch(self) -> ApiError:
        return invalid("", "", "", [Cause("FieldValueInvalid", "patch", f'Invalid value: "object": {self.message}')])


def unprocessable() -> ApiError:
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request")


def forbidden(user: str, verb: str, plural: str, group: str, namespace: str, name: str) -> ApiError:
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    subject = f'{qualified(plural, group)} "{name}"' if name else qualified(plural, group)
    text = f'{subject} is forbidden: User "{user}" cannot {verb} resource "{plural}" in API group "{group}" {where}'
    return ApiError(403, "Forbidden", text, _who(name, group, plural))


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def method_not_allowed(plural: str, group: str) -> ApiError:
    text = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", text, _who("", group, plural))


def unsupported_media(accepted: Iterable[str]) -> ApiError:
    text = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return ApiError(415, "UnsupportedMediaType", text)


def expired(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def too_large(asked: int, current: int) -> ApiError:
    text = f"Timeout: Too large resource version: {asked}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiError(504, "Timeout", text, {"causes": [cause], "retryAfterSeconds": 1}, {"Retry-After": "1"})


def internal(message: str) -> ApiError:
    text = f"Internal error occurred: {message}"
    return ApiError(500, "InternalError", text, {"causes": [{"message": message}]})
