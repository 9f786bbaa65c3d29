"""Cost of generating with a cache: FLOPs and bytes of dense, sparse and block top-k attention (Kinetics, 2506.05333).

A sample is a continuation of `generated` steps behind a prompt of `prompt` steps that all samples share, as the sample
paths of a forecast share its history. Bytes count times the intensity of the device, its peak FLOP/s over its bytes/s,
and are added: reading a cache and the products of layers do not overlap. The plus before the square of what the prompt
lacks of the budget in the authors' code for exact top-k is a minus here, as sums over the steps have it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Cost", "Generation", "block_top_k_cost", "dense_cost", "sparse_cost"]


@dataclass(frozen=True, slots=True)
class Generation:
    """What is generated, by what: lengths in steps, numbers in `itemsize` bytes."""

    parameters: float
    """Active parameters of the layers other than attention."""
    prompt: int
    generated: int
    samples: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    itemsize: int = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs computed and bytes moved."""

    flops: float
    bytes: float

    def eflops(self, intensity: float) -> float:
        """FLOPs plus bytes times the FLOPs that the device does in the time of a byte."""
        return self.flops + intensity * self.bytes


def dense_cost(g: Generation) -> Cost:
    """All keys are read at each step: the prompt once for all samples, what a sample generated once each."""
    seen, own = g.prompt * g.generated, g.generated**2 / 2
    flops = g.samples * (_layers(g) + _flops_of_a_key(g) * (seen + own))
    return Cost(flops, _bytes_of_a_key(g) * (seen + g.samples * own))


def sparse_cost(g: Generation, budget: int) -> Cost:
    """At most ``budget`` keys a step, which every sample chooses and reads for itself."""
    read = budget * g.generated - max(0, budget - g.prompt) ** 2 / 2
    if budget >= g.prompt + g.generated:
        read = g.prompt * g.generated + g.generated**2 / 2
    flops = g.samples * (_layers(g) + _flops_of_a_key(g) * read)
    return Cost(flops, _bytes_of_a_key(g) * read * g.samples)


def block_top_k_cost(g: Generation, *, block: int, kept: int, window: int) -> Cost:
    """``kept`` blocks and a window; the summaries of all blocks are read to find them, those of the prompt once."""
    found = sparse_cost(g, window + kept * block)
    flops = g.samples * g.heads * g.head_dim * g.layers * (2 * g.prompt + g.generated) * g.generated / block
    summaries = (2 * g.prompt + g.samples * g.generated) * g.generated / block
    return Cost(found.flops + flops, found.bytes + g.itemsize / 2 * g.kv_heads * g.head_dim * g.layers * summaries)


def _layers(g: Generation) -> float:
    return 2.0 * g.parameters * g.generated


def _flops_of_a_key(g: Generation) -> float:
    """Of the products of one query with one key and with its value."""
    return 4.0 * g.heads * g.head_dim * g.layers


def _bytes_of_a_key(g: Generation) -> float:
    """Of one key and its value."""
    return 2.0 * g.itemsize * g.kv_heads * g.head_dim * g.layers
