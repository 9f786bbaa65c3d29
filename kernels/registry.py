"""The list of attention mechanisms: a name, the module that holds it, and what it declares about itself.

Adding one means one module that defines `MECHANISM`, and one line in `_HOMES` (`docs/kernels.md` walks through it).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from kernels.engines.rules import Rule
from kernels.errors import KernelError, near

__all__ = ["Backend", "Description", "Mechanism", "Taxonomy", "available", "describe", "mechanism"]

_HOMES: dict[str, str] = {
    "ape": "kernels.caches.ape",
    "block_prefix_query": "kernels.sparse.block_prefix_query",
    "calibrate_sinks": "kernels.readouts.sinks",
    "contrast": "kernels.readouts.contrast",
    "dhsa": "kernels.sparse.dhsa",
    "diffqkv": "kernels.dense.diffqkv",
    "elastic_window": "kernels.windows.elastic_window",
    "flexprefill": "kernels.sparse.flexprefill",
    "halo": "kernels.windows.halo",
    "hip": "kernels.sparse.hip",
    "hyper": "kernels.sparse.hyper",
    "landmark": "kernels.sparse.landmark",
    "lightning": "kernels.linear.lightning",
    "mala": "kernels.linear.mala",
    "masked": "kernels.windows.masked",
    "moh": "kernels.heads.moh",
    "neighborhood": "kernels.windows.neighborhood",
    "power": "kernels.windows.power",
    "routing": "kernels.sparse.routing",
    "sdpa": "kernels.dense.sdpa",
    "selective": "kernels.dense.selective",
    "sliding_window": "kernels.windows.sliding_window",
    "soft_identity": "kernels.readouts.identity",
    "sqa": "kernels.dense.sqa",
    "style": "kernels.readouts.style",
    "wersa": "kernels.linear.wersa",
}
_COMMON = frozenset({"q", "k", "v", "call", "causal", "key_mask", "scale"})

Backend = Literal["reference", "torch", "triton"]
BACKENDS: tuple[Backend, ...] = ("reference", "torch", "triton")


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The four axes of sparse attention (The Sparse Frontier, arXiv 2504.17768); a dense mechanism keeps the defaults.

    `unit` is what is dropped (block, token, ...), `importance` how the kept part is found (fixed or content-aware),
    `budget` how much each head or query keeps, `kv` what happens to the rest.
    """

    unit: str = "none"
    importance: str = "none"
    budget: str = "all"
    kv: str = "keep all"


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One way to compute (or to approximate) attention.

    `reference` is the definition without tricks, `torch` and `triton` are its rivals in speed; each is called as
    `run(q, k, v, *, causal, key_mask, scale, **options)`, outside of autocast, with tensors that are already checked,
    that are 0 where ``key_mask`` hides a key, and whose head counts are already equal (but see `shares_keys`). A
    mechanism with parameters has `build(heads=, head_dim=, **options)`; one that only exists as a layer (its own
    projections) has nothing but that.
    """

    name: str
    summary: str
    paper: str
    cost: str
    reference: Callable[..., Tensor] | None = None
    torch: Callable[..., Tensor] | None = None
    triton: Callable[..., Tensor] | None = None
    rule: Callable[..., Rule] | None = None
    """`rule(call, **options)`, where it is a softmax over the keys that a rule shows and nothing else."""
    stateful: Callable[..., tuple[Tensor, dict[str, Tensor]]] | None = None
    """The causal call from a state (None at first): `run(q, k, v, state, *, key_mask, scale, **options)`."""
    state_names: tuple[str, ...] = ()
    """Names of the tensors of a state."""
    state_like: Callable[..., Mapping[str, object]] | None = None
    """The `kernels.compiled.Like` of each tensor of the next state: `state_like(q, k, v, state, **options)`, in which
    q, k and v are such too."""
    build: Callable[..., nn.Module] | None = None
    declared: Callable[..., object] | None = None
    """Whose keyword arguments are the options, where that is not `reference` itself."""
    function: str = "softmax over the visible keys"
    """What is computed, up to rounding if `exact`."""
    exact: bool = True
    causal: Literal["both", "only", "never"] = "both"
    cross: bool = True
    """Queries and keys may be of different sequences and lengths."""
    differentiable: bool = True
    free_head_size: bool = False
    """Whether q and k may have different head sizes."""
    unit_scale: bool = False
    """Whether the scale is 1 rather than 1 / sqrt(head size) where none is given."""
    shares_keys: bool = False
    """Whether `torch` and `triton` take keys and values with fewer heads than queries (as many of both)."""
    layer: bool = False
    """Whether `build` makes a layer with projections of its own, which takes (B, L, width) in place of q, k and v."""
    looks_ahead: Literal["no", "block", "sequence"] = "no"
    """How far beyond a query the choice of its keys looks in a causal call: not at all, to the end of the query's
    block, or over the whole sequence. The keys that it gets never lie behind it."""
    use: str = ""
    """What it does for a forecast or a decision, one sentence for `docs/kernels-results.md`."""
    taxonomy: Taxonomy = field(default_factory=Taxonomy)

    @property
    def options(self) -> dict[str, object]:
        """Options of a call beyond the common ones with their defaults ("required" where there is none)."""
        return _keywords(self.declared or self.reference)

    @property
    def backends(self) -> tuple[Backend, ...]:
        """What it can be computed with."""
        return tuple(b for b in BACKENDS if getattr(self, b) is not None)


@dataclass(frozen=True, slots=True)
class Description:
    """What one mechanism is and holds to; `dataclasses.asdict` makes it JSON."""

    name: str
    summary: str
    paper: str
    cost: str
    function: str
    exact: bool
    causal: str
    cross: bool
    differentiable: bool
    shares_keys: bool
    layer: bool
    looks_ahead: str
    use: str
    home: str
    """The module that holds it."""
    stateful: bool
    backends: tuple[str, ...]
    options: Mapping[str, object]
    build_options: Mapping[str, object] | None
    taxonomy: Taxonomy


def available() -> tuple[str, ...]:
    """Names that `attention(method=...)` or `build(...)` accepts, in alphabetical order."""
    return tuple(sorted(_HOMES))


def mechanism(name: str) -> Mechanism:
    """The mechanism of that name; raises `KernelError` naming the near ones if there is none."""
    if name not in _HOMES:
        raise KernelError(f"no attention method {name!r}; {near(name, _HOMES)}")
    found = importlib.import_module(_HOMES[name]).MECHANISM
    if not isinstance(found, Mechanism):
        raise TypeError(f"{_HOMES[name]}.MECHANISM is not a Mechanism")
    return found


def describe(method: str) -> Description:
    """Paper, cost, properties, options with defaults and taxonomy of one method; `KernelError` if there is none."""
    m = mechanism(method)
    return Description(
        name=m.name,
        summary=m.summary,
        paper=m.paper,
        cost=m.cost,
        function=m.function,
        exact=m.exact,
        causal={"both": "causal or not", "only": "causal only", "never": "not causal"}[m.causal],
        cross=m.cross,
        differentiable=m.differentiable,
        shares_keys=m.shares_keys,
        layer=m.layer,
        looks_ahead=m.looks_ahead,
        use=m.use,
        home=_HOMES[method],
        stateful=m.stateful is not None,
        backends=m.backends,
        options=m.options,
        build_options=build_options(m),
        taxonomy=m.taxonomy,
    )


def build_options(m: Mechanism) -> dict[str, object] | None:
    """What `build` takes beyond heads and head_dim with defaults; None if the mechanism has no parameters."""
    return None if m.build is None else _keywords(m.build, skip=frozenset({"heads", "head_dim"}))


def _keywords(f: Callable[..., object] | None, skip: frozenset[str] = _COMMON) -> dict[str, object]:
    """Parameters of ``f`` but those of ``skip``, with their defaults."""
    if f is None:
        return {}
    found = inspect.signature(f).parameters.values()
    return {p.name: "required" if p.default is p.empty else p.default for p in found if p.name not in skip}
