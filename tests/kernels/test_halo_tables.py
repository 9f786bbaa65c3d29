"""HaloNet's relative positions: tables whose products with the queries are added to the scores."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import KernelError, MultiHead, attention, build, describe
from kernels.windows.halo_tables import HaloAttention
from tests.kernels.cases import random_qkv, relative, tolerance

_SHAPES: dict[str, dict[str, Any]] = {
    "line": {"block": 4, "halo": 3, "grid": (30,)},
    "line of long blocks": {"block": 16, "halo": 5, "grid": (53,)},
    "line, causal": {"block": 4, "halo": 3, "grid": (30,), "causal": True},
    "line of zeros": {"block": 4, "halo": 3, "grid": (30,), "pad_mode": "zero"},
    "image": {"block": 3, "halo": 2, "grid": (7, 8)},
    "image of zeros": {"block": 3, "halo": 1, "grid": (7, 8), "pad_mode": "zero"},
    "no halo": {"block": 3, "halo": 0, "grid": (7, 8)},
    "solid": {"block": 2, "halo": 1, "grid": (3, 5, 4)},
    "solid of zeros": {"block": 2, "halo": 1, "grid": (3, 4, 3), "pad_mode": "zero"},
}


def tables_for(options: dict[str, Any], d: int, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    rows = 2 * (options["block"] + 2 * options["halo"]) - 1
    return [torch.randn(rows, d, generator=g, dtype=torch.float64) for _ in options["grid"]]


def by_pairs(q: Tensor, k: Tensor, v: Tensor, tables: list[Tensor], key_mask: Tensor | None, options: Any) -> Tensor:
    """The definition, one query and one place of its window after the other; (B, H, L, Dv)."""
    b, h, sizes = options["block"], options["halo"], options["grid"]
    win, out = b + 2 * h, torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    for n, at in enumerate(itertools.product(*map(range, sizes))):
        scores, values = [], []
        for place in itertools.product(range(win), repeat=len(sizes)):
            key = [c // b * b - h + j for c, j in zip(at, place, strict=True)]
            inside = all(0 <= x < size for x, size in zip(key, sizes, strict=True))
            m = 0
            for x, size in zip(key, sizes, strict=True):
                m = m * size + x
            if (not inside and options.get("pad_mode") != "zero") or (options.get("causal") and m > n):
                continue
            logit = sum(q[:, :, n] @ t[j - c % b + win - 1] for t, j, c in zip(tables, place, at, strict=True))
            if inside:
                logit = logit + (q[:, :, n] * k[:, :, m]).sum(dim=-1) / math.sqrt(q.shape[3])
                if key_mask is not None:
                    logit = logit.masked_fill(~key_mask[:, None, m], float("-inf"))
            scores.append(logit)
            values.append(v[:, :, m] if inside else torch.zeros_like(v[:, :, 0]))
        p = torch.softmax(torch.stack(scores, dim=-1), dim=-1).nan_to_num()
        out[:, :, n] = (p[..., None] * torch.stack(values, dim=2)).sum(dim=2)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", _SHAPES)
def test_tables_add_the_product_with_the_query_to_every_score(name: str, masked: bool, backend: str) -> None:
    options = _SHAPES[name]
    length = math.prod(options["grid"])
    tensors, g = random_qkv(length, length, seed=41, d=6, dv=5)
    tables = tables_for(options, 6)
    key_mask = torch.rand(2, length, generator=g) < 0.7 if masked else None
    weight = torch.randn(2, 2, length, 5, generator=g, dtype=torch.float64)
    leaves = [x.clone().requires_grad_() for x in (*tensors, *tables)]
    want = by_pairs(*leaves[:3], leaves[3:], key_mask, options)
    got = attention(*leaves[:3], method="halo", key_mask=key_mask, rel_tables=leaves[3:], backend=backend, **options)
    assert relative(got, want) < 1e-12
    want_grads, got_grads = (torch.autograd.grad((x * weight).sum(), leaves) for x in (want, got))
    assert max(relative(a, b) for a, b in zip(got_grads, want_grads, strict=True)) < 1e-11


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["line", "line of zeros", "image"])
def test_other_types_are_as_exact_as_without_tables(name: str, dtype: torch.dtype) -> None:
    options = _SHAPES[name]
    length = math.prod(options["grid"])
    tensors, _ = random_qkv(length, length, seed=42)
    q, k, v = (x.to(dtype) for x in tensors)
    tables = [t.to(dtype) for t in tables_for(options, 16)]
    wide = [x.double() for x in tables]
    want = attention(*(x.double() for x in (q, k, v)), method="halo", rel_tables=wide, backend="reference", **options)
    got = attention(q, k, v, method="halo", rel_tables=tables, **options)
    assert got.dtype == dtype
    assert relative(got, want) < tolerance(dtype)


def test_tables_of_zeros_change_nothing_and_a_table_may_stand_beside_a_bias() -> None:
    (q, k, v), g = random_qkv(56, 56, seed=43)
    options: dict[str, Any] = {"method": "halo", "block": 3, "halo": 2, "grid": (7, 8)}
    plain = attention(q, k, v, **options)
    zeros = [torch.zeros(13, 16, dtype=torch.float64)] * 2
    assert relative(attention(q, k, v, rel_tables=zeros, **options), plain) < 1e-12
    options["rel_bias"] = torch.randn(2, 9, 49, generator=g, dtype=torch.float64)
    both = [
        attention(q, k, v, rel_tables=tables_for({"block": 3, "halo": 2, "grid": (7, 8)}, 16), backend=b, **options)
        for b in ("torch", "reference")
    ]
    assert relative(both[0], both[1]) < 1e-12
    assert relative(both[0], plain) > 0.1


def test_the_module_learns_its_tables_and_scales_them_if_asked() -> None:
    (q, k, v), _ = random_qkv(56, 56, seed=44)
    options: dict[str, Any] = {"block": 3, "halo": 2, "grid": (7, 8)}
    for scaled in (False, True):
        module = build("halo", heads=2, head_dim=16, relative=True, scale_tables=scaled, **options).double()
        assert isinstance(module, HaloAttention)
        factor = 0.25 if scaled else 1.0
        tables = [factor * t.detach() for t in module.tables]
        want = attention(q, k, v, method="halo", rel_tables=tables, **options)
        assert relative(module(q, k, v), want) < 1e-12
        module(q, k, v).square().sum().backward()
        assert all(t.grad is not None and float(t.grad.norm()) > 0 for t in module.parameters())
    assert len(list(module.parameters())) == 2
    assert "block=3" in repr(module)


def test_without_tables_the_module_is_the_call_and_fits_any_length() -> None:
    layer = MultiHead(32, heads=2, method="halo", options={"block": 8, "halo": 4, "relative": True})
    for length in (1, 7, 8, 30):
        assert layer(torch.randn(2, length, 32)).shape == (2, length, 32)
    plain = MultiHead(32, heads=2, method="halo")
    assert not any("core" in name for name, _ in plain.named_parameters())
    found = describe("halo").build_options
    assert found is not None
    assert (found["relative"], found["block"]) == (False, 64)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([torch.zeros(11, 16)], r"rel_tables have shapes \[\(11, 16\)\], expected 2 of \(13, 16\), one per axis"),
        ([torch.zeros(13, 16), torch.zeros(13, 8)], r"\(13, 8\)\], expected 2 of \(13, 16\)"),
        (torch.zeros(13, 16), "rel_tables is a Tensor, expected a list of tensors, one per axis"),
        (3, "rel_tables is a int, expected a list of tensors"),
        (["x", "y"], "rel_tables is a list, expected a list of tensors, one per axis"),
    ],
)
def test_tables_that_do_not_fit_are_named(tables: Any, message: str) -> None:
    q = torch.zeros(1, 2, 56, 16)
    with pytest.raises(KernelError, match=message):
        attention(q, q, q, method="halo", block=3, halo=2, grid=(7, 8), rel_tables=tables)


def test_a_module_of_another_head_size_says_so() -> None:
    module = build("halo", heads=2, head_dim=8, block=4, halo=2, relative=True)
    q = torch.zeros(1, 2, 12, 16)
    with pytest.raises(KernelError, match="this module has head size 8 but q has 16"):
        module(q, q, q)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relative": "yes"}, "relative is 'yes', expected True or False"),
        ({"grid": 5}, "grid is 5, expected one to three whole numbers"),
        ({"block": 0}, "block is 0, expected a whole number of at least 1"),
    ],
)
def test_a_module_of_options_that_do_not_fit_is_not_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        build("halo", heads=2, head_dim=8, **options)
