"""`Lying`: a client whose Prometheus answers what a test says, byte for byte, without a network between."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from controller.prometheus.client import Prometheus

Found = tuple[dict[str, str], Sequence[float | None]]  # labels of a series, its value at each time (None: no point)
Say = Callable[[str, list[float]], list[Found]]


@dataclass
class Saying:
    """What the answers hold: the series of a query at these times, what stands beside them, and how it is refused."""

    series: Say
    beside: dict[str, Any] = field(default_factory=dict)
    refused: tuple[int, bytes] | None = None
    asked: list[dict[str, str]] = field(default_factory=list)

    def answer(self, form: dict[str, str]) -> tuple[int, bytes]:
        self.asked.append(form)
        if self.refused is not None:
            return self.refused
        instant = "time" in form
        start, end, step = (float(form.get(k, form.get("time", "1"))) for k in ("start", "end", "step"))
        times = [start + k * step for k in range(int((end - start) / step + 1e-6) + 1)]
        result = []
        for labels, values in self.series(form["query"], times):
            points = [[t, told(v)] for t, v in zip(times, values, strict=True) if v is not None]
            if points:
                result.append({"metric": labels} | ({"value": points[-1]} if instant else {"values": points}))
        data = {"resultType": "vector" if instant else "matrix", "result": result}
        return 200, json.dumps({"status": "success", "data": data} | self.beside).encode()


class Lying(Prometheus):
    """The real client on a source of a test's."""

    def __init__(self, source: Saying) -> None:
        super().__init__("http://prometheus.invalid", rng=np.random.default_rng(0))
        self.source = source

    async def _send(self, path: str, form: dict[str, str]) -> tuple[int, bytes]:
        assert path in ("query_range", "query")
        return self.source.answer(form)


def told(value: float) -> str:
    """A number as Prometheus writes it."""
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(str(value), repr(value))


def level(value: float) -> Say:
    """One series that always has this value."""
    return lambda _, times: [({}, [value] * len(times))]
