"""`Together`: one question to Prometheus for all services whose queries are of one family, once a tick.

Before the services of a tick are read, `begin` asks every feed which rows it wants and puts equal wants together;
each feed then takes its own part of the answers. What cannot be asked so is asked alone, and in the same words as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from controller.prometheus.answers import Answer, Series, as_one
from controller.prometheus.errors import PrometheusError, PrometheusUnreachable, QueryRefused, Slow
from controller.prometheus.families import Family, Member
from controller.prometheus.freshness import within

if TYPE_CHECKING:
    from controller.prometheus.client import Prometheus
    from controller.prometheus.feed import Feed

__all__ = ["Batch", "Portion", "Together", "Want"]

Key = tuple["Prometheus", Family, float, float, int]  # whom, what, grid, how old a sample may be shown, class of span

MOST_POINTS = 250_000  # of one answer, as far as that can be known before: about 6 MB of JSON
SPANS = (8, 40)  # rows: wants up to these are asked as one; longer ones with their like, as the past is read
PARTS = 16  # into how many a refused question is split
PATIENCE = 10  # ticks without a failure until a question that was made smaller grows again


@dataclass(frozen=True, slots=True)
class Want:
    """Rows ``first .. last`` of one column of a feed; samples may be shown for `shown_s`."""

    column: int
    first: int
    last: int
    shown_s: float

    @property
    def span(self) -> int:
        """A class of equal spans of time: wants of one class are asked as one."""
        rows = self.last - self.first + 1
        return next((i for i, most in enumerate(SPANS) if rows <= most), rows.bit_length() + len(SPANS))


class Portion:
    """What one feed takes from a batch."""

    __slots__ = ("_batch", "_member", "want")

    def __init__(self, batch: Batch, member: Member, want: Want) -> None:
        self._batch, self._member, self.want = batch, member, want

    async def answer(self) -> Answer | None:
        """What the feed's own query would have given; what Prometheus said of the whole it said of each part.

        None where it has to be asked alone. Raises the `PrometheusError` that the batch ended with.
        """
        await self._batch.done.wait()
        return self._batch.of(self._member, self.want.first)


class Batch:
    """One question for many: members of a family, rows that all of them want."""

    def __init__(
        self, prometheus: Prometheus, family: Family, step_s: float, wants: Mapping[Member, Want], size: _Size
    ) -> None:
        self._prometheus = prometheus
        self._family = family
        self._step_s = step_s
        self._wants = wants
        self._size = size
        self._first = min(want.first for want in wants.values())
        one = next(iter(wants.values()))
        self._last, self._shown_s = one.last, one.shown_s
        self._series: dict[Member, list[Series]] = {}
        self._alone: set[Member] = set()
        self._errors: dict[Member, PrometheusError] = {}
        self._said: dict[Member, Answer] = {}
        self._refused: set[str] = set()
        self._failed = False
        self.done = asyncio.Event()

    async def run(self) -> None:
        """Ask; afterwards everybody knows what became of it."""
        try:
            members = sorted(self._wants)  # by namespace first: parts of it are then questions about fewer namespaces
            await self._parts(members, min(self._size.most, len(members)))
            self._size.end(len(members), failed=self._failed)
        except BaseException:
            self._alone.update(self._wants)
            raise
        finally:
            self.done.set()

    def of(self, member: Member, first: int) -> Answer | None:
        """See `Portion.answer`."""
        if member in self._alone:
            return None
        error = self._errors.get(member)
        if error is not None:
            raise error
        found = self._series.get(member, [])
        if first > self._first:
            found = [part for part in (_since(s, (first - 0.5) * self._step_s) for s in found) if len(part)]
        said = self._said.get(member)
        return Answer(found) if said is None else Answer(found, said.warnings, said.infos)

    async def _parts(self, members: Sequence[Member], size: int) -> None:
        pieces = [members[lo : lo + size] for lo in range(0, len(members), size)]
        await asyncio.gather(*(self._answer(piece) for piece in pieces))

    async def _answer(self, members: Sequence[Member]) -> None:
        """Ask for some members; what refuses them is asked in smaller parts, and at last each member alone."""
        if len(members) == 1:
            self._alone.update(members)
            return
        try:
            await self._ask(members)
        except QueryRefused:
            await self._smaller(members)
        except PrometheusUnreachable as error:
            # A server that is not there is not there for one either; one that breaks on this question may be.
            if not error.transient and await self._answers_one(members[0]):
                await self._smaller(members)
            else:
                self._fail(members, error)
        except Slow as error:
            self._size.most = min(self._size.most, max(1, len(members) // PARTS))
            self._fail(members, error)
        except PrometheusError as error:
            self._fail(members, error)

    async def _smaller(self, members: Sequence[Member]) -> None:
        self._failed = True
        size = max(1, len(members) // PARTS)
        self._size.most = min(self._size.most, size)
        await self._parts(members, size)

    def _fail(self, members: Sequence[Member], error: PrometheusError) -> None:
        self._failed = True
        self._errors.update(dict.fromkeys(members, error))

    async def _answers_one(self, member: Member) -> bool:
        try:
            await self._range([member], self._last, self._last)
        except PrometheusError:
            return False
        return True

    async def _ask(self, members: Sequence[Member]) -> None:
        rows = self._last - self._first + 1
        most = max(1, min(rows, MOST_POINTS // len(members)))
        parts = [
            await self._range(members, first, min(first + most - 1, self._last))
            for first in range(self._first, self._last + 1, most)
        ]
        wanted, whole = set(members), as_one(parts)
        if whole.notes:
            self._said.update(dict.fromkeys(members, whole))
        for series in whole.series:
            member = self._family.member(series.labels)
            if member in wanted:
                self._series.setdefault(member, []).append(series)

    async def _range(self, members: Sequence[Member], first: int, last: int) -> Answer:
        promql = within(self._family.query(members), self._shown_s)
        if promql in self._refused:
            raise QueryRefused("it was refused a moment ago")  # fewer members, and yet the same words
        try:
            return await self._prometheus.answer(promql, first * self._step_s, last * self._step_s, self._step_s)
        except QueryRefused:
            self._refused.add(promql)
            raise


class _Size:
    """How many members one question about a family may have; smaller after a failure, and never for good."""

    __slots__ = ("_good", "most")

    def __init__(self) -> None:
        self.most = 2**31
        self._good = 0

    def end(self, members: int, *, failed: bool) -> None:
        """A tick's question is over."""
        self._good = 0 if failed else self._good + 1
        if self._good >= PATIENCE and self.most < members:
            self.most, self._good = 2 * self.most, 0


class Together:
    """Puts the questions of a tick together, for the feeds of any number of Prometheus servers."""

    def __init__(self) -> None:
        self._sizes: dict[Key, _Size] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, feeds: Iterable[Feed], now_s: float) -> None:
        """Begin to ask what the feeds have in common; each finds its portions when it is refreshed at ``now_s``."""
        groups: dict[Key, dict[Member, Want]] = {}
        takers: dict[Key, list[tuple[Feed, Member, Want]]] = {}
        for feed in feeds:
            feed.portions = {}
            for want in feed.wants(now_s):
                kin = feed.kin(want.column)
                assert kin is not None
                key = (feed.prometheus, kin.family, feed.history.step_s, want.shown_s, want.span)
                wants = groups.setdefault(key, {})
                known = wants.get(kin.member)
                if known is None or want.first < known.first:
                    wants[kin.member] = want
                takers.setdefault(key, []).append((feed, kin.member, want))
        for key, wants in groups.items():
            if len(wants) > 1:
                self._ask(key, wants, takers[key])
        self._sizes = {key: size for key, size in self._sizes.items() if key in groups}

    def _ask(self, key: Key, wants: Mapping[Member, Want], takers: Iterable[tuple[Feed, Member, Want]]) -> None:
        prometheus, family, step_s, _, _ = key
        batch = Batch(prometheus, family, step_s, wants, self._sizes.setdefault(key, _Size()))
        task = asyncio.ensure_future(batch.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        for feed, member, want in takers:
            feed.portions[want.column] = Portion(batch, member, want)


def _since(series: Series, from_s: float) -> Series:
    at = int(np.searchsorted(series.times_s, from_s))
    return Series(series.labels, series.times_s[at:], series.values[at:])
