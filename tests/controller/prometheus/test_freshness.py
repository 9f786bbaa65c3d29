"""`within`: what it writes, that Prometheus takes it, and that it changes nothing where data is fresh."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from controller.prometheus.client import Prometheus
from controller.prometheus.freshness import within
from tests.controller.prometheus.data import END
from tests.prom.real import RealPrometheus

W = "[60000ms]"


@pytest.mark.parametrize(
    ("promql", "expected"),
    [
        ("x", f"(x and present_over_time(x{W}))"),
        ('x{a="}",b=~"y|{"}', f'(x{{a="}}",b=~"y|{{"}} and present_over_time(x{{a="}}",b=~"y|{{"}}{W}))'),
        ('{__name__="x"}', f'({{__name__="x"}} and present_over_time({{__name__="x"}}{W}))'),
        ("sum by (pod) (x)", f"sum by (pod) ((x and present_over_time(x{W})))"),
        ("sum(x) by(pod)", f"sum((x and present_over_time(x{W}))) by(pod)"),
        ("sum(rate(x[1m]))", "sum(rate(x[1m]))"),
        ("x [5m]", "x [5m]"),
        ("max_over_time(x[5m:1m])", "max_over_time(x[5m:1m])"),
        ("x offset 5m", f"(x offset 5m and present_over_time(x{W} offset 5m))"),
        ("x @ end() + 1", f"(x @ end() and present_over_time(x{W} @ end())) + 1"),
        ("x offset -1h @ 5", f"(x offset -1h @ 5 and present_over_time(x{W} offset -1h @ 5))"),
        ("timestamp(x)", "timestamp(x)"),
        ("vector(1) > bool 2", "vector(1) > bool 2"),
        ("1e3 + 0x1f + Inf + NaN", "1e3 + 0x1f + Inf + NaN"),
        ("x # comment y\n", f"(x and present_over_time(x{W})) # comment y\n"),
        ("'x' `y`", "'x' `y`"),
        ("x{", "x{"),
        ("", ""),
    ],
)
def test_what_is_written(promql: str, expected: str) -> None:
    assert within(promql, 60.0) == expected


QUERIES = [
    "demand",
    "sum(pods)",
    'sum by (pod) (pods{pod=~"a|b"}) / on(pod) group_left() pods * 2',
    "pods > bool 0",
    "quantile(0.5, pods) + count without (pod) (pods)",
    "topk(2, demand or queue)",
    'label_replace(demand, "x", "$1", "__name__", "(.*)")',
    "rate(hits[5m]) + max_over_time(demand[10m:1m])",
    "-demand ^ 2 % 7 and on() queue unless pods == 2",
    "demand offset 1h - demand @ end()",
    "absent(nothing) or vector(time()) * scalar(queue)",
    "histogram_quantile(0.9, sum by (le) (rate(pods[5m])))",
    "predict_linear(demand[1h], 3600) > demand",
]


@pytest.mark.parametrize("promql", QUERIES)
def test_fresh_data_gives_the_same_answer(prom: RealPrometheus, promql: str) -> None:
    async def run() -> None:
        async with Prometheus(prom.url) as client:
            plain = await client.query_range(promql, END - 1200, END, 60)
            limited = await client.query_range(within(promql, 180.0), END - 1200, END, 60)
            assert len(plain) == len(limited)
            for one, other in zip(plain, limited, strict=True):
                assert one.labels == other.labels
                assert one.times_s.tolist() == other.times_s.tolist()
                np.testing.assert_array_equal(one.values, other.values)

    asyncio.run(run())


def test_what_is_old_is_not_shown(prom: RealPrometheus) -> None:
    async def run() -> None:
        async with Prometheus(prom.url) as client:
            (shown,) = await client.query_range("sum(demand)", END, END + 600, 60)
            assert shown.times_s[-1] >= END + 240  # what Prometheus does by itself
            (limited,) = await client.query_range(within("sum(demand)", 60.0), END, END + 600, 60)
            assert limited.times_s.tolist() == [END, END + 60]

    asyncio.run(run())
