"""API keys: `hk_<id>_<secret>`, 256 random bits of secret, kept as a hash only.

The hash is BLAKE2b keyed with the key's id: fast on purpose. Slow hashes (argon2, scrypt) protect secrets that people
choose, by making each guess dear; 256 random bits cannot be guessed at any price, and a slow hash on every request
would hand attackers a way to keep the server busy. Keying with the id makes equal secrets hash differently.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from harmony.api.roles import Role
from harmony.journal.stored import ApiKey

__all__ = ["NewKey", "hash_secret", "is_valid", "new_key", "parse_key", "usable", "verify"]

log = logging.getLogger(__name__)

_KEY = re.compile(r"hk_([0-9a-f]{12})_([0-9a-f]{64})", re.ASCII)
NO_ID = "0" * 12
NO_HASH = "0" * 64


@dataclass(frozen=True, slots=True)
class NewKey:
    """A fresh key: `text` is shown once and never kept."""

    id: str
    text: str
    secret_hash: str


def new_key() -> NewKey:
    """A key from the system's random source."""
    key_id, secret = secrets.token_hex(6), secrets.token_hex(32)
    return NewKey(key_id, f"hk_{key_id}_{secret}", hash_secret(key_id, secret))


def hash_secret(key_id: str, secret: str) -> str:
    """(64 hex digits) what is kept of a secret."""
    return hashlib.blake2b(secret.encode(), key=key_id.encode(), digest_size=32, person=b"harmony-api-key").hexdigest()


def parse_key(text: str) -> tuple[str, str] | None:
    """Id and secret of a well-formed key, else None."""
    found = _KEY.fullmatch(text)
    return None if found is None else (found[1], found[2])


def usable(records: Iterable[ApiKey]) -> list[ApiKey]:
    """The keys whose role is one; the others are logged, and open nothing."""
    known = {str(role) for role in Role}
    found = []
    for record in records:
        if record.role in known:
            found.append(record)
        else:
            log.error("key %s has the role %r, which there is not; it is passed over", record.id, record.role[:40])
    return found


def is_valid(record: ApiKey, now_s: float) -> bool:
    """Neither revoked nor expired."""
    return record.revoked_s is None and (record.expires_s is None or now_s < record.expires_s)


def verify(text: str, record: ApiKey | None, now_s: float) -> bool:
    """Whether ``text`` is the key of ``record``; an unknown key or malformed text costs the same hash and comparison.

    Nothing returns early: how long it takes says nothing about which part was wrong.
    """
    key_id, secret = parse_key(text) or (NO_ID, NO_HASH)
    kept = NO_HASH if record is None else record.secret_hash
    same = hmac.compare_digest(hash_secret(key_id, secret).encode(), kept.encode())
    known = record is not None and record.id == key_id and is_valid(record, now_s)
    return same and known
