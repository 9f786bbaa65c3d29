"""Watches: changes as a stream of JSON lines."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from .builtins import convert
from .errors import Cause, bad_request, expired, invalid, too_large
from .kinds import Kind
from .operations import selection
from .storage import Change, Item, Json, Storage, dumps


def line(kind: str, payload: bytes) -> bytes:
    return b'{"type":"' + kind.encode() + b'","object":' + payload + b"}\n"


def gone_line(version: int, floor: int) -> bytes:
    """The event that tells a client to list again."""
    failure = expired(f"too old resource version: {version} ({floor})")
    return line("ERROR", dumps(failure.status()))


@dataclass(frozen=True, slots=True)
class Wish:
    """The options of one watch."""

    version: int | None  # None: begin with what there is
    bookmarks: bool
    timeout_s: float
    initial_events_end: bool

    @classmethod
    def read(cls, kind: Kind, query: Mapping[str, str]) -> Wish:
        text = query.get("resourceVersion", "")
        if text and not text.isdigit():
            raise bad_request(f'Invalid value: "{text}": resourceVersion: strconv.ParseUint: invalid syntax')
        initial = query.get("sendInitialEvents", "").lower() == "true"
        if initial and query.get("resourceVersionMatch") != "NotOlderThan":
            text = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise invalid(
                "ListOptions", "meta.k8s.io", "", [Cause("FieldValueForbidden", "resourceVersionMatch", text)]
            )
        version = None if initial or text in ("", "0") else int(text)
        bookmarks = query.get("allowWatchBookmarks", "").lower() in ("true", "1")
        return cls(version, bookmarks, float(query.get("timeoutSeconds") or 3600), initial)


class Watch:
    """One open watch: filled by the storage, drained by the connection."""

    def __init__(self, storage: Storage, kind: Kind, namespace: str, query: Mapping[str, str]) -> None:
        self.kind = kind
        self.wish = Wish.read(kind, query)
        self._storage = storage
        self._table = storage.table(kind.storage)
        self._wanted = selection(kind, namespace, query)
        self._lines: deque[bytes] = deque()
        self._filled = asyncio.Event()
        self.ended = False
        self._begin()

    def _begin(self) -> None:
        version = self.wish.version
        if version is None:
            for key in sorted(self._table.items):
                item = self._table.items[key]
                if self._wanted(item.obj):
                    self._push(line("ADDED", item.form(self.kind, convert)))
            if self.wish.initial_events_end and self.wish.bookmarks:
                self._push(self._bookmark({"annotations": {"k8s.io/initial-events-end": "true"}}))
        elif version > self._storage.version:
            self._push(line("ERROR", dumps(too_large(version, self._storage.version).status())))
            self.ended = True
        elif version < self._table.floor:
            self.expire(version)
        else:
            for change in self._table.since(version):
                self._on_change(change)
        if not self.ended:
            self._table.listeners.add(self._on_change)

    def close(self) -> None:
        self._table.listeners.discard(self._on_change)

    def end(self) -> None:
        """Ends the stream as a server does that wants the client to come back."""
        self.ended = True
        self._filled.set()

    def expire(self, version: int | None = None) -> None:
        """Ends the stream with the ERROR event of code 410."""
        self._push(gone_line(version or self._table.floor, self._table.floor or self._storage.version))
        self.end()

    def _push(self, text: bytes) -> None:
        self._lines.append(text)
        self._filled.set()

    def _on_change(self, change: Change) -> None:
        before = change.before is not None and self._wanted(change.before.obj)
        after = change.after is not None and self._wanted(change.after.obj)
        if after:
            assert change.after is not None
            self._push(line("MODIFIED" if before else "ADDED", change.after.form(self.kind, convert)))
        elif before:
            assert change.before is not None
            last = change.gone or _at_version(change.before, change.version)
            self._push(line("DELETED", last.form(self.kind, convert)))

    def _bookmark(self, extra: Json | None = None) -> bytes:
        metadata: Json = {"resourceVersion": str(self._storage.version), "creationTimestamp": None} | (extra or {})
        return line(
            "BOOKMARK", dumps({"kind": self.kind.kind, "apiVersion": self.kind.api_version, "metadata": metadata})
        )

    async def chunks(self, clock: Callable[[], float], bookmark_s: Callable[[], float]) -> AsyncIterator[bytes]:
        """Lines as they come, until the time is up or the stream is ended."""
        until = clock() + self.wish.timeout_s
        next_bookmark = clock() + bookmark_s()
        while True:
            if self._lines:
                chunk = b"".join(self._lines)
                self._lines.clear()
                yield chunk
            if self.ended and not self._lines:
                return
            if clock() >= until:
                return
            self._filled.clear()
            wait_s = min(until, next_bookmark if self.wish.bookmarks else until) - clock()
            if not self._lines and wait_s > 0:
                try:
                    async with asyncio.timeout(wait_s):
                        await self._filled.wait()
                except TimeoutError:
                    pass
            if self.wish.bookmarks and clock() >= next_bookmark and not self._lines:
                self._push(self._bookmark())
                next_bookmark = clock() + bookmark_s()


def _at_version(item: Item, version: int) -> Item:
    """An object that left the selection, under the version of the change that made it leave."""
    return Item(item.obj | {"metadata": item.obj["metadata"] | {"resourceVersion": str(version)}})
