"""Who owns which field of an object that is applied from the server's side.

Fields are leaves of nested objects; a list is one leaf, except that what is let go of is told by its keys. What an
update changes is owned by who updated, and by nobody else any more; what is applied is owned together with those who
applied the same value. Objects that nobody applies are not followed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
Object = tuple[str, str]  # storage, uid
Path = tuple[str, ...]
_IDENTITY = {("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace"), ("metadata", "uid")}
ABSENT = object()


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every field below `value` that holds no fields itself."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def at(value: Any, path: Path) -> Any:
    """What stands at a path, or `ABSENT`."""
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return ABSENT
        value = value[key]
    return value


def without(value: Json, path: Path) -> None:
    """Take the field at a path away, in place."""
    inner = at(value, path[:-1])
    if path and isinstance(inner, dict):
        inner.pop(path[-1], None)


class Owners:
    """Managers and what each last applied, and who has changed what since."""

    def __init__(self) -> None:
        self._applied: dict[Object, dict[str, Json]] = {}
        self._taken: dict[Object, dict[Path, str]] = {}

    def apply(self, of: Object, manager: str, body: Json) -> None:
        """`manager` owns what it has applied, nothing else; of it, what others held otherwise is theirs no more."""
        mine = self._applied.setdefault(of, {})
        for path, value in leaves(body):
            self._taken.get(of, {}).pop(path, None)
            for other, theirs in mine.items():
                if other != manager and at(theirs, path) not in (ABSENT, value):
                    without(theirs, path)
        mine[manager] = copy.deepcopy(body)

    def update(self, of: Object, manager: str, old: Json, new: Json) -> None:
        """What an update changed is owned by who updated."""
        for theirs in self._applied.get(of, {}).values():
            for path, _ in list(leaves(theirs)):
                if at(old, path) != at(new, path):
                    without(theirs, path)
                    self._taken.setdefault(of, {})[path] = manager

    def alone(self, of: Object, manager: str) -> Json:
        """What `manager` applied last and nobody else owns: with its owner it goes."""
        mine = copy.deepcopy(self._applied.get(of, {}).get(manager, {}))
        for other, theirs in self._applied.get(of, {}).items():
            if other != manager:
                for path, value in leaves(theirs):
                    if not isinstance(value, list):
                        without(mine, path)
        return mine

    def disputed(self, of: Object, manager: str, live: Json, body: Json) -> dict[Path, str]:
        """The fields that `manager` would change although somebody else owns them, and who does."""
        found: dict[Path, str] = {}
        for path, value in leaves(body):
            if path in _IDENTITY or isinstance(value, list) or at(live, path) in (ABSENT, value):
                continue
            owners = [m for m, theirs in self._applied.get(of, {}).items() if at(theirs, path) is not ABSENT]
            taken = self._taken.get(of, {}).get(path)
            others = [m for m in [*owners, *([taken] if taken else [])] if m != manager]
            if others:
                found[path] = others[0]
        return found
