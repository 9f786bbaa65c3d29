"""Linear attention: the scan, lightning, MALA and WERSA, each with what its definition implies."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels import KernelError, attention, build
from kernels.engines.linear_reference import recurrent_linear_attention
from kernels.engines.linear_scan import linear_scan
from kernels.linear.features import random_projection, relu_features
from kernels.linear.lightning import alibi_log_decay, linear_log_decay
from kernels.linear.wavelet import causal_haar, haar, reference_causal_haar, reference_haar
from tests.kernels.cases import poisoned_memory, random_qkv, relative

DECAYS = torch.tensor([-0.7, -0.01], dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    length=st.sampled_from([1, 2, 15, 16, 17, 63, 64, 65, 127]),
    chunk=st.sampled_from([1, 16, 32, 64, 128]),
    decays=st.booleans(),
)
def test_chunks_equal_the_recurrence_whatever_their_size(seed: int, length: int, chunk: int, decays: bool) -> None:
    (q, k, v), g = random_qkv(length, length, seed=seed, d=5, dv=3)
    state = torch.randn(2, 2, 5, 3, generator=g, dtype=torch.float64)
    log_decay = DECAYS if decays else torch.zeros(2, dtype=torch.float64)
    results = []
    weights = torch.randn(v.shape, generator=g, dtype=torch.float64), torch.randn(state.shape, generator=g).double()
    for run in (
        lambda q, k, v, s: linear_scan(q, k, v, log_decay=log_decay if decays else None, state=s, chunk=chunk),
        lambda q, k, v, s: recurrent_linear_attention(q, k, v, log_decay=log_decay, state=s),
    ):
        leaves = [x.clone().requires_grad_() for x in (q, k, v, state)]
        with poisoned_memory():
            o, last = run(*leaves)
            found = torch.autograd.grad((o * weights[0]).sum() + (last * weights[1]).sum(), leaves)
        results.append([o.detach(), last.detach(), *found])
    for a, b in zip(*results, strict=True):
        assert relative(a, b) < 1e-12


def test_a_run_goes_on_from_the_state_of_the_run_before() -> None:
    (q, k, v), _ = random_qkv(90, 90, seed=1)
    whole, last = linear_scan(q, k, v, log_decay=DECAYS, chunk=16)
    state: Tensor | None = None
    parts = []
    for a, b in itertools.pairwise((0, 1, 40, 90)):
        o, state = linear_scan(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], log_decay=DECAYS, state=state, chunk=16)
        parts.append(o)
    assert relative(torch.cat(parts, dim=2), whole) < 1e-12
    assert state is not None
    assert relative(state, last) < 1e-12


def test_float32_states_stay_right_over_long_sequences() -> None:
    (q, k, v), _ = random_qkv(16384, 16384, seed=2, batch=1, heads=(1, 1, 1), d=8, dv=8)
    exact, _ = linear_scan(q, k, v)
    rounded, _ = linear_scan(q.float(), k.float(), v.float())
    assert relative(rounded, exact) < 1e-3


def lightning(q: Tensor, k: Tensor, v: Tensor, log_decay: float | Tensor) -> Tensor:
    return attention(q, k, v, method="lightning", causal=True, log_decay=log_decay)


def test_lightning_in_its_limits() -> None:
    (q, k, v), _ = random_qkv(40, 40, seed=3)
    forgetful = lightning(q, k, v, -1e4)
    torch.testing.assert_close(forgetful, (q * k).sum(dim=-1, keepdim=True) * v)
    state = (k[..., :, None] * v[..., None, :]).cumsum(dim=2)
    torch.testing.assert_close(lightning(q, k, v, 0.0), (q[..., None, :] @ state)[..., 0, :])


def test_lightning_is_linear_in_each_argument_and_in_slices_of_the_head() -> None:
    (q, k, v), g = random_qkv(33, 33, seed=4)
    other = torch.randn(v.shape, generator=g, dtype=torch.float64)
    for n in range(3):
        args = [q, k, v]
        mixed = [*args[:n], 2.0 * args[n] - 3.0 * other, *args[n + 1 :]]
        swapped = [*args[:n], other, *args[n + 1 :]]
        want = 2.0 * lightning(q, k, v, DECAYS) - 3.0 * lightning(*swapped, DECAYS)
        assert relative(lightning(*mixed, DECAYS), want) < 1e-12
    halves = lightning(q[..., :7], k[..., :7], v, DECAYS) + lightning(q[..., 7:], k[..., 7:], v, DECAYS)
    assert relative(halves, lightning(q, k, v, DECAYS)) < 1e-12


def test_decays_of_the_papers() -> None:
    torch.testing.assert_close(alibi_log_decay(8), -torch.tensor([2.0 ** -(h + 1) for h in range(8)]))
    torch.testing.assert_close(alibi_log_decay(3), -torch.tensor([2.0**-4, 2.0**-8, 2.0**-2]))
    torch.testing.assert_close(alibi_log_decay(2, layer=1, layers=3), -(0.5 + 1e-5) * torch.tensor([2.0**-4, 2.0**-8]))
    torch.testing.assert_close(linear_log_decay(4, layer=1, layers=2), -torch.tensor([0.0, 1.0, 2.0, 3.0]))
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(KernelError, match=r"log_decay reaches 0\.5"):
        attention(q, q, q, method="lightning", causal=True, log_decay=[0.5, -1.0])
    with pytest.raises(KernelError, match="log_decay has shape"):
        attention(q, q, q, method="lightning", causal=True, log_decay=[-0.5, -1.0, -1.0])
    with pytest.raises(KernelError, match="log_decay reaches"):
        attention(q, q, q, method="lightning", causal=True, log_decay=float("nan"))


def phi(x: Tensor) -> Tensor:
    return torch.nn.functional.elu(x) + 1.0


def test_mala_is_linear_attention_plus_the_centred_score() -> None:
    (q, k, v), _ = random_qkv(12, 20, seed=5)
    scores = phi(q) @ phi(k).transpose(-1, -2)
    plain = scores / scores.sum(dim=-1, keepdim=True)
    centred = scores - scores.mean(dim=-1, keepdim=True)
    for c in (1e-3, 1.0):
        want = (plain + c * centred) @ v
        assert relative(attention(q, k, v, method="mala", c=c), want) < 1e-4
    # The smaller the factor, the nearer to linear attention.
    apart = [relative(attention(q, k, v, method="mala", c=c), plain @ v) for c in (1e-1, 1e-2, 1e-3)]
    assert apart[1] == pytest.approx(apart[0] / 10, rel=0.02)
    assert apart[2] == pytest.approx(apart[0] / 100, rel=0.05)
    code = attention(q, k, v, method="mala")
    assert relative(code, attention(q, k, v, method="mala", c=1.0 / (20 * math.sqrt(16)))) < 1e-12


def test_mala_keeps_the_magnitude_of_the_query() -> None:
    (q, k, v), _ = random_qkv(6, 30, seed=6)
    q = q.abs()
    double = 2.0 * q + 1.0
    torch.testing.assert_close(phi(double), 2.0 * phi(q))
    scores = phi(q) @ phi(k).transpose(-1, -2)
    plain = (scores / scores.sum(dim=-1, keepdim=True)) @ v
    once, twice = (attention(x, k, v, method="mala", c=1.0) - plain for x in (q, double))
    assert relative(twice, 2.0 * once) < 1e-6


def test_mala_of_equal_keys_is_the_mean_and_causal_rows_are_prefixes() -> None:
    (q, k, v), _ = random_qkv(25, 25, seed=7)
    same = k[:, :, :1].expand_as(k)
    out = attention(q, same, v, method="mala")
    assert relative(out, v.mean(dim=2, keepdim=True).expand_as(out)) < 1e-5
    causal = attention(q, k, v, method="mala", causal=True)
    for t in (1, 2, 13, 25):
        alone = attention(q[:, :, t - 1 : t], k[:, :, :t], v[:, :, :t], method="mala")
        assert relative(causal[:, :, t - 1 : t], alone) < 1e-10


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("c", ["code", 1.0])
def test_hidden_keys_of_mala_do_not_count(c: str | float, causal: bool) -> None:
    (q, k, v), g = random_qkv(30, 30, seed=16)
    mask = torch.rand(2, 30, generator=g) < 0.5
    for b in range(2):
        mask[b, -1] = True
        real = mask[b].nonzero()[:, 0]
        alone = attention(*(x[b : b + 1, :, real] for x in (q, k, v)), method="mala", c=c, causal=causal)
        got = attention(q, k, v, method="mala", c=c, causal=causal, key_mask=mask)[b : b + 1, :, real]
        assert relative(got, alone) < (1e-9 if c == 1.0 else 1e-12)


@pytest.mark.parametrize("c", [0.0, -1.0, float("inf"), float("nan"), "paper"])
def test_mala_refuses_a_factor_that_is_none(c: float | str) -> None:
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(KernelError, match="expected 'code' or a positive number"):
        attention(q, q, q, method="mala", c=c)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), length=st.integers(1, 40), levels=st.integers(1, 5))
def test_fast_wavelets_equal_analysis_and_synthesis(seed: int, length: int, levels: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 1, length, 3, generator=g, dtype=torch.float64)
    factors = torch.randn(2, levels + 1, generator=g, dtype=torch.float64)
    assert relative(haar(x, factors), reference_haar(x, factors)) < 1e-12
    in_time = torch.randn(2, length, levels + 1, generator=g, dtype=torch.float64)
    assert relative(causal_haar(x, in_time), reference_causal_haar(x, in_time)) < 1e-12
    # Equal factors on all levels are a multiplication: both transforms put together again what they took apart.
    assert relative(haar(x, torch.full_like(factors, 0.7)), 0.7 * x) < 1e-12
    assert relative(reference_haar(x, torch.full_like(factors, 0.7)), 0.7 * x) < 1e-12
    assert relative(causal_haar(x, torch.full_like(in_time, 0.7)), 0.7 * x) < 1e-12


def test_the_wavelet_map_is_symmetric_with_its_factors_as_eigenvalues() -> None:
    levels, n = 3, 16
    factors = torch.tensor([[0.3, -1.0, 2.0, 5.0]], dtype=torch.float64)
    matrix = haar(torch.eye(n, dtype=torch.float64)[None, None], factors)[0, 0]
    torch.testing.assert_close(matrix, matrix.T)
    want = sorted([0.3] * 8 + [-1.0] * 4 + [2.0] * 2 + [5.0] * (n >> levels))
    torch.testing.assert_close(torch.linalg.eigvalsh(matrix), torch.tensor(want, dtype=torch.float64))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), blocks=st.integers(1, 5), levels=st.integers(1, 4))
def test_wavelets_keep_the_energy_and_split_it_over_levels(seed: int, blocks: int, levels: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 1, blocks << levels, 2, generator=g, dtype=torch.float64)
    # A factor of 1 for one level and 0 for the others leaves that level's part: parts are orthogonal to each other.
    parts = [transform(x, one[None]) for transform in (haar, reference_haar) for one in torch.eye(levels + 1).double()]
    for found in (parts[: levels + 1], parts[levels + 1 :]):
        assert relative(torch.stack(found).sum(dim=0), x) < 1e-12
        assert float(sum(p.square().sum() for p in found)) == pytest.approx(float(x.square().sum()))
    # The same energies from the coefficients: detail of level l at half the length of level l - 1.
    smooth = x
    for level in range(levels):
        even, odd = smooth[:, :, 0::2], smooth[:, :, 1::2]
        detail, smooth = (even - odd) / math.sqrt(2.0), (even + odd) / math.sqrt(2.0)
        assert float(detail.square().sum()) == pytest.approx(float(parts[level].square().sum()), abs=1e-12)
    assert float(smooth.square().sum()) == pytest.approx(float(parts[levels].square().sum()), abs=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_weights_of_wersa_sum_to_one_up_to_what_its_denominator_carries(causal: bool) -> None:
    (q, k, _), _ = random_qkv(40, 40, seed=17)
    w = random_projection(16, 32).double()
    kinds = {"levels": 2, "features": 32, "projection": w, "scale_weights": torch.ones(3)}
    ones = torch.ones(2, 2, 40, 1, dtype=torch.float64)
    got = attention(q, k, ones, method="wersa", causal=causal, beta=1.0, **kinds)  # type: ignore[arg-type]
    scores = relu_features(q, w, 1.0) @ relu_features(k, w, 1.0).transpose(-1, -2)
    total = (scores.tril() if causal else scores).sum(dim=-1, keepdim=True)
    torch.testing.assert_close(got, total / (total + 1e-6), atol=1e-12, rtol=1e-9)
    assert bool(((1.0 - got) <= 1e-6 / total * 1.0001).all())


def test_wersa_with_equal_factors_is_random_feature_attention_and_knows_no_size_or_bandwidth() -> None:
    (q, k, v), _ = random_qkv(37, 37, seed=8)
    w = random_projection(16, 128).double()
    fq, fk = relu_features(q, w, 1.0), relu_features(k, w, 1.0)
    weights = fq @ fk.transpose(-1, -2)
    want = (weights / weights.sum(dim=-1, keepdim=True)) @ v
    ones = torch.ones(5)
    assert relative(attention(q, k, v, method="wersa", scale_weights=ones), want) < 1e-5
    for other in (
        attention(q, k, v, method="wersa", scale_weights=ones, beta=3.0),
        attention(5.0 * q, k, v, method="wersa", scale_weights=ones),
        attention(q, k, v, method="wersa", scale_weights=ones, key_projection=w),
    ):
        assert relative(other, want) < 1e-4
    forgets = attention(q, k, v, method="wersa", key_projection=random_projection(16, 128, seed=9))
    assert relative(forgets, want) > 0.01
    assert relative(attention(q, k, v, method="wersa", pre_gelu=True), want) > 0.01


def test_random_features_tend_to_the_arc_cosine_kernel() -> None:
    g = torch.Generator().manual_seed(10)
    x, y = torch.randn(2, 8, 16, generator=g, dtype=torch.float64)
    angle = torch.arccos((x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1)))
    size = x.norm(dim=-1) * y.norm(dim=-1) / (2 * math.pi * 16)
    kernel = size * (torch.sin(angle) + (math.pi - angle) * torch.cos(angle))
    errors = []
    counts = (64, 256, 1024, 4096)
    for m in counts:
        found = []
        for seed in range(20):
            w = random_projection(16, m, seed=seed).double()
            found.append(((relu_features(x, w, 1.0) * relu_features(y, w, 1.0)).sum(-1) - kernel).square().mean())
        errors.append(math.log(float(torch.stack(found).mean().sqrt())))
    logs = [math.log(m) for m in counts]
    slope = (errors[-1] - errors[0]) / (logs[-1] - logs[0])
    assert -0.65 < slope < -0.35


def test_favor_features_tend_to_softmax() -> None:
    (q, k, v), _ = random_qkv(20, 20, seed=11, d=8)
    q, k = 0.5 * q, 0.5 * k
    want = attention(q, k, v)
    near, far = (
        attention(q, k, v, method="wersa", levels=1, features=m, feature_map="favor+", scale_weights=torch.ones(2))
        for m in (4096, 16)
    )
    assert relative(near, want) < 0.15
    assert relative(near, want) < 0.5 * relative(far, want)


@pytest.mark.parametrize("causal", [False, True])
def test_what_is_hidden_from_wersa_does_not_matter(causal: bool) -> None:
    (q, k, v), g = random_qkv(30, 30, seed=12)
    mask = torch.rand(2, 30, generator=g) < 0.6
    before = attention(q, k, v, method="wersa", key_mask=mask, causal=causal)
    for x in (q, k, v):
        x[~mask[:, None].expand(x.shape[:3])] += 5.0
    after = attention(q, k, v, method="wersa", key_mask=mask, causal=causal)
    assert torch.equal(before, after)
    assert bool((before[~mask[:, None].expand(q.shape[:3])] == 0).all())


@pytest.mark.parametrize("causal", [False, True])
def test_the_module_of_wersa_learns_and_looks_back_only_if_causal(causal: bool) -> None:
    torch.manual_seed(0)
    module = build("wersa", heads=2, head_dim=16, levels=2, features=32).double().eval()
    (q, k, v), g = random_qkv(24, 24, seed=13)
    mask = torch.rand(2, 24, generator=g) < 0.8
    out = module(q, k, v, causal=causal, key_mask=mask)
    grads = torch.autograd.grad(out.square().sum(), list(module.parameters()))
    named = dict(zip((n for n, _ in module.named_parameters()), grads, strict=True))
    assert all(bool(torch.isfinite(x).all()) for x in grads)
    assert all(bool((x != 0).any()) for n, x in named.items() if n != "bandwidth")
    assert relative(out, module(q, k, v, causal=causal, key_mask=mask, backend="reference")) < 1e-12
    for x in (q, k, v):
        x[:, :, 15:] += 1.0
    moved = module(q, k, v, causal=causal, key_mask=mask)
    assert torch.equal(moved[:, :, :15], out[:, :, :15]) == causal
    clone = build("wersa", heads=2, head_dim=16, levels=2, features=32, seed=5).double().eval()
    clone.load_state_dict(module.state_dict())
    assert torch.equal(clone(q, k, v, causal=causal), module(q, k, v, causal=causal))


def test_wersa_refuses_what_does_not_fit() -> None:
    q = torch.zeros(2, 1, 6, 4)
    for options, message in (
        ({"gates": torch.ones(2, 3)}, "gates has shape"),
        ({"scale_weights": torch.ones(3)}, "scale_weights has shape"),
        ({"feature_map": "cosine"}, "feature_map is 'cosine'"),
        ({"levels": 0}, "levels is 0"),
        ({"projection": torch.ones(3, 8)}, "projection has shape"),
        ({"feature_map": "favor+", "causal": True}, "is not causal"),
    ):
        with pytest.raises(KernelError, match=message.replace("+", ".")):
            attention(q, q, q, method="wersa", **options)  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="the gates read 8 features per position but were given 4"):
        build("wersa", heads=2, head_dim=4)(q, q, q)


@pytest.mark.parametrize(("lq", "lk"), [(300, 700), (700, 300), (1, 600)])
def test_causal_mala_of_other_queries_than_keys_in_several_sections(lq: int, lk: int) -> None:
    (q, k, v), g = random_qkv(lq, lk, seed=14, batch=16, d=4, dv=3)
    mask = torch.rand(16, lk, generator=g) < 0.7
    found = []
    for backend in ("torch", "reference"):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attention(*leaves, method="mala", causal=True, key_mask=mask, backend=backend)  # type: ignore[arg-type]
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), leaves)])
    for a, b in zip(*found, strict=True):
        assert relative(a, b) < 1e-10


@pytest.mark.parametrize("causal", [False, True])
def test_parameters_of_wersa_learn_from_every_section(causal: bool) -> None:
    torch.manual_seed(1)
    module = build("wersa", heads=2, head_dim=4, levels=3, features=16).double().eval()
    (q, k, v), g = random_qkv(523, 523, seed=15, batch=16, d=4, dv=3)
    mask = torch.rand(16, 523, generator=g) < 0.9
    found = []
    for backend in ("torch", "reference"):
        out = module(q, k, v, causal=causal, key_mask=mask, backend=backend)
        learned = [p for n, p in module.named_parameters() if n != "bandwidth"]
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), learned)])
    for a, b in zip(*found, strict=True):
        assert relative(a, b) < 1e-10
