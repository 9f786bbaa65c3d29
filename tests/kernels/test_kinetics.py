"""The cost model: its closed forms, its fit, and what `method="auto"` does by it. Times here are made up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels import KernelError, attention
from kernels.dense.ways import WAYS, scratch_bytes
from kernels.engines.rules import Call, boolean
from kernels.lab import choosing, fastest, keep_fits_in, kinetics
from kernels.lab.eflops import Cost, Generation, block_top_k_cost, dense_cost, sparse_cost
from kernels.lab.kinetics import TERMS, Shape, fit, terms
from kernels.lab.work import method_terms
from kernels.windows.power import power
from tests.kernels.cases import random_qkv, relative

GENERATION = Generation(parameters=1e6, prompt=30, generated=200, samples=3, heads=8, kv_heads=2, head_dim=16, layers=2)
OF = kinetics.Fits.of


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    keep_fits_in(None)
    yield
    keep_fits_in(None)


def made_up(monkeypatch: pytest.MonkeyPatch, took: Callable[[str], float]) -> list[str]:
    """Calibrations take no time: what is timed takes `took(name of the fit)` seconds. Gives what was fitted."""
    fitted: list[str] = []

    def named(self: Any, what: str, device: str, calibration: Any, **how: Any) -> Any:
        def timed(runs: Mapping[Any, Callable[[], object]], device: str, **_: object) -> dict[Any, float]:
            fitted.append(what)
            next(iter(runs.values()))()
            return dict.fromkeys(runs, took(what))

        monkeypatch.setattr(kinetics, "interleaved", timed)
        return OF(self, what, device, calibration, **how)

    monkeypatch.setattr(kinetics.Fits, "of", named)
    return fitted


# ---- closed forms -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("budget", [5, 30, 100, 229, 230, 400])
def test_costs_are_sums_over_steps(budget: int) -> None:
    g = GENERATION
    key_flops, key_bytes = 4 * g.heads * g.head_dim * g.layers, 4 * g.kv_heads * g.head_dim * g.layers
    read = sum(min(budget, g.prompt + t) for t in range(g.generated))
    found = sparse_cost(g, budget)
    near = key_bytes * g.samples * g.generated / 2
    assert abs(found.bytes - key_bytes * g.samples * read) <= near
    assert abs(found.flops - g.samples * (2 * g.parameters * g.generated + key_flops * read)) <= (
        key_flops * g.samples * g.generated / 2
    )
    assert found.eflops(0.0) == found.flops
    assert found.eflops(100.0) == found.flops + 100.0 * found.bytes
    assert sparse_cost(g, budget + 7).flops >= found.flops


def test_dense_reads_the_prompt_once_for_all_samples() -> None:
    from dataclasses import replace

    g = GENERATION
    one, two = dense_cost(g), dense_cost(replace(g, samples=2 * g.samples))
    shared = 4 * g.kv_heads * g.head_dim * g.layers * g.prompt * g.generated
    assert two == Cost(2 * one.flops, 2 * one.bytes - shared)
    whole = sparse_cost(g, g.prompt + g.generated)
    assert whole.flops == one.flops
    assert whole.bytes == one.bytes + (g.samples - 1) * shared
    assert dense_cost(replace(g, heads=16)).bytes == one.bytes
    assert dense_cost(replace(g, kv_heads=8)).flops == one.flops
    chosen = block_top_k_cost(g, block=16, kept=4, window=8)
    looked = g.samples * g.heads * g.head_dim * g.layers * (2 * g.prompt + g.generated) * g.generated / 16
    assert chosen.flops == sparse_cost(g, 72).flops + looked
    assert chosen.bytes > sparse_cost(g, 72).bytes


# ---- the fit ----------------------------------------------------------------------------------------------------
def test_a_fit_finds_the_rates_that_made_the_times_and_none_below_zero() -> None:
    rates = (2e-5, 1e-11, 0.0, 3e-10, 1e-7)
    shapes = [
        Shape(b, h, n, m, d, d)
        for b, h in ((1, 4), (2, 2))
        for n, m in ((1, 900), (64, 64), (500, 700))
        for d in (8, 64)
    ]
    points = []
    for s in shapes:
        of = terms(s, s.pairs(causal=True))
        points.append((of, sum(c * x for c, x in zip(rates, of, strict=True))))
    found = fit(points)
    assert found.coefficients == pytest.approx(rates, rel=1e-4, abs=1e-14)
    assert found.error < 1e-6
    assert set(found.rates()) == set(TERMS) - {"bytes"}
    assert found.seconds(points[3][0]) == pytest.approx(points[3][1])
    # Times that fall with the length have no such fit, and get the nearest one rather than a negative rate.
    assert min(fit([(of, 1 / took) for of, took in points]).coefficients) >= 0
    with pytest.raises(KernelError, match="expected more than 0"):
        fit([(points[0][0], 0.0)])


def test_pairs_and_scores_are_those_of_the_mask() -> None:
    for lq, lk, causal in itertools.product((1, 5, 9), (1, 5, 9), (False, True)):
        mask = torch.ones(lq, lk, dtype=torch.bool)
        mask = mask.tril(lk - lq) if causal else mask
        assert Shape(2, 3, lq, lk, 4, 4).pairs(causal=causal) == 6 * int(mask.sum())
    call = Call(4, 50, 50, True, torch.device("cpu"), 0)
    seen = int(boolean(power(call, window=6, block=1, sinks=2), call).sum())
    found = method_terms("power", {"window": 6, "sinks": 2}, Shape(2, 4, 50, 50, 8, 16), causal=True)
    assert found == terms(Shape(2, 4, 50, 50, 8, 16), 2 * 4 * seen)
    shape = Shape(1, 2, 3000, 3000, 16, 16)
    # Linear in the length, quadratic, and between: in that order.
    doubled = Shape(1, 2, 6000, 6000, 16, 16)
    growth = [
        method_terms(m, {}, doubled, causal=True)[1] / method_terms(m, {}, shape, causal=True)[1]
        for m in ("mala", "routing", "selective")
    ]
    assert growth[0] == pytest.approx(2)
    assert 2.5 < growth[1] < 3
    assert growth[2] == pytest.approx(4, rel=1e-3)


# ---- choosing ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("lq", "lk", "causal"), [(9, 9, True), (5, 12, True), (12, 5, True), (1, 7, True), (6, 8, False)]
)
def test_all_ways_and_auto_are_dense_attention(lq: int, lk: int, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, g = random_qkv(lq, lk, seed=3, heads=(4, 2, 1))
    qkv[1][0, :, 2] = float("nan")
    mask = torch.rand(2, lk, generator=g) < 0.7
    mask[0, 2] = False
    mask[1] = False
    want = attention(*qkv, causal=causal, key_mask=mask, backend="reference")
    for way in WAYS:
        keep_fits_in(None)
        fitted = made_up(monkeypatch, lambda what, way=way: 1.0 if way in what else 2.0)  # type: ignore[misc]
        got = attention(*qkv, method="auto", causal=causal, key_mask=mask)
        assert relative(got, want) < 1e-12
        assert fastest(*qkv, causal=causal, key_mask=mask).chosen == choosing.Candidate(way, way=True)
        assert len(fitted) == len(WAYS)  # once for each, however often it is asked


def test_memory_of_pairs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, lambda what: 3.0 if "blocks" in what else 1.0)
    long = torch.zeros(1, 1, 2000, 4)
    mask = torch.ones(1, 2000, dtype=torch.bool)
    assert scratch_bytes("fused", batch=1, heads=1, lq=2000, lk=2000, causal=True, masked=True) > choosing.SCRATCH_BYTES
    assert list(fastest(long, long, long, causal=True, key_mask=mask).seconds) == ["dense, blocks"]
    assert "dense, written out" not in fastest(long, long, long, causal=True).seconds
    few = torch.zeros(1, 1, 3, 4)
    assert set(fastest(few, long, long, causal=True, key_mask=mask).seconds) == {f"dense, {way}" for way in WAYS}


def test_auto_chooses_among_other_functions_only_if_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, lambda what: 1.0 if what.startswith("sliding") else 2.0)
    (q, k, v), _ = random_qkv(40, 40, seed=1)
    named: list[Any] = ["sdpa", ("sliding_window", {"window": 4}), "lightning"]
    choice = fastest(q, k, v, causal=True, candidates=named)
    assert choice.chosen == choosing.Candidate("sliding_window", {"window": 4})
    assert next(iter(choice.seconds)) == "sliding_window, window=4"
    assert set(choice.seconds) == {"sliding_window, window=4", "sdpa", "lightning"}
    got = attention(q, k, v, method="auto", causal=True, candidates=named, scale=0.3)
    assert torch.equal(got, attention(q, k, v, method="sliding_window", causal=True, window=4, scale=0.3))
    q.requires_grad_()
    assert attention(q, k, v, method="auto", causal=True).requires_grad


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"window": 4}, "'auto' has no option 'window'; it takes candidates="),
        ({"backend": "torch"}, "leave out backend='torch'"),
        ({"candidates": []}, "candidates is empty"),
        ({"candidates": ["lightning"]}, "causal only; pass causal=True"),
        ({"candidates": ["sdpaa"]}, "did you mean 'sdpa'"),
        ({"candidates": ["ape"], "causal": 2}, "causal is 2"),
    ],
)
def test_what_auto_cannot_do_is_said(how: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, lambda what: 1.0)
    (q, k, v), _ = random_qkv(8, 8, seed=1)
    with pytest.raises(KernelError, match=message):
        attention(q, k, v, method="auto", **how)


def test_other_lengths_and_traced_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, lambda what: 1.0)
    (q, k, v), _ = random_qkv(8, 9, seed=1)
    with pytest.raises(KernelError, match="'halo' is self-attention: 8 queries, 9 keys"):
        fastest(q, k, v, candidates=["halo"])
    with pytest.raises(KernelError, match="cannot be timed at 3 of the lengths"):
        fastest(k, k, v, candidates=[("neighborhood", {"kernel": 1500})])
    meta = torch.empty(1, 2, 8, 4, device="meta")
    with pytest.raises(KernelError, match="a traced call cannot"):
        attention(meta, meta, meta, method="auto", candidates=["sdpa"])


def test_fits_are_kept_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kept" / "fits.json"
    fitted = made_up(monkeypatch, lambda what: 1.0 if "fused" in what else 2.0)
    (q, k, v), _ = random_qkv(8, 8, seed=1)
    for _ in range(2):
        keep_fits_in(file)
        assert fastest(q, k, v).chosen.name == "fused"
        assert len(fitted) == len(WAYS)
    file.write_text('{"x": {"error": 0.1, "coefficients": [1]}}')
    with pytest.raises(KernelError, match=r"fits.json holds no fits; expected a file that keep_fits_in wrote"):
        keep_fits_in(file)
