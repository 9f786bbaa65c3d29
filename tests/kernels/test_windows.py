"""Windowed and blocked attention: which keys a query sees, and what must follow from it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels import KernelError, attention
from kernels.engines.plan import plan_from_spans
from kernels.engines.rules import Call, area, boolean
from kernels.windows.elastic_window import elastic_window, window_blocks
from kernels.windows.power import power
from kernels.windows.sliding_window import sliding_window
from tests.kernels.cases import random_qkv, relative


def seen(method: str, length: int, *, lk: int | None = None, heads: int = 1, **options: Any) -> Tensor:
    """Which keys have weight, (H, Lq, Lk): the values are unit vectors, so that outputs are the weights."""
    lk = length if lk is None else lk
    (q, k, _), _ = random_qkv(length, lk, seed=1, batch=1, heads=(heads, heads, heads), d=4)
    return attention(q, k, torch.eye(lk, dtype=q.dtype).expand(1, heads, -1, -1), method=method, **options)[0] > 0


def call(lq: int, lk: int, *, causal: bool, heads: int = 1) -> Call:
    return Call(heads=heads, lq=lq, lk=lk, causal=causal, device=torch.device("cpu"), offset=lk - lq)


@pytest.mark.parametrize(("lq", "lk"), [(1, 1), (2, 9), (9, 2), (37, 37), (20, 53)])
@pytest.mark.parametrize(("window", "sinks"), [(1, 0), (4, 0), (4, 3), (100, 0)])
def test_sliding_window_sees_the_nearest_and_the_first(lq: int, lk: int, window: int, sinks: int) -> None:
    for causal in (False, True):
        got = seen("sliding_window", lq, lk=lk, causal=causal, window=window, sinks=sinks)[0]
        for i, j in itertools.product(range(lq), range(lk)):
            at = i + lk - lq
            near = abs(at - j) < window or j < sinks
            assert bool(got[i, j]) == (near and (not causal or j <= at))


@pytest.mark.parametrize(("window", "block", "sinks"), [(1, 1, 0), (3, 1, 2), (8, 4, 4), (5, 4, 0)])
def test_power_sees_powers_of_two(window: int, block: int, sinks: int) -> None:
    for causal, (lq, lk) in itertools.product((False, True), ((41, 41), (13, 40))):
        got = seen("power", lq, lk=lk, causal=causal, window=window, block=block, sinks=sinks)[0]
        for i, j in itertools.product(range(lq), range(lk)):
            at = i + lk - lq
            apart = at // block - j // block if causal else abs(at // block - j // block)
            near = apart < -(-window // block) or (apart > 0 and math.log2(apart).is_integer())
            near = near or j // block < -(-sinks // block)
            assert bool(got[i, j]) == (near and (not causal or j <= at))


@pytest.mark.parametrize(("window", "reach"), [(1, lambda d: 2 ** (d + 1) - 2), (4, lambda d: 2 ** (d + 2) - 4)])
def test_layers_of_power_attention_reach_every_distance(window: int, reach: Any) -> None:
    n = 256
    mask = boolean(power(call(n, n, causal=True), window=window, block=1, sinks=0), call(n, n, causal=True))[0].double()
    layers = torch.eye(n, dtype=torch.float64)
    for depth in range(1, 6):
        layers = ((layers @ mask) > 0).double()
        far = layers[-1].flip(0)
        assert bool(far[: min(reach(depth) + 1, n)].all())
    for _ in range(3):
        layers = ((layers @ mask) > 0).double()
    assert torch.equal(layers, torch.ones(n, n, dtype=torch.float64).tril())
    assert int(mask.sum(dim=1).max()) <= window + 0 + int(math.log2(n)) + 1


def test_blocks_of_one_key_are_the_token_form_of_power_attention() -> None:
    # Visible: a distance below the window, a power of two, or one of the first keys; and never behind the query.
    got = seen("power", 70, causal=True, window=3, block=1, sinks=2)[0]
    apart = torch.arange(70)[:, None] - torch.arange(70)[None, :]
    two = torch.isin(apart, torch.tensor([1 << t for t in range(10)]))
    assert torch.equal(got, (apart >= 0) & ((apart < 3) | two | (torch.arange(70) < 2)))
    assert int(got.sum(dim=1).max()) <= 3 + 2 + int(math.log2(70)) + 1


def test_edges_of_a_row_of_power_attention_are_few() -> None:
    facts = call(256, 256, causal=True)
    assert int(boolean(power(facts, window=1, block=1, sinks=0), facts).sum(dim=2).max()) == 9


def test_power_attention_visits_few_blocks() -> None:
    n, c = 8192, 64
    facts = call(n, n, causal=True)
    plan = plan_from_spans(power(facts, window=256, block=c, sinks=c), facts, block_q=c, block_k=c)
    assert int(plan.counts.max()) <= 256 // c + 1 + int(math.log2(n // c)) + 1


@pytest.mark.parametrize("n", [1, 16, 50, 64, 130])
@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1.0), (0.0, 0.0), (16.0, 0.25), (-40.0, 0.9), (8.0, 0.5)])
def test_elastic_windows_grow_with_the_input(n: int, alpha: float, beta: float) -> None:
    c = 16
    blocks = max(1, math.floor(alpha / c + beta * n / c))
    assert window_blocks(n, alpha, beta, block=c) == blocks
    for causal in (False, True):
        got = seen("elastic_window", n, causal=causal, alpha=alpha, beta=beta, block=c)[0]
        for i, j in itertools.product(range(n), range(n)):
            apart = i // c - j // c
            near = (apart if causal else abs(apart)) < blocks or j < c or (not causal and i < c)
            assert bool(got[i, j]) == (near and (not causal or j <= i))
    if (alpha, beta) == (0.0, 1.0):
        assert torch.equal(got, torch.ones(n, n, dtype=torch.bool).tril())


def test_heads_with_different_windows_equal_the_heads_alone() -> None:
    (q, k, v), _ = random_qkv(100, 100, seed=2, heads=(3, 3, 3))
    alphas = [8.0, 40.0, 200.0]
    mixed = attention(q, k, v, method="elastic_window", causal=True, alpha=alphas, beta=0.0, block=8)
    for h, alpha in enumerate(alphas):
        one = [x[:, h : h + 1] for x in (q, k, v)]
        alone = attention(*one, method="elastic_window", causal=True, alpha=alpha, beta=0.0, block=8)
        assert relative(mixed[:, h : h + 1], alone) < 1e-12


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sliding_window", {"window": 90}),
        ("power", {"window": 128, "block": 8}),
        ("elastic_window", {"alpha": 0.0, "beta": 1.0, "block": 8}),
        ("halo", {"block": 8, "halo": 90}),
        ("neighborhood", {"kernel": 90}),
    ],
)
def test_wide_enough_is_dense(method: str, options: dict[str, Any], causal: bool) -> None:
    (q, k, v), _ = random_qkv(90, 90, seed=4)
    assert (
        relative(attention(q, k, v, method=method, causal=causal, **options), attention(q, k, v, causal=causal)) < 1e-12
    )


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (sliding_window, {"window": 7, "sinks": 5}),
        (power, {"window": 3, "block": 4, "sinks": 3}),
        (elastic_window, {"alpha": [3.0, 17.0], "beta": [0.2, 0.0], "block": 4}),
    ],
)
@pytest.mark.parametrize("lengths", [(40, 40), (11, 40), (40, 11)])
def test_ranges_say_the_same_as_the_rule(make: Any, options: dict[str, Any], lengths: tuple[int, int]) -> None:
    for causal in (False, True):
        facts = call(*lengths, causal=causal, heads=2)
        rule = make(facts, **options)
        mask = boolean(rule, facts)
        h = torch.arange(mask.shape[0])[:, None]
        i = torch.arange(lengths[0])[None] + facts.offset
        j = torch.arange(lengths[1])
        lo, hi = (x.expand(-1, mask.shape[0], lengths[0])[..., None] for x in rule.spans(h, i))
        assert torch.equal(((j >= lo) & (j < hi)).any(dim=0), mask)
        assert torch.equal(area(rule, facts), mask.sum(dim=(1, 2)))


def window_by_hand(n: int, w: int, d: int, s: int, causal: bool, i: int) -> list[int]:
    """The keys of one axis as the definition of neighborhood attention has them."""
    group = list(range(i % d, n, d))
    t, m = i // d, len(group)
    if causal:
        leader = min((t // s) * s + s - 1, m - 1)
        return [group[x] for x in range(max(leader - w + 1, 0), t + 1)]
    leader = min((t // s) * s + s // 2, m - 1)
    start = min(max(leader - w // 2, 0), m - w)
    return [group[x] for x in range(start, start + w)]


@pytest.mark.parametrize("n", [1, 2, 7, 12, 19])
def test_neighborhoods_of_one_axis(n: int) -> None:
    for w, d, s, causal in itertools.product((1, 2, 3, 4, 7), (1, 2, 3), (1, 2, 3), (False, True)):
        if w * d > n or s > w:
            continue
        got = seen("neighborhood", n, causal=causal, kernel=w, dilation=d, stride=s)[0]
        for i in range(n):
            want = window_by_hand(n, w, d, s, causal, i)
            assert got[i].nonzero()[:, 0].tolist() == want
            assert causal or len(want) == w


def test_neighborhoods_of_a_grid_are_products() -> None:
    sizes, w, d, s, causal = (6, 9), (3, 2), (2, 1), (2, 1), (False, True)
    got = seen("neighborhood", 54, kernel=w, dilation=d, stride=s, grid=sizes, causal_axes=causal)[0]
    for y, x in itertools.product(range(6), range(9)):
        rows, columns = (window_by_hand(sizes[a], w[a], d[a], s[a], causal[a], at) for a, at in enumerate((y, x)))
        assert got[y * 9 + x].nonzero()[:, 0].tolist() == [r * 9 + c for r in rows for c in columns]


def test_neighborhoods_of_a_solid_are_products() -> None:
    sizes, w, d, s, causal = (4, 3, 6), (2, 3, 3), (2, 1, 2), (1, 3, 2), (True, False, False)
    got = seen("neighborhood", 72, kernel=w, dilation=d, stride=s, grid=sizes, causal_axes=causal)[0]
    for at in itertools.product(*(range(n) for n in sizes)):
        axes = [window_by_hand(sizes[a], w[a], d[a], s[a], causal[a], at[a]) for a in range(3)]
        want = [(z * 3 + y) * 6 + x for z, y, x in itertools.product(*axes)]
        assert got[(at[0] * 3 + at[1]) * 6 + at[2]].nonzero()[:, 0].tolist() == want


def test_neighborhoods_in_known_corners() -> None:
    (q, k, v), _ = random_qkv(24, 24, seed=5)
    assert torch.equal(attention(q, k, v, method="neighborhood", kernel=1), v)
    blocked = attention(q, k, v, method="neighborhood", kernel=6, stride=6)
    halo = attention(q, k, v, method="halo", block=6, halo=0)
    assert relative(blocked, halo) < 1e-12
    rows = attention(q, k, v, method="neighborhood", kernel=(1, 3), grid=(4, 6))
    for y in range(4):
        part = [x[:, :, 6 * y : 6 * y + 6] for x in (q, k, v)]
        assert relative(rows[:, :, 6 * y : 6 * y + 6], attention(*part, method="neighborhood", kernel=3)) < 1e-12
    dilated = attention(q, k, v, method="neighborhood", kernel=3, dilation=5)
    for g in range(5):
        part = [x[:, :, g::5] for x in (q, k, v)]
        assert relative(dilated[:, :, g::5], attention(*part, method="neighborhood", kernel=3)) < 1e-12


@pytest.mark.parametrize(("block", "halo"), [(4, 1), (4, 3), (5, 2)])
def test_halo_and_neighborhood_agree_inside(block: int, halo: int) -> None:
    (q, k, v), _ = random_qkv(block * 8, block * 8, seed=6)
    a = attention(q, k, v, method="halo", block=block, halo=halo)
    b = attention(q, k, v, method="neighborhood", kernel=block + 2 * halo, stride=block)
    inner = slice(block * 2, block * 6)
    assert relative(a[:, :, inner], b[:, :, inner]) < 1e-12


def test_halo_sees_its_block_and_the_halo() -> None:
    n, b, h = 29, 6, 2
    for causal in (False, True):
        got = seen("halo", n, causal=causal, block=b, halo=h)[0]
        for i, j in itertools.product(range(n), range(n)):
            start = i // b * b
            assert bool(got[i, j]) == (start - h <= j < start + b + h and (not causal or j <= i))
    got = seen("halo", 60, block=4, halo=1, grid=(6, 10))[0]
    for (y, x), (u, w) in itertools.product(itertools.product(range(6), range(10)), repeat=2):
        inside = y // 4 * 4 - 1 <= u < y // 4 * 4 + 5 and x // 4 * 4 - 1 <= w < x // 4 * 4 + 5
        assert bool(got[y * 10 + x, u * 10 + w]) == inside


def test_halo_of_a_solid_sees_its_block_and_the_halo() -> None:
    sizes, b, h = (3, 5, 4), 2, 1
    got = seen("halo", 60, block=b, halo=h, grid=sizes)[0].view(*sizes, *sizes)
    for at in itertools.product(*(range(n) for n in sizes)):
        axes = [
            [j for j in range(n) if i // b * b - h <= j < i // b * b + b + h] for i, n in zip(at, sizes, strict=True)
        ]
        want = torch.zeros(sizes, dtype=torch.bool)
        for key in itertools.product(*axes):
            want[key] = True
        assert torch.equal(got[at], want)


@pytest.mark.parametrize(("block", "halo"), [(6, 2), (4, 4), (3, 7), (5, 0)])
def test_a_key_is_used_by_few_blocks_of_halo(block: int, halo: int) -> None:
    n = 60
    most = math.ceil(1 + 2 * halo / block)
    used = seen("halo", n, block=block, halo=halo)[0][::block].sum(dim=0)
    assert 1 <= int(used.min()) <= int(used.max()) <= most
    grid = seen("halo", n, block=block, halo=halo, grid=(6, 10))[0].view(6, 10, n)[::block, ::block]
    assert int(grid.flatten(0, 1).sum(dim=0).max()) <= most**2


def test_halo_without_a_halo_is_attention_within_blocks() -> None:
    (q, k, v), _ = random_qkv(30, 30, seed=7)
    got = attention(q, k, v, method="halo", block=10, halo=0)
    for t in range(0, 30, 10):
        part = [x[:, :, t : t + 10] for x in (q, k, v)]
        assert relative(got[:, :, t : t + 10], scaled_dot_product_attention(*part)) < 1e-12


def test_halo_on_a_grid_of_one_row_is_halo_on_a_line_and_zeros_only_touch_the_border() -> None:
    (q, k, v), _ = random_qkv(32, 32, seed=8)
    line = attention(q, k, v, method="halo", block=4, halo=2)
    zero = attention(q, k, v, method="halo", block=4, halo=2, pad_mode="zero")
    assert relative(zero[:, :, 4:28], line[:, :, 4:28]) < 1e-12
    assert relative(zero[:, :, :4], line[:, :, :4]) > 1e-3
    ones = attention(q, k, torch.ones_like(v), method="halo", block=4, halo=2, pad_mode="zero")
    assert float(ones[:, :, :4].max()) < 1.0
    # One row of a 2-D grid: rows 1.. of each block are outside, and hidden.
    assert relative(attention(q, k, v, method="halo", block=4, halo=2, grid=(1, 32)), line) < 1e-12


def test_the_bias_of_halo_is_added_and_learns() -> None:
    (q, k, v), g = random_qkv(32, 32, seed=9)
    bias = torch.randn(2, 8, 12, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda b: attention(q, k, v, method="halo", block=8, halo=2, rel_bias=b), (bias,), fast_mode=True
    )
    shared = bias.detach()[:1].clone().requires_grad_()
    got, want = (
        torch.autograd.grad(
            attention(q, k, v, method="halo", block=8, halo=2, rel_bias=shared, backend=b).square().sum(), shared
        )[0]
        for b in ("torch", "reference")
    )
    assert relative(got, want) < 1e-10


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("sliding_window", {"window": 0}, "window is 0, expected a whole number of at least 1"),
        ("sliding_window", {"window": 2.5}, "window is 2.5"),
        ("power", {"block": -1}, "block is -1"),
        ("elastic_window", {"alpha": [1.0, 2.0]}, "alpha has 2 entries for 1 heads"),
        ("elastic_window", {"beta": float("nan")}, "beta is nan"),
        ("halo", {"pad_mode": "wrap"}, "pad_mode is 'wrap'"),
        ("halo", {"grid": (3, 3)}, "grid .3, 3. holds 9 tokens but there are 10"),
        ("halo", {"grid": (2, 5), "causal": True}, "a causal halo"),
        ("halo", {"block": 2, "halo": 1, "rel_bias": torch.zeros(1, 2, 3)}, "rel_bias has shape"),
        ("neighborhood", {"kernel": 4, "dilation": 3}, "spans 12 tokens of an axis of 10"),
        ("neighborhood", {"kernel": 2, "stride": 3}, "stride 3 exceeds the kernel 2"),
        ("neighborhood", {"kernel": (2, 2)}, "kernel has 2 entries for 1 axes"),
        ("neighborhood", {"grid": (2, 5), "causal": True, "causal_axes": (True, False)}, "causal_axes"),
        ("masked", {"rule": 3}, "rule is a int"),
        ("masked", {}, "needs the option 'rule'"),
    ],
)
def test_options_that_do_not_fit_are_refused(method: str, options: dict[str, Any], message: str) -> None:
    q = torch.zeros(1, 1, 10, 4)
    with pytest.raises(KernelError, match=message):
        attention(q, q, q, method=method, **options)
