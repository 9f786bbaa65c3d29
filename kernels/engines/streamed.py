"""Functions of long sequences that carry a state: computed section by section, so that nothing but the output is long.

The backward pass recomputes one section at a time, from right to left, from the states saved at their starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.autocast import in_declared_types
from kernels.once import differentiable_once

__all__ = ["Section", "Sequences", "Stepped", "streamed"]

_SECTION_ROWS = 1 << 13
"""Rows of all heads that a section holds: 2 MiB of 64 float32 numbers each."""
_SECTION_ROWS_GPU = 1 << 18


@dataclass(frozen=True, slots=True)
class Section:
    """One stretch of keys, [start, stop), of which the last `queries` positions are also queries."""

    start: int
    stop: int
    queries: int


@dataclass(frozen=True, slots=True)
class Sequences:
    """How the inputs lie along the axis of the keys; all are (B or 1, H or 1, L, ...)."""

    lq: int
    lk: int
    of_queries: tuple[bool, ...]
    """For each input whether its rows are those of the queries, which end where the keys end."""
    align: int = 1
    """Sections start at multiples of this."""
    back: int = 0
    """Rows before a section that its inputs begin with; where there are none the first row is repeated."""

    def sections(self, problems: int, device: torch.device) -> Iterator[Section]:
        """The sections from left to right; none has both rows before the first query and rows from it on."""
        rows = _SECTION_ROWS_GPU if device.type == "cuda" else _SECTION_ROWS * torch.get_num_threads()
        size = -(-max(256, rows // max(problems, 1)) // self.align) * self.align
        before = max(self.lk - self.lq, 0)
        for first, end, queries in ((0, before, False), (before, self.lk, True)):
            for start in range(first, end, size):
                stop = min(start + size, end)
                yield Section(start, stop, stop - start if queries else 0)

    def rows(self, section: Section, n: int) -> tuple[int, int]:
        """The rows [first, behind) of input n that belong to a section, those before it included."""
        apart = self.lk - self.lq if self.of_queries[n] else 0
        stop = section.stop - apart
        start = stop - section.queries if self.of_queries[n] else section.start
        return max(start - self.back, 0), stop

    def cut(self, section: Section, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The rows of each input that a section needs."""
        found = []
        for n, x in enumerate(inputs):
            first, stop = self.rows(section, n)
            found.append(x[:, :, first:stop])
        return found


Stepped = tuple[Tensor | None, list[Tensor]]
Step = Callable[[Section, list[Tensor], list[Tensor], list[Tensor]], Stepped]
"""`step(section, inputs, state, constants)` gives the rows of the output (None without queries) and the next state."""


def streamed(
    step: Step, layout: Sequences, inputs: Sequence[Tensor], state: Sequence[Tensor], constants: Sequence[Tensor] = ()
) -> tuple[Tensor | None, list[Tensor]]:
    """The output (B, H, Lq, Dv) of a step applied to one section after the other, and the last state.

    Args:
        step: computes one section with differentiable operations.
        layout: the lengths of the inputs.
        inputs: sequences, cut along their third axis.
        state: what the first section starts from; every section gives as many tensors of the same shapes.
        constants: what every section sees whole.

    Returns:
        The output, rows of queries before the first key being 0, or None if no section has queries; and the state
        behind the last section. Both carry gradients to inputs, state and constants.
    """
    sizes = len(inputs), len(state), len(constants)
    done = _Streamed.apply(step, layout, sizes, *inputs, *state, *constants)  # type: ignore[no-untyped-call]
    return (None if layout.lq == 0 else done[0]), list(done[1:])


class _Context(Protocol):
    """What the forward pass leaves for the backward pass."""

    how: tuple[Step, Sequences, tuple[int, int, int], list[Section]]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...


class _Streamed(torch.autograd.Function):
    """The loop over sections with its recomputing backward pass."""

    @staticmethod
    def forward(
        ctx: _Context, step: Step, layout: Sequences, sizes: tuple[int, int, int], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        inputs, state, constants = _split(tensors, sizes)
        batch, heads = (max(x.shape[n] for x in inputs) for n in (0, 1))
        sections = list(layout.sections(batch * heads, inputs[0].device))
        starts: list[Tensor] = []
        out: Tensor | None = None
        keep = any(ctx.needs_input_grad)
        for section in sections:
            starts += state if keep else []
            rows, state = step(section, layout.cut(section, inputs), state, constants)
            if rows is not None:
                if out is None:
                    out = rows.new_empty(*rows.shape[:2], layout.lq, rows.shape[3])
                    out[:, :, : max(layout.lq - layout.lk, 0)] = 0.0
                first = section.start - (layout.lk - layout.lq)
                out[:, :, first : first + rows.shape[2]] = rows
        ctx.save_for_backward(*tensors, *starts)
        ctx.how = (step, layout, sizes, sections)
        given = _split(tensors, sizes)[1]
        last = [x.clone() if any(x is y for y in given) else x for x in state]
        return (inputs[0].new_zeros(()) if out is None else out, *last)

    @staticmethod
    @differentiable_once
    @in_declared_types
    def backward(ctx: _Context, do: Tensor, *dstate: Tensor) -> tuple[Tensor | None, ...]:
        step, layout, sizes, sections = ctx.how
        saved, count = ctx.saved_tensors, sum(sizes)
        inputs, _, constants = _split(saved[:count], sizes)
        starts, gone = saved[count:], list(dstate)
        sums = [
            torch.zeros_like(x) if need else None
            for x, need in zip(saved[:count], ctx.needs_input_grad[3:], strict=True)
        ]
        wanted = [total is not None or sizes[0] <= n < sizes[0] + sizes[1] for n, total in enumerate(sums)]
        for n in reversed(range(len(sections))):
            section = sections[n]
            state = starts[n * sizes[1] : (n + 1) * sizes[1]]
            leaves = [
                x.detach().requires_grad_(want)
                for x, want in zip((*layout.cut(section, inputs), *state, *constants), wanted, strict=True)
            ]
            with torch.enable_grad():
                rows, after = step(section, *_split(leaves, sizes))
            ends, weights = list(after), list(gone)
            if rows is not None:
                first = section.start - (layout.lk - layout.lq)
                ends.append(rows)
                weights.append(do[:, :, first : first + rows.shape[2]])
            live = [(e, w) for e, w in zip(ends, weights, strict=True) if e.requires_grad]
            found = iter(
                torch.autograd.grad(
                    [e for e, _ in live],
                    [x for x in leaves if x.requires_grad],
                    [w for _, w in live],
                    allow_unused=True,
                    materialize_grads=True,
                )
            )
            gone = []
            for m, want in enumerate(wanted):
                grad = next(found) if want else None
                total = sums[m]
                if grad is not None and sizes[0] <= m < sizes[0] + sizes[1]:
                    gone.append(grad)
                elif grad is not None and total is not None:
                    a, b = layout.rows(section, m) if m < sizes[0] else (0, 0)
                    (total[:, :, a:b] if m < sizes[0] else total).add_(grad)
        return (None, None, None, *sums[: sizes[0]], *gone, *sums[sizes[0] + sizes[1] :])


def _split(tensors: Sequence[Tensor], sizes: tuple[int, int, int]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Inputs, state and constants out of one row of tensors."""
    a, b = sizes[0], sizes[0] + sizes[1]
    return list(tensors[:a]), list(tensors[a:b]), list(tensors[b:])
