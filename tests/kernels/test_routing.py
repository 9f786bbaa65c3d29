"""Routing: who is in a cluster, what several clusters or none give, and centroids that follow what they see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels import KernelError, attention, build
from kernels.sparse.routing import RoutingAttention, clusters_of
from tests.kernels.cases import random_qkv, relative


def run(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
    return attention(q, k, v, method="routing", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("causal", [False, True])
def test_one_cluster_of_all_is_dense(causal: bool) -> None:
    (q, k, v), _ = random_qkv(60, 60, seed=1)
    dense = attention(q, k, v, causal=causal)
    assert relative(run(q, k, v, causal=causal, clusters=1, norm="none"), dense) < 1e-12
    assert relative(run(q, k, v, causal=causal, clusters=3, window=60, norm="l2"), dense) < 1e-12
    normal = [torch.nn.functional.layer_norm(x, (16,), eps=1e-6) for x in (q, k)]
    assert relative(run(q, k, v, causal=causal, clusters=1), attention(*normal, v, causal=causal)) < 1e-12


def test_every_cluster_takes_as_many_rows_each_once_and_in_order() -> None:
    (x, _, _), g = random_qkv(64, 64, seed=2)
    centroids = torch.randn(2, 4, 16, generator=g, dtype=torch.float64)
    found = clusters_of(x, centroids, 16)
    assert found.shape == (2, 2, 4, 16)
    assert bool((found.diff(dim=-1) > 0).all())
    scores = torch.einsum("bhld,hcd->bhcl", x, centroids)
    taken = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, found, True)
    assert bool((scores.masked_fill(~taken, 1e9).amin(-1) >= scores.masked_fill(taken, -1e9).amax(-1)).all())


def test_a_query_in_several_clusters_gets_their_mean_and_one_in_none_gets_zero() -> None:
    (q, k, v), _ = random_qkv(40, 40, seed=3, batch=1, heads=(1, 1, 1))
    centroids = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    of_query, of_key = (clusters_of(x, centroids, 12)[0, 0] for x in (q, k))
    out = run(q, k, v, centroids=centroids, window=12, norm="none")[0, 0]
    counts = torch.bincount(of_query.flatten(), minlength=40)
    assert {0, 1, 2} <= set(counts.tolist())
    for i in range(40):
        parts = [
            attention(q[:, :, i : i + 1], k[:, :, of_key[c]], v[:, :, of_key[c]])[0, 0, 0]
            for c in range(3)
            if i in of_query[c]
        ]
        want = torch.stack(parts).mean(dim=0) if parts else torch.zeros(16, dtype=v.dtype)
        torch.testing.assert_close(out[i], want)


def test_well_separated_kinds_of_steps_see_their_own_kind_alone() -> None:
    g = torch.Generator().manual_seed(4)
    kind = torch.arange(60) % 4
    kind = kind[torch.randperm(60, generator=g)]
    centroids = 3 * torch.eye(16, dtype=torch.float64)[:4]
    x = (centroids[kind] + 0.1 * torch.randn(60, 16, generator=g, dtype=torch.float64))[None, None]
    v = torch.randn(1, 1, 60, 5, generator=g, dtype=torch.float64)
    for causal in (False, True):
        got = run(x, x, v, centroids=centroids[None], causal=causal, norm="none")[0, 0]
        for n in range(4):
            at = (kind == n).nonzero()[:, 0]
            want = attention(x[:, :, at], x[:, :, at], v[:, :, at], causal=causal)[0, 0]
            assert relative(got[at], want) < 1e-12


def test_causal_calls_see_nothing_later_by_position_not_by_rank() -> None:
    (q, k, _), _ = random_qkv(48, 48, seed=5)
    eye = torch.eye(48, dtype=q.dtype).expand(2, 2, -1, -1)
    seen = run(q, k, eye, causal=True, clusters=3) > 0
    assert bool(seen.any())
    assert not bool(seen.triu(1).any())


def test_the_order_of_the_sequence_does_not_matter() -> None:
    (q, k, v), g = random_qkv(50, 50, seed=6)
    order = torch.randperm(50, generator=g)
    mixed = run(*(x[:, :, order] for x in (q, k, v)), clusters=4)
    assert relative(mixed, run(q, k, v, clusters=4)[:, :, order]) < 1e-12


def test_a_larger_window_errs_less() -> None:
    (q, k, v), _ = random_qkv(256, 256, seed=7)
    dense = attention(q, k, v)
    errors = [relative(run(q, k, v, clusters=4, window=n, norm="none"), dense) for n in (32, 64, 128, 256)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12


@pytest.mark.parametrize("causal", [False, True])
def test_windows_of_several_tiles_that_are_not_all_full(causal: bool) -> None:
    (q, k, v), g = random_qkv(270, 263, seed=14, batch=1, d=4, dv=3)
    mask = torch.rand(1, 263, generator=g) < 0.8
    got, want = (run(q, k, v, clusters=2, causal=causal, key_mask=mask, backend=b) for b in ("torch", "reference"))
    assert relative(got, want) < 1e-12


def test_a_seed_gives_the_same_clusters() -> None:
    (q, k, v), _ = random_qkv(64, 64, seed=8)
    first = run(q, k, v, seed=3)
    torch.manual_seed(1)
    assert torch.equal(first, run(q, k, v, seed=3))
    assert not torch.equal(first, run(q, k, v, seed=4))


def test_the_module_gives_what_the_call_gives_and_only_training_moves_its_centroids() -> None:
    (q, k, v), _ = random_qkv(50, 60, seed=9, heads=(4, 2, 2))
    module = build("routing", heads=4, head_dim=16, clusters=3).double().eval()
    before = module.centroids.clone()
    got = module(q, k, v, causal=True)
    assert torch.equal(got, run(q, k, v, causal=True, centroids=before))
    assert torch.equal(module.centroids, before)
    module.train()
    assert torch.equal(module(q, k, v, causal=True), got)
    assert not torch.equal(module.centroids, before)
    assert "clusters=3" in repr(module)
    assert set(module.state_dict()) == {"centroids", "counts"}


def test_centroids_become_the_means_of_their_clusters_and_empty_ones_stay() -> None:
    (q, k, v), g = random_qkv(30, 30, seed=10, batch=2, heads=(1, 1, 1))
    mask = torch.rand(2, 30, generator=g) < 0.7
    module = RoutingAttention(1, 16, clusters=3, norm="none", decay=0.0).double().train()
    module.centroids[0, 2] = 0.0
    module.centroids[0, :2] = torch.randn(2, 16, generator=g, dtype=torch.float64)
    module.centroids[0, 1] = -module.centroids[0, 0]
    before = module.centroids.clone()
    module(q, k, v, key_mask=mask)
    x = torch.cat([q.flatten(0, 2), k[:, 0][mask]])
    nearest = (x @ before[0].T).argmax(dim=1)
    assert set(nearest.tolist()) == {0, 1}
    for c in (0, 1):
        torch.testing.assert_close(module.centroids[0, c], x[nearest == c].mean(dim=0))
    assert torch.equal(module.centroids[0, 2], before[0, 2])
    assert float(module.commitment.detach()) == pytest.approx(
        1e-4 * float((x - before[0, nearest]).square().mean(dim=1).mean())
    )


def test_what_is_hidden_moves_no_centroid() -> None:
    (q, k, v), _ = random_qkv(30, 30, seed=11)
    mask = torch.arange(30).expand(2, -1) < 20
    found = []
    for value in (0.0, float("nan")):
        module = RoutingAttention(2, 16, clusters=3).double().train()
        k[:, :, 20:] = value
        out = module(q, k, v, key_mask=mask)
        (out.sum() + module.commitment).backward() if out.requires_grad else None
        found.append(module.centroids.clone())
    assert torch.equal(*found)
    assert bool(torch.isfinite(found[0]).all())


def test_commitment_pulls_queries_and_keys_to_their_centroids() -> None:
    (q, k, v), _ = random_qkv(30, 30, seed=12)
    module = RoutingAttention(2, 16, clusters=3, norm="none", weight=1.0).double().train()
    before = module.centroids.clone()
    leaves = [q.requires_grad_(), k.requires_grad_()]
    module(*leaves, v)
    steps = torch.autograd.grad(module.commitment, leaves)
    nearest = torch.einsum("bhld,hcd->bhlc", q, before).argmax(dim=-1)
    mine = before[torch.arange(2)[:, None], nearest]
    torch.testing.assert_close(steps[0], 2 * (q - mine) / 16 / (2 * 2 * 60))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "rms"}, "norm is 'rms', expected one of 'layernorm', 'l2', 'none'"),
        ({"clusters": 0}, "clusters is 0, expected a whole number of at least 1"),
        ({"centroids": torch.zeros(1, 3, 16)}, r"centroids have shape \(1, 3, 16\), expected \(2, clusters, 16\)"),
        ({"centroids": torch.zeros(2, 3, 16), "clusters": 4}, "clusters is 4 but there are 3 centroids of each head"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    (q, k, v), _ = random_qkv(8, 8, seed=13)
    with pytest.raises(KernelError, match=message):
        run(q, k, v, **options)
