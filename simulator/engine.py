"""The event loop of the request-level world: what replicas, queue and clients do between two moments.

Plain loops over flat columns (`Columns`). With numba (the extra `fast`) they are compiled and handle more than two
million requests/s on one core; without it the same code runs as Python does, with lists for columns, some thirty times
slower. Both give the same moments, bit for bit.

Everything that happens at one and the same moment happens in a fixed order: replicas first (the lowest number first),
then clients who lose patience, those who come back, and new arrivals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

try:
    import numba
    from numba.core.options import DefaultOptions
except ImportError:  # the extra is not installed: the loops run uncompiled
    numba = None

__all__ = ["COMPILED", "Columns", "add_replica", "hand_out", "lose_replica", "retire_replica", "run"]

COMPILED = numba is not None
# Counting references to some forty columns at every call takes ten times as long as what is done with them. Nothing
# here makes an array, and the caller keeps all of them.
UNCOUNTED: dict[str, Any] = {"_nrt": False} if COMPILED and hasattr(DefaultOptions, "_nrt") else {}
F = TypeVar("F", bound=Callable[..., Any])

# What a request does: it is not there yet, waits for a slot, for its prompt's turn, has it read, is answered; or is
# done, gave up, or waits to be sent again.
ABSENT, QUEUED, WAITING, READING, ANSWERED, DONE, GONE, AWAY = range(8)

# Places in `Columns.count`.
(ARRIVED, QUEUE_HEAD, QUEUE_TAIL, QUEUE, RUNNING, FINISHED, GAVE_UP, DRAINING, FIRSTS, LATE, TIMEOUTS, RETRIES,
 DUE_HEAD, DUE_TAIL, AGED, OVERDUE, KV_BOUND, STUCK, COUNTS) = range(19)  # fmt: skip
KV_USED, KV_WAITING, BOUND_S, PATIENCE_S, BACKOFF_S, FIGURES = range(6)  # places in `Columns.figure`
ALL, NONE = -2, -1  # which replicas may have room that they had not before: any, none (else the number of one)


class Columns(NamedTuple):
    """The whole state: one flat column a quantity, of requests, of replicas (r), of slots (r x slots), of kinds (k).

    Arrays when compiled, lists otherwise; `due_tree` and `load_tree` are tournament trees: node 1 holds the replica
    with the smallest `due` (`load`).
    """

    arrival: Any  # requests ...
    prompt: Any
    decode: Any
    kv: Any
    started: Any
    first_token: Any
    finished: Any
    sent: Any
    attempt: Any
    state: Any
    where: Any
    pred: Any
    succ: Any
    later: Any
    kind: Any  # replicas ...
    accepting: Any
    running: Any
    kv_used: Any
    reading: Any
    decoding: Any
    tokens: Any
    since: Any
    head: Any
    tail: Any
    due: Any
    load: Any
    due_tree: Any
    load_tree: Any
    heap_key: Any  # slots ...
    heap_request: Any
    prefill: Any  # kinds ...
    slots: Any
    kv_limit: Any
    token_s: Any
    back_head: Any  # attempts ...
    back_tail: Any
    count: Any
    figure: Any
    width: Any  # [slots of a replica at most, leaves of the trees]


def compiled(function: F) -> F:
    """``function`` compiled where numba is installed; kept on disk where that can be written to."""
    if numba is None:
        return function
    try:
        made: F = numba.njit(cache=True, **UNCOUNTED)(function)
    except RuntimeError:  # no folder for the cache
        made = numba.njit(**UNCOUNTED)(function)
    return made


# ---- smallest of many ------------------------------------------------------------------------------------------
@compiled
def _climb(tree: Any, values: Any, leaves: int, r: int) -> None:  # noqa: ANN401 - columns
    """Put replica ``r`` in its place in a tournament tree after its value changed."""
    node = (leaves + r) >> 1
    while node >= 1:
        a, b = tree[2 * node], tree[2 * node + 1]
        tree[node] = b if values[b] < values[a] else a
        node >>= 1


@compiled
def _push(c: Columns, r: int, key: float, request: int) -> None:
    """A request is answered until `tokens` reaches ``key``."""
    base, i = r * c.width[0], c.decoding[r]
    c.decoding[r] = i + 1
    while i > 0:
        up = (i - 1) >> 1
        if c.heap_key[base + up] < key or (c.heap_key[base + up] == key and c.heap_request[base + up] < request):
            break
        c.heap_key[base + i] = c.heap_key[base + up]
        c.heap_request[base + i] = c.heap_request[base + up]
        i = up
    c.heap_key[base + i] = key
    c.heap_request[base + i] = request


@compiled
def _pop(c: Columns, r: int) -> int:
    """Take out the request of replica ``r`` that is done first."""
    base = r * c.width[0]
    request = c.heap_request[base]
    n = c.decoding[r] - 1
    c.decoding[r] = n
    key, last = c.heap_key[base + n], c.heap_request[base + n]
    i = 0
    while True:
        j = 2 * i + 1
        if j >= n:
            break
        if j + 1 < n:
            a, b = c.heap_key[base + j], c.heap_key[base + j + 1]
            if b < a or (b == a and c.heap_request[base + j + 1] < c.heap_request[base + j]):
                j += 1
        if key < c.heap_key[base + j] or (key == c.heap_key[base + j] and last < c.heap_request[base + j]):
            break
        c.heap_key[base + i] = c.heap_key[base + j]
        c.heap_request[base + i] = c.heap_request[base + j]
        i = j
    c.heap_key[base + i] = key
    c.heap_request[base + i] = last
    return int(request)


# ---- queues ----------------------------------------------------------------------------------------------------
@compiled
def _enqueue(c: Columns, q: int, front: bool) -> None:
    """Request ``q`` waits for a slot: behind all others, or (its replica was lost) before them."""
    c.state[q] = QUEUED
    c.where[q] = -1
    c.count[QUEUE] += 1
    c.figure[KV_WAITING] += c.kv[q]
    head, tail = c.count[QUEUE_HEAD], c.count[QUEUE_TAIL]
    if head < 0:
        c.pred[q] = c.succ[q] = -1
        c.count[QUEUE_HEAD] = c.count[QUEUE_TAIL] = q
    elif front:
        c.pred[q], c.succ[q] = -1, head
        c.pred[head] = q
        c.count[QUEUE_HEAD] = q
    else:
        c.pred[q], c.succ[q] = tail, -1
        c.succ[tail] = q
        c.count[QUEUE_TAIL] = q


@compiled
def _dequeue(c: Columns, q: int) -> None:
    """Request ``q`` leaves the queue."""
    before, after = c.pred[q], c.succ[q]
    if before < 0:
        c.count[QUEUE_HEAD] = after
    else:
        c.succ[before] = after
    if after < 0:
        c.count[QUEUE_TAIL] = before
    else:
        c.pred[after] = before
    c.count[QUEUE] -= 1
    c.figure[KV_WAITING] -= c.kv[q]
    if c.count[STUCK] == q:
        c.count[STUCK] = -1


@compiled
def _add_prompt(c: Columns, r: int, q: int) -> None:
    """The prompt of ``q`` is read at replica ``r`` after those before it."""
    tail = c.tail[r]
    c.pred[q], c.succ[q] = tail, -1
    if tail < 0:
        c.head[r] = q
    else:
        c.succ[tail] = q
    c.tail[r] = q


@compiled
def _drop_prompt(c: Columns, r: int, q: int) -> None:
    """The prompt of ``q`` is read, or need not be."""
    before, after = c.pred[q], c.succ[q]
    if before < 0:
        c.head[r] = after
    else:
        c.succ[before] = after
    if after < 0:
        c.tail[r] = before
    else:
        c.pred[after] = before


# ---- replicas --------------------------------------------------------------------------------------------------
@compiled
def _weigh(c: Columns, r: int) -> None:
    """How full replica ``r`` is: what is shorter of slots and memory decides; without end when it takes none."""
    k = c.kind[r]
    load = c.running[r] / c.slots[k]
    full = c.kv_used[r] / c.kv_limit[k]
    if full > load:
        load = full
    if not c.accepting[r] or c.running[r] >= c.slots[k]:
        load = math.inf
    c.load[r] = load
    _climb(c.load_tree, c.load, c.width[1], r)


@compiled
def _resume(c: Columns, r: int, now: float) -> None:
    """When replica ``r`` has its next event: the next prompt is read, else the next answer is complete."""
    c.since[r] = now
    k = c.kind[r]
    q = c.head[r]
    if q >= 0:
        c.reading[r] = 1
        c.state[q] = READING
        c.due[r] = now + c.prompt[q] / c.prefill[k]
    elif c.decoding[r] > 0:
        rest = c.heap_key[r * c.width[0]] - c.tokens[r]
        c.due[r] = now + (rest if rest > 0.0 else 0.0) * c.token_s[k * (c.width[0] + 1) + c.decoding[r]]
    else:
        c.tokens[r] = 0.0
        c.due[r] = math.inf
    _climb(c.due_tree, c.due, c.width[1], r)


@compiled
def _settle(c: Columns, r: int, now: float) -> None:
    """Count the tokens that replica ``r`` has written until now."""
    n = c.decoding[r]
    if n > 0 and not c.reading[r]:
        c.tokens[r] += (now - c.since[r]) / c.token_s[c.kind[r] * (c.width[0] + 1) + n]
    c.since[r] = now


@compiled
def _least_full(load: Any, running: Any, kv_used: Any, kind: Any, kv_limit: Any, need: float) -> int:  # noqa: ANN401
    """The least full replica whose cache has room for ``need`` tokens (an empty one takes anything); -1 for none."""
    best = -1
    for r in range(len(load)):
        if load[r] < math.inf and (best < 0 or load[r] < load[best]):  # noqa: SIM102 - the cheap test first
            if running[r] == 0 or kv_used[r] + need <= kv_limit[kind[r]]:
                best = r
    return best


@compiled
def _fits(c: Columns, r: int, q: int) -> bool:
    """Whether the cache of replica ``r`` has room for request ``q``."""
    return bool(not c.count[KV_BOUND] or c.running[r] == 0 or c.kv_used[r] + c.kv[q] <= c.kv_limit[c.kind[r]])


@compiled
def _place_for(c: Columns, q: int, freed: int) -> int:
    """The least full replica that can take request ``q``; -1 for none.

    One that found no place before need only be tried where there is room since: ``freed``.
    """
    if c.count[STUCK] == q and freed != ALL:
        return freed if freed >= 0 and c.load[freed] < math.inf and _fits(c, freed, q) else -1
    r = c.load_tree[1]
    if c.load[r] < math.inf:
        if _fits(c, r, q):
            return int(r)
        r = _least_full(c.load, c.running, c.kv_used, c.kind, c.kv_limit, c.kv[q])
        if r >= 0:
            return int(r)
    c.count[STUCK] = q
    return -1


@compiled
def hand_out(c: Columns, now: float, freed: int) -> None:
    """Give the oldest waiting requests to the least full replicas, as long as the oldest fits somewhere.

    ``freed``: which replica may have room that it had not at the last call (`ALL`, `NONE`).
    """
    while c.count[QUEUE_HEAD] >= 0:
        q = c.count[QUEUE_HEAD]
        r = _place_for(c, q, freed)
        if r < 0:
            return
        _dequeue(c, q)
        c.started[q] = now
        c.state[q] = WAITING
        c.where[q] = r
        c.running[r] += 1
        c.kv_used[r] += c.kv[q]
        c.count[RUNNING] += 1
        c.figure[KV_USED] += c.kv[q]
        _weigh(c, r)
        _add_prompt(c, r, q)
        if not c.reading[r]:
            _settle(c, r, now)
            _resume(c, r, now)


@compiled
def _release(c: Columns, r: int, q: int) -> None:
    """Request ``q`` gives its slot and memory at replica ``r`` back."""
    c.running[r] -= 1
    c.kv_used[r] = c.kv_used[r] - c.kv[q] if c.running[r] else 0.0
    c.count[RUNNING] -= 1
    c.figure[KV_USED] = c.figure[KV_USED] - c.kv[q] if c.count[RUNNING] else 0.0
    if not c.accepting[r] and c.running[r] == 0:
        c.count[DRAINING] -= 1
    _weigh(c, r)


@compiled
def _finish(c: Columns, r: int, q: int, now: float) -> None:
    """Request ``q`` is answered whole."""
    c.finished[q] = now
    c.state[q] = DONE
    c.count[FINISHED] += 1
    _release(c, r, q)


@compiled
def _happen(c: Columns, r: int, now: float) -> None:
    """The event that replica ``r`` is due for."""
    if c.reading[r]:
        q = c.head[r]
        _drop_prompt(c, r, q)
        c.reading[r] = 0
        c.since[r] = now
        if math.isnan(c.first_token[q]):
            c.first_token[q] = now
            c.count[FIRSTS] += 1
            c.count[LATE] += now - c.arrival[q] > c.figure[BOUND_S]
            c.count[OVERDUE] -= q < c.count[AGED]
        if c.decode[q] > 0:
            c.state[q] = ANSWERED
            _push(c, r, c.tokens[r] + c.decode[q], q)
        else:
            _finish(c, r, q, now)
    else:
        c.tokens[r] = c.heap_key[r * c.width[0]]
        c.since[r] = now
        _finish(c, r, _pop(c, r), now)
    hand_out(c, now, r)
    if not c.reading[r]:
        _resume(c, r, now)


# ---- clients ---------------------------------------------------------------------------------------------------
@compiled
def _send(c: Columns, q: int, now: float) -> None:
    """Request ``q`` is sent, for the first time or again, and its client begins to lose patience."""
    c.sent[q] = now
    _enqueue(c, q, False)
    if c.figure[PATIENCE_S] < math.inf:
        c.later[q] = -1
        if c.count[DUE_HEAD] < 0:
            c.count[DUE_HEAD] = q
        else:
            c.later[c.count[DUE_TAIL]] = q
        c.count[DUE_TAIL] = q
    hand_out(c, now, NONE)


@compiled
def _give_up(c: Columns, now: float) -> None:
    """The client who waits longest for a first token cancels: it sends again after a while, or leaves."""
    q = c.count[DUE_HEAD]
    c.count[DUE_HEAD] = c.later[q]
    if not math.isnan(c.first_token[q]):
        return
    c.count[TIMEOUTS] += 1
    state, r = c.state[q], c.where[q]
    if state == QUEUED:
        _dequeue(c, q)
    else:
        _drop_prompt(c, r, q)
        if state == READING:  # nothing was written meanwhile
            c.reading[r] = 0
            c.since[r] = now
        _release(c, r, q)
    c.started[q] = math.nan
    a = c.attempt[q]
    if a < len(c.back_head):
        c.attempt[q] = a + 1
        c.state[q] = AWAY
        c.later[q] = -1
        if c.back_head[a] < 0:
            c.back_head[a] = q
        else:
            c.later[c.back_tail[a]] = q
        c.back_tail[a] = q
        c.sent[q] = now
    else:
        c.state[q] = GONE
        c.finished[q] = now
        c.count[GAVE_UP] += 1
        c.count[OVERDUE] -= q < c.count[AGED]
    hand_out(c, now, r)
    if state == READING and not c.reading[r]:
        _resume(c, r, now)


@compiled
def _coming_back(c: Columns) -> tuple[float, int]:
    """When the next client sends again, and for which time; clients wait twice as long after each attempt."""
    when, which = math.inf, 0
    wait = c.figure[BACKOFF_S]
    for a in range(len(c.back_head)):
        q = c.back_head[a]
        if q >= 0 and c.sent[q] + wait < when:
            when, which = c.sent[q] + wait, a
        wait *= 2.0
    return when, which


@compiled
def _patience_ends(c: Columns) -> float:
    """When the next client loses patience; clients who have their first token are forgotten."""
    while c.count[DUE_HEAD] >= 0:
        q = c.count[DUE_HEAD]
        if math.isnan(c.first_token[q]):
            return float(c.sent[q] + c.figure[PATIENCE_S])
        c.count[DUE_HEAD] = c.later[q]
    return math.inf


@compiled
def run(c: Columns, to_s: float) -> None:
    """Let everything happen that happens before ``to_s``."""
    n = len(c.arrival)
    impatient = c.figure[PATIENCE_S] < math.inf
    while True:
        r = c.due_tree[1]
        now = c.due[r]
        what = 0
        if impatient:
            when = _patience_ends(c)
            if when < now:
                now, what = when, 1
            when, which = _coming_back(c)
            if when < now:
                now, what = when, 2
        else:
            which = 0
        coming = c.arrival[c.count[ARRIVED]] if c.count[ARRIVED] < n else math.inf
        if coming < now:
            now, what = coming, 3
        if not now < to_s:
            break
        if what == 0:
            _happen(c, r, now)
        elif what == 1:
            _give_up(c, now)
        elif what == 2:
            q = c.back_head[which]
            c.back_head[which] = c.later[q]
            c.count[RETRIES] += 1
            _send(c, q, now)
        else:
            q = c.count[ARRIVED]
            c.count[ARRIVED] = q + 1
            _send(c, q, now)
    # Who came longer ago than the bound and has no first token yet is overdue.
    while c.count[AGED] < c.count[ARRIVED] and to_s - c.arrival[c.count[AGED]] > c.figure[BOUND_S]:
        q = c.count[AGED]
        c.count[OVERDUE] += math.isnan(c.first_token[q]) and c.state[q] != GONE
        c.count[AGED] = q + 1


# ---- replicas come and go --------------------------------------------------------------------------------------
@compiled
def add_replica(c: Columns, r: int, kind: int) -> None:
    """An idle replica of ``kind`` takes place ``r``."""
    c.kind[r] = kind
    c.accepting[r] = 1
    c.running[r] = c.reading[r] = c.decoding[r] = 0
    c.kv_used[r] = c.tokens[r] = 0.0
    c.head[r] = c.tail[r] = -1
    c.due[r] = math.inf
    _climb(c.due_tree, c.due, c.width[1], r)
    _weigh(c, r)


@compiled
def retire_replica(c: Columns, r: int) -> None:
    """Replica ``r`` takes no new request and finishes those it has."""
    c.accepting[r] = 0
    c.count[DRAINING] += c.running[r] > 0
    _weigh(c, r)


@compiled
def lose_replica(c: Columns, r: int) -> None:
    """Replica ``r`` is gone at once; its requests go back before all that wait, in their order, and begin again."""
    base, n = r * c.width[0], c.decoding[r]
    c.accepting[r] = 0
    while c.tail[r] >= 0:  # prompts are newer than answers
        q = c.tail[r]
        _drop_prompt(c, r, q)
        c.count[RUNNING] -= 1
        c.figure[KV_USED] -= c.kv[q]
        _enqueue(c, q, True)
    for i in range(1, n):  # answers, in order of arrival: insertion sort of the heap's requests
        q, j = c.heap_request[base + i], i - 1
        while j >= 0 and c.heap_request[base + j] > q:
            c.heap_request[base + j + 1] = c.heap_request[base + j]
            j -= 1
        c.heap_request[base + j + 1] = q
    for i in range(n - 1, -1, -1):
        q = c.heap_request[base + i]
        c.count[RUNNING] -= 1
        c.figure[KV_USED] -= c.kv[q]
        _enqueue(c, q, True)
    if c.count[RUNNING] == 0:
        c.figure[KV_USED] = 0.0
    c.running[r] = c.reading[r] = c.decoding[r] = 0
    c.kv_used[r] = 0.0
    c.due[r] = math.inf
    _climb(c.due_tree, c.due, c.width[1], r)
    _weigh(c, r)
