"""Lightning attention: causal linear attention in which each head forgets at its own rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.checks import compute_dtype, kept_on_gpu, positive
from kernels.compiled import Like
from kernels.engines.kept import State, wanted
from kernels.engines.linear_reference import quadratic_linear_attention
from kernels.engines.linear_scan import linear_attention, linear_scan
from kernels.errors import KernelError
from kernels.registry import Mechanism
from kernels.triton.linear_scan import Weights
from kernels.triton.linear_scan import linear_attention as triton_linear_attention

__all__ = [
    "MECHANISM",
    "alibi_log_decay",
    "lightning_attention",
    "linear_log_decay",
    "log_decays",
    "reference_lightning",
    "triton_lightning",
]


def alibi_log_decay(heads: int, *, layer: int = 0, layers: int = 1) -> Tensor:
    """Log decays (H,) of TransNormerLLM: minus the ALiBi slopes, times 1 - layer / (layers - 1) + 1e-5.

    The slopes are 2^(-8 (h + 1) / H) for a power of two; otherwise those of the power below, filled up with every
    second one of the power above.
    """

    def slopes(n: int) -> list[float]:
        if n & (n - 1) == 0:
            return [2.0 ** (-8.0 * (h + 1) / n) for h in range(n)]
        below = 1 << (n.bit_length() - 1)
        return slopes(below) + slopes(2 * below)[::2][: n - below]

    factor = 1.0 - layer / (layers - 1) + 1e-5 if layers > 1 else 1.0
    return -factor * torch.tensor(slopes(heads))


def linear_log_decay(heads: int, *, layer: int = 0, layers: int = 1) -> Tensor:
    """Log decays (H,) as flash-linear-attention chooses them: -(8 / H) (1 - layer / layers) h; head 0 never forgets."""
    return -(8.0 / heads) * (1.0 - layer / layers) * torch.arange(heads, dtype=torch.float32)


def lightning_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    log_decay: Tensor | Sequence[float] | float | None = None,
    chunk: int | None = None,
) -> Tensor:
    """The scaled sum over j <= i of exp(log_decay (i - j)) (q_i . k_j) v_j; (B, H, Lq, Dv).

    There is no softmax and no normaliser, and the scale is 1 if none is given: outputs grow with the length where
    nothing is forgotten, so a norm should follow.

    Args:
        q: queries (B, H, Lq, D).
        k: keys (B, Hk, Lk, D); neighbouring heads of queries share one.
        v: values (B, Hk, Lk, Dv).
        causal: always true.
        key_mask: bool (B, Lk); hidden keys, 0 already, add nothing, and time passes over them all the same.
        scale: factor on the dot products.
        log_decay: one number at most 0 per head, or one for all; `alibi_log_decay` if None. It gets no gradient.
        chunk: positions per chunk of the fast version; None chooses. The result does not depend on it.
    """
    chunk = None if chunk is None else positive("chunk", chunk)
    q = q if scale == 1.0 else q * scale
    out = linear_attention(q, k, v, log_decay=log_decays(log_decay, q), causal=True, chunk=chunk)
    return out.to(q.dtype)


def reference_lightning(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    log_decay: Tensor | Sequence[float] | float | None = None,
    chunk: int | None = None,
) -> Tensor:
    """The definition as a matrix of weights; arguments as for `lightning_attention`."""
    to, decays = compute_dtype(q), log_decays(log_decay, q)
    return quadratic_linear_attention(scale * q.to(to), k.to(to), v.to(to), log_decay=decays).to(q.dtype)


def triton_lightning(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    log_decay: Tensor | Sequence[float] | float | None = None,
    chunk: int | None = None,
) -> Tensor:
    """`lightning_attention` by Triton kernels, whose chunks are their own choice."""
    weights = Weights(scale=scale)
    decays = log_decays(log_decay, q)
    return triton_linear_attention(q, k, v, causal=True, weights=weights, log_decay=decays, key_mask=key_mask)


def _stateful(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: State | None,
    *,
    key_mask: Tensor | None,
    scale: float,
    log_decay: Tensor | Sequence[float] | float | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, State]:
    """The next positions: the state is the decayed sum of k v^T, `sum` (B, H, D, Dv)."""
    before = None if state is None else wanted(state, "sum")[0]
    chunk = None if chunk is None else positive("chunk", chunk)
    out, last = linear_scan(scale * q, k, v, log_decay=log_decays(log_decay, q), state=before, chunk=chunk)
    return out.to(q.dtype), {"sum": last}


def _state_like(q: Like, k: Like, v: Like, state: State | None, **_: object) -> dict[str, Like]:
    shape = (*q.shape[:2], k.shape[3], v.shape[3])
    return {"sum": Like(shape, torch.promote_types(q.dtype, torch.float32), q.device)}


def log_decays(log_decay: Tensor | Sequence[float] | float | None, q: Tensor) -> Tensor:
    """One log decay per head in the type of the states; `KernelError` unless they are all at most 0."""
    heads, to = q.shape[1], compute_dtype(q)
    if not isinstance(log_decay, Tensor):
        given = tuple(log_decay) if isinstance(log_decay, Sequence) else log_decay
        return kept_on_gpu(_numbers, q)(given, heads, q.device, to)
    found = log_decay.detach().to(device=q.device, dtype=to)
    return _checked(found.expand(heads) if found.ndim == 0 else found, heads)


def _numbers(log_decay: tuple[float, ...] | float | None, heads: int, device: torch.device, to: torch.dtype) -> Tensor:
    """The decays of one number, of one per head, or of none."""
    if log_decay is None:
        return alibi_log_decay(heads).to(device=device, dtype=to)
    found = torch.tensor(log_decay, dtype=to)
    return _checked(found.expand(heads) if found.ndim == 0 else found, heads).to(device)


def _checked(found: Tensor, heads: int) -> Tensor:
    """Decays (H,) as they are; `KernelError` for others, but not while a CUDA graph is captured: it cannot wait."""
    if tuple(found.shape) != (heads,):
        raise KernelError(f"log_decay has shape {tuple(found.shape)}, expected one number or ({heads},)")
    if found.is_meta or (found.is_cuda and torch.cuda.is_current_stream_capturing()):
        return found
    worst = float(found.max()) if heads else 0.0
    if not worst <= 0.0 or math.isnan(float(found.min())):
        raise KernelError(f"log_decay reaches {worst}, expected numbers of at most 0")
    return found


MECHANISM = Mechanism(
    name="lightning",
    summary="causal linear attention with a decay per head; no softmax, no normaliser",
    paper="Lightning attention / TransNormerLLM, arXiv 2405.17381, 2307.14995, 2401.04658",
    cost="O(L (chunk + D) (D + Dv)) time, O(L D + D Dv) memory",
    use="histories of any length at constant work per step, older steps fading at a rate per head",
    function="linear attention with decay",
    reference=reference_lightning,
    torch=lightning_attention,
    stateful=_stateful,
    state_names=("sum",),
    state_like=_state_like,
    triton=triton_lightning,
    shares_keys=True,
    causal="only",
    unit_scale=True,
)
