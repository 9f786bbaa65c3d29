"""Objects by namespace and name, with an index over their labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.kube.selectors import Requirement, Selector

__all__ = ["Key", "LabelIndex", "labels_of"]

Key = tuple[str, str]


def labels_of(obj: Mapping[str, Any]) -> Mapping[str, str]:
    """The labels of an object; none where the field is absent."""
    labels = (obj.get("metadata") or {}).get("labels")
    return labels if isinstance(labels, Mapping) else {}


class LabelIndex:
    """(namespace, label key, label value) -> names; finds the few objects that a selector can mean."""

    def __init__(self) -> None:
        self._by_label: dict[tuple[str, str, str], set[str]] = {}
        self._by_namespace: dict[str, set[str]] = {}

    def add(self, key: Key, labels: Mapping[str, str]) -> None:
        """Take in an object that is not in the index."""
        namespace, name = key
        self._by_namespace.setdefault(namespace, set()).add(name)
        for label, value in labels.items():
            self._by_label.setdefault((namespace, label, value), set()).add(name)

    def remove(self, key: Key, labels: Mapping[str, str]) -> None:
        """Forget an object that was added with these labels."""
        namespace, name = key
        _discard(self._by_namespace, namespace, name)
        for label, value in labels.items():
            _discard(self._by_label, (namespace, label, value), name)

    def candidates(self, namespace: str, selector: Selector) -> set[str]:
        """Names among which are all that the selector means: the smallest set that one condition leaves."""
        sets = [self._named(namespace, wanted) for wanted in selector.requirements if wanted.operator == "In"]
        return min(sets, key=len) if sets else self._by_namespace.get(namespace, set())

    def _named(self, namespace: str, wanted: Requirement) -> set[str]:
        found = [self._by_label.get((namespace, wanted.key, value), set()) for value in wanted.values]
        return found[0] if len(found) == 1 else set().union(*found)


def _discard(index: dict[Any, set[str]], key: object, name: str) -> None:
    """Take a name out of a set, and the set out of the index when it becomes empty."""
    names = index.get(key)
    if names is not None:
        names.discard(name)
        if not names:
            del index[key]
