"""Replicas on nodes: what is ordered is starting, waiting for room or serving; and what goes wrong is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import UsageError
from simulator.nodes import Kind, NodePool, Supply
from simulator.pool import GpuPool, StartUp


def pool(supply: Supply, initial: int = 5, start_up: StartUp | None = None) -> NodePool:
    return NodePool(initial, start_up or StartUp(120.0), supply, 60.0, np.random.default_rng(0))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(1, 5))
@settings(deadline=None)
def test_a_supply_without_limits_is_the_plain_pool(orders: list[int], k: int) -> None:
    start_up = StartUp(60.0 * k)
    plain = GpuPool(orders[0], start_up, 60.0, np.random.default_rng(0))
    nodes = pool(Supply(), orders[0], start_up)
    for t, order in enumerate(orders):
        for one in (plain, nodes):
            one.advance(t)
            one.scale(t, order)
        assert (nodes.ordered, nodes.ready) == (plain.ordered, plain.ready)
        assert nodes.price == nodes.ordered


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=40),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 2.0]),
    st.integers(0, 3),
)
@settings(max_examples=200, deadline=None)
def test_what_is_ordered_never_exceeds_room_and_pending_counts_once(
    orders: list[int], per_node: int, failing: float, lost: float, warm: int
) -> None:
    kinds = (Kind("a", nodes=3), Kind("b", speed=0.5, price=0.4, nodes=2))
    supply = Supply(kinds, per_node, warm, StartUp(90.0, 1.5), StartUp(40.0, 1.3), 0.1, 4.0, failing, lost)
    p = pool(supply, orders[0])
    for t, order in enumerate(orders):
        p.advance(t)
        serving = p.ready
        p.scale(t, order)
        assert p.ordered == order
        assert len(p.pending_s(t)) == p.ordered - p.ready
        assert min(p.pending_s(t), default=0.0) >= 0.0
        assert p.ready <= serving  # nothing serves at once
        assert sum(p.ready_by_kind) == p.ready
        for kind, at_most in enumerate((3, 2)):
            on = [n for n in p.nodes if n.kind == kind]
            assert len(on) <= at_most
            assert all(0 <= n.replicas <= per_node for n in on)
        assert sum(n.replicas for n in p.nodes) == sum(r.node is not None for r in p.replicas)
    assert p.price <= p.ordered


def test_a_new_node_and_its_image_come_before_the_start() -> None:
    p = pool(Supply(replicas_per_node=2, node=StartUp(180.0), pull=StartUp(60.0)), 2, StartUp(60.0))
    p.scale(0, 5)
    ready = []
    for t in range(1, 9):
        p.advance(t)
        ready.append(p.ready)
    assert ready == [2, 2, 2, 2, 5, 5, 5, 5]  # 180 s node, 60 s image, 60 s start
    p.scale(8, 6)  # there is room beside the fifth: neither node nor image
    p.advance(9)
    assert p.ready == 6
    assert sorted(took for took, _ in p.started()) == [60.0, 300.0, 300.0, 300.0]


def test_when_nodes_run_out_replicas_wait_and_cost_nothing() -> None:
    p = pool(Supply((Kind("spot", nodes=2, price=0.3), Kind("own", speed=2.0, nodes=1))), 1)
    p.scale(0, 5)
    for t in range(1, 4):
        p.advance(t)
    assert (p.ordered, p.ready, p.ready_by_kind) == (5, 3, [2, 1])
    assert p.price == pytest.approx(0.3 * 2 + 1.0)
    assert p.pending_s(4) == (240.0, 240.0)
    p.scale(4, 3)  # those that wait are dropped first
    assert (p.ordered, p.ready) == (3, 3)
    p.scale(4, 2)  # then the newest
    assert p.ready_by_kind == [2, 0]


def test_lost_nodes_are_told_by_kind_and_their_replicas_start_anew() -> None:
    p = pool(Supply(replicas_per_node=5, preempted_per_hour=1e6, node=StartUp(60.0)), 5)
    p.advance(1)
    assert (p.ordered, p.ready, p.lost_by_kind) == (5, 0, [5])
    assert p.pending_s(1) == (0.0,) * 5


def test_failed_starts_are_told_and_tried_again() -> None:
    p = pool(Supply(failed_share=0.5), 0)
    p.scale(0, 200)
    p.advance(2)
    failed = p.failed()
    assert len(failed) + p.ready == 200
    assert 60 < len(failed) < 140
    assert set(failed) == {120.0}
    for t in range(3, 60):
        p.advance(t)
    assert p.ready == 200
    assert len(p.started()) == 200


@pytest.mark.parametrize(
    "wrong",
    [{"kinds": ()}, {"kinds": (Kind("a"), Kind("a"))}, {"replicas_per_node": 0}, {"failed_share": 1.0},
     {"slow_pull_share": 2.0}, {"slow_pull_factor": 0.5}, {"preempted_per_hour": -1.0}, {"warm_nodes": -1}],
)  # fmt: skip
def test_impossible_supplies_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="supply"):
        Supply(**wrong)
    with pytest.raises(UsageError, match="kind"):
        Kind("a", speed=0.0)
