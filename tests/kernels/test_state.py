"""Prefill, then decode: pieces of a sequence, each from the state of the one before, equal the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kernels import KernelError, MultiHead, attention, attention_with_state, available, describe
from kernels.caches.rolling import RollingCache
from kernels.masks import MASKS
from tests.kernels.cases import random_qkv, relative

STATES: list[tuple[str, dict[str, Any]]] = [
    ("sdpa", {}),
    ("diffqkv", {"top_values": 5}),
    ("selective", {"tau_q": torch.tensor([0.2, 3.0, 1.0, 2.0])[:, None]}),
    ("masked", {"rule": MASKS["causal_document"]([9, 1, 14, 40, 80])}),
    ("sliding_window", {"window": 5}),
    ("sliding_window", {"window": 20, "sinks": 3}),
    ("power", {"window": 3, "sinks": 1}),
    ("power", {"window": 16, "block": 8, "sinks": 8}),
    ("elastic_window", {"alpha": [4.0, 20.0, 0.0, 9.0], "beta": [0.0, 0.3, 0.1, 0.0], "block": 4, "length": 80}),
    ("halo", {"block": 8, "halo": 3}),
    ("neighborhood", {"kernel": 4}),
    ("neighborhood", {"kernel": 3, "dilation": 4}),
    ("lightning", {}),
    ("lightning", {"log_decay": 0.0, "chunk": 16}),
    ("mala", {}),
    ("mala", {"c": 1.0}),
    ("wersa", {"levels": 3, "features": 24}),
    ("wersa", {"levels": 5, "features": 24, "pre_gelu": True}),
]
every_state = pytest.mark.parametrize(("method", "options"), STATES, ids=lambda x: x if isinstance(x, str) else "")


def in_pieces(
    tensors: list[Tensor], sizes: list[int], *, key_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, dict[str, Tensor] | None]:
    """Outputs of the pieces side by side, and the last state."""
    state, done, first = None, [], 0
    for size in sizes:
        part = [x[:, :, first : first + size] for x in tensors]
        mask = None if key_mask is None else key_mask[:, first : first + size]
        out, state = attention_with_state(*part, state=state, key_mask=mask, **kwargs)
        done.append(out)
        first += size
    return torch.cat(done, dim=2), state


def test_every_causal_method_that_keeps_a_state_is_tried() -> None:
    assert {m for m, _ in STATES} == {m for m in available() if describe(m).stateful}


@every_state
@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 999),
    sizes=st.lists(st.sampled_from([1, 1, 2, 7, 33, 130]), min_size=1, max_size=5),
    heads=st.sampled_from([(4, 4, 4), (4, 2, 2), (4, 1, 2)]),
    masked=st.booleans(),
    double=st.booleans(),
)
def test_pieces_equal_the_whole(
    method: str,
    options: dict[str, Any],
    seed: int,
    sizes: list[int],
    heads: tuple[int, int, int],
    masked: bool,
    double: bool,
) -> None:
    length = max(sum(sizes), 14 if method == "neighborhood" else 1)
    sizes = [*sizes, length - sum(sizes)]
    tensors, g = random_qkv(length, length, seed=seed, heads=heads)
    key_mask = torch.rand(2, length, generator=g) < 0.7 if masked else None
    want = attention(*tensors, method=method, causal=True, key_mask=key_mask, backend="reference", **options)
    given_as = tensors if double else [x.float() for x in tensors]
    got, _ = in_pieces(given_as, sizes, key_mask=key_mask, method=method, **options)
    lost = 30.0 if options.get("c") == 1.0 else 1.0
    assert got.dtype == given_as[0].dtype
    assert relative(got, want, beside=1e-3) < (1e-10 if double else 1e-5) * lost


@every_state
def test_states_are_tensors_that_carry_gradients_and_survive_a_file(
    method: str, options: dict[str, Any], tmp_path: Any
) -> None:
    tensors, g = random_qkv(30, 30, seed=4, heads=(4, 2, 2))
    weight = torch.randn(2, 4, 30, 16, generator=g, dtype=torch.float64)
    found = []
    for whole in (True, False):
        leaves = [x.clone().requires_grad_() for x in tensors]
        if whole:
            out = attention(*leaves, method=method, causal=True, **options)
        else:
            out, _ = in_pieces(leaves, [13, 1, 1, 15], key_mask=None, method=method, **options)
        found.append([out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)])
    lost = 30.0 if options.get("c") == 1.0 else 1.0
    assert all(relative(b, a) < 1e-10 * lost for a, b in zip(*found, strict=True))
    _, state = in_pieces(tensors, [13, 1], key_mask=None, method=method, **options)
    assert state is not None
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    part = [x[:, :, 14:20] for x in tensors]
    one, two = (attention_with_state(*part, state=s, method=method, **options)[0] for s in (state, loaded))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("method", "options", "most"),
    [
        ("sliding_window", {"window": 5, "sinks": 3}, 7),
        ("elastic_window", {"alpha": 8.0, "beta": 0.0, "block": 4, "length": 90}, 12),
        ("halo", {"block": 8, "halo": 3}, 10),
        ("neighborhood", {"kernel": 3, "dilation": 4}, 11),
        ("lightning", {}, 16),
        ("mala", {}, 17),
        ("wersa", {"levels": 3, "features": 24}, 24),
    ],
)
def test_a_state_that_forgets_does_not_grow(method: str, options: dict[str, Any], most: int) -> None:
    tensors, _ = random_qkv(90, 90, seed=5)
    sizes = []
    for steps in (40, 90):
        _, state = in_pieces([x[:, :, :steps] for x in tensors], [1] * steps, key_mask=None, method=method, **options)
        assert state is not None
        sizes.append(sum(x.numel() for x in state.values()))
        assert all(x.ndim < 3 or x.shape[2] <= most for x in state.values())
    assert sizes[0] == sizes[1]


def test_what_does_not_fit_is_refused() -> None:
    (q, k, v), _ = random_qkv(4, 4, seed=0)
    _, state = attention_with_state(q, k, v, method="lightning")
    with pytest.raises(KernelError, match="is it that of another method"):
        attention_with_state(q, k, v, state=state, method="sdpa")
    with pytest.raises(KernelError, match="the state goes on from"):
        attention_with_state(q, k, v, state=attention_with_state(q[:1], k[:1], v[:1])[1])
    with pytest.raises(KernelError, match="4 queries and 3 keys"):
        attention_with_state(q, k[:, :, :3], v[:, :, :3])
    with pytest.raises(KernelError, match="no option 'windw'"):
        attention_with_state(q, k, v, method="sliding_window", windw=3)
    with pytest.raises(KernelError, match="keeps no state"):
        attention_with_state(q, k, v, method="sqa")
    with pytest.raises(KernelError, match="on a line, with stride 1"):
        attention_with_state(q, k, v, method="neighborhood", stride=2)
    with pytest.raises(KernelError, match="block and halo, not"):
        attention_with_state(q, k, v, method="halo", pad_mode="zero")
    with pytest.raises(KernelError, match="has parameters of its own"):
        MultiHead(8, heads=2, method="wersa").append(torch.zeros(1, 1, 8))


class Block(nn.Module):
    """A causal layer with a residual sum, as encoders have."""

    def __init__(self, width: int, method: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attend = MultiHead(width, heads=4, method=method, options=options)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attend(self.norm(x), causal=True)

    def append(self, x: Tensor, state: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        mixed, state = self.attend.append(self.norm(x), state)
        return x + mixed, state


@pytest.mark.parametrize(("method", "options"), [("sliding_window", {"window": 40}), ("mala", {})])
def test_a_thousand_appended_steps_equal_encoding_again(method: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*(Block(16, method, options) for _ in range(2)))
    x = torch.randn(2, 1200, 16)
    with torch.no_grad():
        cache = RollingCache(list(layers), keep=300)  # type: ignore[arg-type]
        first = cache.append(x[:, :200])
        single = [cache.append(x[:, n : n + 1]) for n in range(200, 1200)]
        again = layers(x)
        near = layers(x[:, -400:])[:, -300:]
    # Sums that nothing normalises grow: the error is that beside the largest number.
    size = max(1.0, float(again.abs().max()))
    assert float((torch.cat([first, *single], dim=1) - again).abs().max()) < 1e-4 * size
    assert float((cache.encodings() - again[:, -300:]).abs().max()) < 1e-4 * size
    assert cache.length == 1200
    if method == "sliding_window":
        # A window of the stream encoded afresh is the same where no layer sees beyond its start.
        assert float((near - cache.encodings()).abs().max()) < 1e-4


def test_a_step_is_one_encoding_however_long_the_history_is() -> None:
    torch.manual_seed(1)
    seen = []
    layer = Block(16, "sliding_window", {"window": 8})
    layer.attend.to_q.register_forward_hook(lambda _, x, __: seen.append(x[0].shape[1]))
    cache = RollingCache([layer], keep=50)
    cache.append(torch.randn(1, 500, 16))
    for _ in range(120):
        cache.append(torch.randn(1, 1, 16))
    assert seen == [500] + [1] * 120
    assert cache.encodings().shape == (1, 50, 16)


def test_a_rolling_cache_goes_on_from_a_file(tmp_path: Any) -> None:
    torch.manual_seed(2)
    layers = [Block(16, "sliding_window", {"window": 8}), Block(16, "mala", {})]
    x = torch.randn(1, 60, 16)
    cache = RollingCache(layers, keep=20)
    with pytest.raises(KernelError, match="nothing was appended"):
        cache.encodings()
    with torch.no_grad():
        cache.append(x[:, :40])
        torch.save(cache.state_dict(), tmp_path / "cache.pt")
        other = RollingCache(layers, keep=20)
        other.load_state_dict(torch.load(tmp_path / "cache.pt", weights_only=True))
        assert torch.equal(other.append(x[:, 40:]), cache.append(x[:, 40:]))
    assert torch.equal(other.encodings(), cache.encodings())
    assert other.length == 60
    with pytest.raises(KernelError, match="not all of 3 layers"):
        RollingCache([*layers, layers[0]], keep=20).load_state_dict(cache.state_dict())
    with pytest.raises(KernelError, match="not of this stack of 1 layers"):
        RollingCache(layers[:1], keep=20).load_state_dict(cache.state_dict())
