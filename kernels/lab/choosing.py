"""`attention(..., method="auto")`: what is fastest for a shape, by the cost model of this device.

Without candidates the choice is among ways to compute the same dense attention, so that the result does not depend on
it but for rounding. Methods that compute another function are chosen among only where the caller names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.autocast import agreed, as_declared
from kernels.checks import blanked, check_key_mask, check_qkv, default_scale, repeat_heads
from kernels.dense.ways import WAYS, scratch_bytes
from kernels.errors import KernelError
from kernels.lab.kinetics import Shape, fits, terms
from kernels.lab.work import method_terms
from kernels.registry import mechanism

__all__ = ["SCRATCH_BYTES", "Candidate", "Choice", "Kind", "auto_attention", "fastest", "predicted"]

SCRATCH_BYTES = 16 << 20
"""What a way may hold for pairs of queries and keys, or as much as the inputs where they are larger."""
Candidates = Iterable[str | tuple[str, Mapping[str, object]]]


@dataclass(frozen=True)
class Candidate:
    """A way to compute dense attention (`way`), or a method with options."""

    name: str
    options: Mapping[str, object] = field(default_factory=dict, hash=False)
    way: bool = False

    @property
    def plain(self) -> bool:
        """Whether its options are numbers and words, so that a file can say what they are."""
        return all(_plain(value) for value in self.options.values())

    def __str__(self) -> str:
        told = "".join(f", {name}={value!r}" for name, value in sorted(self.options.items()))
        return f"{'dense, ' if self.way else ''}{self.name}{told}"


@dataclass(frozen=True)
class Choice:
    """The candidate that the model takes to be the fastest, and the seconds that it predicts of all, least first."""

    chosen: Candidate
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Kind:
    """What calls have in common that one fit serves."""

    device: str
    dtype: torch.dtype
    causal: bool
    masked: bool
    trains: bool
    square: bool

    def __str__(self) -> str:
        said = [f"{self.device}, {str(self.dtype).removeprefix('torch.')}", "causal" if self.causal else "full"]
        said += ["key mask"] * self.masked + ["with gradients"] * self.trains
        return ", ".join(said)


def fastest(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    key_mask: Tensor | None = None,
    candidates: Candidates | None = None,
) -> Choice:
    """What `attention(..., method="auto")` takes for these tensors; the first call of a kind times some short ones.

    Args:
        q: queries (B, Hq, Lq, D).
        k: keys (B, Hk, Lk, D).
        v: values (B, Hv, Lk, Dv).
        causal: as in `attention`.
        key_mask: as in `attention`; only whether there is one matters.
        candidates: names of methods, or (name, options); None is all ways to compute dense attention whose memory for
            pairs is at most `SCRATCH_BYTES` or that of the inputs.

    Raises:
        KernelError: for shapes that do not fit, and for a candidate that cannot compute such a call or cannot be timed
            at lengths other than this one.
    """
    q, k, v = agreed(q, k, v)
    shape = Shape(q.shape[0], check_qkv(q, k, v), q.shape[2], k.shape[2], q.shape[3], v.shape[3], q.element_size())
    trains = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    kind = Kind(q.device.type, q.dtype, bool(causal), key_mask is not None, trains, shape.lq == shape.lk)
    if candidates is None:
        remembered = fits().remembered
        if (shape, kind) not in remembered:
            remembered[shape, kind] = _dense_choice(shape, kind)
        found: Choice = remembered[shape, kind]
        return found
    named = [Candidate(c) if isinstance(c, str) else Candidate(c[0], dict(c[1])) for c in candidates]
    if not named:
        raise KernelError("candidates is empty, expected names of methods or (name, options)")
    return _ordered({c: predicted(c, shape, kind) for c in named})


def auto_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    key_mask: Tensor | None,
    scale: float | None,
    candidates: Candidates | None = None,
    **options: object,
) -> Tensor:
    """`attention` by the candidate that `fastest` chooses.

    While PyTorch traces (compile, export, meta tensors) nothing can be timed: dense attention is then `sdpa`.
    """
    from kernels.dispatch import attention

    if options:
        raise KernelError(
            f"attention method 'auto' has no option {min(options)!r}; it takes candidates=, names or (name, options)"
        )
    if torch.compiler.is_compiling() or q.device.type == "meta":
        if candidates is not None:
            raise KernelError("'auto' times candidates, which a traced call cannot; ask kernels.lab.fastest before")
        return attention(q, k, v, causal=causal, key_mask=key_mask, scale=scale)
    check_key_mask(key_mask, k)
    chosen = fastest(q, k, v, causal=causal, key_mask=key_mask, candidates=candidates).chosen
    if not chosen.way:
        run: Callable[..., Tensor] = attention
        return run(q, k, v, method=chosen.name, causal=causal, key_mask=key_mask, scale=scale, **chosen.options)
    q, k, v = agreed(q, k, v)
    heads, scale = check_qkv(q, k, v), default_scale(q, scale)
    q, k, v = (repeat_heads(x, heads) for x in (q, blanked(key_mask, k), blanked(key_mask, v)))
    with as_declared(q):
        return WAYS[chosen.name](q, k, v, causal=causal, key_mask=key_mask, scale=scale)


def predicted(candidate: Candidate, shape: Shape, kind: Kind) -> float:
    """Seconds that a call takes by the model, which is fitted if it is not yet."""
    if candidate.way:
        found = fits().of(f"{candidate}, {kind}", kind.device, partial(_way_calls, candidate.name, kind))
        return found.seconds(terms(shape, _scores_of_way(candidate.name, shape, causal=kind.causal)))
    chosen = mechanism(candidate.name)
    if not kind.square and not chosen.cross:
        raise KernelError(f"candidate {candidate.name!r} is self-attention: {shape.lq} queries, {shape.lk} keys")
    what = f"{candidate}, {kind}, heads of {shape.d} and {shape.dv}{'' if kind.square else ', cross'}"
    calls = partial(_method_calls, candidate, shape, kind)
    found = fits().of(what, kind.device, calls, kept=candidate.plain)
    return found.seconds(method_terms(candidate.name, candidate.options, shape, causal=kind.causal))


def _dense_choice(shape: Shape, kind: Kind) -> Choice:
    """The choice among the ways to compute dense attention."""
    bound = max(SCRATCH_BYTES, shape.input_bytes)
    size = {"batch": shape.batch, "heads": shape.heads, "lq": shape.lq, "lk": shape.lk}
    ways = [
        Candidate(way, way=True)
        for way in WAYS
        if scratch_bytes(way, **size, causal=kind.causal, masked=kind.masked) <= bound
    ]
    return _ordered({c: predicted(c, shape, kind) for c in ways})


def _ordered(seconds: Mapping[Candidate, float]) -> Choice:
    least = sorted(seconds, key=seconds.__getitem__)
    return Choice(least[0], {str(c): seconds[c] for c in least})


def _scores_of_way(way: str, shape: Shape, *, causal: bool) -> float:
    """Written out, scores of hidden pairs are made as well; where PyTorch has a mask of pairs its kernel skips none."""
    whole = way == "written out" or (way == "fused" and causal and shape.lq != shape.lk)
    return shape.pairs(causal=causal and not whole)


# ---- calibration ------------------------------------------------------------------------------------------------
_WAY_SHAPES = (
    (1, 4, 16, 16, 64),
    (4, 4, 48, 48, 32),
    (1, 4, 128, 128, 64),
    (2, 2, 256, 256, 16),
    (1, 2, 512, 512, 64),
    (1, 2, 1024, 1024, 16),
    (1, 1, 1536, 1536, 64),
    (1, 4, 1, 512, 64),
    (1, 4, 1, 4096, 64),
    (1, 4, 48, 768, 64),
)
"""Batch, heads, queries, keys and head size of the calls that ways to compute dense attention are timed at."""
_METHOD_LENGTHS = (64, 192, 512, 1024, 2048)


def _way_calls(way: str, kind: Kind) -> dict[Any, Callable[[], object]]:
    """Calls to time, by their terms."""
    calls: dict[Any, Callable[[], object]] = {}
    for batch, heads, lq, lk, d in _WAY_SHAPES:
        shape = Shape(batch, heads, lq, lk, d, d, torch.empty((), dtype=kind.dtype).element_size())
        q, k, v, mask = _tensors(shape, kind)
        run = partial(WAYS[way], causal=kind.causal, key_mask=mask, scale=d**-0.5)
        calls[terms(shape, _scores_of_way(way, shape, causal=kind.causal))] = _call(run, (q, k, v), kind)
    return calls


def _method_calls(candidate: Candidate, like: Shape, kind: Kind) -> dict[Any, Callable[[], object]]:
    """Calls of a method to time at some lengths, with heads of the size that is asked about."""
    from kernels.dispatch import attention

    calls: dict[Any, Callable[[], object]] = {}
    heads, refused = min(like.heads, 4), ""
    for length in _METHOD_LENGTHS:
        lq = length if kind.square else max(1, length * like.lq // max(like.lk, 1))
        shape = Shape(1, heads, min(lq, 2 * length), length, like.d, like.dv, like.itemsize)
        q, k, v, mask = _tensors(shape, kind)
        run = partial(attention, method=candidate.name, causal=kind.causal, key_mask=mask, **candidate.options)  # type: ignore[arg-type]
        call = _call(run, (q, k, v), kind)
        try:
            call()
        except KernelError as error:
            # Options may need longer sequences than the shortest ones here.
            refused = str(error)
            continue
        calls[method_terms(candidate.name, candidate.options, shape, causal=kind.causal)] = call
    if len(calls) < 3:
        raise KernelError(
            f"candidate {candidate} cannot be timed at 3 of the lengths {', '.join(map(str, _METHOD_LENGTHS))}: "
            f"{refused}"
        )
    return calls


def _plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_plain(x) for x in value)
    return value is None or isinstance(value, str | int | float)


def _tensors(shape: Shape, kind: Kind) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Standard normal q, k, v and a mask that hides a tenth of the keys."""
    g = torch.Generator().manual_seed(0)
    sizes = ((shape.lq, shape.d), (shape.lk, shape.d), (shape.lk, shape.dv))
    q, k, v = (
        torch.randn(shape.batch, shape.heads, *s, generator=g).to(device=kind.device, dtype=kind.dtype) for s in sizes
    )
    mask = (torch.rand(shape.batch, shape.lk, generator=g) < 0.9).to(kind.device) if kind.masked else None
    return q, k, v, mask


def _call(run: Callable[..., Tensor], qkv: tuple[Tensor, ...], kind: Kind) -> Callable[[], object]:
    """One call, with the gradients of its sum where the kind has them."""

    def forward() -> object:
        with torch.no_grad():
            return run(*qkv)

    def both() -> object:
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in qkv]
            return torch.autograd.grad(run(*leaves).sum(), leaves)

    return both if kind.trains else forward
