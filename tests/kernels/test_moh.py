"""Mixture-of-Head: what its routers promise, and that gathering changes nothing but the work."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels import KernelError, MultiHead, build, describe
from kernels.heads import gathered
from kernels.heads.gathered import gathered_attention, reference_gathered
from kernels.heads.routing import balance_loss, head_use, norm_routing, two_stage_routing
from kernels.layers.moh import MixtureOfHeads
from tests.kernels.cases import poisoned_memory, random_qkv, relative


def layer(heads: int = 8, head_dim: int = 4, *, seed: int = 0, spread: float = 1.0, **options: int) -> MixtureOfHeads:
    """A layer in float64 whose router prefers some heads."""
    torch.manual_seed(seed)
    made = build("moh", heads=heads, head_dim=head_dim, **options).double()
    assert isinstance(made, MixtureOfHeads)
    if made.route is not None:
        torch.nn.init.normal_(made.route.weight, std=spread)
    return made


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    heads=st.sampled_from([(2, 2), (4, 2), (4, 1)]),
    sizes=st.sampled_from([(8, 8), (8, 5)]),
    causal=st.booleans(),
    masked=st.booleans(),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_gathered_equals_dense_times_gates_and_so_do_the_gradients(
    seed: int,
    lengths: tuple[int, int],
    heads: tuple[int, int],
    sizes: tuple[int, int],
    causal: bool,
    masked: bool,
    share: float,
) -> None:
    lq, lk = lengths
    tensors, g = random_qkv(lq, lk, seed=seed, heads=(heads[0], heads[1], heads[1]), d=sizes[0], dv=sizes[1])
    key_mask = torch.rand(2, lk, generator=g) < 0.6 if masked else None
    used = torch.rand(2, heads[0], lq, generator=g) < share
    gates = torch.rand(used.shape, generator=g, dtype=torch.float64)
    found = []
    for run in (gathered_attention, reference_gathered):
        leaves = [x.clone().requires_grad_() for x in (*tensors, gates)]
        with poisoned_memory():
            out = run(*leaves, used, causal=causal, key_mask=key_mask, scale=0.4)
        found.append(
            [out.detach(), *torch.autograd.grad(out.square().sum(), leaves, allow_unused=True, materialize_grads=True)]
        )
    assert all(float((a - b).abs().max()) < 1e-10 for a, b in zip(*found, strict=True))
    assert bool((found[0][0].masked_select(~used[..., None]) == 0).all())


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    masked=st.booleans(),
    apart=st.booleans(),
    threads=st.sampled_from([1, 2, 5]),
    rows=st.sampled_from([1, 3, 16]),
)
def test_pieces_of_any_size_and_heads_at_once_change_nothing(
    seed: int, lengths: tuple[int, int], masked: bool, apart: bool, threads: int, rows: int
) -> None:
    lq, lk = lengths
    tensors, g = random_qkv(lq, lk, seed=seed, batch=1, heads=(4, 2, 2), d=8, dv=8)
    key_mask = torch.rand(1, lk, generator=g) < 0.6 if masked else None
    used = torch.rand(1, 4, lq, generator=g) < torch.tensor([0.3, 0.4, 0.9, 0.35])[:, None]
    if apart:
        # One head serves the first tokens, another the last ones.
        used[:, 0, lq // 2 :] = used[:, 1, : lq // 2] = False
    gates = torch.rand(used.shape, generator=g, dtype=torch.float64)
    for causal in (True, False):
        found = []
        for run in (gathered_attention, reference_gathered):
            leaves = [x.clone().requires_grad_() for x in (*tensors, gates)]
            with (
                poisoned_memory(),
                patch.object(gathered, "_ROWS", rows),
                patch.object(torch, "get_num_threads", lambda: threads),
            ):
                out = run(*leaves, used, causal=causal, key_mask=key_mask, scale=0.4)
                found.append([out.detach(), *torch.autograd.grad(out.square().sum(), leaves)])
        assert all(float((a - b).abs().max()) < 1e-10 for a, b in zip(*found, strict=True))


def test_pieces_hold_each_pair_that_is_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "_ROWS", 16)
    g = torch.Generator().manual_seed(3)
    place = torch.rand(2, 3, 700, generator=g).argsort(dim=-1)[..., :400].sort(dim=-1).values - 20
    seen = torch.zeros(400, 680, dtype=torch.int64)
    whole = masked = 0
    for rows, keys, cut in gathered._pieces(place):
        seen[rows, keys] += 1
        size = (rows.stop - rows.start) * (keys.stop - keys.start)
        masked, whole = masked + cut * size, whole + (not cut) * size
        if not cut:
            assert int(place[:, :, rows].min()) >= keys.stop - 1
    shown = (torch.arange(680) <= place.amax(dim=(0, 1))[:, None]).long()
    assert int(seen.max()) == 1
    assert bool((seen >= shown).all())
    # Most of the pairs need no mask, and few are computed that nobody sees.
    assert masked < whole
    assert masked + whole < 1.25 * int(shown.sum())


def test_a_hidden_row_of_large_scores_reaches_no_gradient() -> None:
    # A piece of keys that are all hidden from the last row, which scores them far above those that it sees.
    (q, k, v), _ = random_qkv(40, 40, seed=2, batch=1, heads=(2, 2, 2), d=8, dv=8)
    k[:, :, 10:30] *= 1e4
    mask = torch.ones(1, 40, dtype=torch.bool)
    mask[:, 10:30] = False
    used = torch.ones(1, 2, 40, dtype=torch.bool)
    used[:, :, 1::3] = False
    leaves = [x.float().requires_grad_() for x in (q, k, v)]
    with patch.object(gathered, "_ROWS", 4):
        out = gathered_attention(*leaves, used.float(), used, causal=True, key_mask=mask, scale=1.0)
    assert all(bool(torch.isfinite(x).all()) for x in torch.autograd.grad(out.sum(), leaves))


def test_gathered_attention_in_float32_and_half_types() -> None:
    tensors, g = random_qkv(200, 230, seed=1)
    used = torch.rand(2, 2, 200, generator=g) < 0.4
    gates = torch.rand(2, 2, 200, generator=g, dtype=torch.float64)
    for dtype, most in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)):
        rounded = [x.to(dtype) for x in (*tensors, gates)]
        for causal in (False, True):
            got = gathered_attention(*rounded, used, causal=causal, key_mask=None, scale=0.25)
            wide = [x.double() for x in rounded]
            want = reference_gathered(*wide, used, causal=causal, key_mask=None, scale=0.25)
            assert got.dtype == dtype
            assert relative(got, want) < most


@pytest.mark.parametrize("causal", [False, True])
def test_the_work_of_the_products_falls_with_the_heads_in_use(causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 8, 512, 16) for _ in range(3))
    place = torch.arange(512)
    # Two heads for all tokens, of the other six each token two: half of the heads.
    chosen = torch.stack([(place + h) % 3 == 0 for h in range(6)])
    used = torch.cat([torch.ones(2, 512, dtype=torch.bool), chosen])[None]
    gates = used.to(q.dtype)
    with FlopCounterMode(display=False) as half:
        gathered_attention(q, k, v, gates, used, causal=causal, key_mask=None, scale=0.25)
    with FlopCounterMode(display=False) as full:
        gathered_attention(q, k, v, torch.ones_like(gates), used | True, causal=causal, key_mask=None, scale=0.25)
    # PyTorch counts a causal call as if all keys were seen; ours is cut into tiles whose keys end where they do.
    assert half.get_total_flops() <= (0.51 if not causal else 0.45) * full.get_total_flops()


def test_routers_that_know_nothing_give_every_head_in_use_the_gate_one() -> None:
    module = layer(shared=2, active=3, spread=0.0)
    x = torch.randn(2, 11, 32, dtype=torch.float64)
    routing = module.routing(x, torch.zeros(2, 8, 11, 4, dtype=torch.float64))
    assert torch.equal(routing.gates, routing.used.double())
    assert bool((routing.used.sum(dim=1) == 5).all())
    # Of equals the first, whatever else there is.
    assert bool(routing.used[:, :5].all())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), shared=st.integers(0, 4), routed=st.integers(0, 6), active=st.integers(0, 6))
def test_gates_of_each_kind_sum_to_their_share(seed: int, shared: int, routed: int, active: int) -> None:
    active = min(active, routed)
    g = torch.Generator().manual_seed(seed)
    logits = [torch.randn(2, 5, n, generator=g, dtype=torch.float64) for n in (shared, routed, 2)]
    found = two_stage_routing(*logits, active=active)
    of_shared, of_routed = found.gates[:, :shared].sum(dim=1), found.gates[:, shared:].sum(dim=1)
    a1, a2 = (2 * torch.softmax(logits[2], dim=-1)).unbind(-1)
    if shared and active:
        torch.testing.assert_close(of_shared, a1 * shared)
        torch.testing.assert_close(of_routed, a2 * active)
        torch.testing.assert_close(of_shared / shared + of_routed / active, torch.full_like(of_shared, 2.0))
    else:
        torch.testing.assert_close(of_shared, torch.full_like(of_shared, float(shared)))
        torch.testing.assert_close(of_routed, torch.full_like(of_routed, float(active)))
    assert bool((found.used[:, shared:].sum(dim=1) == active).all())
    assert bool((found.gates[:, shared:].masked_select(~found.used[:, shared:]) == 0).all())


def test_balance_is_the_active_heads_where_even_and_all_of_them_where_one_set_takes_all() -> None:
    # 12 routed heads of which 4 are active, as computed by hand: 4 and 12.
    blind = torch.zeros(1, 6, 0)
    even = torch.zeros(1, 6, 12)
    assert float(balance_loss(two_stage_routing(blind, even, torch.zeros(1, 6, 2), active=4))) == pytest.approx(4.0)
    same = torch.full((1, 6, 12), -50.0)
    same[..., 3:7] = 50.0
    assert float(balance_loss(two_stage_routing(blind, same, torch.zeros(1, 6, 2), active=4))) == pytest.approx(12.0)
    turns = torch.full((1, 6, 12), -50.0)
    for t in range(6):
        turns[0, t, [(2 * t + n) % 12 for n in range(4)]] = 50.0
    assert float(balance_loss(two_stage_routing(blind, turns, torch.zeros(1, 6, 2), active=4))) == pytest.approx(4.0)


def test_balance_moves_the_router_towards_even_use() -> None:
    module = layer(shared=1, active=2, seed=3, spread=0.3)
    x = torch.randn(4, 60, 32, dtype=torch.float64)
    step = torch.optim.Adam(module.parameters(), lr=0.02)
    use = []
    for _ in range(60):
        module(x)
        assert module.balance is not None
        use.append(float(module.balance.detach()))
        step.zero_grad()
        module.balance.backward()
        step.step()
    assert use[-1] < use[0]
    assert use[-1] == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("causal", [False, True])
def test_all_heads_with_a_router_that_knows_nothing_are_plain_attention(causal: bool) -> None:
    module = layer(shared=3, active=5, spread=0.0)
    plain = MultiHead(32, heads=8).double()
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("route")})
    x = torch.randn(2, 19, 32, dtype=torch.float64)
    mask = torch.rand(2, 19) < 0.7
    assert relative(module(x, causal=causal, key_mask=mask), plain(x, causal=causal, key_mask=mask)) < 1e-12


@pytest.mark.parametrize("options", [{}, {"shared": 0, "active": 3}, {"shared": 4, "active": 0}, {"key_heads": 2}])
def test_the_layer_equals_its_definition(options: dict[str, int]) -> None:
    module = layer(seed=5, **options)
    x, other = (torch.randn(2, n, 32, dtype=torch.float64) for n in (23, 31))
    mask = torch.rand(2, 31) < 0.6
    for causal in (False, True):
        found = []
        for backend in ("torch", "reference"):
            module.zero_grad()
            out = module(x, other, causal=causal, key_mask=mask, backend=backend)
            (out.square().sum() + module.balance).backward()
            found.append([out.detach(), *(p.grad.clone() for p in module.parameters() if p.grad is not None)])
        assert len(found[0]) > 5
        assert all(relative(a, b, beside=1.0) < 1e-10 for a, b in zip(*found, strict=True))


def test_a_token_does_not_see_how_others_are_routed() -> None:
    module = layer(seed=6)
    x, keys = torch.randn(1, 9, 32, dtype=torch.float64), torch.randn(1, 12, 32, dtype=torch.float64)
    before = module(x, keys)
    moved = x.clone()
    moved[:, 4:] = torch.randn(1, 5, 32, dtype=torch.float64)
    after = module(moved, keys)
    assert relative(after[:, :4], before[:, :4]) < 1e-12
    assert relative(after[:, 4:], before[:, 4:]) > 0.1


def test_long_queries_are_what_a_tuned_model_routes_by() -> None:
    (q, _, _), _ = random_qkv(40, 40, seed=7, heads=(6, 6, 6))
    q[:, 4] *= 30.0
    q[:, 1] *= 20.0
    found = norm_routing(q.requires_grad_(), shared=1, active=2)
    assert bool(found.used[:, [0, 1, 4]].all())
    assert int(found.used.sum()) == 2 * 40 * 3
    assert bool(((found.gates == 0) | ((found.gates - 1).abs() < 1e-12)).all())
    (grad,) = torch.autograd.grad(found.gates[:, 4].sum(), q)
    assert bool((grad != 0).any())
    module = layer(router="norm", shared=2, active=2)  # type: ignore[arg-type]
    assert not any(name.startswith("route") for name, _ in module.named_parameters())
    assert module(torch.randn(1, 5, 32, dtype=torch.float64)).shape == (1, 5, 32)


def test_use_of_heads_by_group() -> None:
    logits = torch.full((1, 4, 3), -9.0)
    for t, h in enumerate((0, 0, 2, 1)):
        logits[0, t, h] = 9.0
    routing = two_stage_routing(torch.zeros(1, 4, 1), logits, torch.zeros(1, 4, 2), active=1)
    use = head_use(routing, torch.tensor([0, 0, 2, 2]))
    assert use[0].tolist() == [1, 1, 0, 0]
    assert bool(use[1].isnan().all())
    assert use[2].tolist() == [1, 0, 0.5, 0.5]
    assert routing.shares().tolist() == [1, 0.5, 0.25, 0.25]


def test_what_does_not_fit_is_refused() -> None:
    assert describe("moh").layer
    for options, message in (
        ({"shared": 0, "active": 0}, "0 shared and 0 active heads are not among 8 heads"),
        ({"shared": 5, "active": 4}, "5 shared and 4 active"),
        ({"key_heads": 3}, "key_heads = 3 does not divide the 8 heads"),
        ({"router": "nrm"}, "no router 'nrm'; did you mean 'norm'"),
        ({"share": 1}, "no option 'share'"),
    ):
        with pytest.raises(KernelError, match=message):
            build("moh", heads=8, head_dim=4, **options)
    (q, k, v), _ = random_qkv(4, 4, seed=0)
    gates: Tensor = torch.ones(2, 2, 4)
    with pytest.raises(KernelError, match="used bool"):
        gathered_attention(q, k, v, gates, gates, causal=False, key_mask=None, scale=1.0)
