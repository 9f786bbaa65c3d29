"""What the kernels are to PyTorch's compilers and transforms: whole graphs, exports, the meta device, `torch.func`."""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.library import opcheck
from torch.utils import _pytree

from kernels import (
    KernelError,
    MultiHead,
    Rule,
    attention,
    attention_with_lse,
    attention_with_state,
    available,
    build,
    colstat,
    compiled,
    describe,
    hierarchical_attention,
    merge,
    partial_attention,
    varlen_attention,
)
from kernels.masks import MASKS
from kernels.packing import pack, unpack
from tests.kernels.cases import CASES, Case, random_qkv
from tests.kernels.test_state import STATES

CLOSE = 1e-5
_CASES: list[Any] = [p.values[0] for p in CASES]
_OF_METHOD: dict[str, list[Case]] = {m: [c for c in _CASES if c.method == m] for m in available()}
_MODULES: dict[str, dict[str, Any]] = {
    "diffqkv": {"key_dim": 8},
    "halo": {"relative": True, "block": 8, "halo": 4},
    "moh": {},
    "routing": {"clusters": 3},
    "selective": {},
    "sqa": {},
    "wersa": {"levels": 2, "features": 12, "dropout": 0.0},
}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Wrapped(nn.Module):
    """A function, with the module whose parameters it uses, as what `torch.export` takes."""

    def __init__(self, run: Callable[..., Any], module: nn.Module | None) -> None:
        super().__init__()
        self.run, self.module = run, module

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(*inputs) if self.module is None else self.run(self.module, *inputs)


@dataclass(frozen=True)
class Use:
    """A use of a method: the call, its inputs, the mask of the keys, and how the call is written down for a graph."""

    call: Wrapped
    inputs: list[Tensor]
    mask: Tensor
    packed: tuple[list[Tensor], str] | None = None


def uses_of(method: str) -> Iterator[Use]:
    """A method as a function and as a module with parameters, where it has these forms."""
    for case in _OF_METHOD[method][:1]:
        length = case.length(20)
        tensors, g = random_qkv(length, length, seed=1)
        mask = torch.rand(2, length, generator=g) < 0.7
        how = _pytree.tree_map_only(Tensor, Tensor.float, {"causal": case.causals[-1], **case.kwargs})
        inputs = [x.float() for x in tensors]

        def call(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor, how: dict[str, Any] = how) -> Tensor:
            return attention(q, k, v, key_mask=key_mask, **how)

        named = {**dict(zip("qkv", inputs, strict=True)), "key_mask": mask, **how}
        yield Use(Wrapped(call, None), inputs, mask, pack("kernels.dispatch:attention", named))
    if method in _MODULES:
        torch.manual_seed(0)
        module = build(method, heads=4, head_dim=16, **_MODULES[method])
        g = torch.Generator().manual_seed(2)
        mask = torch.rand(2, 20, generator=g) < 0.7
        shapes = [(2, 20, 64)] if describe(method).layer else [(2, 4, 20, 16)] * 3

        def call_module(m: nn.Module, *rest: Tensor) -> Tensor:
            out: Tensor = m(*rest[:-1], key_mask=rest[-1])
            return out

        yield Use(Wrapped(call_module, module), [torch.randn(shape, generator=g) for shape in shapes], mask)


def numbers(call: Wrapped | Callable[..., Any], inputs: list[Tensor], *rest: Any) -> list[Tensor]:
    """Outputs of a call, and the gradients of a weighted sum of them by inputs and parameters."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = [x for x in _pytree.tree_leaves(call(*leaves, *rest)) if isinstance(x, Tensor)]
    by = [*leaves, *(call.parameters() if isinstance(call, nn.Module) else ())]
    live = [x for x in out if x.requires_grad]
    if not live:
        return out
    g = torch.Generator().manual_seed(3)
    weights = [torch.randn(x.shape, generator=g, dtype=x.dtype).to(x.device) for x in live]
    return [*out, *torch.autograd.grad(live, by, weights, allow_unused=True, materialize_grads=True)]


def whole_graph(run: Callable[..., Any]) -> Callable[..., Any]:
    """``run`` compiled without a break."""
    compiled: Callable[..., Any] = torch.compile(run, fullgraph=True, backend="aot_eager")
    return compiled


def assert_alike(got: list[Tensor], want: list[Tensor]) -> None:
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("method", available())
def test_every_method_compiles_exports_and_passes_on_shapes_with_hidden_nan_and_autocast(method: str) -> None:
    for use in uses_of(method):
        call, mask = use.call, use.mask
        hidden = ~mask[:, None, :, None]
        given = [use.inputs[0], *(x.masked_fill(hidden, float("nan")) for x in use.inputs[1:])]
        want = numbers(copy.deepcopy(call), given, mask)
        assert all(bool(torch.isfinite(x).all()) for x in want)
        assert_alike(numbers(whole_graph(copy.deepcopy(call)), given, mask), want)
        with torch.autocast("cpu", torch.bfloat16):
            exported = torch.export.export(copy.deepcopy(call), (*given, mask))
            assert torch.equal(exported.module()(*given, mask), copy.deepcopy(call)(*given, mask))
        bare = numbers(copy.deepcopy(call).to("meta"), [x.to("meta") for x in given], mask.to("meta"))
        assert all(x.is_meta for x in bare)
        assert [(x.shape, x.dtype) for x in bare] == [(x.shape, x.dtype) for x in want]
        if use.packed is not None:
            tensors, text = use.packed
            wanted = [n for n, x in enumerate(tensors) if x.is_floating_point()]
            some = ("test_schema", "test_autograd_registration", "test_faketensor")
            leaves = [x.clone().requires_grad_(n in wanted) for n, x in enumerate(tensors)]
            opcheck(torch.ops.harmony_kernels.attend.default, (leaves, text), test_utils=some)
            back = ([torch.ones_like(want[0])], tensors, text, [0], wanted[:3])
            opcheck(torch.ops.harmony_kernels.attend_backward.default, back, test_utils=some)


G = torch.Generator().manual_seed(5)
Q, K, V = (torch.randn(2, 2, 20, 8, generator=G) for _ in range(3))
ONE = [x[:1] for x in (Q, K, V)]
OFFSETS = torch.tensor([0, 3, 8, 20])
RULE = MASKS["causal_document"]([9, 1, 14, 40, 80])
OTHERS: dict[str, tuple[Callable[..., Any], list[Tensor]]] = {
    "lse": (lambda q, k, v: attention_with_lse(q, k, v, method="sliding_window", window=5, causal=True), [Q, K, V]),
    "lse with extras": (
        lambda q, k, v, b, a, s: attention_with_lse(q, k, v, bias=b, alibi=a, sink_logits=s),
        [Q, K, V, torch.randn(2, 2, 1, 20, generator=G), torch.ones(2), torch.randn(2, generator=G)],
    ),
    "packed sequences": (
        lambda q, k, v: varlen_attention(q, k, v, cu_seqlens_q=[0, 3, 8, 20], method="lightning", causal=True),
        ONE,
    ),
    "sequences that a tensor packs": (
        lambda q, k, v: varlen_attention(q, k, v, cu_seqlens_q=OFFSETS, causal=True),
        ONE,
    ),
    "parts that are merged": (
        lambda q, k, v: merge(
            *(partial_attention(q, k[:, :, a:b], v[:, :, a:b], causal=True, offset=-a) for a, b in ((0, 9), (9, 20)))
        ),
        [Q, K, V],
    ),
    "received attention": (lambda q, k, v: colstat(q, k, partial_attention(q, k, v)[1]) * v.sum(), [Q, K, V]),
    "levels": (lambda q, k, v: hierarchical_attention(q, k, v, [1] * 10 + [2] * 9 + [-1]), [Q, K, V]),
    "the fastest dense way": (lambda q, k, v: attention(q, k, v, method="auto", causal=True), [Q, K, V]),
    "a rule": (lambda q, k, v: attention(q, k, v, method="masked", rule=RULE), [Q, K, V]),
    "prefill and decode": (lambda q, k, v: in_two(q, k, v, method="sliding_window", window=5), [Q, K, V]),
}


def in_two(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Twelve positions, the others from the state behind them, and the last state."""
    first, state = attention_with_state(*(x[:, :, :12] for x in (q, k, v)), **how)
    second, state = attention_with_state(*(x[:, :, 12:] for x in (q, k, v)), state=state, **how)
    return first, second, state


@pytest.mark.parametrize("name", OTHERS)
def test_other_calls_are_whole_graphs_too(name: str) -> None:
    run, inputs = OTHERS[name]
    assert_alike(numbers(whole_graph(run), inputs), numbers(run, inputs))


@pytest.mark.parametrize(("method", "options"), STATES, ids=lambda x: x if isinstance(x, str) else "")
def test_states_have_on_the_meta_device_the_shapes_that_they_have(method: str, options: dict[str, Any]) -> None:
    inputs = [torch.randn(2, n, 20, 16, generator=G) for n in (4, 2, 2)]
    found = in_two(*(x.to("meta") for x in inputs), method=method, **options)[2]
    want = in_two(*inputs, method=method, **options)[2]
    assert {n: (x.shape, x.dtype) for n, x in found.items()} == {n: (x.shape, x.dtype) for n, x in want.items()}


def test_a_layer_compiles_for_lengths_that_change_and_a_mask_of_another_rule_is_another_graph() -> None:
    layer = MultiHead(16, heads=2, method="lightning")
    graph = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (20, 33):
        x = torch.randn(2, length, 16, generator=G)
        torch.testing.assert_close(graph(x, causal=True), layer(x, causal=True))

    def masked(rule: Rule) -> Tensor:
        return attention(Q, K, V, method="masked", rule=rule)

    for rule in (RULE, MASKS["causal_document"]([3, 80])):
        assert torch.equal(whole_graph(masked)(rule), masked(rule))


def test_an_exported_call_goes_through_a_file_and_takes_any_length() -> None:
    class Windows(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(q, k, v, method="sliding_window", window=4, causal=True)

    length = torch.export.Dim("length", min=2, max=64)
    made = torch.export.export(Windows(), (Q, K, V), dynamic_shapes=[{2: length}] * 3)
    file = io.BytesIO()
    torch.export.save(made, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    longer = [torch.randn(2, 2, 31, 8, generator=G) for _ in range(3)]
    assert torch.equal(loaded(*longer), Windows()(*longer))


def test_dense_attention_stays_what_compilers_know() -> None:
    class Dense(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(q, k, v, causal=True)

    called = {str(n.target) for n in torch.export.export(Dense(), (Q, K, V)).graph.nodes if n.op == "call_function"}
    assert called == {"aten.scaled_dot_product_attention.default"}


# PyTorch announces, from its own modules as they are imported, that it will drop what they use.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="the default compiler of PyTorch needs g++")
def test_the_default_compiler_of_pytorch_takes_the_operator() -> None:
    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, method="power", window=3, sinks=1, causal=True)

    assert_alike(numbers(torch.compile(run, fullgraph=True), [Q, K, V]), numbers(run, [Q, K, V]))


def test_the_check_of_pytorch_passes_whole_with_lengths_that_change() -> None:
    leaves = [x.clone().requires_grad_() for x in (Q, K, V)]
    named = {**dict(zip("qkv", leaves, strict=True)), "method": "sliding_window", "window": 5}
    opcheck(torch.ops.harmony_kernels.attend.default, pack("kernels.dispatch:attention", named))


TWICE = {"diffqkv", "contrast"}
"""Methods of plain products, which PyTorch differentiates as often as one likes."""


@pytest.mark.parametrize("method", [m for m in available() if describe(m).backends])
def test_a_second_derivative_exists_or_is_refused_in_one_line(method: str) -> None:
    case = _OF_METHOD[method][0]
    inputs, _ = random_qkv(case.length(12), case.length(12), seed=4, batch=1)
    for backend in ("torch", "reference"):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = attention(*leaves, causal=case.causals[-1], backend=backend, **case.kwargs)
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        total = torch.stack([x.square().sum() for x in first]).sum()
        if backend == "reference" or method in TWICE:
            assert all(bool(torch.isfinite(x).all()) for x in torch.autograd.grad(total, leaves))
        else:
            with pytest.raises(KernelError, match=r"^attention has no second derivative here; backend='reference' is"):
                torch.autograd.grad(total, leaves)


@pytest.mark.parametrize("method", ["sdpa", "sliding_window", "mala", "landmark"])
def test_transforms_of_functions_give_what_loops_give(method: str) -> None:
    case = _OF_METHOD[method][-1]
    inputs, _ = random_qkv(16, 16, seed=6, batch=6, d=8, dv=8)

    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, causal=case.causals[-1], **case.kwargs).square().sum()

    leaves = [x.clone().requires_grad_() for x in inputs]
    want = torch.autograd.grad(loss(*leaves), leaves)
    by = torch.func.grad(loss, argnums=(0, 1, 2))
    found = torch.vmap(by)(*(x.view(3, 2, *x.shape[1:]) for x in inputs))
    for a, b, c in zip(found, by(*inputs), want, strict=True):
        torch.testing.assert_close(a.flatten(0, 1), c)
        torch.testing.assert_close(b, c)
    shared = torch.vmap(loss, in_dims=(0, None, None))(inputs[0][:, None], inputs[1][:1], inputs[2][:1])
    alone = torch.stack([loss(q[None], inputs[1][:1], inputs[2][:1]) for q in inputs[0]])
    torch.testing.assert_close(shared, alone)
    first = torch.func.grad(loss)
    with pytest.raises(KernelError, match="no second derivative"):
        torch.func.grad(lambda q: first(q, *inputs[1:]).square().sum())(inputs[0])


def test_an_eager_call_is_no_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "node", None)
    leaves = [x.clone().requires_grad_() for x in (Q, K, V)]
    out = attention(*leaves, method="mala")
    assert out.grad_fn is not None
    assert "harmony" not in out.grad_fn.name()


def test_errors_of_graphs_are_those_of_the_call() -> None:
    bare = Q.to("meta")
    with pytest.raises(KernelError, match="'sliding_window' has no option 'windw'; did you mean 'window'"):
        attention(bare, bare, bare, method="sliding_window", windw=3)
    with pytest.raises(KernelError, match="window is a object, which a graph cannot hold"):
        attention(bare, bare, bare, method="sliding_window", window=object())
    with pytest.raises(KernelError, match="self-attention: 19 queries, 20 keys"):
        attention(bare[:, :, 1:], bare, bare, method="halo")
    with pytest.raises(Exception, match="no attention method 'sdpaa'; did you mean 'sdpa'"):
        whole_graph(lambda q: attention(q, q, q, method="sdpaa"))(Q)
    with pytest.raises(KernelError, match="rules stay in the process that made them"):
        unpack([], '{"call": "", "arguments": {"rule": {"rule": "rule -1"}}}')
    with pytest.raises(KernelError, match=r"calls 'kernels\.dispatch:gone', which this version"):
        torch.ops.harmony_kernels.attend([Q], '{"call": "kernels.dispatch:gone", "arguments": {}}')
