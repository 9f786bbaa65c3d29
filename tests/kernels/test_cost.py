"""What attention costs: work and memory grow with the length, not with its square; fewer heads cost less.

Everything is counted, so that these tests do not depend on the machine: multiplications and additions, bytes at the
peak, and the numbers that all operators write, which stand for the time of what multiplies nothing. Times are measured
by benchmarks/kernels_speed.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from kernels import attention, build
from kernels.engines.plan import plan_from_spans
from kernels.engines.rules import Call
from kernels.lab.clock import peak_bytes
from kernels.windows.power import power
from tests.kernels.cases import random_qkv

_LINEAR: list[tuple[str, dict[str, Any]]] = [
    ("sliding_window", {"window": 64}),
    ("elastic_window", {"alpha": 64.0, "beta": 0.0}),
    ("halo", {"block": 32, "halo": 16}),
    ("neighborhood", {"kernel": 64}),
    ("lightning", {}),
    ("mala", {}),
    ("wersa", {"features": 32}),
    ("power", {"window": 64, "sinks": 0}),
    ("power", {"window": 64, "block": 64, "sinks": 0}),
]
_IDS = [f"{n}-{m}" for n, (m, _) in enumerate(_LINEAR)]
_CHOSEN: list[tuple[str, dict[str, Any]]] = [
    ("block_prefix_query", {"block": 64}),
    ("dhsa", {"budget": 192, "local": 64, "first": 64}),
    ("hip", {"keys": 64, "window": 64}),
    ("hyper", {"block": 64, "samples": 64, "exact": 512}),
    ("landmark", {"top_k": 2}),
    ("routing", {}),
]
"""Keys that the data chooses: finding them takes a logarithm, a root or a small part of the square more."""
_SHORT = 8192


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Parts and sections are sized by the number of threads, and time is that of one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def inputs(length: int, heads: int = 1, d: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Float32 q, k and v of one sequence."""
    (q, k, v), _ = random_qkv(length, length, seed=1, batch=1, heads=(heads,) * 3, d=d, dv=d)
    return q.float(), k.float(), v.float()


def flops(run: Callable[[], object]) -> int:
    """Multiplications and additions of the matrix products of a run."""
    with FlopCounterMode(display=False) as counted:
        run()
    return int(counted.get_total_flops())


class Written(TorchDispatchMode):
    """Counts operators and the numbers that they write; what only looks at a tensor anew writes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.operators += 1
            self.numbers += sum(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))
        return made


def written(run: Callable[[], object]) -> Written:
    """The operators of a run."""
    with Written() as counted:
        run()
    return counted


@pytest.mark.parametrize(("method", "options"), _LINEAR, ids=_IDS)
def test_twice_the_length_is_twice_the_work_and_memory(method: str, options: dict[str, Any]) -> None:
    def run(length: int) -> Tensor:
        return attention(*inputs(length), method=method, causal=True, **options)

    short, long = (functools.partial(run, n) for n in (_SHORT, 2 * _SHORT))
    # Power attention in blocks visits one block more: L log L.
    assert flops(long) <= (2.4 if "block" in options and method == "power" else 2.01) * flops(short)
    assert peak_bytes(long, "cpu") <= 2.2 * peak_bytes(short, "cpu")
    few, many = written(short), written(long)
    assert many.numbers <= 2.4 * few.numbers
    assert many.operators <= 2.4 * few.operators


@pytest.mark.parametrize(("method", "options"), _LINEAR, ids=_IDS)
def test_gradients_take_memory_of_the_length_not_of_its_square(method: str, options: dict[str, Any]) -> None:
    def run(length: int) -> None:
        leaves = [x.detach().requires_grad_() for x in inputs(length)]
        torch.autograd.grad(attention(*leaves, method=method, causal=True, **options).sum(), leaves)

    short, long = (peak_bytes(functools.partial(run, n), "cpu") for n in (_SHORT, 2 * _SHORT))
    assert long <= 2.2 * short
    assert long < 16 * 3 * inputs(2 * _SHORT)[0].nbytes


@pytest.mark.parametrize(("method", "options"), _CHOSEN, ids=[m for m, _ in _CHOSEN])
def test_keys_that_are_chosen_cost_far_less_than_the_square_of_the_length(method: str, options: dict[str, Any]) -> None:
    def run(length: int, *, train: bool) -> object:
        leaves = [x.detach().requires_grad_(train) for x in inputs(length)]
        out = attention(*leaves, method=method, causal=True, **options)
        return torch.autograd.grad(out.sum(), leaves) if train else out

    # A root of the length is 2.83 times the work at twice the length, its square 4 times.
    assert flops(lambda: run(2 * _SHORT, train=False)) <= 2.9 * flops(lambda: run(_SHORT, train=False))
    for train in (False, True):
        short, long = (peak_bytes(functools.partial(run, n, train=train), "cpu") for n in (_SHORT, 2 * _SHORT))
        assert long <= 2.4 * short
        assert long < 2 * _SHORT * _SHORT  # a tenth of the scores


def test_dense_attention_with_a_mask_makes_no_matrix_of_all_pairs() -> None:
    q, k, v = inputs(_SHORT, heads=2, d=64)
    mask = torch.arange(_SHORT)[None] % 7 > 0
    assert peak_bytes(lambda: attention(q, k, v, causal=True, key_mask=mask), "cpu") <= 2 * 3 * q.nbytes + q.nbytes
    some = q[:, :1, : _SHORT // 4]
    assert peak_bytes(lambda: attention(some, k[:, :1], v[:, :1], causal=True), "cpu") <= 3 * q[:, :1].nbytes


@pytest.mark.parametrize("method", ["sdpa", "selective", "diffqkv", "sqa"])
def test_nor_do_the_methods_and_layers_that_are_dense(method: str) -> None:
    length, heads, d = 4096, 2, 16
    mask = torch.arange(length)[None] % 7 > 0
    q, k, v = inputs(length, heads=heads, d=d)
    x = q.transpose(1, 2).flatten(2)
    tensors: tuple[Tensor, ...] = (x,) if method in ("diffqkv", "sqa") else (q, k, v)
    module = build(method, heads=heads, head_dim=d)

    def there_and_back() -> None:
        module(*(t.detach().requires_grad_() for t in tensors), causal=True, key_mask=mask).sum().backward()

    # The masks of PyTorch's own attention take 6 bytes for each pair.
    assert peak_bytes(there_and_back, "cpu") < 2 * length**2


def test_work_of_power_attention_over_its_logarithm_is_flat() -> None:
    found = []
    for n in (2048, 8192, 32_768):
        options = {"method": "power", "causal": True, "window": 64, "block": 64, "sinks": 0}
        done = flops(functools.partial(attention, *inputs(n, d=8), **options))
        found.append(done / (n * math.log2(n)))
    assert max(found) < 1.3 * min(found)


@pytest.mark.parametrize(("window", "sinks"), [(64, 0), (256, 64)])
def test_power_attention_visits_about_window_sinks_and_logarithm_blocks_of_each_row(window: int, sinks: int) -> None:
    n, c = 16_384, 64
    call = Call(heads=1, lq=n, lk=n, causal=True, device=torch.device("cpu"), offset=0)
    plan = plan_from_spans(power(call, window=window, block=c, sinks=sinks), call, block_q=c, block_k=c)
    blocks = n // c
    # Exactly: of the distances below window / c and the powers of two from there on, those that a row has room for.
    near = -(-window // c)
    want = 0
    for row in range(blocks):
        apart = {*range(near), *(1 << t for t in range(30))}
        seen = {row - a for a in apart if a <= row} | set(range(min(sinks // c, row + 1)))
        want += len(seen)
    assert int(plan.counts.sum()) == want
    assert want <= blocks * (near + sinks // c + math.log2(blocks))


def test_fewer_query_heads_take_that_much_less_work() -> None:
    # The work outside of the scores is left out: a wide layer over few numbers per head would measure projections.
    heads, length = 8, 2048
    (q, k, v) = inputs(length, heads=heads, d=8)

    def run(queries: int) -> Callable[[], object]:
        return lambda: attention(q[:, :queries], k[:, :1], v[:, :1], causal=False)

    full, half = (build("sqa", heads=heads, head_dim=8, query_heads=n, kv_heads=1) for n in (heads, heads // 2))
    assert half.attention_flops(length, length) * 2 == full.attention_flops(length, length)
    assert 2 * flops(run(heads // 2)) == flops(run(heads))
    few, many = (written(run(n)) for n in (heads // 2, heads))
    assert few.numbers <= 0.55 * many.numbers
    assert few.operators <= many.operators
