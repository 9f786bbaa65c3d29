"""The list of attention mechanisms: a name, the module that holds it, and what it takes.

Adding one means one folder with a module that defines `MECHANISM`, and one line in `_HOMES`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from kernels.errors import KernelError, near

__all__ = ["Mechanism", "available", "mechanism"]

_HOMES: dict[str, str] = {
    "reference": "kernels.dense.reference",
    "sdpa": "kernels.dense.sdpa",
}
_COMMON = frozenset({"q", "k", "v", "causal", "key_mask", "scale"})


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One way to compute (or to approximate) attention.

    `run(q, k, v, *, causal, key_mask, scale, **options)` takes tensors that are already checked and whose head counts
    are already equal; `exact` says whether it equals plain attention up to rounding; `source` cites where it is from.
    """

    name: str
    run: Callable[..., Tensor]
    summary: str
    exact: bool = True
    source: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the keyword options beyond the common ones, in the order of the signature."""
        return tuple(p for p in inspect.signature(self.run).parameters if p not in _COMMON)


def available() -> tuple[str, ...]:
    """Names that `attention(method=...)` accepts, in alphabetical order."""
    return tuple(sorted(_HOMES))


def mechanism(name: str) -> Mechanism:
    """The mechanism of that name; raises `KernelError` naming the near ones if there is none."""
    if name not in _HOMES:
        raise KernelError(f"no attention method {name!r}; {near(name, _HOMES)}")
    found = importlib.import_module(_HOMES[name]).MECHANISM
    if not isinstance(found, Mechanism):
        raise TypeError(f"{_HOMES[name]}.MECHANISM is not a Mechanism")
    return found
