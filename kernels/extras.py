"""What calls of other libraries ask for besides: log-sum-exp, additive bias, ALiBi, learned sinks, packed sequences."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kernels.autocast import agreed, as_declared
from kernels.checks import blanked, check_key_mask, check_qkv, compute_dtype, default_scale, positive, repeat_heads
from kernels.compiled import Like, as_node
from kernels.dense.reference import masked_attention
from kernels.dispatch import attention, checked_options
from kernels.engines.block_sparse import block_sparse_attention
from kernels.engines.plan import block_for, plan_from_spans
from kernels.engines.ruled import call_of
from kernels.engines.rules import Rule
from kernels.errors import KernelError
from kernels.linear.lightning import alibi_log_decay
from kernels.registry import available, mechanism

__all__ = ["alibi_slopes", "attention_with_lse", "varlen_attention"]

_CHUNK_SCORES = 1 << 20
_COLUMNS = 64
"""Keys that are taken or left together where scores get a bias."""


def alibi_slopes(heads: int) -> Tensor:
    """The slopes of ALiBi (arXiv 2108.12409), (H,): 2^(-8 (h + 1) / H) for a power of two, filled up otherwise."""
    return -alibi_log_decay(positive("heads", heads))


def _lse_checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    method: str = "sdpa",
    key_mask: Tensor | None = None,
    bias: Tensor | None = None,
    alibi: Tensor | None = None,
    sink_logits: Tensor | None = None,
    **options: object,
) -> tuple[Callable[..., Rule], int, dict[str, object]]:
    """The rule of the method, the heads of the result, and the options; `KernelError` as said there."""
    chosen = mechanism(method)
    if chosen.rule is None:
        ruled = ", ".join(m for m in available() if mechanism(m).rule is not None)
        raise KernelError(f"attention method {method!r} has no log-sum-exp here; those that have: {ruled}")
    given = checked_options(method, options)
    heads = check_qkv(q, k, v)
    check_key_mask(key_mask, k)
    _check_extras(q, k, heads, bias, alibi, sink_logits)
    return chosen.rule, heads, given


def _lse_like(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, scale: object = None, **how: object
) -> tuple[Like, Like]:
    """What `attention_with_lse` gives."""
    check: Callable[..., tuple[object, int, object]] = _lse_checked
    return _with_lse(q, v, check(q, k, v, **how)[1])


def _with_lse(q: Tensor, v: Tensor, heads: int) -> tuple[Like, Like]:
    rows = (q.shape[0], heads, q.shape[2])
    return Like((*rows, v.shape[3]), q.dtype, q.device), Like(rows, compute_dtype(q), q.device)


@as_node(_lse_like)
def attention_with_lse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    method: str = "sdpa",
    causal: bool = False,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    bias: Tensor | None = None,
    alibi: Tensor | None = None,
    sink_logits: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, Tensor]:
    """Dense or windowed softmax attention with its log-sum-exp, and if asked a bias, ALiBi or learned sinks.

    Args:
        q: queries (B, Hq, Lq, D).
        k: keys (B, Hk, Lk, D).
        v: values (B, Hv, Lk, Dv).
        method: "sdpa" or one that a rule makes: "sliding_window", "power", "elastic_window", "masked".
        causal: as in `attention`.
        key_mask: bool (B, Lk), True where a key may be seen.
        scale: 1 / sqrt(D) if None.
        bias: added to the scores; broadcastable to (B, H, Lq, Lk), of four axes. It gets a gradient.
        alibi: slopes (H,) of ALiBi (`alibi_slopes`): slope times the distance is taken off the scores, in both
            directions where the call is not causal. It gets a gradient.
        sink_logits: one per head (H,), a key that holds nothing (arXiv 2309.17453, learned as in gpt-oss): weights
            sum to less than one. It gets a gradient.
        options: of the method.

    Returns:
        The output (B, H, Lq, Dv) in the type of q, 0 where no key is seen, and the log of what the softmax divides by
        (B, H, Lq), sinks counted, in float32 (float64); -inf where there is nothing. Both carry gradients. No matrix
        of all pairs is made besides the bias itself; with a bias or ALiBi rows are computed again on the way back.

    Raises:
        KernelError: for a method that is no such softmax, and for shapes that do not fit.
    """
    q, k, v = agreed(q, k, v)
    extras = {"bias": bias, "alibi": alibi, "sink_logits": sink_logits}
    check: Callable[..., tuple[Callable[..., Rule], int, dict[str, object]]] = _lse_checked
    made, heads, given = check(q, k, v, method=method, key_mask=key_mask, **extras, **options)
    scale = default_scale(q, scale)
    q, k, v = (repeat_heads(x, heads) for x in (q, blanked(key_mask, k), blanked(key_mask, v)))
    with as_declared(q):
        call = call_of(q, k, causal=causal)
        rule = made(call, **given)
        if bias is None and alibi is None:
            block = block_for(rule, call)
            plan = plan_from_spans(rule, call, block_q=block, block_k=block)
            out, lse = block_sparse_attention(q, k, v, plan=plan, sees=rule.sees, scale=scale, key_mask=key_mask)
        else:
            out, lse = _biased(q, k, v, rule, call.offset, key_mask, scale, bias, alibi)
        if sink_logits is None:
            return out, lse
        total = torch.logaddexp(lse, sink_logits.to(lse.dtype)[:, None].expand_as(lse))
        return (out.to(lse.dtype) * torch.exp(lse - total)[..., None]).to(q.dtype), total


def _varlen_checked(q: Tensor, k: Tensor, v: Tensor, *, method: str = "sdpa", **_: object) -> int:
    """The heads of the result; `KernelError` for tensors that are not packed or do not fit."""
    heads = check_qkv(q, k, v, free_head_size=mechanism(method).free_head_size)
    if q.shape[0] != 1:
        raise KernelError(f"packed sequences are one row, but q has a batch of {q.shape[0]}")
    return heads


def _varlen_like(q: Tensor, k: Tensor, v: Tensor, **how: object) -> Like:
    """What `varlen_attention` gives."""
    check: Callable[..., int] = _varlen_checked
    return Like((1, check(q, k, v, **how), q.shape[2], v.shape[3]), q.dtype, q.device)


@as_node(_varlen_like)
def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor | Sequence[int],
    cu_seqlens_k: Tensor | Sequence[int] | None = None,
    method: str = "sdpa",
    causal: bool = False,
    scale: float | None = None,
    **options: object,
) -> Tensor:
    """Attention within each of several sequences that lie one after the other, by any method; (1, H, total, Dv).

    Sequence n has the queries cu_seqlens_q[n] to cu_seqlens_q[n + 1] and the keys of cu_seqlens_k alike, and is what
    `attention` gives for it alone. Nothing is padded: sequences of equal lengths are computed together.

    Args:
        q: queries (1, Hq, total of queries, D).
        k: keys (1, Hk, total of keys, D).
        v: values (1, Hv, total of keys, Dv).
        cu_seqlens_q: where sequences begin, and the total at the end: (sequences + 1,), from 0 and never falling.
        cu_seqlens_k: the same for keys; that of the queries if None.
        method: as in `attention`.
        causal: as in `attention`, within each sequence.
        scale: as in `attention`.
        options: of the method, the same for all sequences.

    Raises:
        KernelError: for a batch of more than one, or offsets that do not fit.
    """
    heads = _varlen_checked(q, k, v, method=method)
    of_q = _offsets("cu_seqlens_q", cu_seqlens_q, q.shape[2])
    of_k = of_q if cu_seqlens_k is None else _offsets("cu_seqlens_k", cu_seqlens_k, k.shape[2])
    if len(of_q) != len(of_k) or of_k[-1] != k.shape[2]:
        raise KernelError(f"{len(of_q) - 1} sequences of queries and {len(of_k) - 1} of {k.shape[2]} keys do not fit")
    alike: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (a, b), (c, d) in zip(itertools.pairwise(of_q), itertools.pairwise(of_k), strict=True):
        alike.setdefault((b - a, d - c), []).append((a, c))
    rows, done = [], []
    run: Callable[..., Tensor] = attention
    for (lq, lk), starts in alike.items():
        at_q = (torch.tensor([a for a, _ in starts])[:, None] + torch.arange(lq)).to(q.device)
        at_k = (torch.tensor([c for _, c in starts])[:, None] + torch.arange(lk)).to(q.device)
        parts = [x[0].index_select(1, at.flatten()) for x, at in ((q, at_q), (k, at_k), (v, at_k))]
        batch = [x.view(x.shape[0], len(starts), -1, x.shape[2]).transpose(0, 1) for x in parts]
        out = run(*batch, method=method, causal=causal, scale=scale, **options)
        rows.append(at_q.flatten())
        done.append(out.transpose(0, 1).flatten(1, 2))
    order = torch.cat(rows).argsort() if rows else torch.zeros(0, dtype=torch.int64)
    if not done:
        return q.new_zeros(1, heads, 0, v.shape[3])
    return torch.cat(done, dim=1).index_select(1, order.to(q.device))[None]


def _offsets(name: str, given: Tensor | Sequence[int], total: int) -> list[int]:
    """Offsets as numbers; `KernelError` unless they go from 0 to the total without falling."""
    found = [int(n) for n in (given.tolist() if isinstance(given, Tensor) else given)]
    if not found or found[0] != 0 or found[-1] != total or any(a > b for a, b in itertools.pairwise(found)):
        raise KernelError(f"{name} is {found}, expected numbers from 0 to {total} that never fall")
    return found


def _check_extras(
    q: Tensor, k: Tensor, heads: int, bias: Tensor | None, alibi: Tensor | None, sink_logits: Tensor | None
) -> None:
    """Raise `KernelError` for a bias, slopes or sinks whose shapes do not fit."""
    want = (q.shape[0], heads, q.shape[2], k.shape[2])
    if bias is not None:
        fits = bias.ndim == 4 and all(n in (1, m) for n, m in zip(bias.shape, want, strict=True))
        if not fits or not bias.is_floating_point():
            raise KernelError(f"bias is {bias.dtype} {tuple(bias.shape)}, expected numbers that broadcast to {want}")
    for name, x in (("alibi", alibi), ("sink_logits", sink_logits)):
        if x is not None and tuple(x.shape) != (heads,):
            raise KernelError(f"{name} has shape {tuple(x.shape)}, expected ({heads},)")


def _biased(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rule: Rule,
    offset: int,
    key_mask: Tensor | None,
    scale: float,
    bias: Tensor | None,
    alibi: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Some rows at a time, over the columns that they may see; rows are computed again on the way back."""
    (batch, heads, lq, _), lk = q.shape, k.shape[2]
    if 0 in (batch, lq, lk):
        return q.new_zeros(batch, heads, lq, v.shape[3]), q.new_full(q.shape[:3], -torch.inf, dtype=compute_dtype(q))
    size = max(16, min(256, _CHUNK_SCORES // max(batch * heads * lk, 1)))
    h = torch.arange(heads if rule.per_head else 1, device=q.device)[:, None, None]

    def some(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, alibi: Tensor | None, first: int
    ) -> tuple[Tensor, Tensor]:
        rows = slice(first, min(first + size, lq))
        i = torch.arange(rows.start, rows.stop, device=q.device)[None, :, None] + offset
        j = _columns(rule, h[:, :, 0], i[:, :, 0], lk)
        mask = rule.sees(h, i, j)[None]
        if key_mask is not None:
            mask = mask & key_mask[:, None, None, j]
        total = torch.zeros((), dtype=compute_dtype(q), device=q.device)
        if bias is not None:
            over_rows = bias[:, :, rows] if bias.shape[2] > 1 else bias
            total = total + (over_rows[..., j] if bias.shape[3] > 1 else over_rows).to(total.dtype)
        if alibi is not None:
            total = total - alibi.to(total.dtype)[:, None, None] * (i - j).abs()
        return masked_attention(q[:, :, rows], k[:, :, j], v[:, :, j], mask, scale=scale, bias=total)

    parts = [checkpoint(some, q, k, v, bias, alibi, first, use_reentrant=False) for first in range(0, lq, size)]
    return torch.cat([o for o, _ in parts], dim=2), torch.cat([lse for _, lse in parts], dim=2)


def _columns(rule: Rule, h: Tensor, i: Tensor, lk: int) -> Tensor:
    """The keys of all blocks that some of the queries at i may see, (n,); at least one block."""
    lo, hi = torch.broadcast_tensors(*(x.clamp(0, lk) for x in rule.spans(h, i)))  # type: ignore[no-untyped-call]
    real = hi > lo
    blocks = -(-lk // _COLUMNS)
    begins = torch.zeros(blocks + 1, dtype=torch.int64, device=i.device)
    one = torch.ones_like(lo[real], dtype=torch.int64)
    begins.index_add_(0, lo[real] // _COLUMNS, one)
    begins.index_add_(0, (hi[real] - 1) // _COLUMNS + 1, -one)
    seen = begins.cumsum(0)[:blocks] > 0
    seen[0] |= not bool(seen.any())
    columns = (seen.nonzero() * _COLUMNS + torch.arange(_COLUMNS, device=i.device)).flatten()
    return columns[columns < lk]
