"""Kinds of tests by what they start: a marker for each folder and fixture, so that `make test-fast` can leave them out.

A test says nothing of it where a folder or a fixture says it already. What is slow to start asks `starting`, so that a
test without the marker fails and does not sneak into the fast ones. Slow tests are not traced for coverage.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
PIECE = 5

FOLDERS: dict[str, tuple[str, ...]] = {
    "controller/e2e": ("cluster", "prometheus"),
    "kernels/triton": ("triton",),
    "prom": ("prometheus",),
}
FIXTURES: dict[str, tuple[str, ...]] = {
    "browser": ("browser",),
    "prom": ("prometheus",),
}

_running: list[pytest.Item] = []


def mark(items: list[pytest.Item]) -> None:
    """Give every test the markers of its folder and of the fixtures that it asks for."""
    for item in items:
        place = item.path.relative_to(ROOT).as_posix() if item.path.is_relative_to(ROOT) else ""
        kinds = {kind for folder, found in FOLDERS.items() if place.startswith(f"{folder}/") for kind in found}
        kinds |= {kind for name in getattr(item, "fixturenames", ()) for kind in FIXTURES.get(name, ())}
        for kind in sorted(kinds):
            item.add_marker(kind)
        if item.get_closest_marker("slow"):
            item.add_marker("no_cover")  # it repeats, often, what others cover; tracing nearly doubles what it costs


def spread(items: list[pytest.Item]) -> None:
    """Put tests that mostly wait (for a Prometheus, a cluster) evenly between those that compute.

    Workers take tests in this order: where all the waiting stands together, processors stand idle meanwhile. Tests of a
    module, or of a browser, stay together, but for long modules of waiting tests, which are taken in pieces.
    """
    waiting: list[list[pytest.Item]] = []
    busy: list[list[pytest.Item]] = []
    for (_, waits), group in itertools.groupby(items, key=lambda item: (_together(item), _waits(item))):
        tests = list(group)
        if waits:
            waiting += [tests[first : first + PIECE] for first in range(0, len(tests), PIECE)]
        else:
            busy.append(tests)
    total, done = sum(map(len, busy)), 0
    spaced: list[tuple[float, list[pytest.Item]]] = [
        ((number + 0.5) / len(waiting), piece) for number, piece in enumerate(waiting)
    ]
    for tests in busy:
        spaced.append((done / total, tests))
        done += len(tests)
    items[:] = [item for _, tests in sorted(spaced, key=lambda one: one[0]) for item in tests]


def _together(item: pytest.Item) -> str:
    return str(item.path.parent if item.get_closest_marker("browser") else item.path)


def _waits(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(kind) for kind in ("cluster", "prometheus"))


def began(item: pytest.Item) -> None:
    """From here on it is this test that runs."""
    _running[:] = [item]


def starting(kind: str) -> None:
    """Fail a test that starts what its markers do not name; outside of a test, anything may be started."""
    if _running and _running[0].get_closest_marker(kind) is None:
        pytest.fail(f"{_running[0].nodeid} starts what the marker `{kind}` stands for: add it, or see tests/kinds.py")
