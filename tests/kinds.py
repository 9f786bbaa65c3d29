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
QUICK_END = 0.25  # of each worker's share: tests that take no time

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


def spread(items: list[pytest.Item], workers: int = 1) -> None:
    """Put the long tests (those that wait for a Prometheus or a cluster, and slow ones) evenly between quick ones.

    Each worker takes its share in this order: where all the waiting stands together, processors stand idle meanwhile,
    and where a share ends in a long test, the others have nothing left to do beside it; so the end of every share is of
    quick ones, and those of a minute begin shares, one each. Tests of a module, or of a browser, stay together, but for
    long modules of waiting tests that have nothing in common, which are taken in pieces.
    """
    long: list[list[pytest.Item]] = []
    quick: list[list[pytest.Item]] = []
    first: list[list[pytest.Item]] = []
    for (_, takes_a_minute, is_long, waits), group in itertools.groupby(
        items, key=lambda i: (_together(i), i.get_closest_marker("minute") is not None, _long(i), _waits(i))
    ):
        tests = list(group)
        if takes_a_minute:
            first.append(tests)
        elif waits and not any(map(_shares, tests)):
            long += [tests[first : first + PIECE] for first in range(0, len(tests), PIECE)]
        else:
            (long if is_long else quick).append(tests)
    total, done = max(1, sum(map(len, quick))), 0
    spaced = [(number % workers / workers, tests) for number, tests in enumerate(first)]
    for number, piece in enumerate(long):
        share, at = divmod((number + 0.5) / len(long) * workers, 1)
        spaced.append(((share + at * (1 - QUICK_END)) / workers, piece))
    for tests in quick:
        spaced.append((done / total, tests))
        done += len(tests)
    items[:] = [item for _, tests in sorted(spaced, key=lambda one: one[0]) for item in tests]


def _together(item: pytest.Item) -> str:
    return str(item.path.parent if item.get_closest_marker("browser") else item.path)


def _waits(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(kind) for kind in ("cluster", "prometheus"))


def _shares(item: pytest.Item) -> bool:
    """Whether it asks for what is made once for its module."""
    info = getattr(item, "_fixtureinfo", None)
    return info is not None and any(made[-1].scope == "module" for made in info.name2fixturedefs.values())


def _long(item: pytest.Item) -> bool:
    return _waits(item) or any(item.get_closest_marker(kind) for kind in ("slow", "minute", "long", "browser"))


def began(item: pytest.Item) -> None:
    """From here on it is this test that runs."""
    _running[:] = [item]


def starting(kind: str) -> None:
    """Fail a test that starts what its markers do not name; outside of a test, anything may be started."""
    if _running and _running[0].get_closest_marker(kind) is None:
        pytest.fail(f"{_running[0].nodeid} starts what the marker `{kind}` stands for: add it, or see tests/kinds.py")
