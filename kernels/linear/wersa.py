"""WERSA: wavelet-gated random-feature attention in linear time.

Queries and keys are split into Haar levels, each level is multiplied by a gate and a weight, and what is put together
again goes through random features into normalised linear attention; values are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, softplus

from kernels.checks import compute_dtype, kept_on_gpu, positive, repeat_heads, visible
from kernels.compiled import Like
from kernels.dispatch import attention
from kernels.engines.kept import State, wanted
from kernels.engines.linear_scan import linear_attention, linear_scan
from kernels.engines.streamed import Section, Sequences, Stepped, streamed
from kernels.errors import KernelError
from kernels.linear.features import check_feature_map, favor_features, random_projection, relu_features, relu_projection
from kernels.linear.wavelet import causal_haar, causal_haar_after, haar, reference_causal_haar, reference_haar
from kernels.registry import Backend, Mechanism
from kernels.triton.haar import haar_features, haar_features_fit
from kernels.triton.linear_scan import Weights
from kernels.triton.linear_scan import linear_attention as triton_linear_attention
from kernels.triton.support import LARGEST_HEAD

__all__ = ["MECHANISM", "WersaAttention", "WersaOptions", "reference_wersa", "triton_wersa", "wersa_attention"]

_EPS = 1e-6
_LONGEST_BLOCK = 256
"""Rows that one coefficient of the transform may span for sections to be computed apart."""
_Transform = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class WersaOptions:
    """Options of one call."""

    levels: int = 4
    """J, levels of the transform."""
    features: int = 128
    """m, random features."""
    feature_map: str = "relu"
    """"relu" (the paper's) or "favor+" (tends to softmax as m grows; not causal)."""
    gates: Tensor | None = None
    """(B, J+1), or (B, L, J+1) if causal: one per level of detail, the last for the approximation; ones if None."""
    scale_weights: Tensor | None = None
    """(J+1,), factors on the gates; 0.5 each if None."""
    beta: Tensor | float = 0.793
    """Bandwidth of "relu"; it cancels but for the 1e-6 in the denominator."""
    projection: Tensor | None = None
    """(D, m); drawn from `seed` if None."""
    key_projection: Tensor | None = None
    """Another (D, m) for the keys, for comparison only: with it the weights forget the query as m grows."""
    pre_gelu: bool = False
    """Apply GELU to q and k first."""
    seed: int = 0


_options: Callable[..., WersaOptions] = WersaOptions


def wersa_attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float, **options: object
) -> Tensor:
    """Normalised random-feature attention of wavelet-filtered q, k (B, H, L, D) over v (B, H, L, Dv); (B, H, L, Dv).

    A causal call uses the undecimated causal transform (ours), since the paper's looks ahead. Hidden positions
    (``key_mask``) count as zeros in the transform of q and k, and their own rows are 0. ``scale`` matters to "favor+"
    only; "relu" does not depend on the size of its arguments. Options: `WersaOptions`.
    """
    o = _options(**options)
    if o.feature_map == "relu" and (1 << o.levels) <= min(_LONGEST_BLOCK, q.shape[2]):
        return _streamed_relu(q, k, v, o, causal, key_mask)
    fq, fk, wide = _features(q, k, v, o, causal, key_mask, scale, causal_haar if causal else haar)
    both = linear_attention(fq, fk, pad(wide, (0, 1), value=1.0), log_decay=None, causal=causal)
    return (both[..., :-1] / (both[..., -1:] + _EPS)).to(q.dtype)


def reference_wersa(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float, **options: object
) -> Tensor:
    """The definition: analysis, synthesis and an L x L matrix of weights; arguments as for `wersa_attention`."""
    o = _options(**options)
    transform = reference_causal_haar if causal else reference_haar
    fq, fk, wide = _features(q, k, v, o, causal, key_mask, scale, transform)
    weights = torch.einsum("bhim,bhjm->bhij", fq, fk)
    mask = visible(q, k, causal=causal, key_mask=key_mask)
    weights = weights if mask is None else weights.masked_fill(~mask, 0.0)
    weights = weights / (weights.sum(dim=-1, keepdim=True) + _EPS)
    return torch.einsum("bhij,bhjd->bhid", weights, wide).to(q.dtype)


def triton_wersa(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, key_mask: Tensor | None, scale: float, **options: object
) -> Tensor:
    """`wersa_attention` by Triton kernels: one makes the features, in the type of q, the others sum them up.

    PyTorch makes the features where `haar_features_fit` says no and those of "favor+", and computes all of it for more
    features than the kernels hold.
    """
    o = _options(**options)
    given = (o.projection, o.projection if o.key_projection is None else o.key_projection)
    wq, wk = (_projection(q, o, p) for p in given)
    if max(wq.shape[1], wk.shape[1]) > LARGEST_HEAD:
        return wersa_attention(q, k, v, causal=causal, key_mask=key_mask, scale=scale, **options)
    fits = all(haar_features_fit(w.shape[0], w.shape[1], o.levels, q.dtype) for w in (wq, wk))
    if o.feature_map != "relu" or not fits or q.numel() == 0:
        fq, fk, wide = _features(q, k, v, o, causal, key_mask, scale, causal_haar if causal else haar)
    else:
        factors, wide = _factors(q, o, causal), v
        made = []
        for x, w in ((q, wq), (k, wk)):
            if o.pre_gelu:
                x = gelu(x if key_mask is None else x.masked_fill(~key_mask[:, None, :, None], 0.0))
            made.append(haar_features(x, relu_projection(w, o.beta), factors, causal=causal, mask=key_mask))
        fq, fk = made
    weights = Weights("normalised", eps=_EPS)
    return triton_linear_attention(fq, fk, wide, causal=causal, weights=weights, key_mask=key_mask).to(q.dtype)


def _streamed_relu(q: Tensor, k: Tensor, v: Tensor, o: WersaOptions, causal: bool, key_mask: Tensor | None) -> Tensor:
    """`wersa_attention` with ReLU features, section by section."""
    to, length = compute_dtype(q), q.shape[2]
    factors = _factors(q, o, causal)
    given = (o.projection, o.projection if o.key_projection is None else o.key_projection)
    wq, wk = (relu_projection(_projection(q, o, p), o.beta) for p in given)
    hidden = torch.zeros(1, 1, 1, 1, dtype=torch.bool) if key_mask is None else ~key_mask[:, None, :, None]
    masked = key_mask is not None

    def features(x: Tensor, unseen: Tensor, by_level: Tensor, w: Tensor, rows: int) -> Tensor:
        x = x.to(to).masked_fill(unseen, 0.0) if masked else x.to(to)
        x = gelu(x) if o.pre_gelu else x
        if causal:
            missing = rows + back - x.shape[2]
            x = torch.cat([x[:, :, :1].expand(-1, -1, missing, -1), x], dim=2) if missing else x
            x = causal_haar_after(x, by_level, rows)
        else:
            x = haar(x, by_level)
        found = torch.relu(x @ w)
        return found.masked_fill(unseen[:, :, -rows:], 0.0) if masked else found

    def normalised(both: Tensor) -> Tensor:
        return both[..., :-1] / (both[..., -1:] + _EPS)

    def forwards(section: Section, x: list[Tensor], state: list[Tensor], constants: list[Tensor]) -> Stepped:
        rows = section.stop - section.start
        by_level = (x[3][:, 0, -rows:] if in_time else constants[2]).to(to)
        fq, fk = (features(x[n], x[-1], by_level, constants[n], rows) for n in (0, 1))
        with_ones = pad(x[2][:, :, -rows:].to(to), (0, 1), value=1.0)
        both, after = linear_scan(fq, fk, with_ones, state=state[0])
        return normalised(both), [after]

    def sums(section: Section, x: list[Tensor], state: list[Tensor], constants: list[Tensor]) -> Stepped:
        fk = features(x[0], x[-1], constants[1], constants[0], section.stop - section.start)
        return None, [state[0] + fk.transpose(-1, -2) @ pad(x[1].to(to), (0, 1), value=1.0)]

    def reads(section: Section, x: list[Tensor], state: list[Tensor], constants: list[Tensor]) -> Stepped:
        fq = features(x[0], x[-1], constants[1], constants[0], section.stop - section.start)
        return normalised(fq @ constants[2]), state

    shown = hidden.expand(-1, -1, length, -1)
    nothing = q.new_zeros(*k.shape[:2], wk.shape[1], v.shape[3] + 1, dtype=to)
    back = (1 << o.levels) - 1 if causal else 0
    in_time = causal and factors.shape[1] > 1
    align = 1 if causal else 1 << o.levels
    out: Tensor | None
    if causal:
        inputs = [q, k, v, *([factors[:, None]] if in_time else []), shown]
        layout = Sequences(length, length, of_queries=(False,) * len(inputs), back=back)
        out, _ = streamed(forwards, layout, inputs, [nothing], [wq, wk, factors])
    else:
        over_keys = Sequences(0, length, of_queries=(False,) * 3, align=align)
        _, (summed,) = streamed(sums, over_keys, [k, v, shown], [nothing], [wk, factors])
        over_queries = Sequences(length, length, of_queries=(False,) * 2, align=align)
        out, _ = streamed(reads, over_queries, [q, shown], [], [wq, factors, repeat_heads(summed, q.shape[1])])
    if out is None:
        raise AssertionError("there are queries here")
    return out.to(q.dtype)


def _features(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: WersaOptions,
    causal: bool,
    key_mask: Tensor | None,
    scale: float,
    transform: _Transform,
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the filtered queries and keys, (B, H, L, m), and the values, all in the type of the states."""
    to = compute_dtype(q)
    factors = _factors(q, o, causal)
    factors = factors.expand(-1, q.shape[2], -1) if causal else factors
    projections = [
        _projection(q, o, p) for p in (o.projection, o.projection if o.key_projection is None else o.key_projection)
    ]
    hidden = None if key_mask is None else ~key_mask[:, None, :, None]
    found = []
    for x, w, over_keys in ((q, projections[0], False), (k, projections[1], True)):
        x = x.to(to) if hidden is None else x.to(to).masked_fill(hidden, 0.0)
        x = transform(gelu(x) if o.pre_gelu else x, factors)
        if o.feature_map == "favor+":
            found.append(favor_features(x, w, scale, over_keys=over_keys))
        else:
            found.append(relu_features(x, w, o.beta))
    if hidden is not None:
        found = [f.masked_fill(hidden, 0.0) for f in found]
    return found[0], found[1], v.to(to)


def _factors(q: Tensor, o: WersaOptions, causal: bool) -> Tensor:
    """Gates times weights, (B, J+1), or (B, L or 1, J+1) if causal; `KernelError` for options that do not fit."""
    batch, length, to = q.shape[0], q.shape[2], compute_dtype(q)
    positive("levels", o.levels)
    positive("features", o.features)
    if check_feature_map(o.feature_map) == "favor+" and causal:
        raise KernelError("feature_map='favor+' is not causal: its range control looks at all keys; use 'relu'")
    levels = o.levels + 1
    weights = torch.full((levels,), 0.5, device=q.device) if o.scale_weights is None else o.scale_weights
    if tuple(weights.shape) != (levels,):
        raise KernelError(f"scale_weights has shape {tuple(weights.shape)}, expected ({levels},)")
    gates = torch.ones(batch, levels, device=q.device) if o.gates is None else o.gates
    shapes = [(batch, levels), (batch, length, levels)] if causal else [(batch, levels)]
    if tuple(gates.shape) not in shapes:
        raise KernelError(f"gates has shape {tuple(gates.shape)}, expected " + " or ".join(map(str, shapes)))
    factors = gates.to(to) * weights.to(to)
    return factors[:, None] if causal and factors.ndim == 2 else factors


def _projection(q: Tensor, o: WersaOptions, given: Tensor | None) -> Tensor:
    """The (D, m) matrix of a call."""
    if given is None:
        return kept_on_gpu(_drawn, q)(q.shape[3], o.features, o.feature_map, o.seed, q.device, compute_dtype(q))
    if given.ndim != 2 or given.shape[0] != q.shape[3]:
        raise KernelError(f"projection has shape {tuple(given.shape)}, expected ({q.shape[3]}, features)")
    return given.to(device=q.device, dtype=compute_dtype(q))


def _drawn(d: int, features: int, feature_map: str, seed: int, device: torch.device, to: torch.dtype) -> Tensor:
    """A drawn projection on a device."""
    return random_projection(d, features, feature_map, seed=seed).to(device=device, dtype=to)


def _stateful(
    q: Tensor, k: Tensor, v: Tensor, state: State | None, *, key_mask: Tensor | None, scale: float, **options: object
) -> tuple[Tensor, State]:
    """The next positions: the sum of features and values, and the rows of q and k that the transform still reads.

    Gates (B, L, J+1) are those of the new positions.
    """
    o, to, new = _options(**options), compute_dtype(q), q.shape[2]
    factors = _factors(q, o, True)
    back = (1 << o.levels) - 1
    unseen = None if key_mask is None else ~key_mask[:, None, :, None]
    given = (o.projection, o.projection if o.key_projection is None else o.key_projection)
    total, *before = [None] * 3 if state is None else wanted(state, "sum", "queries", "keys")
    made, kept = [], []
    for x, w, old in zip((q, k), given, before, strict=True):
        rows = x.to(to) if unseen is None else x.to(to).masked_fill(unseen, 0.0)
        rows = gelu(rows) if o.pre_gelu else rows
        rows = rows if old is None else torch.cat([old, rows], dim=2)
        kept.append(rows[:, :, max(rows.shape[2] - back, 0) :])
        if new == 0:
            made.append(x.to(to) @ _projection(q, o, w))
            continue
        # Before the start the first row is repeated, as in the whole.
        missing = new + back - rows.shape[2]
        rows = torch.cat([rows[:, :, :1].expand(-1, -1, max(missing, 0), -1), rows], dim=2)
        found = torch.relu(causal_haar_after(rows, factors, new) @ relu_projection(_projection(q, o, w), o.beta))
        made.append(found if unseen is None else found.masked_fill(unseen, 0.0))
    both, last = linear_scan(made[0], made[1], pad(v.to(to), (0, 1), value=1.0), state=total)
    out = (both[..., :-1] / (both[..., -1:] + _EPS)).to(q.dtype)
    return out, {"sum": last, "queries": kept[0], "keys": kept[1]}


def _state_like(q: Like, k: Like, v: Like, state: State | None, **options: object) -> dict[str, Like]:
    o = _options(**options)
    before = 0 if state is None else wanted(state, "sum", "queries", "keys")[1].shape[2]
    rows = min(before + q.shape[2], (1 << o.levels) - 1)
    features = o.projection.shape[-1] if isinstance(o.projection, Tensor) else o.features
    shapes = {
        "sum": (*k.shape[:2], features, v.shape[3] + 1),
        "queries": (*q.shape[:2], rows, q.shape[3]),
        "keys": (*k.shape[:2], rows, k.shape[3]),
    }
    return {name: Like(shape, torch.promote_types(q.dtype, torch.float32), q.device) for name, shape in shapes.items()}


class WersaAttention(nn.Module):
    """WERSA with learned level weights, bandwidth and a gate network; called like `attention`.

    The gates come from a two-layer network on the mean over the sequence (causal: on the mean so far) of
    ``gate_input`` (B, L, model_dim), or of the queries of all heads side by side if none is given.
    """

    projection: Tensor

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        levels: int = 4,
        features: int = 128,
        feature_map: str = "relu",
        model_dim: int | None = None,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.levels, self.features, self.feature_map = levels, features, check_feature_map(feature_map)
        width = heads * head_dim if model_dim is None else positive("model_dim", model_dim)
        self.width = width
        self.scale_weights = nn.Parameter(torch.full((positive("levels", levels) + 1,), 0.5))
        self.bandwidth = nn.Parameter(torch.zeros(()))
        inner = max(width // 4, 1)
        self.gate = nn.Sequential(
            nn.Linear(width, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, levels + 1), nn.Sigmoid()
        )
        drawn = random_projection(head_dim, positive("features", features), feature_map, seed=seed)
        self.register_buffer("projection", drawn)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        causal: bool = False,
        key_mask: Tensor | None = None,
        scale: float | None = None,
        backend: Backend | None = None,
        gate_input: Tensor | None = None,
    ) -> Tensor:
        """(B, H, L, Dv) for q (B, H, L, D), k, v with head counts that divide H; see `attention`."""
        x = q.transpose(1, 2).flatten(2) if gate_input is None else gate_input
        if x.shape[-1] != self.width:
            raise KernelError(f"the gates read {self.width} features per position but were given {x.shape[-1]}")
        return attention(
            q,
            k,
            v,
            method="wersa",
            causal=causal,
            key_mask=key_mask,
            scale=scale,
            backend=backend,
            levels=self.levels,
            features=self.features,
            feature_map=self.feature_map,
            gates=self.gate(_mean(x, key_mask, causal)),
            scale_weights=self.scale_weights,
            beta=softplus(self.bandwidth) + 0.1,
            projection=self.projection,
        )


def _mean(x: Tensor, key_mask: Tensor | None, causal: bool) -> Tensor:
    """Mean of x (B, L, C) over the visible positions, (B, C), or over those so far, (B, L, C)."""
    shown = torch.ones_like(x[..., :1]) if key_mask is None else key_mask[..., None].to(x.dtype)
    x = x if key_mask is None else x.masked_fill(~key_mask[..., None], 0.0)
    if causal:
        return x.cumsum(dim=1) / shown.cumsum(dim=1).clamp_min(1.0)
    return x.sum(dim=1) / shown.sum(dim=1).clamp_min(1.0)


MECHANISM = Mechanism(
    name="wersa",
    summary="wavelet-gated random-feature attention; a function of its own, no approximation of a softmax by default",
    paper="WERSA, arXiv 2507.08637 (from its abstract and README, no code was released; the causal form is ours)",
    cost="O(L D J + L m (D + Dv)) time, O(L (D + m) + m Dv) memory",
    use="slow and fast changes of a history apart, each level with a learned weight, at linear cost",
    function="normalised linear attention of ReLU features; feature_map='favor+' tends to a softmax as features grow",
    reference=reference_wersa,
    torch=wersa_attention,
    stateful=_stateful,
    state_names=("sum", "queries", "keys"),
    state_like=_state_like,
    triton=triton_wersa,
    build=WersaAttention,
    declared=WersaOptions,
    cross=False,
    shares_keys=True,
)
