"""The request-level world: a queue in front of replicas with token throughput, first-token and end-to-end latency.

How a replica works is told by `simulator.service_model`. In front of all replicas stands one queue, first come first
served: the oldest request takes a slot at the least full replica as soon as there is a free one. A replica that is
removed drains: it takes no new request and finishes those it has, while the caller already counts it as gone (the
newest goes first); one that is lost (its node was taken away) leaves its requests to the others, which begin them
again. Without replicas the queue grows. Requests that are unfinished when the world ends are reported as such, never
dropped.

What happens between two moments is worked out in `simulator.engine`, in a fixed order, so equal inputs give equal
outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from forecasting.errors import DataError, UsageError
from forecasting.panel import BoolArray, FloatArray, Indicator, IntArray
from simulator import engine
from simulator.service_model import Clients, RequestLog, ServiceModel, default_ttft_slo_s, work

if TYPE_CHECKING:
    from simulator.traces.request_trace import RequestTrace

__all__ = [
    "Clients",
    "RequestLog",
    "RequestOutcome",
    "RequestWorld",
    "ServiceModel",
    "StepView",
    "default_ttft_slo_s",
    "demand_per_request",
    "request_figures",
    "simulate_requests",
]


PLACES = 64  # replicas that there is room for at first


@dataclass(frozen=True, slots=True)
class StepView:
    """What could be seen of the world after one call of `RequestWorld.advance`.

    Attributes:
        queue_length: requests that wait for a slot at the end of the step.
        running: requests that hold a slot, draining replicas included.
        draining: removed replicas that still finish their requests.
        arrived, finished: requests during the step (arrived: those sent for the first time).
        retried, timed_out, gave_up: requests that were sent again, cancelled by their client, cancelled for good.
        tokens_in_flight, tokens_waiting: prompt and answer tokens of requests that hold a slot, and that wait for one.
        kv_usage: share of the ready replicas' key-value cache that is reserved; NaN where it has no limit.
        late_share: of requests that got their first token in the step, gave up, or wait longer than the bound at its
            end, the share that is beyond the bound; NaN for none.
    """

    queue_length: int
    running: int
    draining: int
    arrived: int
    finished: int
    retried: int = 0
    timed_out: int = 0
    gave_up: int = 0
    tokens_in_flight: float = 0.0
    tokens_waiting: float = 0.0
    kv_usage: float = math.nan
    late_share: float = math.nan


@dataclass(frozen=True, eq=False, slots=True)
class RequestOutcome:
    """What became of every request that arrived before the world ended; NaN is "not by then".

    Attributes:
        arrival_s, started_s, first_token_s, finished_s: (requests,) moments; `started_s` is the end of queueing.
        end_s: when the world ended.
        queue_length: (steps,) requests that waited at the end of each step.
        gave_up_s: (requests,) when the client left for good.
        attempts: (requests,) times that it was sent.
        answer_tokens: (requests,) tokens after the first one.
    """

    arrival_s: FloatArray
    started_s: FloatArray
    first_token_s: FloatArray
    finished_s: FloatArray
    end_s: float
    queue_length: IntArray
    gave_up_s: FloatArray
    attempts: IntArray
    answer_tokens: FloatArray

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

    @property
    def token_gap_s(self) -> FloatArray:
        """(requests,) mean seconds between tokens of a whole answer (inter-token latency); NaN for fewer than two."""
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = (self.finished_s - self.first_token_s) / self.answer_tokens
        return np.where(self.answer_tokens > 0, gap, np.nan)

    def late(self, ttft_slo_s: float) -> tuple[BoolArray, BoolArray]:
        """(requests,) whether the first token came after the bound or never will, and whether that is known yet."""
        left = ~np.isnan(self.gave_up_s)
        waited = np.where(np.isnan(self.first_token_s), self.end_s - self.arrival_s, self.ttft_s)
        late = (waited > ttft_slo_s) | (left & np.isnan(self.first_token_s))
        return late, late | ~np.isnan(self.first_token_s)

    def summary(self, *, ttft_slo_s: float = 2.0, from_s: float = -math.inf) -> dict[str, float]:
        """Latency figures of the requests that arrived at ``from_s`` or later.

        A request still under way, or given up, counts with the time it has waited so far (until it was given up), so
        that a growing queue cannot hide. It exceeds the bound once it has waited longer than that for its first
        token, or is given up; before, it counts neither way. Inter-token figures are of complete answers. Without
        requests only the two counts are given; what clients did who lost patience only where somebody did.
        """
        chosen = self.arrival_s >= from_s
        n = int(chosen.sum())
        left = ~np.isnan(self.gave_up_s)
        out = {"requests": float(n), "unfinished": float((np.isnan(self.finished_s) & ~left)[chosen].sum())}
        if n == 0:
            return out
        if (self.attempts > 1).any() or left.any():
            out |= {"gave_up": float(left[chosen].sum()), "retries": float((self.attempts[chosen] - 1).sum())}
        so_far = np.where(left, self.gave_up_s, self.end_s) - self.arrival_s
        late, known = (each[chosen] for each in self.late(ttft_slo_s))
        out["ttft_slo_s"] = ttft_slo_s
        out["slo_miss_rate"] = float(late.sum() / known.sum()) if known.any() else 0.0
        out["slo_attainment"] = 1.0 - out["slo_miss_rate"]
        for name, values, levels in (
            ("ttft", self.ttft_s, (50, 95, 99)),
            ("e2e", self.e2e_s, (50, 95, 99)),
            ("queue_wait", self.queue_wait_s, (95,)),
        ):
            bounded = np.where(np.isnan(values), so_far, values)[chosen]
            for level in levels:
                out[f"{name}_p{level}_s"] = float(np.percentile(bounded, level))
        gaps = self.token_gap_s[chosen]
        gaps = gaps[~np.isnan(gaps)]
        for level in (50, 95, 99):
            if gaps.size:
                out[f"itl_p{level}_s"] = float(np.percentile(gaps, level))
        return out


class RequestWorld:
    """Requests of a trace meeting a number of ready replicas that changes from step to step.

    Call `advance` step by step, so that a loop can look in between; `outcome` says what became of the requests.
    ``model`` is one kind of replica, or several: then counts are given a kind. ``ttft_slo_s`` is the bound that
    `StepView` counts by.

    Raises `DataError` for requests that are not in order of arrival or come before ``start_s``.
    """

    def __init__(
        self,
        requests: RequestLog,
        model: ServiceModel | Sequence[ServiceModel],
        start_s: float,
        *,
        clients: Clients | None = None,
        ttft_slo_s: float = 2.0,
    ) -> None:
        prompt, decode = work(requests)
        arrival = np.asarray(requests.arrival_s, dtype=np.float64)
        if not np.isfinite(arrival).all() or (np.diff(arrival) < 0).any():
            raise DataError("requests: arrival times must be finite and ascending")
        if arrival[0] < start_s:
            raise DataError(f"requests: the first arrives at {arrival[0]} s, before the world starts at {start_s} s")
        self.models = (model,) if isinstance(model, ServiceModel) else tuple(model)
        self.now_s = start_s
        self._columns = _columns(arrival, prompt, decode, self.models, clients or Clients(), ttft_slo_s)
        self._ready: list[list[int]] = [[] for _ in self.models]  # places of ready replicas by kind, oldest first
        self._gone: list[int] = []  # places of retired replicas
        self._queue_length: list[int] = []

    def advance(self, to_s: float, ready: int | Sequence[int], lost: int | Sequence[int] = 0) -> StepView:
        """Let time pass up to ``to_s`` with ``ready`` replicas from now on; what happens at ``to_s`` is left over.

        ``lost`` of those that were ready go at once and their requests begin again elsewhere (the oldest replicas);
        further ones that are too many drain (the newest). Both are given a kind where there are several. Raises
        `UsageError` for a time that runs backwards or a negative number of replicas.
        """
        if not to_s >= self.now_s or math.isinf(to_s):
            raise UsageError(f"advance to {to_s} s: the world is at {self.now_s} s already")
        wanted = [ready] if isinstance(ready, int) else list(ready)
        losses = [lost] * len(wanted) if isinstance(lost, int) else list(lost)
        if len(wanted) != len(self.models) or len(losses) != len(wanted):
            raise UsageError(f"{len(wanted)} counts of ready replicas for {len(self.models)} kinds")
        if min(wanted) < 0 or min(losses) < 0:
            raise UsageError(f"{min(wanted + losses)} ready replicas: expected 0 or more")
        before = self._counts()
        for kind, (count, gone) in enumerate(zip(wanted, losses, strict=True)):
            self._resize(kind, count, gone)
        engine.hand_out(self._columns, self.now_s, engine.ALL)
        engine.run(self._columns, to_s)
        self.now_s = to_s
        after = self._counts()
        self._queue_length.append(after[engine.QUEUE])
        return self._view(before, after)

    def outcome(self) -> RequestOutcome:
        """What became of every request so far."""
        c = self._columns
        n = int(c.count[engine.ARRIVED])
        finished, state = np.array(c.finished[:n], dtype=np.float64), np.array(c.state[:n], dtype=np.int64)
        gone = state == engine.GONE
        return RequestOutcome(
            arrival_s=np.array(c.arrival[:n], dtype=np.float64),
            started_s=np.array(c.started[:n], dtype=np.float64),
            first_token_s=np.array(c.first_token[:n], dtype=np.float64),
            finished_s=np.where(gone, np.nan, finished),
            end_s=self.now_s,
            queue_length=np.array(self._queue_length, dtype=np.int64),
            gave_up_s=np.where(gone, finished, np.nan),
            attempts=np.array(c.attempt[:n], dtype=np.int64) + 1,
            answer_tokens=np.array(c.decode[:n], dtype=np.float64),
        )

    def _counts(self) -> list[int]:
        return [int(v) for v in self._columns.count]

    def _view(self, before: Sequence[int], after: Sequence[int]) -> StepView:
        """What changed between two moments."""
        figure = self._columns.figure
        memory = sum(m.kv_tokens * len(places) for m, places in zip(self.models, self._ready, strict=True))
        firsts, late, gave_up = (
            after[i] - before[i] for i in (engine.FIRSTS, engine.LATE, engine.GAVE_UP)
        )  # fmt: skip
        settled = firsts + gave_up + after[engine.OVERDUE]
        bounded = math.isfinite(memory) and memory > 0
        return StepView(
            queue_length=after[engine.QUEUE],
            running=after[engine.RUNNING],
            draining=after[engine.DRAINING],
            arrived=after[engine.ARRIVED] - before[engine.ARRIVED],
            finished=after[engine.FINISHED] - before[engine.FINISHED],
            retried=after[engine.RETRIES] - before[engine.RETRIES],
            timed_out=after[engine.TIMEOUTS] - before[engine.TIMEOUTS],
            gave_up=gave_up,
            tokens_in_flight=float(figure[engine.KV_USED]),
            tokens_waiting=float(figure[engine.KV_WAITING]),
            kv_usage=float(figure[engine.KV_USED]) / memory if bounded else math.nan,
            late_share=(late + gave_up + after[engine.OVERDUE]) / settled if settled else math.nan,
        )

    def _resize(self, kind: int, wanted: int, lost: int) -> None:
        """Lose the oldest replicas of ``kind``, add idle ones, or let the newest drain."""
        c, ready = self._columns, self._ready[kind]
        for _ in range(min(lost, len(ready))):
            place = ready.pop(0)
            engine.lose_replica(c, place)
            self._gone.append(place)
        while len(ready) > wanted:
            place = ready.pop()
            engine.retire_replica(c, place)
            self._gone.append(place)
        while len(ready) < wanted:
            place = self._free_place()
            engine.add_replica(self._columns, place, kind)
            ready.append(place)

    def _free_place(self) -> int:
        """Where a new replica can stand: a place whose replica has drained, or a new one."""
        c = self._columns
        for i, place in enumerate(self._gone):
            if c.running[place] == 0:
                return self._gone.pop(i)
        used = sum(len(r) for r in self._ready) + len(self._gone)
        if used == len(c.due):
            self._columns = _grown(c)
        return used


def _list(values: npt.NDArray[Any]) -> Any:  # noqa: ANN401 - a column
    """A column: an array where loops are compiled, a list where they are not (which then is the faster one)."""
    return values if engine.COMPILED else values.tolist()


def _columns(
    arrival: FloatArray,
    prompt: FloatArray,
    decode: FloatArray,
    models: Sequence[ServiceModel],
    clients: Clients,
    ttft_slo_s: float,
) -> engine.Columns:
    """The state before anything has happened, without replicas."""
    n, slots = arrival.size, max(m.max_concurrency for m in models)
    token_s = [[m.token_s(i) if i else 0.0 for i in range(slots + 1)] for m in models]
    count, figure = np.zeros(engine.COUNTS, dtype=np.int64), np.zeros(engine.FIGURES)
    count[[engine.QUEUE_HEAD, engine.QUEUE_TAIL, engine.DUE_HEAD, engine.DUE_TAIL, engine.STUCK]] = -1
    count[engine.KV_BOUND] = any(math.isfinite(m.kv_tokens) for m in models)
    figure[[engine.BOUND_S, engine.PATIENCE_S, engine.BACKOFF_S]] = ttft_slo_s, clients.timeout_s, clients.backoff_s

    def floats(fill: float) -> Any:  # noqa: ANN401
        return _list(np.full(n, fill))

    def ints(fill: int) -> Any:  # noqa: ANN401
        return _list(np.full(n, fill, dtype=np.int32))

    return engine.Columns(
        arrival=_list(arrival.copy()), prompt=_list(prompt.copy()), decode=_list(decode.copy()),
        kv=_list(prompt + decode + 1.0), started=floats(math.nan), first_token=floats(math.nan),
        finished=floats(math.nan), sent=floats(math.nan), attempt=ints(0), state=ints(engine.ABSENT), where=ints(-1),
        pred=ints(-1), succ=ints(-1), later=ints(-1), **_places(PLACES, slots),
        prefill=_list(np.array([m.prefill_tokens_per_s for m in models], dtype=np.float64)),
        slots=_list(np.array([m.max_concurrency for m in models], dtype=np.int64)),
        kv_limit=_list(np.array([m.kv_tokens for m in models], dtype=np.float64)),
        token_s=_list(np.array(token_s, dtype=np.float64).ravel()),
        back_head=_list(np.full(clients.retries, -1, dtype=np.int64)),
        back_tail=_list(np.full(clients.retries, -1, dtype=np.int64)),
        count=_list(count), figure=_list(figure), width=_list(np.array([slots, PLACES], dtype=np.int64)),
    )  # fmt: skip


def _places(places: int, slots: int) -> dict[str, Any]:
    """Columns of ``places`` (a power of two) replicas that are not there; all trees point at the first."""
    whole: dict[str, tuple[int, float | int]] = {
        "kind": (places, 0), "accepting": (places, 0), "running": (places, 0), "kv_used": (places, 0.0),
        "reading": (places, 0), "decoding": (places, 0), "tokens": (places, 0.0), "since": (places, 0.0),
        "head": (places, -1), "tail": (places, -1), "due": (places, math.inf), "load": (places, math.inf),
        "heap_key": (places * slots, 0.0), "heap_request": (places * slots, -1),
    }  # fmt: skip
    out = {name: _list(np.full(size, fill)) for name, (size, fill) in whole.items()}
    for name in ("due_tree", "load_tree"):
        tree = np.zeros(2 * places, dtype=np.int64)
        tree[places:] = np.arange(places)
        for node in range(places - 1, 0, -1):
            tree[node] = tree[2 * node]
        out[name] = _list(tree)
    return out


def _grown(c: engine.Columns) -> engine.Columns:
    """The same state with twice as many places for replicas."""
    places, slots = len(c.due), int(c.width[0])
    more = _places(2 * places, slots)
    for name, column in more.items():
        if not name.endswith("_tree"):
            old = getattr(c, name)
            column[: len(old)] = old
    for tree, by in (("due_tree", more["due"]), ("load_tree", more["load"])):
        for node in range(2 * places - 1, 0, -1):
            a, b = more[tree][2 * node], more[tree][2 * node + 1]
            more[tree][node] = b if by[b] < by[a] else a
    return c._replace(**more, width=_list(np.array([slots, 2 * places], dtype=np.int64)))


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
    per_request = demand_per_request(requests, demand)
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


def demand_per_request(requests: RequestTrace, demand: Indicator) -> float:
    """How much of the demand indicator one request of the trace brings on average; 0 if that has no meaning."""
    if demand.unit == "requests/s":
        return 1.0
    tokens = {
        "prompt_tokens_per_second": requests.prompt_tokens,
        "output_tokens_per_second": requests.output_tokens,
    }.get(demand.name)
    return 0.0 if tokens is None else float(tokens.mean())
