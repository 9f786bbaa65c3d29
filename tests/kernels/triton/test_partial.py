"""Engine 3 in Triton: parts merge to the whole, with gradients, and received attention."""

from __future__ import annotations

import pytest
import torch

from kernels import KernelError, colstat, merge, partial_attention
from kernels.engines.partial import reference_colstat
from tests.kernels.cases import poisoned_memory, random_qkv, relative


@pytest.mark.parametrize(("lq", "lk", "cut", "causal"), [(40, 75, 33, True), (37, 20, 7, False), (60, 33, 12, True)])
def test_parts_of_the_keys_merge_to_the_whole_with_gradients(
    lq: int, lk: int, cut: int, causal: bool, device: str
) -> None:
    tensors, g = random_qkv(lq, lk, seed=lq, batch=1, heads=(2, 1, 2), d=20, dv=9)
    key_mask = (torch.rand(1, lk, generator=g) < 0.7).to(device)
    weights = [torch.randn(1, 2, lq, *s, generator=g, dtype=torch.float64).to(device) for s in ((9,), ())]
    found = []
    for backend, dtype in (("torch", torch.float64), ("triton", torch.float32)):
        q, k, v = (x.to(device, dtype).requires_grad_() for x in tensors)
        with poisoned_memory():
            parts = [
                partial_attention(
                    q,
                    k[:, :, a:b],
                    v[:, :, a:b],
                    causal=causal,
                    key_mask=key_mask[:, a:b],
                    temperature=1.3,
                    offset=lk - lq - a,
                    backend=backend,
                )
                for a, b in ((0, cut), (cut, lk))
            ]
            o, lse = merge(*parts)
            # A query that sees nothing has a log-sum-exp of -inf, which no loss can use.
            seen = lse > float("-inf")
            loss = (o * weights[0].to(dtype)).sum() + (lse.masked_fill(~seen, 0.0) * weights[1].to(dtype)).sum()
            found.append([o, lse.masked_fill(~seen, 0.0), seen, *torch.autograd.grad(loss, (q, k, v))])
    want, got = found
    assert torch.equal(got[2], want[2])
    if causal and lq > lk:
        assert not bool(got[2].all())
        assert bool((got[0][~got[2]] == 0).all())
    for a, b in zip(got, want, strict=True):
        if a.dtype != torch.bool:
            assert relative(a, b) < 1e-5


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("lq", "lk"), [(70, 70), (35, 66), (50, 23)])
def test_received_attention_is_the_mean_of_the_weights(lq: int, lk: int, causal: bool, device: str) -> None:
    (q, k, v), g = random_qkv(lq, lk, seed=lk, batch=1, heads=(2, 1, 2), d=24)
    mask = (torch.rand(1, lk, generator=g) < 0.8).to(device)
    q, k, v = (x.float().to(device) for x in (q, k, v))
    lse = partial_attention(q, k, v, causal=causal, key_mask=mask)[1]
    got = colstat(q, k, lse, causal=causal, key_mask=mask, backend="triton")
    wide = k.double().repeat_interleave(2, dim=1)
    assert relative(got, reference_colstat(q.double(), wide, causal=causal, key_mask=mask)) < 1e-5


def test_a_backend_that_is_not_there_is_refused() -> None:
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(KernelError, match="no backend 'reference' here; expected 'torch' or 'triton'"):
        partial_attention(q, q, q, backend="reference")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_on_a_gpu_at_real_lengths(dtype: torch.dtype, gpu: str) -> None:
    tensors, _ = random_qkv(2040, 3001, seed=1, d=64, dv=64)
    q, k, v = (x.to(gpu, dtype) for x in tensors)
    parts = [
        partial_attention(q, k[:, :, a:b], v[:, :, a:b], causal=True, offset=961 - a, backend="triton")
        for a, b in ((0, 1111), (1111, 3001))
    ]
    want = partial_attention(*(x.double() for x in (q, k, v)), causal=True, backend="torch")
    allowed = 1e-5 if dtype == torch.float32 else 1e-2
    for a, b in zip(merge(*parts), want, strict=True):
        assert relative(a, b) < allowed
    got = colstat(q, k, merge(*parts)[1], causal=True, backend="triton")
    assert relative(got, reference_colstat(q.double(), k.double(), causal=True, key_mask=None)) < allowed
