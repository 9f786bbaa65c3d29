"""The request-level world: a queue in front of replicas with token throughput, first-token and end-to-end latency.

How a replica works is told by `simulator.service_model`. In front of all replicas stands one queue, first come first
served: the oldest request takes a slot at the replica with the fewest requests as soon as there is a free one. A
replica that is removed drains: it takes no new request and finishes those it has, while the caller already counts it
as gone (the newest goes first). Without replicas the queue grows. Requests that are unfinished when the world ends
are reported as such, never dropped.

Everything that happens at one and the same moment happens in a fixed order (change of replicas, completions in the
order in which they were scheduled, arrivals), so equal inputs give equal outcomes.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from forecasting.errors import DataError, UsageError
from forecasting.panel import FloatArray, Indicator, IntArray
from simulator.service_model import RequestLog, ServiceModel, default_ttft_slo_s, work

if TYPE_CHECKING:
    from simulator.traces.request_trace import RequestTrace

__all__ = [
    "RequestLog",
    "RequestOutcome",
    "RequestWorld",
    "ServiceModel",
    "StepView",
    "default_ttft_slo_s",
    "request_figures",
    "simulate_requests",
]


@dataclass(frozen=True, slots=True)
class StepView:
    """What could be seen of the world after one call of `RequestWorld.advance`.

    Attributes:
        queue_length: requests that wait for a slot at the end of the step.
        running: requests that hold a slot, draining replicas included.
        draining: removed replicas that still finish their requests.
        arrived, finished: requests during the step.
    """

    queue_length: int
    running: int
    draining: int
    arrived: int
    finished: int


@dataclass(frozen=True, eq=False, slots=True)
class RequestOutcome:
    """What became of every request that arrived before the world ended; NaN is "not by then".

    Attributes:
        arrival_s, started_s, first_token_s, finished_s: (requests,) moments; `started_s` is the end of queueing.
        end_s: when the world ended.
        queue_length: (steps,) requests that waited at the end of each step.
    """

    arrival_s: FloatArray
    started_s: FloatArray
    first_token_s: FloatArray
    finished_s: FloatArray
    end_s: float
    queue_length: IntArray

    @property
    def queue_wait_s(self) -> FloatArray:
        """(requests,) seconds from arrival to a slot."""
        return self.started_s - self.arrival_s

    @property
    def ttft_s(self) -> FloatArray:
        """(requests,) seconds from arrival to the first token."""
        return self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> FloatArray:
        """(requests,) seconds from arrival to the last token."""
        return self.finished_s - self.arrival_s

    def summary(self, *, ttft_slo_s: float = 2.0, from_s: float = -math.inf) -> dict[str, float]:
        """Latency figures of the requests that arrived at ``from_s`` or later.

        A request still under way counts with the time it has waited so far, so that a growing queue cannot hide. It
        exceeds the bound once it has waited longer than that for its first token; before, it counts neither way.
        Without requests only the two counts are given.
        """
        chosen = self.arrival_s >= from_s
        n = int(chosen.sum())
        out = {"requests": float(n), "unfinished": float(np.isnan(self.finished_s[chosen]).sum())}
        if n == 0:
            return out
        so_far = self.end_s - self.arrival_s[chosen]
        ttft = self.ttft_s[chosen]
        late = np.where(np.isnan(ttft), so_far, ttft) > ttft_slo_s
        known = late | ~np.isnan(ttft)
        out["ttft_slo_s"] = ttft_slo_s
        out["slo_miss_rate"] = float(late.sum() / known.sum()) if known.any() else 0.0
        for name, values, levels in (
            ("ttft", ttft, (50, 95, 99)),
            ("e2e", self.e2e_s[chosen], (50, 95, 99)),
            ("queue_wait", self.queue_wait_s[chosen], (95,)),
        ):
            bounded = np.where(np.isnan(values), so_far, values)
            for level in levels:
                out[f"{name}_p{level}_s"] = float(np.percentile(bounded, level))
        return out


class _Replica:
    """State of one replica; `tokens` is how many tokens a request that decoded from the start would have by now."""

    __slots__ = ("accepting", "decoding", "number", "prefilling", "prompts", "running", "since_s", "tokens", "version")

    def __init__(self, number: int) -> None:
        self.number = number
        self.accepting = True
        self.running = 0  # slots taken
        self.prompts: deque[int] = deque()  # requests whose prompt is being, or waits to be, processed
        self.prefilling = False
        self.decoding: list[tuple[float, int]] = []  # heap of (`tokens` at which it is done, request)
        self.tokens = 0.0
        self.since_s = 0.0  # when `tokens` was right; it stands still while a prompt is processed
        self.version = 0  # of its one scheduled event; older ones are void


class RequestWorld:
    """Requests of a trace meeting a number of ready replicas that changes from step to step.

    Call `advance` step by step, so that a loop can look in between; `outcome` says what became of the requests.

    Raises `DataError` for requests that are not in order of arrival or come before ``start_s``.
    """

    def __init__(self, requests: RequestLog, model: ServiceModel, start_s: float) -> None:
        prompt, decode = work(requests)
        arrival = np.asarray(requests.arrival_s, dtype=np.float64)
        if not np.isfinite(arrival).all() or (np.diff(arrival) < 0).any():
            raise DataError("requests: arrival times must be finite and ascending")
        if arrival[0] < start_s:
            raise DataError(f"requests: the first arrives at {arrival[0]} s, before the world starts at {start_s} s")
        self.model = model
        self.now_s = start_s
        self._arrival: list[float] = arrival.tolist()
        self._prefill_s: list[float] = (prompt / model.prefill_tokens_per_s).tolist()
        self._decode: list[float] = decode.tolist()
        self._token_s = [0.0, *(model.token_s(n) for n in range(1, model.max_concurrency + 1))]
        n = arrival.size
        self._started = [math.nan] * n
        self._first_token = [math.nan] * n
        self._finished = [math.nan] * n
        self._arrived = 0  # requests 0 .. _arrived-1 have arrived
        self._next = 0  # requests _next .. _arrived-1 wait in the queue
        self._done = 0
        self._events: list[tuple[float, int, int, _Replica]] = []  # (time, sequence, version, replica)
        self._sequence = 0
        self._made = 0
        self._ready: list[_Replica] = []  # oldest first
        self._draining = 0
        self._free: list[dict[_Replica, None]] = [{} for _ in range(model.max_concurrency)]  # by requests running
        self._lowest = 0  # no ready replica runs fewer requests
        self._queue_length: list[int] = []

    # ---- the world seen from outside ------------------------------------------------------------------------
    def advance(self, to_s: float, ready: int) -> StepView:
        """Let time pass up to ``to_s`` with ``ready`` replicas from now on; what happens at ``to_s`` is left over.

        Raises `UsageError` for a time that runs backwards or a negative number of replicas.
        """
        if not to_s >= self.now_s or math.isinf(to_s):
            raise UsageError(f"advance to {to_s} s: the world is at {self.now_s} s already")
        if ready < 0:
            raise UsageError(f"{ready} ready replicas: expected 0 or more")
        arrived, done = self._arrived, self._done
        self._resize(ready)
        self._run(to_s)
        self.now_s = to_s
        queued = self._arrived - self._next
        self._queue_length.append(queued)
        return StepView(
            queue_length=queued,
            running=self._next - self._done,
            draining=self._draining,
            arrived=self._arrived - arrived,
            finished=self._done - done,
        )

    def outcome(self) -> RequestOutcome:
        """What became of every request so far."""
        n = self._arrived
        return RequestOutcome(
            arrival_s=np.array(self._arrival[:n]),
            started_s=np.array(self._started[:n]),
            first_token_s=np.array(self._first_token[:n]),
            finished_s=np.array(self._finished[:n]),
            end_s=self.now_s,
            queue_length=np.array(self._queue_length, dtype=np.int64),
        )

    # ---- replicas come and go -------------------------------------------------------------------------------
    def _resize(self, ready: int) -> None:
        """Add idle replicas, or let the newest drain, and hand out what the queue holds."""
        while len(self._ready) > ready:
            replica = self._ready.pop()
            replica.accepting = False
            if replica.running < self.model.max_concurrency:
                del self._free[replica.running][replica]
            self._draining += replica.running > 0
        if len(self._ready) < ready:
            self._lowest = 0
        while len(self._ready) < ready:
            replica = _Replica(self._made)
            self._made += 1
            self._ready.append(replica)
            self._free[0][replica] = None
        self._hand_out(self.now_s)

    def _hand_out(self, now: float) -> None:
        """Give the oldest waiting requests to the replicas with the fewest, as long as there are free slots."""
        slots = self.model.max_concurrency
        while self._next < self._arrived:
            while self._lowest < slots and not self._free[self._lowest]:
                self._lowest += 1
            if self._lowest == slots:
                return
            replica = next(iter(self._free[self._lowest]))
            self._start(replica, now)

    # ---- what happens ---------------------------------------------------------------------------------------
    def _run(self, to_s: float) -> None:
        """Handle everything that happens before ``to_s`` in the order of (time, completions first, sequence)."""
        events, arrival, n = self._events, self._arrival, len(self._arrival)
        while True:
            coming = arrival[self._arrived] if self._arrived < n else math.inf
            if events and events[0][0] <= coming:
                if events[0][0] >= to_s:
                    return
                now, _, version, replica = heapq.heappop(events)
                if version != replica.version:
                    continue
                if replica.prefilling:
                    self._first_token_out(replica, now)
                else:
                    replica.tokens, request = heapq.heappop(replica.decoding)
                    replica.since_s = now
                    self._finish(replica, request, now)
                    self._resume(replica, now)
            elif coming < to_s:
                self._arrived += 1
                self._hand_out(coming)
            else:
                return

    def _start(self, replica: _Replica, now: float) -> None:
        """The oldest waiting request takes a slot; its prompt is next at that replica."""
        request = self._next
        self._next += 1
        self._started[request] = now
        self._move(replica, 1)
        replica.prompts.append(request)
        if not replica.prefilling:
            if replica.decoding:
                replica.tokens += (now - replica.since_s) / self._token_s[len(replica.decoding)]
            self._resume(replica, now)

    def _first_token_out(self, replica: _Replica, now: float) -> None:
        """A prompt is done: the request has its first token and decodes the rest of them with the others."""
        request = replica.prompts.popleft()
        self._first_token[request] = now
        replica.prefilling = False
        rest = self._decode[request]
        if rest > 0:
            heapq.heappush(replica.decoding, (replica.tokens + rest, request))
        else:
            self._finish(replica, request, now)
        self._resume(replica, now)

    def _finish(self, replica: _Replica, request: int, now: float) -> None:
        """A request is done and its slot is free: for the next one in the queue, unless the replica drains."""
        self._finished[request] = now
        self._done += 1
        self._move(replica, -1)
        if not replica.accepting:
            self._draining -= replica.running == 0
        elif self._next < self._arrived:
            self._next, request = self._next + 1, self._next
            self._started[request] = now
            self._move(replica, 1)
            replica.prompts.append(request)

    def _resume(self, replica: _Replica, now: float) -> None:
        """Schedule what the replica does next: the next prompt if there is one, else the next finished request."""
        replica.version += 1
        replica.since_s = now
        if replica.prompts:
            replica.prefilling = True
            due = now + self._prefill_s[replica.prompts[0]]
        elif replica.decoding:
            rest = max(0.0, replica.decoding[0][0] - replica.tokens)
            due = now + rest * self._token_s[len(replica.decoding)]
        else:
            replica.tokens = 0.0
            return
        self._sequence += 1
        heapq.heappush(self._events, (due, self._sequence, replica.version, replica))

    def _move(self, replica: _Replica, change: int) -> None:
        """One slot taken or freed, and the replica's place among the ready ones that follows."""
        if not replica.accepting:
            replica.running += change
            return
        slots = self.model.max_concurrency
        if replica.running < slots:
            del self._free[replica.running][replica]
        replica.running += change
        if replica.running < slots:
            self._free[replica.running][replica] = None
            self._lowest = min(self._lowest, replica.running)


def simulate_requests(
    requests: RequestLog,
    ready: IntArray | Sequence[int],
    *,
    step_s: float,
    start_s: float,
    model: ServiceModel,
) -> RequestOutcome:
    """Run a trace of requests against a given timeline of ready replicas.

    ``ready`` (steps,): step ``i`` lasts from ``start_s + i step_s`` to the next; the world ends with the last step and
    later requests do not take part.
    """
    world = RequestWorld(requests, model, start_s)
    for i, count in enumerate(np.asarray(ready).tolist()):
        world.advance(start_s + (i + 1) * step_s, int(count))
    return world.outcome()


def request_figures(
    requests: RequestTrace,
    ready: IntArray,
    *,
    step_s: float,
    start_s: float,
    replica_capacity: float,
    demand: Indicator,
    scored_from: int = 0,
    ttft_slo_s: float | None = None,
    base: ServiceModel | None = None,
) -> dict[str, float]:
    """Latency figures of a trace under one policy's ready replicas: `PolicyRun.requests`.

    ``ready`` (steps,) from ``start_s`` (Unix seconds) on; ``replica_capacity`` is in ``demand``'s unit and sets the
    speed of a replica (`ServiceModel.for_capacity`, proportions from ``base``), so that both worlds agree on when it is
    saturated. Requests of step ``scored_from`` and later are counted. Without ``ttft_slo_s`` the bound is
    `default_ttft_slo_s`; `idle_ttft_p95_s` among the figures says what an idle replica reaches. Empty for a demand
    that is no rate of requests or tokens.
    """
    per_request = _demand_per_request(requests, demand)
    if not per_request > 0:
        return {}
    model = ServiceModel.for_capacity(requests, replica_capacity / per_request, base=base)
    arrival = requests.arrival_s + (requests.start - start_s)
    inside = arrival >= 0
    log = _Log(arrival[inside], requests.prompt_tokens[inside], requests.output_tokens[inside])
    if not inside.any():
        return {"requests": 0.0, "unfinished": 0.0}
    out = simulate_requests(log, ready, step_s=step_s, start_s=0.0, model=model)
    slo = default_ttft_slo_s(model, requests) if ttft_slo_s is None else ttft_slo_s
    figures = out.summary(ttft_slo_s=slo, from_s=scored_from * step_s)
    idle = float(np.quantile(requests.prompt_tokens, 0.95)) / model.prefill_tokens_per_s
    return figures | {"idle_ttft_p95_s": idle}


@dataclass(frozen=True, eq=False, slots=True)
class _Log:
    """Requests on a world's own clock."""

    arrival_s: FloatArray
    prompt_tokens: FloatArray
    output_tokens: FloatArray


def _demand_per_request(requests: RequestTrace, demand: Indicator) -> float:
    """How much of the demand indicator one request of the trace brings on average; 0 if that has no meaning."""
    if demand.unit == "requests/s":
        return 1.0
    tokens = {
        "prompt_tokens_per_second": requests.prompt_tokens,
        "output_tokens_per_second": requests.output_tokens,
    }.get(demand.name)
    return 0.0 if tokens is None else float(tokens.mean())
