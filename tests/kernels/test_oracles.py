"""Mechanisms against formulas of other implementations, written out here independently of the package.

PyTorch's own flex_attention, not compiled, is the oracle for masks; the formulas of natten, timm's HaloAttn, the
authors' code of MALA, fla's simple gated linear attention and FAVOR+ are rewritten from their definitions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import elu, pad, scaled_dot_product_attention

from kernels import attention
from kernels.linear.features import random_projection
from kernels.masks import MASKS
from tests.kernels.cases import random_qkv, relative
from tests.kernels.test_masks import DOCS, PREDICATES, N

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

_WINDOWS: list[tuple[str, dict[str, Any], Mask]] = [
    ("sliding_window", {"window": 9, "causal": True}, lambda b, h, i, j: (i - j < 9) & (j <= i)),
    ("sliding_window", {"window": 9, "sinks": 4}, lambda b, h, i, j: ((i - j).abs() < 9) | (j < 4)),
    (
        "power",
        {"window": 8, "block": 4, "sinks": 4, "causal": True},
        lambda b, h, i, j: (
            (j <= i) & ((i // 4 - j // 4 < 2) | (((i // 4 - j // 4) & (i // 4 - j // 4 - 1)) == 0) | (j // 4 < 1))
        ),
    ),
    (
        "elastic_window",
        {"alpha": [8.0, 24.0], "beta": 0.0, "block": 8, "causal": True},
        lambda b, h, i, j: (j <= i) & ((i // 8 - j // 8 < torch.where(h == 0, 1, 3)) | (j < 8)),
    ),
    ("halo", {"block": 8, "halo": 3}, lambda b, h, i, j: (j >= i // 8 * 8 - 3) & (j < i // 8 * 8 + 11)),
    ("halo", {"block": 8, "halo": 3, "causal": True}, lambda b, h, i, j: (j >= i // 8 * 8 - 3) & (j <= i)),
    (
        "halo",
        {"block": 4, "halo": 1, "grid": (8, 12)},
        lambda b, h, i, j: (
            (j // 12 >= i // 12 // 4 * 4 - 1)
            & (j // 12 < i // 12 // 4 * 4 + 5)
            & (j % 12 >= i % 12 // 4 * 4 - 1)
            & (j % 12 < i % 12 // 4 * 4 + 5)
        ),
    ),
    (
        "neighborhood",
        {"kernel": 7},
        lambda b, h, i, j: (j >= (i - 3).clamp(0, 89)) & (j < (i - 3).clamp(0, 89) + 7),
    ),
    ("neighborhood", {"kernel": 6, "causal": True}, lambda b, h, i, j: (i - j < 6) & (j <= i)),
    (
        "neighborhood",
        {"kernel": (3, 5), "grid": (8, 12)},
        lambda b, h, i, j: (
            (j // 12 >= (i // 12 - 1).clamp(0, 5))
            & (j // 12 < (i // 12 - 1).clamp(0, 5) + 3)
            & (j % 12 >= (i % 12 - 2).clamp(0, 7))
            & (j % 12 < (i % 12 - 2).clamp(0, 7) + 5)
        ),
    ),
]


def by_flex(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """Attention under a mask by flex_attention."""
    blocks = create_block_mask(mask, q.shape[0], q.shape[1], q.shape[2], k.shape[2], device="cpu")
    out = flex_attention(q, k, v, block_mask=blocks)
    assert isinstance(out, Tensor)
    return out


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("method", "options", "mask"), _WINDOWS, ids=lambda x: x if isinstance(x, str) else "")
def test_windows_equal_flex_attention_under_the_formula_of_the_mask(
    method: str, options: dict[str, Any], mask: Mask
) -> None:
    (q, k, v), _ = random_qkv(96, 96, seed=1)
    want = by_flex(q, k, v, mask)
    assert relative(attention(q, k, v, method=method, **options), want) < 1e-12
    dense = mask(
        torch.zeros(1, 1, 1, 1),
        torch.arange(2)[None, :, None, None],
        torch.arange(96)[None, None, :, None],
        torch.arange(96)[None, None, None, :],
    )
    assert relative(scaled_dot_product_attention(q, k, v, attn_mask=dense.expand(2, 2, 96, 96)), want) < 1e-12


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", sorted(PREDICATES))
def test_masks_equal_flex_attention_under_their_predicates(name: str) -> None:
    options, visible = PREDICATES[name]
    table = torch.tensor([[visible(i, j) for j in range(N)] for i in range(N)])
    (q, k, v), _ = random_qkv(N, N, seed=2)
    want = by_flex(q, k, v, lambda b, h, i, j: table[i, j])
    assert relative(attention(q, k, v, method="masked", rule=MASKS[name](**options)), want) < 1e-12
    assert sum(DOCS) == N


def natten_window(n: int, w: int, s: int, causal: bool, i: int) -> range:
    """The window of query i on an axis of n without dilation, in closed form."""
    if causal:
        return range(max(min(i // s * s + s - 1, n - 1) - w + 1, 0), i + 1)
    start = min(max(min(i // s * s + s // 2, n - 1) - w // 2, 0), n - w)
    return range(start, start + w)


@pytest.mark.parametrize("n", range(1, 20))
def test_every_neighborhood_of_a_short_axis_is_the_closed_form(n: int) -> None:
    (q, k, _), _ = random_qkv(n, n, seed=3, batch=1, heads=(1, 1, 1), d=2)
    eye = torch.eye(n, dtype=q.dtype)[None, None]
    for w, causal in itertools.product(range(1, n + 1), (False, True)):
        for s in range(1, w + 1):
            got = attention(q, k, eye, method="neighborhood", kernel=w, stride=s, causal=causal)[0, 0] > 0
            want = torch.zeros(n, n, dtype=torch.bool)
            for i in range(n):
                want[i, list(natten_window(n, w, s, causal, i))] = True
            assert torch.equal(got, want), (w, s, causal)


def rel_logits(q: Tensor, rows: Tensor, columns: Tensor, block: int, halo: int) -> Tensor:
    """timm's relative logits of one block: q.rows[jy - iy + win - 1] + q.columns[jx - ix + win - 1]; (H, b^2, win^2).

    q is (H, b^2, D) and not scaled; the tables are (2 win - 1, D), with win = b + 2 halo.
    """
    win = block + 2 * halo
    out = torch.zeros(q.shape[0], block * block, win * win, dtype=q.dtype)
    for iy, ix, jy, jx in itertools.product(range(block), range(block), range(win), range(win)):
        table = rows[jy - iy + win - 1] + columns[jx - ix + win - 1]
        out[:, iy * block + ix, jy * win + jx] = q[:, iy * block + ix] @ table
    return out


@pytest.mark.parametrize(("block", "halo"), [(4, 1), (2, 2)])
def test_halo_equals_the_attention_of_timm_with_its_tables_and_zero_borders(block: int, halo: int) -> None:
    # timm pads keys and values with zeros that take part, and adds relative logits that depend on the query; as the
    # bias of ours is common to all blocks, each block is compared with the bias of its own queries.
    height, width, heads, d, dv = 2 * block, 3 * block, 2, 5, 3
    (q, k, v), g = random_qkv(height * width, height * width, seed=4, batch=1, heads=(heads,) * 3, d=d, dv=dv)
    win = block + 2 * halo
    rows, columns = (torch.randn(2 * win - 1, d, generator=g, dtype=torch.float64) for _ in range(2))
    image = [x.view(heads, height, width, -1) for x in (q, k, v)]
    around = [pad(x, (0, 0, halo, halo, halo, halo)) for x in image[1:]]
    for y, x in itertools.product(range(0, height, block), range(0, width, block)):
        qs = image[0][:, y : y + block, x : x + block].flatten(1, 2)
        ks, vs = (a[:, y : y + win, x : x + win].flatten(1, 2) for a in around)
        logits = rel_logits(qs, rows, columns, block, halo)
        want = torch.softmax(qs @ ks.transpose(1, 2) / math.sqrt(d) + logits, dim=-1) @ vs
        options: dict[str, Any] = {"block": block, "halo": halo, "grid": (height, width), "pad_mode": "zero"}
        got = attention(q, k, v, method="halo", rel_bias=logits, **options)
        here = got.view(heads, height, width, dv)[:, y : y + block, x : x + block].flatten(1, 2)
        assert relative(here, want) < 1e-12


def test_mala_equals_the_steps_of_the_code_of_its_authors() -> None:
    (q, k, v), _ = random_qkv(12, 20, seed=5, dv=7)
    n, d = 20, 16
    fq, fk = elu(q) + 1.0, elu(k) + 1.0
    z = fq @ fk.mean(dim=2, keepdim=True).transpose(-1, -2) / math.sqrt(d)
    # The factor 1 / (n sqrt(d)) is split between keys and values, for the range of half types.
    root = (n * math.sqrt(d)) ** -0.5
    kv = (fk * root).transpose(-1, -2) @ (v * root)
    want = fq @ kv * (1.0 + 1.0 / (z + 1e-6)) - z * v.mean(dim=2, keepdim=True)
    whole = fq @ (fk.transpose(-1, -2) @ v * root**2) * (1.0 + 1.0 / (z + 1e-6)) - z * v.mean(dim=2, keepdim=True)
    assert relative(whole, want) < 1e-12
    for backend in ("torch", "reference"):
        assert relative(attention(q, k, v, method="mala", backend=backend), want) < 1e-12


@pytest.mark.parametrize("log_decay", [0.0, -0.05, [-0.5, -0.003]])
def test_lightning_equals_simple_gated_linear_attention(log_decay: float | list[float]) -> None:
    # o_t = sum over s <= t of exp(g (t - s)) (q_t . k_s) v_s with scale 1; with g = 0 unnormalised linear attention.
    (q, k, v), _ = random_qkv(131, 131, seed=6, dv=5)
    decays = torch.tensor(log_decay if isinstance(log_decay, list) else [log_decay] * 2, dtype=torch.float64)
    t = torch.arange(131)
    apart = (t[:, None] - t[None, :]).clamp_min(0)
    by_decay = torch.exp(decays[:, None, None] * apart).tril()
    want = (q @ k.transpose(-1, -2) * by_decay) @ v
    for chunk in (16, 32, 64, 128):
        got = attention(q, k, v, method="lightning", causal=True, log_decay=log_decay, chunk=chunk)
        assert relative(got, want) < 1e-12


def test_wersa_with_positive_features_equals_favor_plus() -> None:
    (q, k, v), _ = random_qkv(23, 23, seed=7, d=8)
    w = random_projection(8, 64, "favor+").double()
    maps = []
    for x in (q, k):
        x = x / 8**0.25
        maps.append(torch.exp(x @ w - x.square().sum(dim=-1, keepdim=True) / 2) / math.sqrt(64))
    weights = maps[0] @ maps[1].transpose(-1, -2)
    want = weights / weights.sum(dim=-1, keepdim=True) @ v
    ones = torch.ones(3)
    options: dict[str, Any] = {"levels": 2, "features": 64, "feature_map": "favor+", "projection": w}
    assert relative(attention(q, k, v, method="wersa", scale_weights=ones, **options), want) < 1e-3
    # The columns of the projection are orthogonal within each block of 8.
    gram = w[:, :8].T @ w[:, :8]
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-5, rtol=0)


def test_independent_projections_of_queries_and_keys_forget_the_query() -> None:
    # E f(q).f(k) = |q| |k| / (2 pi D beta^2) whatever the angle, so that the weights tend to |k_j| / sum |k|.
    (q, k, v), _ = random_qkv(16, 16, seed=8)
    got = attention(
        q,
        k,
        v,
        method="wersa",
        levels=1,
        scale_weights=torch.ones(2),
        projection=random_projection(16, 1 << 15, seed=1).double(),
        key_projection=random_projection(16, 1 << 15, seed=2).double(),
    )
    sizes = k.norm(dim=-1)[:, :, None]
    want = (sizes / sizes.sum(dim=-1, keepdim=True)) @ v
    assert relative(got, want.expand_as(got)) < 0.05
