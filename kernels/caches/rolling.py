"""A rolling cache: of a history that grows by a step at a time only the new step is encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from kernels.checks import positive
from kernels.errors import KernelError

__all__ = ["Appends", "RollingCache"]


class Appends(Protocol):
    """A causal layer that goes on from a state, as `MultiHead.append` does."""

    def append(self, x: Tensor, state: Mapping[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The next positions (B, n, width) from a state, and the next state."""
        ...


class RollingCache:
    """The newest encodings of a stream by a stack of causal layers, each position of which is encoded once.

    A step costs one encoding per layer, however long the history is; with layers that forget (a window, a linear
    scan) also its time and the memory of the states do not grow with it. The encodings are those of the whole stream
    since its start: a window encoded afresh gives the same where no layer saw beyond its first position.

    Args:
        layers: applied one after the other; anything with `append`.
        keep: encodings that are kept, the newest ones.
    """

    def __init__(self, layers: Sequence[Appends], *, keep: int) -> None:
        if not layers:
            raise KernelError("a rolling cache needs at least one layer")
        self.layers = list(layers)
        self.keep = positive("keep", keep)
        self.states: list[dict[str, Tensor] | None] = [None] * len(layers)
        self.length = 0
        """Positions so far."""
        self._room: Tensor | None = None
        self._end = 0

    def append(self, x: Tensor) -> Tensor:
        """Encode the next positions x (B, n, width) of every stream; their encodings (B, n, width)."""
        for n, layer in enumerate(self.layers):
            x, self.states[n] = layer.append(x, self.states[n])
        self._write(x[:, -self.keep :])
        self.length += x.shape[1]
        return x

    def encodings(self) -> Tensor:
        """The newest encodings, oldest first: (B, at most keep, width). `KernelError` before the first position."""
        if self._room is None:
            raise KernelError("nothing was appended yet")
        return self._room[:, max(self._end - self.keep, 0) : self._end]

    def _write(self, x: Tensor) -> None:
        """Into a room of twice the size that is needed, so that it is moved once in ``keep`` positions."""
        if self._room is None:
            self._room = x.new_empty(x.shape[0], 2 * self.keep, x.shape[2])
        if self._end + x.shape[1] > self._room.shape[1]:
            kept = min(self.keep, self._end)
            self._room[:, :kept] = self._room[:, self._end - kept : self._end].clone()
            self._end = kept
        self._room[:, self._end : self._end + x.shape[1]] = x
        self._end += x.shape[1]

    def state_dict(self) -> dict[str, Tensor]:
        """All of it as tensors by name, to be saved; `KernelError` before the first position."""
        found = {f"{n}.{name}": x for n, state in enumerate(self.states) for name, x in (state or {}).items()}
        return {**found, "encodings": self.encodings().clone(), "length": torch.tensor(self.length)}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave; `KernelError` if it is of another stack."""
        states: list[dict[str, Tensor] | None] = [None] * len(self.layers)
        for name, x in saved.items():
            layer, _, of_state = name.partition(".")
            if not of_state:
                continue
            if not layer.isdigit() or int(layer) >= len(states):
                raise KernelError(f"{name!r} is not of this stack of {len(states)} layers")
            states[int(layer)] = {**(states[int(layer)] or {}), of_state: x}
        if None in states or not {"encodings", "length"} <= set(saved):
            raise KernelError(f"saved holds {sorted(saved)}, which is not all of {len(states)} layers")
        self.states, self.length = states, int(saved["length"])
        self._room, self._end = None, 0
        self._write(saved["encodings"][:, -self.keep :])
