"""Who may do what: three roles, each including the one before it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from forecasting.errors import UsageError, suggest

__all__ = ["Caller", "Role"]


class Role(IntEnum):
    """Read what is decided; operate: also start work; admin: also keys and audit."""

    READ = 1
    OPERATE = 2
    ADMIN = 3

    @classmethod
    def named(cls, name: str) -> Role:
        """The role of that name; UsageError for none."""
        known = {role.name.lower(): role for role in cls}
        if name not in known:
            raise UsageError(f"role {name!r}: {suggest(name, known) or 'expected read, operate or admin'}")
        return known[name]

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        id: what limits and the audit know them by: "key:0123456789ab", "user:system:serviceaccount:ns:name", or
            "address:127.0.0.1" where the server is open.
        name: for people.
        role: what they may do.
        method: "key", "token" or "open".
    """

    id: str
    name: str
    role: Role
    method: str
