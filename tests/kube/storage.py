"""Objects, one version counter, and the log of changes that watches read.

Stored objects are never changed in place: every write stores a new one, and its JSON bytes are made once.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

from .kinds import Kind

Key = tuple[str, str]  # namespace ("" = cluster-wide), name
Json = dict[str, Any]
Convert = Callable[[Json, Kind], Json]
LOG_LENGTH = 50_000


def dumps(obj: Any) -> bytes:
    return json.dumps(obj, separators=(",", ":"), ensure_ascii=False).encode()


class Item:
    """One version of one object and its serialised forms."""

    __slots__ = ("_forms", "obj", "version")

    def __init__(self, obj: Json) -> None:
        self.obj = obj
        self.version = int(obj["metadata"]["resourceVersion"])
        self._forms: dict[tuple[str, bool], bytes] = {}

    def form(self, kind: Kind, convert: Convert, bare: bool = False) -> bytes:
        """The JSON of this object as `kind`; bare = without apiVersion and kind, as in lists of built-in kinds."""
        key = (kind.api_version, bare)
        made = self._forms.get(key)
        if made is None:
            obj = convert(self.obj, kind)
            if bare:
                obj = {name: value for name, value in obj.items() if name not in ("kind", "apiVersion")}
            made = self._forms[key] = dumps(obj)
        return made


class Change:
    """One entry of the log: before None = added, after None = deleted (then `gone` is its last version)."""

    __slots__ = ("after", "before", "gone", "key", "version")

    def __init__(self, version: int, key: Key, before: Item | None, after: Item | None, gone: Item | None) -> None:
        self.version = version
        self.key = key
        self.before = before
        self.after = after
        self.gone = gone


class Table:
    """All objects of one resource, their recent changes and who is told of them."""

    __slots__ = ("floor", "items", "listeners", "log")

    def __init__(self, floor: int) -> None:
        self.items: dict[Key, Item] = {}
        self.log: deque[Change] = deque()
        self.floor = floor  # changes up to this version are forgotten
        self.listeners: set[Callable[[Change], None]] = set()

    def record(self, change: Change) -> None:
        self.log.append(change)
        if len(self.log) > LOG_LENGTH:
            self.floor = self.log.popleft().version
        for listener in tuple(self.listeners):
            listener(change)

    def since(self, version: int) -> Iterator[Change]:
        newer: list[Change] = []
        for change in reversed(self.log):
            if change.version <= version:
                break
            newer.append(change)
        return reversed(newer)


class Storage:
    """The tables by storage name, under one version counter."""

    def __init__(self) -> None:
        self.version = 1
        self.tables: dict[str, Table] = {}
        self.dependants: defaultdict[str, set[tuple[str, Key]]] = defaultdict(set)
        self.alive: set[str] = set()  # uids

    def table(self, name: str) -> Table:
        found = self.tables.get(name)
        if found is None:
            found = self.tables[name] = Table(0)
        return found

    def get(self, name: str, key: Key) -> Item | None:
        return self.table(name).items.get(key)

    def put(self, name: str, key: Key, obj: Json) -> Item:
        """Stores `obj` (given away by the caller) under the next version."""
        table = self.table(name)
        before = table.items.get(key)
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        item = Item(obj)
        table.items[key] = item
        self.alive.add(obj["metadata"]["uid"])
        for reference in obj["metadata"].get("ownerReferences") or ():
            self.dependants[reference["uid"]].add((name, key))
        table.record(Change(self.version, key, before, item, None))
        return item

    def drop(self, name: str, key: Key) -> Item:
        """Removes an object; the item returned is its last state under the version of the removal."""
        table = self.table(name)
        before = table.items.pop(key)
        self.alive.discard(before.obj["metadata"]["uid"])
        self.version += 1
        gone = Item(before.obj | {"metadata": before.obj["metadata"] | {"resourceVersion": str(self.version)}})
        table.record(Change(self.version, key, before, None, gone))
        return gone

    def take_dependants(self, uid: str) -> list[tuple[str, Key]]:
        return sorted(self.dependants.pop(uid, set()))

    def compact(self) -> None:
        """Forgets all changes so far: a watch from before now is answered with 410."""
        for table in self.tables.values():
            table.log.clear()
            table.floor = self.version
