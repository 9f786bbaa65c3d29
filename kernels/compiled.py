"""Calls as nodes of a graph: what `torch.compile`, `torch.export`, the meta device and `torch.func` see of the kernels.

How a mechanism computes depends on lengths, masks and data, which a graph does not know. So a call becomes one
operator, `harmony_kernels::attend`, over the list of its tensors, with all else as text; `attend_backward` computes the
forward pass once more and its gradients. Eager calls never come here: they run as they are.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils import _pytree

from kernels.autocast import agreed
from kernels.engines.rules import Rule
from kernels.errors import KernelError
from kernels.once import no_second_derivative
from kernels.packing import pack, unpack

__all__ = ["Like", "as_node", "symbolic"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_ROWS = ("q", "k", "v")


@dataclass(frozen=True, slots=True)
class Like:
    """Shape, type and device of an output."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class _Call:
    """A function that may be a node: what runs, what its outputs are like, and when it need not be a node."""

    run: Callable[..., Any]
    like: Callable[..., Any]
    signature: inspect.Signature
    plain: Callable[..., bool] | None
    settled: Callable[[dict[str, Any]], dict[str, Any]] | None


_calls: dict[str, _Call] = {}


def as_node(
    like: Callable[..., Any],
    *,
    plain: Callable[..., bool] | None = None,
    settled: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    joined: Callable[[Sequence[Tensor], Mapping[str, Any]], object] | None = None,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A function of tensors that is one operator wherever tensors stand for values that are not there.

    Args:
        like: called with the same arguments, checks them and returns a `Like` in place of each output tensor, in the
            same tuples and dicts. It looks at shapes and types only.
        plain: called alike, whether the function can be traced as it is.
        settled: the arguments that a graph gets in place of those given, where it gets others.
        joined: makes the result of its tensors and the keyword arguments; one tensor, or a tuple of them, if None.
    """

    def decorate(run: Callable[_P, _R]) -> Callable[_P, _R]:
        name = f"{run.__module__}:{run.__qualname__}"
        _calls[name] = _Call(run, like, inspect.signature(run), plain, settled)

        @functools.wraps(run)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if torch.compiler.is_compiling():
                # Imported here, as it takes PyTorch's compiler with it.
                from kernels.traced import traced

                # The compiler hands on no objects but tensors and plain data, so that rules go by their names.
                rules = {key: x.name for key, x in kwargs.items() if isinstance(x, Rule)}
                rest = {key: x for key, x in kwargs.items() if not isinstance(x, Rule)}
                done = traced(name, args, rest, rules)
                return cast(_R, _joined(done) if joined is None else joined(done, kwargs))
            if symbolic(args) or symbolic(kwargs.values()):
                return cast(_R, node(name, args, kwargs))
            return run(*args, **kwargs)

        return call

    return decorate


def _joined(done: Sequence[Tensor]) -> object:
    return done[0] if len(done) == 1 else tuple(done)


def symbolic(values: Iterable[object]) -> bool:
    """Whether one of the values is a tensor that only stands for one: meta, fake, or transformed by `torch.func`."""
    for x in values:
        if isinstance(x, Tensor):
            if x.is_meta or isinstance(x, FakeTensor | FunctionalTensor) or _transformed(x):
                return True
        elif isinstance(x, Mapping) and symbolic(x.values()):
            return True
    return False


_transformed: Callable[[Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor


def node(name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    """The call as an operator, or traced as it is where it can be; raises what the call itself would for its shapes."""
    known = _known(name)
    bound = known.signature.bind(*args, **kwargs)
    arguments: dict[str, Any] = {}
    for given, value in bound.arguments.items():
        kind = known.signature.parameters[given].kind
        arguments.update(value if kind is inspect.Parameter.VAR_KEYWORD else {given: value})
    if known.settled is not None:
        arguments = known.settled(arguments)
    rows = [x for x in _ROWS if x in arguments]
    # Autocast is not on where the operator runs.
    arguments.update(zip(rows, agreed(*(arguments[x] for x in rows)), strict=True))
    outputs, structure = _pytree.tree_flatten(known.like(**arguments))
    if known.plain is not None and known.plain(**arguments) and not any(map(_transformed, tensors_of(arguments))):
        return known.run(**arguments)
    tensors, text = pack(name, arguments)
    run = _transformed_attend if any(map(_transformed, tensors)) else attend
    done = run(tensors, text)
    if len(done) != len(outputs):
        raise AssertionError(f"{name} has {len(done)} outputs, not {len(outputs)}")
    return _pytree.tree_unflatten(done, structure)


def tensors_of(arguments: object) -> list[Tensor]:
    """The tensors among arguments."""
    return [x for x in _pytree.tree_leaves(arguments) if isinstance(x, Tensor)]


def _known(name: str) -> _Call:
    if name not in _calls and name.startswith("kernels."):
        importlib.import_module(name.partition(":")[0])
    if name not in _calls:
        raise KernelError(f"this graph calls {name!r}, which this version of the kernels does not have")
    return _calls[name]


def _run(tensors: Sequence[Tensor], text: str) -> list[Tensor]:
    name, arguments = unpack(tensors, text)
    return tensors_of(_known(name).run(**arguments))


@contextmanager
def _saving() -> Iterator[None]:
    """A context in which tensors may be saved by hooks, as for recomputing, which `torch.func` forbids."""
    ways = torch._C._autograd
    why = ways._saved_tensors_hooks_get_disabled_error_message()
    ways._saved_tensors_hooks_enable()
    try:
        yield
    finally:
        if why is not None:
            ways._saved_tensors_hooks_disable(why)


def _own(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """Tensors that share no memory with each other or with ``others``, as operators have to return them."""
    held = {x.untyped_storage().data_ptr() for x in others}
    found = []
    for x in tensors:
        mine = x.detach().contiguous()
        if mine.untyped_storage().data_ptr() in held:
            mine = mine.clone()
        held.add(mine.untyped_storage().data_ptr())
        found.append(mine)
    return found


@torch.library.custom_op("harmony_kernels::attend", mutates_args=())
def attend(tensors: list[Tensor], call: str) -> list[Tensor]:
    """The outputs of a call that `pack` wrote."""
    with _saving():
        return _own(_run(tensors, call), tensors)


@torch.library.custom_op("harmony_kernels::attend_backward", mutates_args=())
def attend_backward(
    gradients: list[Tensor], tensors: list[Tensor], call: str, outputs: list[int], wanted: list[int]
) -> list[Tensor]:
    """Gradients by the ``wanted`` tensors, from those of the outputs of these numbers."""
    with _saving(), _recording(), torch.enable_grad():
        leaves = [x.detach().requires_grad_(n in wanted) for n, x in enumerate(tensors)]
        done = _run(leaves, call)
        live = [(done[n], g) for n, g in zip(outputs, gradients, strict=True) if done[n].requires_grad]
        by = [leaves[n] for n in wanted]
        if not live:
            return [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in by]
        found = torch.autograd.grad(
            [x for x, _ in live], by, [g for _, g in live], allow_unused=True, materialize_grads=True
        )
    return _own(found, (*gradients, *tensors))


def _recording() -> AbstractContextManager[object]:
    """A context in which PyTorch records for gradients again, which it does not inside of an operator."""
    keys = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "ADInplaceOrView", "AutogradOther"):
        keys = keys.remove(getattr(torch._C.DispatchKey, key))
    guard: AbstractContextManager[object] = torch._C._ForceDispatchKeyGuard(
        torch._C._dispatch_tls_local_include_set(), keys
    )
    return guard


@attend.register_fake
def _attend_fake(tensors: list[Tensor], call: str) -> list[Tensor]:
    name, arguments = unpack(tensors, call)
    like: list[Like] = _pytree.tree_leaves(_known(name).like(**arguments))
    return [tensors[0].new_empty(x.shape, dtype=x.dtype, device=x.device) for x in like]


@attend_backward.register_fake
def _backward_fake(
    gradients: list[Tensor], tensors: list[Tensor], call: str, outputs: list[int], wanted: list[int]
) -> list[Tensor]:
    return [torch.empty_like(tensors[n], memory_format=torch.contiguous_format) for n in wanted]


def _gradients(
    gradients: Sequence[Tensor | None], tensors: Sequence[Tensor], call: str, needed: Sequence[bool]
) -> list[Tensor | None]:
    outputs = [n for n, g in enumerate(gradients) if g is not None]
    wanted = [n for n, need in enumerate(needed) if need]
    back: list[Tensor | None] = [None] * len(tensors)
    if outputs and wanted:
        given = [g for g in gradients if g is not None]
        if any(map(_transformed, (*given, *tensors))):
            found = _TransformedBackward.apply(call, outputs, wanted, *given, *tensors)  # type: ignore[no-untyped-call]
        else:
            found = attend_backward(given, list(tensors), call, outputs, wanted)
        for n, x in zip(wanted, found, strict=True):
            back[n] = x
    return back


def _attend_setup(ctx: _Context, inputs: tuple[list[Tensor], str], output: list[Tensor]) -> None:
    tensors, ctx.call = inputs
    ctx.save_for_backward(*tensors)


def _attend_gradients(ctx: _Context, gradients: list[Tensor | None]) -> tuple[list[Tensor | None], None]:
    return _gradients(gradients, ctx.saved_tensors, ctx.call, ctx.needs_input_grad[0]), None


def _refuse(ctx: object, *_: object) -> None:
    raise no_second_derivative()


attend.register_autograd(_attend_gradients, setup_context=_attend_setup)
attend_backward.register_autograd(_refuse)


class _Context(Protocol):
    """What is kept for the way back."""

    call: str
    needs_input_grad: Any

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...

    def save_for_backward(self, *tensors: Tensor) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...


class _Vmap(Protocol):
    """What `torch.vmap` says about itself."""

    batch_size: int


def _transformed_attend(tensors: list[Tensor], call: str) -> list[Tensor]:
    return list(_Transformed.apply(call, *tensors))  # type: ignore[no-untyped-call]


class _Transformed(torch.autograd.Function):
    """`attend` under `torch.func`, whose transforms custom operators with gradients do not take."""

    @staticmethod
    def forward(call: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(attend(list(tensors), call))

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.call, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(*(x for x in output if not x.is_floating_point()))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_gradients(gradients, ctx.saved_tensors, ctx.call, ctx.needs_input_grad[1:])

    @staticmethod
    def vmap(info: _Vmap, in_dims: tuple[int | None, ...], call: str, *tensors: Tensor) -> tuple[Any, Any]:
        found = _each(info.batch_size, in_dims[1:], tensors, lambda x: _Transformed.apply(call, *x))  # type: ignore[no-untyped-call]
        return found, (0,) * len(found)


class _TransformedBackward(torch.autograd.Function):
    """`attend_backward` under `torch.func`."""

    @staticmethod
    def forward(call: str, outputs: list[int], wanted: list[int], *tensors: Tensor) -> tuple[Tensor, ...]:
        given, rest = list(tensors[: len(outputs)]), list(tensors[len(outputs) :])
        return tuple(attend_backward(given, rest, call, outputs, wanted))

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        return None

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> None:
        raise no_second_derivative()

    @staticmethod
    def vmap(
        info: _Vmap, in_dims: tuple[Any, ...], call: str, outputs: list[int], wanted: list[int], *tensors: Tensor
    ) -> tuple[Any, Any]:
        def one(x: list[Tensor]) -> tuple[Tensor, ...]:
            return _TransformedBackward.apply(call, outputs, wanted, *x)  # type: ignore[no-any-return,no-untyped-call]

        found = _each(info.batch_size, in_dims[3:], tensors, one)
        return found, (0,) * len(found)


def _each(
    size: int, dims: Sequence[int | None], tensors: Sequence[Tensor], run: Callable[[list[Tensor]], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """``run`` for each of ``size`` calls that `torch.vmap` joined along ``dims``, its outputs stacked."""
    parts = [[x if d is None else x.select(d, n) for x, d in zip(tensors, dims, strict=True)] for n in range(size)]
    return tuple(torch.stack(x) for x in zip(*(run(part) for part in parts), strict=True))
