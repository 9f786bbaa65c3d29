"""The front door: checks the arguments, finds the mechanism and the backend, and runs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kernels.autocast import agreed, as_declared
from kernels.checks import blanked, check_key_mask, check_qkv, default_scale, repeat_heads
from kernels.compiled import Like, as_node
from kernels.errors import KernelError, near
from kernels.foreign import hint
from kernels.registry import BACKENDS, Backend, Mechanism, build_options, mechanism
from kernels.triton.support import serves

__all__ = ["Functional", "attention", "attention_with_state", "build", "checked_options"]


@dataclass(frozen=True, slots=True)
class _Checked:
    """A call of `attention` that has passed the checks of its arguments."""

    chosen: Mechanism
    heads: int
    run: Callable[..., Tensor]
    causal: bool
    options: dict[str, object]


def _checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    method: str = "sdpa",
    causal: bool = False,
    key_mask: Tensor | None = None,
    backend: Backend | None = None,
    **options: object,
) -> _Checked:
    """The arguments of `attention` as it needs them; `KernelError` for what does not fit."""
    chosen = mechanism(method)
    if chosen.reference is None:
        raise KernelError(f"{method!r} is a layer with its own projections: kernels.build({method!r}, ...) makes it")
    _check_options(f"attention method {method!r}", options, chosen.options)
    options, causal = _plain(options), _flag("causal", causal)
    _check_backend(chosen, backend)
    heads = check_qkv(q, k, v, free_head_size=chosen.free_head_size)
    run = _backend(chosen, backend, q, k, v)
    check_key_mask(key_mask, k)
    if chosen.causal == "only" and not causal:
        raise KernelError(f"attention method {method!r} is causal only; pass causal=True")
    if chosen.causal == "never" and causal:
        raise KernelError(f"attention method {method!r} cannot be causal")
    if not chosen.cross and q.shape[2] != k.shape[2]:
        raise KernelError(f"attention method {method!r} is self-attention: {q.shape[2]} queries, {k.shape[2]} keys")
    return _Checked(chosen, heads, run, causal, options)


def _attention_like(q: Tensor, k: Tensor, v: Tensor, *, scale: object = None, **how: object) -> Like:
    """What `attention` gives."""
    check: Callable[..., _Checked] = _checked
    heads = check(q, k, v, **how).heads
    if not isinstance(scale, Tensor):
        default_scale(q, scale)  # type: ignore[arg-type]
    return Like((q.shape[0], heads, q.shape[2], v.shape[3]), q.dtype, q.device)


def _by_pytorch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    method: str = "sdpa",
    causal: bool = False,
    key_mask: Tensor | None = None,
    backend: str | None = None,
    **_: object,
) -> bool:
    """Whether the call is PyTorch's own attention and no more, which its compilers know."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    if method != "sdpa" or backend == "reference" or key_mask is not None or 0 in k.shape:
        return False
    return not causal or statically_known_true(q.shape[2] == k.shape[2])


def _without_timing(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `attention` in a graph, where nothing can be timed: "auto" is "sdpa", which computes the same."""
    if arguments.get("method") != "auto":
        return arguments
    for name in ("candidates", "backend"):
        if arguments.get(name) is not None:
            raise KernelError(
                f"'auto' with {name}= times calls, which a traced call cannot; ask kernels.lab.fastest before"
            )
    return {**{name: x for name, x in arguments.items() if name != "candidates"}, "method": "sdpa"}


@as_node(_attention_like, plain=_by_pytorch, settled=_without_timing)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    method: str = "sdpa",
    causal: bool = False,
    key_mask: Tensor | None = None,
    scale: float | None = None,
    backend: Backend | None = None,
    **options: object,
) -> Tensor:
    """Attention of queries over keys and values by the mechanism ``method``.

    The head counts are independent: each divides the largest of them, and heads are repeated to that number, so that
    neighbouring query heads share a key head (GQA, MQA), or neighbouring key heads a query head.

    Args:
        q: queries (B, Hq, Lq, D).
        k: keys (B, Hk, Lk, D).
        v: values (B, Hv, Lk, Dv).
        method: one of `kernels.available()`; "auto" is the way to compute dense attention that is fastest here by a
            cost model fitted to this device (`kernels.lab.fastest`), or the fastest of ``candidates=`` that are named.
        causal: query i sees key j only if j <= i + (Lk - Lq), i.e. the last query sees all keys.
        key_mask: bool (B, Lk), True where a key may be seen. What hidden keys and values hold, NaN or not, reaches
            neither the output nor a gradient.
        scale: factor on the dot products; 1 / sqrt(D) if None (1 for the mechanisms that have no scale).
        backend: "reference" (the definition), "torch" or "triton" (a CUDA GPU); None takes the fastest that serves.
        options: what the method takes besides (`kernels.describe(method).options`).

    Returns:
        (B, max(Hq, Hk, Hv), Lq, Dv) in the type of q; rows of queries that see no key are 0. Scores, statistics and
        states are float32 (float64 for float64 inputs) inside, under `torch.autocast` too; there q, k and v of
        different types are taken in its type.

    Raises:
        KernelError: for an unknown method or option (naming the near ones) or for shapes that do not fit.
    """
    if method == "auto":
        return _auto(
            q, k, v, causal=_flag("causal", causal), key_mask=key_mask, scale=scale, backend=backend, **options
        )
    q, k, v = agreed(q, k, v)
    found = _checked(q, k, v, method=method, causal=causal, key_mask=key_mask, backend=backend, **options)
    chosen, heads, run = found.chosen, found.heads, found.run
    scale = 1.0 if scale is None and chosen.unit_scale else default_scale(q, scale)
    shares = chosen.shares_keys and run is not chosen.reference and q.shape[1] == heads
    key_heads = math.lcm(k.shape[1], v.shape[1]) if shares else heads
    k, v = (repeat_heads(blanked(key_mask, x), key_heads) for x in (k, v))
    with as_declared(q):
        return run(repeat_heads(q, heads), k, v, causal=found.causal, key_mask=key_mask, scale=scale, **found.options)


def _with_state_checked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    method: str = "sdpa",
    key_mask: Tensor | None = None,
    **options: object,
) -> tuple[Mechanism, int, int, dict[str, object]]:
    """The mechanism, the heads of the result and of keys and values, and the options; `KernelError` as said below."""
    chosen = mechanism(method)
    if chosen.stateful is None:
        raise KernelError(f"attention method {method!r} keeps no state; describe(method).stateful says which ones do")
    _check_options(f"attention method {method!r}", options, chosen.options)
    heads = check_qkv(q, k, v, free_head_size=chosen.free_head_size)
    check_key_mask(key_mask, k)
    if q.shape[2] != k.shape[2]:
        raise KernelError(f"{q.shape[2]} queries and {k.shape[2]} keys, expected those of the same new positions")
    return chosen, heads, math.lcm(k.shape[1], v.shape[1]), _plain(options)


def _with_state_like(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    state: Mapping[str, Tensor] | None = None,
    scale: object = None,
    **how: object,
) -> tuple[Like, Mapping[str, object]]:
    """What `attention_with_state` gives."""
    check: Callable[..., tuple[Mechanism, int, int, dict[str, object]]] = _with_state_checked
    chosen, heads, key_heads, options = check(q, k, v, **how)
    if chosen.state_like is None:
        raise KernelError(f"the state of {chosen.name!r} cannot be part of a graph: call it outside")
    out = Like((q.shape[0], heads, q.shape[2], v.shape[3]), q.dtype, q.device)
    wide = ((q, heads), (k, key_heads), (v, key_heads))
    rows = (Like((x.shape[0], n, *x.shape[2:]), x.dtype, x.device) for x, n in wide)
    return out, chosen.state_like(*rows, state, **options)


def _with_names(done: Sequence[Tensor], given: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The output and the state of a method, from their tensors."""
    from kernels.traced import names_of_state

    return done[0], dict(zip(names_of_state(given.get("method", "sdpa")), done[1:], strict=True))


@as_node(_with_state_like, joined=_with_names)
def attention_with_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    state: Mapping[str, Tensor] | None = None,
    method: str = "sdpa",
    key_mask: Tensor | None = None,
    scale: float | None = None,
    **options: object,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Causal attention of the next positions of a sequence, from the state behind the earlier ones and to the next.

    A sequence in pieces of any sizes, each from the state that the one before it gave, has the outputs of
    `attention(..., causal=True)` over the whole: a long piece first (prefill), then one position at a time (decode).

    Args:
        q: queries (B, Hq, n, D) of the new positions.
        k: keys (B, Hk, n, D) of the same.
        v: values (B, Hv, n, Dv).
        state: what the call before gave; None for the first. A plain dict of tensors: `torch.save` and safetensors
            take it. Dense methods keep all keys and values, windows those that later queries may see, linear ones sums.
        method: one for which `kernels.describe(method).stateful`.
        key_mask: bool (B, n), True where a new key may be seen, now and later.
        scale: as in `attention`.
        options: those of `attention`, the same in every call; those that have a row per position, for the new ones.

    Returns:
        The output (B, max(Hq, Hk, Hv), n, Dv) and the next state. Both carry gradients.

    Raises:
        KernelError: for a method that keeps no state, a state of another method, and as `attention`.
    """
    q, k, v = agreed(q, k, v)
    chosen, heads, key_heads, options = _with_state_checked(q, k, v, method=method, key_mask=key_mask, **options)
    scale = 1.0 if scale is None and chosen.unit_scale else default_scale(q, scale)
    k, v = (repeat_heads(blanked(key_mask, x), key_heads) for x in (k, v))
    if chosen.stateful is None:
        raise AssertionError("it was checked that there is one")
    with as_declared(q):
        before = None if state is None else dict(state)
        return chosen.stateful(repeat_heads(q, heads), k, v, before, key_mask=key_mask, scale=scale, **options)


def build(method: str, *, heads: int, head_dim: int, **options: object) -> nn.Module:
    """The module of a mechanism, called like `attention`: `module(q, k, v, causal=, key_mask=, scale=)`.

    A mechanism without parameters gives a module that holds its options. A layer (`sqa`, `diffqkv`) takes model-wide
    inputs (B, L, width) in place of q, k and v, as `torch.nn.MultiheadAttention` does.

    Raises:
        KernelError: for an unknown method or option, naming the near ones.
    """
    chosen = mechanism(method)
    takes = build_options(chosen)
    _check_options(f"the module of {method!r}", options, chosen.options if takes is None else takes)
    options = _plain(options)
    if chosen.build is None:
        return Functional(method, **options)
    return chosen.build(heads=heads, head_dim=head_dim, **options)


class Functional(nn.Module):
    """A mechanism without parameters, with its options, as a module."""

    def __init__(self, method: str, **options: object) -> None:
        super().__init__()
        self.method = method
        self.options = dict(options)

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
    ) -> Tensor:
        """`attention` of q (B, Hq, Lq, D), k (B, Hk, Lk, D), v (B, Hv, Lk, Dv) with the options held here."""
        call: Callable[..., Tensor] = attention
        return call(
            q,
            k,
            v,
            method=self.method,
            causal=causal,
            key_mask=key_mask,
            scale=scale,
            backend=backend,
            **self.options,
        )

    def extra_repr(self) -> str:
        """Method and options, for `print(module)`."""
        return ", ".join([repr(self.method), *(f"{k}={v!r}" for k, v in self.options.items())])


def checked_options(method: str, options: Mapping[str, object]) -> dict[str, object]:
    """Options of a method as plain values; `KernelError` for one that it does not have or lacks."""
    _check_options(f"attention method {method!r}", options, mechanism(method).options)
    return _plain(options)


def _auto(q: Tensor, k: Tensor, v: Tensor, *, backend: str | None, **how: Any) -> Tensor:  # noqa: ANN401
    """`method="auto"`, whose cost model is only loaded where it is asked for."""
    from kernels.lab.choosing import auto_attention

    if backend is not None:
        raise KernelError(f"attention method 'auto' finds the backend itself; leave out backend={backend!r}")
    return auto_attention(q, k, v, **how)


def _plain(options: Mapping[str, object]) -> dict[str, object]:
    """Options with Python's own numbers and lists in place of NumPy's."""
    found = {}
    for name, value in options.items():
        own = None if isinstance(value, Tensor) else getattr(value, "tolist", None)
        if own is not None:
            value = own()
        elif isinstance(value, list | tuple):
            value = type(value)(_plain({name: x})[name] for x in value)
        found[name] = value
    return found


def _flag(name: str, value: object) -> bool:
    """``value`` if it is true or false, as a bool; `KernelError` otherwise."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) or value not in (0, 1):
        raise KernelError(f"{name} is {value!r}, expected True or False")
    return bool(value)


def _check_options(owner: str, given: Iterable[str], known: Mapping[str, object]) -> None:
    """Raise `KernelError` for the first of ``given`` that is not known, and for a required one that is missing."""
    for name in given:
        if name not in known:
            raise KernelError(f"{owner} has no option {name!r}; {hint(name) or near(name, known)}")
    missing = [name for name, default in known.items() if default == "required" and name not in set(given)]
    if missing:
        raise KernelError(f"{owner} needs the option {missing[0]!r}")


def _check_backend(chosen: Mechanism, backend: str | None) -> None:
    """Raise `KernelError` for a backend that does not exist, or that the mechanism does not have."""
    if backend is None:
        return
    if backend not in BACKENDS:
        raise KernelError(f"no backend {backend!r}; {near(backend, BACKENDS)}")
    if getattr(chosen, backend) is None:
        raise KernelError(f"attention method {chosen.name!r} has no backend {backend!r}; it has {chosen.backends}")


def _backend(chosen: Mechanism, backend: str | None, *tensors: Tensor) -> Callable[..., Tensor]:
    """The function that computes it: the one asked for, or the fastest that serves the tensors."""
    order = (backend,) if backend is not None else ("torch", "reference")
    if chosen.triton is not None and serves(backend, *tensors):
        order = ("triton",)
    found: Callable[..., Tensor] = next(run for run in (getattr(chosen, name) for name in order) if run is not None)
    return found
