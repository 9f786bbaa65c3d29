"""Who is asking: API keys, and Kubernetes tokens by TokenReview; one way through for right and wrong credentials."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from starlette.types import Scope

from forecasting.errors import HarmonyError
from harmony.api.keys import parse_key, usable, verify
from harmony.api.limits import Buckets
from harmony.api.ports import JournalPort, TokenReviewer
from harmony.api.problems import Problem, too_often
from harmony.api.roles import Caller, Role
from harmony.api.state import ApiState
from harmony.journal.stored import ApiKey

__all__ = ["COOKIE", "Authenticator", "Credentials", "read_credentials"]

log = logging.getLogger(__name__)
COOKIE = "harmony_key"  # set by the dashboard's login page: HttpOnly, SameSite=Strict
MOST_TOKENS = 4096
KEYS_WAIT_S = 2.0  # for the journal's keys; a server that does not answer is no reason to shut known keys out
CHALLENGE = {"www-authenticate": 'Bearer realm="harmony"'}


class Credentials(NamedTuple):
    """What a request carries: the key or token ("" for none), and whether a cookie brought it."""

    text: str
    by_cookie: bool = False


def read_credentials(headers: Iterable[tuple[bytes, bytes]]) -> Credentials:
    """Key or token of `Authorization: Bearer`, `X-API-Key` or the cookie; `Problem` where they contradict."""
    found: set[str] = set()
    cookie = ""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, text = value.decode("latin-1").strip().partition(" ")
            if scheme.lower() != "bearer" or not text.strip():
                raise Problem("unauthenticated", "Authorization must be Bearer and a key (hk_...) or token.", CHALLENGE)
            found.add(text.strip())
        elif name == b"x-api-key":
            found.add(value.decode("latin-1").strip())
        elif name == b"cookie" and not cookie:
            cookie = _cookie(value.decode("latin-1"))
    if len(found) > 1:
        raise Problem("bad-request", "Two different credentials were sent; send one of Authorization and X-API-Key.")
    if found:
        return Credentials(found.pop())
    return Credentials(cookie, by_cookie=bool(cookie))


def _cookie(header: str) -> str:
    """Our cookie among others."""
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


class Authenticator:
    """Turns credentials into a `Caller`."""

    def __init__(self, state: ApiState) -> None:
        self._state = state
        self._ring = KeyRing(state.journal, state.settings.keys_ttl_s, state.monotonic_s)
        self._tokens = Tokens(state)

    async def caller(self, credentials: Credentials, address: str) -> Caller:
        """Who that is; `Problem` "unauthenticated" for nobody, "forbidden" for somebody without a role here.

        An address from which too many wrong tokens came has to wait ("rate-limited") before another one that is not
        known is looked up: each look-up is a call to the API server. Keys and tokens that were right go on working.
        """
        settings, text = self._state.settings, credentials.text
        if settings.is_open and not text:
            return Caller(f"address:{address}", "anyone", settings.open_role, "open")
        if not text:
            raise Problem("unauthenticated", "Send an API key as X-API-Key or as Authorization: Bearer.", CHALLENGE)
        found = await self._by_key(text)
        if found is None and self._state.token_review is not None and not text.startswith("hk_"):
            found = await self._tokens.caller(text, self._state.token_review, address)
        if found is None:
            raise Problem("unauthenticated", "That key or token is unknown, revoked or expired.", CHALLENGE)
        return found

    def forget_keys(self) -> None:
        """Keys have changed here: read them again with the next request."""
        self._ring.forget()

    async def _by_key(self, text: str) -> Caller | None:
        records = await self._ring.records()
        parsed = parse_key(text)
        record = None if parsed is None else records.get(parsed[0])
        if not verify(text, record, self._state.now_s()) or record is None:
            return None
        return Caller(f"key:{record.id}", record.name, Role.named(record.role), "key")


class KeyRing:
    """The journal's keys in memory, read again every few seconds: no request of a stranger reaches the database."""

    def __init__(self, journal: JournalPort | None, ttl_s: float, monotonic_s: Callable[[], float]) -> None:
        self._journal, self._ttl_s, self._monotonic_s = journal, ttl_s, monotonic_s
        self._records: Mapping[str, ApiKey] = {}
        self._read_s = -float("inf")
        self._busy: asyncio.Lock | None = None
        self._reading: asyncio.Future[Sequence[ApiKey]] | None = None  # a read that has not come back

    def forget(self) -> None:
        """Read again before the next answer."""
        self._read_s = -float("inf")

    async def records(self) -> Mapping[str, ApiKey]:
        """Keys by id, at most `ttl_s` old; as known last where the journal is in trouble."""
        if self._journal is None or self._monotonic_s() - self._read_s < self._ttl_s:
            return self._records
        self._busy = self._busy or asyncio.Lock()
        async with self._busy:
            if self._monotonic_s() - self._read_s >= self._ttl_s:
                await self._read(self._journal)
        return self._records

    async def _read(self, journal: JournalPort) -> None:
        hangs = self._reading is not None and not self._reading.done()
        if self._reading is None or not hangs:
            self._reading = asyncio.ensure_future(asyncio.to_thread(journal.keys))
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:  # a read that hangs goes on by itself, one at a time, and only the first request waits for it
            found: Sequence[ApiKey] = await asyncio.wait_for(
                asyncio.shield(self._reading), 0.0 if hangs else KEYS_WAIT_S
            )
        except Exception as error:
            if self._read_s == -float("inf") and not self._records:
                raise Problem("unavailable", "Keys cannot be read right now.", {"retry-after": "5"}) from error
            log.warning("keys cannot be read, going on with those of before: %s", type(error).__name__)
        else:
            self._records = {record.id: record for record in usable(found)}
        self._read_s = self._monotonic_s()


class Stranger(NamedTuple):
    """A user of the cluster none of whose groups has a role here."""

    name: str


class Tokens:
    """Token reviews, believed for a minute; tokens are kept as digests only."""

    def __init__(self, state: ApiState) -> None:
        self._settings, self._monotonic_s = state.settings, state.monotonic_s
        self._known: OrderedDict[bytes, tuple[float, Caller | Stranger | None]] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[Caller | Stranger | None]] = {}  # reviews that are under way
        self._wrong = Buckets(state.settings.failed_rate, state.settings.failed_burst)  # look-ups in vain, by address

    async def caller(self, token: str, review: TokenReviewer, address: str) -> Caller | None:
        """Whose token it is, with the highest role of their groups; None for nobody.

        `Problem` "forbidden" for somebody whose groups have no role; "rate-limited" where a token that was never right
        would have to be looked up for an address from which too many wrong ones came.
        """
        digest, now_s = hashlib.sha256(token.encode()).digest(), self._monotonic_s()
        until_s, known = self._known.get(digest, (-float("inf"), None))
        if now_s >= until_s:
            known = await asyncio.shield(self._asked.get(digest) or self._ask(token, digest, review, address, known))
        if isinstance(known, Stranger):
            raise Problem("forbidden", "That token is good, but none of its groups has a role here.")
        return known

    def _ask(
        self, token: str, digest: bytes, review: TokenReviewer, address: str, known: Caller | Stranger | None
    ) -> asyncio.Task[Caller | Stranger | None]:
        """One look-up of a token for all who wait for it.

        That it may be in vain is counted before it begins, and given back where it was not: a hundred at once must not
        all begin because none of them has failed yet, nor may they while the API server answers with faults.
        """
        now_s = self._monotonic_s()
        if known is None and (wait_s := self._wrong.take(address, now_s)):
            raise too_often(wait_s)

        async def ask() -> Caller | Stranger | None:
            found = await self._looked_up(token, digest, review, now_s)
            if found is not None and known is None:
                self._wrong.give_back(address)
            return found

        asked = self._asked[digest] = asyncio.create_task(ask())
        asked.add_done_callback(lambda done: (self._asked.pop(digest, None), done.cancelled() or done.exception()))
        return asked

    async def _looked_up(
        self, token: str, digest: bytes, review: TokenReviewer, now_s: float
    ) -> Caller | Stranger | None:
        """Whose token it is, from the API server; remembered."""
        try:
            user = await review(token)
        except HarmonyError as error:
            log.warning("a token could not be reviewed: %s", type(error).__name__)
            raise Problem("unavailable", "Tokens cannot be reviewed right now.", {"retry-after": "5"}) from error
        found: Caller | Stranger | None = None
        if user is not None:
            roles = [self._settings.groups[g] for g in user.groups if g in self._settings.groups]
            found = Caller(f"user:{user.name}", user.name, max(roles), "token") if roles else Stranger(user.name)
        ttl_s = self._settings.token_ttl_s if isinstance(found, Caller) else self._settings.token_failed_ttl_s
        self._known[digest] = (now_s + ttl_s, found)
        self._known.move_to_end(digest)
        if len(self._known) > MOST_TOKENS:
            self._known.popitem(last=False)
        return found


def caller_of(scope: Scope) -> Caller:
    """Whom the gate found; `Problem` when it found nobody (a path that is open to all)."""
    found = scope.get("caller")
    if not isinstance(found, Caller):
        raise Problem("unauthenticated", "Send an API key as X-API-Key or as Authorization: Bearer.", CHALLENGE)
    return found
