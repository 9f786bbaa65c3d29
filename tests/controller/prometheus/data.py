"""Two days of data that end at `END`, every minute: one metric per thing that can happen to an indicator."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tests.prom.real import openmetrics

END = 1_760_000_040.0 // 60 * 60
DAYS = 2
ROWS = DAYS * 1440


def demand(at: float) -> float:
    """What ``demand`` was at that time: a day's wave."""
    return round(100 + 60 * math.sin(at / 86_400 * 2 * math.pi), 3)


def times() -> Iterator[float]:
    yield from (END - (ROWS - 1 - i) * 60 for i in range(ROWS))


def back_dated() -> str:
    return openmetrics(_samples())


def _samples() -> Iterator[tuple[str, float, str]]:
    for t in times():
        yield "demand", t, str(demand(t))
        yield "queue", t, "7"
    for t in times():
        if t <= END - 7200:
            yield "renamed_before", t, "5"
    for t in times():
        yield "ratio", t, "NaN" if t > END - 3600 else "0.5"
    for t in times():
        yield "negative", t, "-3"
    for pod in "abc":
        for t in times():
            yield f'pods{{pod="{pod}"}}', t, "1"
    for i, t in enumerate(times()):  # 3 a second; restarts in row ROWS - 10
        since = i - (ROWS - 10) if i >= ROWS - 10 else i
        yield "hits", t, str(180.0 * since + 60)
    for i, t in enumerate(times()):
        if not ROWS - 30 <= i < ROWS - 20:
            yield "gappy_total", t, str(180.0 * i)
