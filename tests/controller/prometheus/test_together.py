"""Asked together is asked alone: a law on random series of a real Prometheus; and what refusals change (nothing)."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import controller.prometheus.together as module
from controller.prometheus.client import Prometheus
from controller.prometheus.families import OWNER
from controller.prometheus.feed import Feed, FeedReason, FeedState
from controller.prometheus.history import History
from controller.prometheus.together import Together
from controller.resource.presets import PRESETS, Preset
from controller.resource.presets.base import Apart, default_apart, default_matchers, given_apart
from controller.resource.settings import IndicatorQuery
from tests.prom.proxy import Fault, FaultyProxy
from tests.prom.real import RealPrometheus, need_prometheus, openmetrics

pytestmark = pytest.mark.prometheus

END = 1_760_000_040.0 // 60 * 60
ROWS = 60
HASHES = ("7d9f6c5b8", "x2k4q", "zz9tw", "bcdfg")
SERVICES = [
    (namespace, kind, name)
    for namespace in ("red", "blue")
    for kind, name in (
        ("Deployment", "chat"),
        ("Deployment", "chat-embed"),
        ("Deployment", "v1.2"),
        ("StatefulSet", "llama"),
        ("StatefulSet", "llama-1"),
        ("LeaderWorkerSet", "qwen"),
        ("LeaderWorkerSet", "qwen-1"),
        ("LeaderWorkerSet", "gone"),
        ("Rollout", "odd"),
    )
]


def pods_of(kind: str, name: str, rng: random.Random) -> list[str]:
    if name == "gone":
        return []
    if kind == "Deployment":
        return [f"{name}-{HASHES[0]}-{rng.choice('bcdf')}{tail[1:]}" for tail in HASHES[1:]]
    if kind == "LeaderWorkerSet":
        return [f"{name}-0", f"{name}-0-1", f"{name}-1", f"{name}-1-2"]
    return [f"{name}-{i}" for i in range(3)]


def random_series(rng: random.Random) -> Iterator[tuple[str, float, str]]:
    """Every metric that a preset reads, of every pod: some miss, some end, begin late, restart, or are no number."""
    metrics = sorted(
        {
            found
            for p in PRESETS.values()
            for t in p.templates
            for found in re.findall(r"([\w:]+)\{<m.*?\}(\[?)", t.promql)
        }
    )
    for namespace, kind, name in SERVICES:
        for pod in dict.fromkeys(pods_of(kind, name, rng)):
            labels = f'namespace="{namespace}",pod="{pod}",exported_namespace="{namespace}",exported_pod="{pod}"'
            for metric, counts in metrics:
                if rng.random() < 0.15:
                    continue
                for le in ("0.5", "1", "+Inf") if metric.endswith("_bucket") else ("",):
                    series = f"{metric}{{{labels}{le and f',le={chr(34)}{le}{chr(34)}'}}}"
                    first, last = rng.choice([(0, ROWS)] * 6 + [(0, 40), (30, ROWS), (57, ROWS)])
                    level, growth = rng.uniform(0, 50), rng.uniform(1, 9)
                    restart = rng.choice([ROWS, ROWS, 45, 58])
                    hole = rng.choice([-1, -1, 20, 57])
                    for row in range(first, last):
                        if hole <= row < hole + 3 and hole > 0:
                            continue
                        value = growth * (row - restart if row >= restart else row) if counts else level + row % 7
                        shown = "NaN" if not counts and rng.random() < 0.01 else f"{value:.4f}"
                        yield series, END - 60.0 * (ROWS - 1 - row), shown


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPrometheus]:
    need_prometheus()
    made = RealPrometheus(tmp_path_factory.mktemp("together"))
    made.load(openmetrics(random_series(random.Random(7))))
    with made:
        yield made


def queries(preset: Preset, matchers: str, apart: Apart | None) -> list[IndicatorQuery]:
    first, *rest = [IndicatorQuery(t.indicator, t.fill(matchers), t.kin(apart)) for t in preset.templates]
    return [replace(first, reporting=preset.counted(matchers, apart)), *rest]


def by_default(preset: Preset, service: tuple[str, str, str]) -> list[IndicatorQuery]:
    return queries(preset, default_matchers(preset, *service), default_apart(preset, *service))


def by_hand(preset: Preset, matchers: str) -> list[IndicatorQuery]:
    return queries(preset, matchers, given_apart(matchers))


def feed(client: Prometheus, wanted: Sequence[IndicatorQuery], lookback: int = 40) -> Feed:
    made = Feed(client, wanted, History([q.indicator for q in wanted], 60.0, lookback))
    made.reads_past = False
    return made


async def refreshed(together: Together, feeds: Sequence[Feed], now_s: float) -> list[FeedState]:
    together.begin(feeds, now_s)
    return list(await asyncio.gather(*(f.refresh(now_s) for f in feeds)))


def same(one: Feed, other: Feed, now_s: float) -> None:
    for column in range(len(one.queries)):
        a, b = (f.history.recent_between(column, -np.inf, now_s)[1] for f in (one, other))
        np.testing.assert_allclose(a, b, rtol=1e-6, equal_nan=True, err_msg=one.queries[column].promql)
        assert one.history.newest(column)[0] == other.history.newest(column)[0]


MINUTES = st.lists(st.integers(0, 25).map(lambda m: m / 2), min_size=1, max_size=4).map(
    lambda ms: sorted(ms, reverse=True)
)
HANDS = ('namespace="red"', 'namespace="blue"', 'namespace="none"', 'namespace="red",pod=~"chat.*"', 'pod=~"llama.*"')


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # each is seconds
@given(
    preset=st.sampled_from(list(PRESETS.values())),
    chosen=st.lists(st.sampled_from(SERVICES), min_size=2, max_size=9, unique=True),
    by_people=st.lists(st.sampled_from(HANDS), max_size=3),
    minutes=MINUTES,
    late=st.integers(0, 3),
    pods=st.integers(0, 3),
)
def test_together_is_alone(
    real: RealPrometheus, preset: Preset, chosen: list, by_people: list[str], minutes: list[float], late: int, pods: int
) -> None:
    async def use() -> None:
        async with Prometheus(real.url) as client:
            wanted = [by_default(preset, s) for s in chosen] + [by_hand(preset, m) for m in by_people]
            many, single = ([feed(client, w) for w in wanted] for _ in range(2))
            for made in (*many, *single):
                made.expect(END, 9, pods, pods)
            together = Together()
            for number, minute in enumerate(minutes):
                now_s = END - 60.0 * minute
                here = slice(late if number == 0 else 0, None)  # some come later, with all their past still to read
                told = await refreshed(together, many[here], now_s)
                for state, feed_of_many, alone in zip(told, many[here], single[here], strict=True):
                    assert state == await alone.refresh(now_s)
                    same(feed_of_many, alone, now_s)

    asyncio.run(use())


def through_proxy(
    real: RealPrometheus, use: Callable[[FaultyProxy, Prometheus], Awaitable[None]], timeout: float = 10.0
) -> None:
    async def run() -> None:
        async with FaultyProxy(real.url) as proxy, Prometheus(proxy.url, timeout_s=timeout) as client:
            await use(proxy, client)

    asyncio.run(run())


def fleet(client: Prometheus, count: int) -> list[Feed]:
    """Many services of one preset, the first with pods."""
    names = ["chat", *(f"svc-{i}" for i in range(1, count))]
    demands = [by_default(PRESETS["vllm"], ("red", "Deployment", n))[0] for n in names]
    return [feed(client, [replace(demand, reporting=None)]) for demand in demands]


def members_in(query: str) -> int:
    """How many services a query is about."""
    found = re.search(r'pod=~"\(\?:([^()]*)\)', query)
    if OWNER not in query:
        return 1
    return 10**6 if found is None else found[1].count("|") + 1


def test_one_question_for_all_of_a_preset_and_indicator(real: RealPrometheus) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        preset = PRESETS["vllm"]
        feeds = [feed(client, by_default(preset, s)) for s in SERVICES if s[1] == "Deployment"] + [
            feed(client, by_default(preset, ("red", "Deployment", f"svc-{i}"))) for i in range(60)
        ]
        together = Together()
        for minute in (3, 2, 1, 0):
            proxy.seen.clear()
            await refreshed(together, feeds, END - 60 * minute)
            assert len(proxy.seen) <= 2 * (len(preset.templates) + 1), "each indicator, and the pods that report"

    through_proxy(real, use)


def test_the_past_is_read_where_the_present_is_shared(real: RealPrometheus) -> None:
    async def use() -> None:
        clock = {"now": 0.0}
        async with Prometheus(real.url, monotonic=lambda: clock["now"]) as client:
            feeds, together = fleet(client, 3), Together()
            await refreshed(together, feeds, END - 60)
            clock["now"] += 60.0
            for one in feeds:
                one.history.drop_past()
                one.reads_past = True
            await refreshed(together, feeds, END)
            known = feeds[0].history.demand_between(END - 60 * ROWS, END)[1]
            assert np.isfinite(known).sum() > 40, "further back than the lookback"

    asyncio.run(use())


def test_answers_that_would_be_too_large_come_in_parts(real: RealPrometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_POINTS", 20)

    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        many, alone = fleet(client, 6), fleet(client, 6)
        await refreshed(Together(), many, END)
        assert max(float(p["end"]) - float(p["start"]) for _, _, p, _ in proxy.seen) == 120.0
        assert len(proxy.seen) == 15
        await alone[0].refresh(END)
        same(many[0], alone[0], END)

    through_proxy(real, use)


@pytest.mark.parametrize("fault", ["422", "500", "413"])
def test_a_refused_question_is_asked_in_parts_and_not_for_ever(real: RealPrometheus, fault: Fault) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        feeds, together = fleet(client, 40), Together()
        proxy.choose = lambda query: fault if members_in(query) > 3 else "pass"
        first = await refreshed(together, feeds, END - 1800)
        assert first[0].demand.reason is FeedReason.FRESH
        assert {s.demand.reason for s in first[1:]} == {FeedReason.EMPTY}
        await refreshed(together, feeds, END - 1740)  # rows are fewer now: tried anew
        proxy.seen.clear()
        await refreshed(together, feeds, END - 1700)
        assert all(members_in(p["query"]) <= 3 for _, _, p, _ in proxy.seen), "the next tick knows better"
        proxy.choose = None
        for number in range(60):
            proxy.seen.clear()
            states = await refreshed(together, feeds, END - 1680 + 20 * number)
            assert states[0].demand.reason is FeedReason.FRESH
        assert len(proxy.seen) == 2, "the one with pods, and all others in one again"

    through_proxy(real, use)


def test_a_question_that_takes_too_long_is_smaller_the_next_time(real: RealPrometheus) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        feeds, together = fleet(client, 40), Together()
        proxy.choose = lambda query: "hang" if members_in(query) > 3 else "pass"
        assert {s.demand.reason for s in await refreshed(together, feeds, END - 60)} == {FeedReason.TIMEOUT}
        assert (await refreshed(together, feeds, END))[0].demand.reason is FeedReason.FRESH

    through_proxy(real, use, timeout=4.0)  # within which what passes is answered on a busy machine, too


@pytest.mark.parametrize(("fault", "reason"), [("503", "Unreachable"), ("401", "Unreachable"), ("html", "Unreachable")])
def test_a_server_that_is_not_there_is_not_asked_by_everybody(
    real: RealPrometheus, fault: Fault, reason: FeedReason
) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        feeds = fleet(client, 40)
        proxy.fault = fault
        assert {s.demand.reason for s in await refreshed(Together(), feeds, END)} == {reason}
        assert len(proxy.seen) <= 2

    through_proxy(real, use)


def test_what_only_one_can_be_asked_is_asked_of_that_one_alone(real: RealPrometheus) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        broken = feed(
            client,
            [
                replace(
                    by_default(PRESETS["vllm"], ("red", "Deployment", "x"))[0], promql="sum(", kin=None, reporting=None
                )
            ],
        )
        feeds = [broken, *fleet(client, 3)]
        states = await refreshed(Together(), feeds, END)
        assert [s.demand.reason for s in states] == ["QueryError", "Fresh", "Empty", "Empty"]
        assert len(proxy.seen) == 2, "the broken one, and the others at once"

    through_proxy(real, use)


def test_a_portion_of_another_time_is_not_taken(real: RealPrometheus, tmp_path: Path) -> None:
    async def use(proxy: FaultyProxy, client: Prometheus) -> None:
        feeds, together = fleet(client, 3), Together()
        together.begin(feeds, END - 600)
        state = await feeds[0].refresh(END)
        assert state.demand_age_s == 0.0
        assert any(members_in(p["query"]) == 1 for _, _, p, _ in proxy.seen), "asked alone"

    through_proxy(real, use)
