"""Callers, keys and the audit."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from harmony.api.models.base import Model, Request

__all__ = ["Audit", "AuditPage", "Key", "KeyPage", "KeyRequest", "Me", "NewKeyAnswer"]

RoleName = Literal["read", "operate", "admin"]


class Me(Model):
    """Whom the server takes the caller for."""

    id: str
    name: str
    role: RoleName
    method: Literal["key", "token", "open"]


class KeyRequest(Request):
    """A key to be made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "grafana", "role": "read"}]})

    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9 _.@:/-]+$", description="Whose it is.")
    role: RoleName = "read"
    expires_in_s: float | None = Field(None, gt=0, le=10 * 366 * 86_400.0, description="Null: never.")


class Key(Model):
    """A key without its secret."""

    id: str
    name: str
    role: RoleName
    created: str | None
    expires: str | None = None
    revoked: str | None = None


class NewKeyAnswer(Key):
    """A key that was just made."""

    key: str = Field(description="The key itself: shown this once, kept nowhere.")


class KeyPage(Model):
    """All keys."""

    items: list[Key]


class Audit(Model):
    """Who did what."""

    id: str
    at: str | None
    actor: str
    action: str
    detail: dict[str, Any]


class AuditPage(Model):
    """The audit, newest first."""

    items: list[Audit]
    next_cursor: str | None
