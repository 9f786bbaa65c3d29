"""MALA: linear attention whose weights keep the magnitude of the query.

With f = ELU + 1, s_j = c f(q).f(k_j) and S their sum over the N visible keys, key j has the weight

    (1 + 1 / S) s_j - S / N

which sums to 1 and may be negative: ordinary linear attention plus c times the centred raw score.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import elu, pad

from kernels.checks import compute_dtype, repeat_heads, visible
from kernels.compiled import Like
from kernels.engines.kept import State, wanted
from kernels.engines.linear_scan import linear_scan
from kernels.engines.streamed import Section, Sequences, Stepped, streamed
from kernels.errors import KernelError
from kernels.registry import Mechanism
from kernels.triton.linear_scan import Weights, linear_attention

__all__ = ["MECHANISM", "mala_attention", "reference_mala", "triton_mala"]

_EPS = 1e-6


def mala_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    c: str | float = "code",
) -> Tensor:
    """Magnitude-aware linear attention, (B, H, Lq, Dv); rows that see no key are 0.

    Args:
        q: queries (B, H, Lq, D).
        k: keys (B, Hk, Lk, D); neighbouring heads of queries share one.
        v: values (B, Hk, Lk, Dv).
        causal: each query sees the keys up to it, and N counts those.
        key_mask: bool (B, Lk).
        scale: used by ``c="code"``.
        c: factor on the scores: "code" for scale / N as the authors' code has it, or a number (1 in the paper, which
            half types cannot hold at large N).
    """
    to = compute_dtype(q)
    shown = torch.ones(1, k.shape[2], device=k.device, dtype=to) if key_mask is None else key_mask.to(to)
    shown = shown[:, None, :, None]
    inputs, lengths = [q, k, v, shown], (q.shape[2], k.shape[2])
    _factor(c, scale, shown[:, :, :0])
    batch, heads, _, d = k.shape
    nothing = q.new_zeros(batch, heads, d, v.shape[3] + 1, dtype=to)
    none_yet = [
        nothing,
        q.new_zeros(shown.shape[0], 1, 1, 1, dtype=to),
        q.new_zeros(*v.shape[:2], 1, v.shape[3], dtype=to),
    ]
    if causal:

        def forwards(section: Section, x: list[Tensor], state: list[Tensor], _: list[Tensor]) -> Stepped:
            return _causal_section(section, x, state, c, scale)

        layout = Sequences(*lengths, of_queries=(True, False, False, False))
        out, _ = streamed(forwards, layout, inputs, none_yet)
    else:
        # In one type from here: its gradient is the small difference of two parts, which must not be rounded apart.
        v = v.to(to)
        inputs[2] = v
        seen, total = shown.sum(dim=2, keepdim=True), v.sum(dim=2, keepdim=True)
        # Weights sum to 1, so that values may be counted from their mean: then nothing large is subtracted.
        origin = total / seen.clamp_min(1.0)
        over_keys = Sequences(0, lengths[1], of_queries=(False, False, False))
        _, (summed,) = streamed(_sum_section, over_keys, inputs[1:], [nothing], [origin])

        def reads(section: Section, x: list[Tensor], state: list[Tensor], constants: list[Tensor]) -> Stepped:
            both, (seen, origin) = _phi(x[0], to) @ constants[0], constants[1:]
            return _weighed(both, seen, torch.zeros_like(origin), origin, c, scale), state

        over_queries = Sequences(lengths[0], lengths[0], of_queries=(True,))
        known = [repeat_heads(summed, q.shape[1]), seen, repeat_heads(origin, q.shape[1])]
        out, _ = streamed(reads, over_queries, [q], [], known)
    return q.new_zeros(*q.shape[:3], v.shape[3]) if out is None else out.to(q.dtype)


def triton_mala(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    c: str | float = "code",
) -> Tensor:
    """`mala_attention` by Triton kernels, which apply ELU + 1 as they load."""
    if c == "code":
        weights = Weights("mala per key", scale=scale, eps=_EPS, feature="elu")
    else:
        weights = Weights("mala", scale=_number(c), eps=_EPS, feature="elu")
    return linear_attention(q, k, v, causal=causal, weights=weights, key_mask=key_mask)


def _phi(x: Tensor, to: torch.dtype) -> Tensor:
    """ELU + 1."""
    return elu(x.to(to)) + 1.0


def _shown(x: Tensor, shown: Tensor) -> Tensor:
    """``x`` with 0 where a key is hidden, whatever it holds there."""
    return x if bool((shown > 0).all()) else x.masked_fill(shown == 0, 0.0)


def _sum_section(_: Section, x: list[Tensor], state: list[Tensor], constants: list[Tensor]) -> Stepped:
    """Add the keys of a section to the sum of f(k) (v - origin, 1)^T."""
    k, v, shown = x
    to = shown.dtype
    fk = _shown(_phi(k, to), shown).transpose(-1, -2)
    return None, [state[0] + fk @ pad(v - constants[0], (0, 1), value=1.0)]


def _causal_section(section: Section, x: list[Tensor], state: list[Tensor], c: str | float, scale: float) -> Stepped:
    """The rows of a section from the sums before it: f(k) (v, 1)^T, the number of keys and their values."""
    q, k, v, shown = x
    to = shown.dtype
    fk, v = _shown(_phi(k, to), shown), v.to(to)
    seen, values = state[1] + shown.cumsum(dim=2), state[2] + v.cumsum(dim=2)
    ends = [seen[:, :, -1:], values[:, :, -1:]]
    with_ones = pad(v, (0, 1), value=1.0)
    if not section.queries:
        return None, [state[0] + fk.transpose(-1, -2) @ with_ones, *ends]
    both, after = linear_scan(_phi(q, to), fk, with_ones, state=state[0])
    values = repeat_heads(values, q.shape[1])
    return _weighed(both, seen, values, torch.zeros_like(values[:, :, :1]), c, scale), [after, *ends]


def _weighed(both: Tensor, seen: Tensor, values: Tensor, origin: Tensor, c: str | float, scale: float) -> Tensor:
    """The output from the sums of scores times values and of scores, (B, H, L, Dv + 1), with values from an origin."""
    raw, total = both[..., :-1], both[..., -1:]
    factor = _factor(c, scale, seen)
    total = factor * total
    out = torch.addcmul(raw * (factor + factor / (total + _EPS)), values, total / seen.clamp_min(1.0), value=-1.0)
    out = out + origin * (total / (total + _EPS))
    return out.masked_fill(seen <= 0, 0.0)


def reference_mala(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    c: str | float = "code",
) -> Tensor:
    """The definition: the Lq x Lk matrix of weights; arguments as for `mala_attention`."""
    to, dtype = compute_dtype(q), q.dtype
    fq, fk = 1.0 + elu(q.to(to)), 1.0 + elu(k.to(to))
    scores = torch.einsum("bhid,bhjd->bhij", fq, fk)
    mask = visible(q, k, causal=causal, key_mask=key_mask)
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.expand(scores.shape)
    seen = mask.sum(dim=-1, keepdim=True).to(to)
    scores = (_factor(c, scale, seen) * scores).masked_fill(~mask, 0.0)
    total = scores.sum(dim=-1, keepdim=True)
    weights = (1.0 + 1.0 / (total + _EPS)) * scores - total / seen.clamp_min(1.0)
    return torch.einsum("bhij,bhjd->bhid", weights.masked_fill(~mask, 0.0), v.to(to)).to(dtype)


def _factor(c: str | float, scale: float, seen: Tensor) -> Tensor:
    """The factor on the scores, broadcastable to (B, H, Lq, 1)."""
    if c == "code":
        return scale / seen.clamp_min(1.0)
    return torch.full_like(seen, _number(c))


def _number(c: str | float) -> float:
    """A factor that is a number; `KernelError` if it is none."""
    if isinstance(c, str) or not 0.0 < c < float("inf"):
        raise KernelError(f"c is {c!r}, expected 'code' or a positive number")
    return float(c)


def _stateful(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: State | None,
    *,
    key_mask: Tensor | None,
    scale: float,
    c: str | float = "code",
) -> tuple[Tensor, State]:
    """The next positions: the state is the sum of f(k) (v, 1)^T, the number of keys and the sum of their values."""
    to = compute_dtype(q)
    shown = torch.ones(k.shape[0], k.shape[2], device=k.device, dtype=to) if key_mask is None else key_mask.to(to)
    shown = shown[:, None, :, None]
    _factor(c, scale, shown[:, :, :0])
    if state is None:
        sums = [
            q.new_zeros(*k.shape[:2], k.shape[3], v.shape[3] + 1, dtype=to),
            q.new_zeros(k.shape[0], 1, 1, 1, dtype=to),
            q.new_zeros(*v.shape[:2], 1, v.shape[3], dtype=to),
        ]
    else:
        sums = wanted(state, "sum", "seen", "values")

    def forwards(section: Section, x: list[Tensor], held: list[Tensor], _: list[Tensor]) -> Stepped:
        return _causal_section(section, x, held, c, scale)

    layout = Sequences(q.shape[2], q.shape[2], of_queries=(True, False, False, False))
    out, sums = streamed(forwards, layout, [q, k, v, shown], sums)
    out = q.new_zeros(*q.shape[:3], v.shape[3]) if out is None else out.to(q.dtype)
    return out, dict(zip(("sum", "seen", "values"), sums, strict=True))


def _state_like(q: Like, k: Like, v: Like, state: State | None, **_: object) -> dict[str, Like]:
    shapes = {
        "sum": (*k.shape[:2], k.shape[3], v.shape[3] + 1),
        "seen": (k.shape[0], 1, 1, 1),
        "values": (*v.shape[:2], 1, v.shape[3]),
    }
    return {name: Like(shape, torch.promote_types(q.dtype, torch.float32), q.device) for name, shape in shapes.items()}


MECHANISM = Mechanism(
    name="mala",
    summary="linear attention that keeps the magnitude of the query",
    paper="MALA, Magnitude-Aware Linear Attention, arXiv 2507.00698 (the causal form is ours)",
    cost="O(L D Dv) time, O(L D + D Dv) memory",
    use="histories of any length at linear cost where the size of a query is to count",
    function="magnitude-aware linear attention",
    reference=reference_mala,
    torch=mala_attention,
    stateful=_stateful,
    state_names=("sum", "seen", "values"),
    state_like=_state_like,
    triton=triton_mala,
    shares_keys=True,
)
