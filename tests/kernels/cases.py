"""The mechanisms under test with options small enough for short sequences, and how errors are measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import Rule, attention, describe
from kernels.masks import MASKS

__all__ = ["CASES", "Case", "grads", "poisoned_memory", "random_qkv", "relative", "tolerance"]


@dataclass(frozen=True)
class Case:
    """A method with options; `least` is the shortest sequence that they fit, `grids` lengths given as grids."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    least: int = 1
    grid: tuple[int, ...] | None = None
    rows_sum_to_one: bool = True
    ahead: int = 1
    """Queries that share a choice of keys, where that looks to the end of their block."""
    every_row_sees: bool = True
    """Whether every query gets something, if no key is hidden."""
    products_by_pytorch: bool = False
    """Whether PyTorch differentiates products, which are rounded if the way back is under autocast."""
    digits_lost: float = 1.0
    """Factor on the tolerance where the definition itself subtracts large numbers."""

    def settled(self, at: int) -> int:
        """How many of the first ``at`` queries a causal call may not change with what queries and keys come later."""
        return {"no": at, "block": at - at % self.ahead, "sequence": 0}[describe(self.method).looks_ahead]

    @property
    def cross(self) -> bool:
        return describe(self.method).cross

    @property
    def causals(self) -> tuple[bool, ...]:
        if "causal_axes" in self.options or (self.method == "halo" and ("pad_mode" in self.options or self.grid)):
            return (False,)
        if self.options.get("feature_map") == "favor+" or self.method == "calibrate_sinks":
            return (False,)
        return {"causal or not": (False, True), "causal only": (True,), "not causal": (False,)}[
            describe(self.method).causal
        ]

    @property
    def kwargs(self) -> dict[str, Any]:
        return {"method": self.method, **self.options, **({"grid": self.grid} if self.grid else {})}

    def length(self, wanted: int) -> int:
        """A length that it accepts, near the wanted one."""
        return int(torch.Size(self.grid).numel()) if self.grid else max(wanted, self.least)

    def __str__(self) -> str:
        shown = {k: v for k, v in self.kwargs.items() if k != "method" and not isinstance(v, Tensor | Rule)}
        return self.method + "".join(f"-{k}={v}" for k, v in shown.items()).replace(" ", "")


_HEADS = torch.tensor([0.2, 3.0])
_ALL = [
    Case("sdpa"),
    Case("selective", {"tau_q": _HEADS[:, None], "tau_v": torch.tensor(1.5)}, rows_sum_to_one=False),
    Case("diffqkv", {"top_values": 6}, products_by_pytorch=True),
    Case("ape", {"contexts": (2, 9), "temperature": 0.7, "share": 0.8}, least=12),
    Case("calibrate_sinks", {"alpha": 1.3, "least": 2}, products_by_pytorch=True),
    Case("contrast", {"gamma": 0.7}, products_by_pytorch=True),
    Case("soft_identity", {"u": [0.3, 1.0]}),
    Case("style", {"tau": 1.7}),
    Case("masked", {"rule": MASKS["causal_document"]([9, 1, 14, 40, 80])}),
    Case("masked", {"rule": MASKS["global_sliding_window"](200, 4, 3)}),
    Case("sliding_window", {"window": 5}),
    Case("sliding_window", {"window": 20, "sinks": 3}),
    Case("power", {"window": 3, "block": 1, "sinks": 1}),
    Case("power", {"window": 16, "block": 8, "sinks": 8}),
    Case("elastic_window", {"alpha": [4.0, 20.0], "beta": [0.0, 0.3], "block": 4}),
    Case("halo", {"block": 8, "halo": 3}),
    Case("halo", {"block": 4, "halo": 2, "pad_mode": "zero"}, rows_sum_to_one=False),
    Case("halo", {"block": 4, "halo": 1, "rel_bias": torch.linspace(-1, 1, 2 * 16 * 36).view(2, 16, 36)}, grid=(6, 9)),
    Case("neighborhood", {"kernel": 4, "stride": 3}, least=4),
    Case("neighborhood", {"kernel": 3, "dilation": 4}, least=12),
    Case("neighborhood", {"kernel": (3, 4), "dilation": (2, 1), "stride": (1, 2)}, grid=(7, 10)),
    Case("neighborhood", {"kernel": (2, 3, 2), "causal_axes": (True, False, False)}, grid=(4, 5, 3)),
    Case("lightning", {"chunk": 16}, rows_sum_to_one=False),
    Case("lightning", {"log_decay": 0.0}, rows_sum_to_one=False),
    Case("mala"),
    Case("mala", {"c": 1.0}, digits_lost=30.0),
    Case("wersa", {"levels": 3, "features": 24, "scale_weights": torch.tensor([0.2, 0.9, -0.4, 0.5])}),
    Case("wersa", {"levels": 2, "features": 40, "feature_map": "favor+"}, products_by_pytorch=True),
    Case("block_prefix_query", {"block": 9}),
    Case("landmark", {"block": 5, "top_k": 2}),
    Case("landmark", {"block": 8, "top_k": None}, products_by_pytorch=True),
    Case("flexprefill", {"block": 8, "min_budget": 8, "coverage": 0.6}),
    Case("flexprefill", {"block": 8, "min_budget": 0, "coverage": 0.5, "threshold": 1.0}),
    Case("dhsa", {"budget": 14, "local": 8, "first": 2, "block": 8, "chunk": 5}, ahead=8),
    Case("dhsa", {"budget": 16, "local": 8, "first": 3, "block": 8}),
    Case("routing", {"clusters": 3, "window": 20}, rows_sum_to_one=False, every_row_sees=False),
    Case("routing", {"clusters": 2, "norm": "none"}, rows_sum_to_one=False, every_row_sees=False),
    Case("hyper", {"block": 8, "samples": 6, "bits": 4, "exact": 12}),
    Case("hip", {"keys": 8, "window": 8, "sinks": 2, "block": 8, "stride": 2}, ahead=8),
]
CASES = [pytest.param(c, id=f"{n}-{c}") for n, c in enumerate(_ALL)]


def random_qkv(
    lq: int, lk: int, *, seed: int, batch: int = 2, heads: tuple[int, int, int] = (2, 2, 2), d: int = 16, dv: int = 16
) -> tuple[list[Tensor], torch.Generator]:
    """q, k and v of standard normal numbers in float64, and the generator that made them."""
    g = torch.Generator().manual_seed(seed)
    shapes = ((heads[0], lq, d), (heads[1], lk, d), (heads[2], lk, dv))
    return [torch.randn(batch, *s, generator=g, dtype=torch.float64) for s in shapes], g


def relative(got: Tensor, want: Tensor, *, beside: float = 0.0) -> float:
    """Norm of the difference over the norm of what is wanted.

    ``beside`` is the norm of what was computed along with it: a gradient that cancels to nearly nothing beside one of
    that norm is measured against a tenth of it.
    """
    assert bool(torch.isfinite(got).all())
    got, want = got.detach(), want.detach()
    floor = max(1e-1 * beside, 1e-300)
    return float((got.double() - want.double()).norm() / want.double().norm().clamp_min(floor))


def tolerance(dtype: torch.dtype) -> float:
    """What an exact mechanism may differ from its reference in float64."""
    return {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]


def grads(tensors: list[Tensor], *, key_mask: Tensor | None, weight: Tensor, **kwargs: Any) -> list[Tensor]:
    """The output and the gradients of its weighted sum by q, k and v."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    out = attention(*leaves, key_mask=key_mask, **kwargs)
    return [out.detach(), *torch.autograd.grad((out * weight.to(out.dtype)).sum(), leaves)]


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Memory that is asked for without a value holds NaN, so that a kernel that forgets a tile fails at once."""
    patch = pytest.MonkeyPatch()

    def poison(make: Any) -> Any:
        def made(*args: Any, **kwargs: Any) -> Tensor:
            x: Tensor = make(*args, **kwargs)
            if x.is_floating_point():
                return x.fill_(float("nan"))
            return x.fill_(-(2**15) if x.dtype in (torch.int32, torch.int64) else 1)

        return made

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
        patch.setattr(owner, name, poison(getattr(owner, name)))
    try:
        yield
    finally:
        patch.undo()
