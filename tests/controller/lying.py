"""A Prometheus that lies about a service: what it has stored of each step, and what it answers this time."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

from tests.controller.lives import STEP_S
from tests.prom.lying import Found, Saying

PER_REPLICA = 25.0
STALE_S = 150.0  # how old a reading may be and still be present demand
TOLD_S = 180.0  # so long a reading that stays away is late; then it is named

# What is stored of a step for ever, and what is only said in one answer.
STORED = ("partial", "duplicated", "renamed", "nan", "infinite", "huge")
SAID = ("warned", "half said", "stale", "refused", "broken", "back in time")
KINDS = ("right", *STORED, *SAID)
SILENT = ("renamed", "stale", "back in time")  # nothing is read that is wrong; nothing is read


@dataclass
class Step:
    """What Prometheus has of one step."""

    kind: str
    demand: float
    pods: int
    share: float


@dataclass
class LyingSource(Saying):
    """The queries of one service: its demand, a sum over its pods, and how many of them report it."""

    series: object = None  # type: ignore[assignment]
    before: float = 100.0  # demand of all steps before the first
    pods_before: int = 4
    steps: dict[float, Step] = field(default_factory=dict)
    kind: str = "right"
    share: float = 1.0
    now_s: float = 0.0

    def begin(self, now_s: float, kind: str, demand: float, pods: int, share: float) -> None:
        """A turn begins: a step is over, and this is how answers are given until the next."""
        if kind == "partial" and math.floor(share * pods) == 0:
            kind = "renamed"  # none of them: nothing is there
        self.now_s, self.kind, self.share = now_s, kind, share
        stored = kind if kind in STORED else "right"
        self.steps[now_s // STEP_S * STEP_S] = Step(stored, demand, pods, share)

    @property
    def complete(self) -> float:
        """The newest demand that an honest answer of this turn shows whole while it is young; NaN for none."""
        if self.kind in SAID:
            return math.nan
        shown = [at for at, s in self.steps.items() if s.kind == "right" and 0 <= self.now_s - at <= STALE_S]
        return self.steps[max(shown)].demand if shown else math.nan

    def answer(self, form: dict[str, str]) -> tuple[int, bytes]:
        self.asked.append(form)
        if self.kind == "refused":
            error = {"status": "error", "errorType": "execution", "error": "too many samples"}
            return 422, json.dumps(error).encode()
        if self.kind == "broken":
            return 500, b"no healthy upstream"
        self.beside = {"warned": {"warnings": ["a store is away"]}, "half said": {"isPartial": True}}.get(self.kind, {})
        self.series = self.say
        status, body = super().answer(form)
        if self.kind == "back in time":
            found = json.loads(body)
            for one in found["data"]["result"]:
                one["values"] = [[t - 7200.0, v] for t, v in one["values"]]
            body = json.dumps(found).encode()
        return status, body

    def say(self, promql: str, times: list[float]) -> list[Found]:
        counts = promql.startswith("count(")
        first = [self._value(t, counts) for t in times]
        second = [
            3.0 if t in self.steps and self.steps[t].kind == "duplicated" and v is not None else None
            for t, v in zip(times, first, strict=True)
        ]
        return [({"replica": "a"}, first), ({"replica": "b"}, second)]

    def _value(self, at_s: float, counts: bool) -> float | None:
        if at_s > self.now_s or (self.kind == "stale" and at_s > self.now_s - 300.0):
            return None
        step = self.steps.get(at_s) or Step("right", self.before, self.pods_before, 1.0)
        pods = math.floor(step.share * step.pods) if step.kind == "partial" else step.pods
        if step.kind == "renamed" or pods == 0:
            return None
        away = self.share if self.kind in ("warned", "half said") else 1.0
        if counts:
            return float(math.floor(pods * away))
        wrong = {"nan": math.nan, "infinite": math.inf, "huge": 1e300}.get(step.kind)
        return step.demand * pods / step.pods * away if wrong is None else wrong
