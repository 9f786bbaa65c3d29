"""BlockRank: an instruction, candidates that do not see each other, and a query that sees them all.

The sequence is cut into blocks: the first is the instruction, the last the query, those between are the candidates. How
much the query attends to a candidate ranks it (`relevance`), and a loss on that ranking trains it (`relevance_loss`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.checks import blanked, check_key_mask, check_qkv, compute_dtype, default_scale, positive, repeat_heads
from kernels.engines.ruled import ruled_mechanism
from kernels.engines.rules import Call, Rule
from kernels.errors import KernelError
from kernels.registry import Taxonomy

__all__ = ["MECHANISM", "block_positions", "block_prefix_query", "relevance", "relevance_loss"]


def block_prefix_query(call: Call, *, block: int = 128) -> Rule:
    """Each block of ``block`` keys sees itself and the first block; the last block sees all.

    Causal, a query sees nothing behind it, in its own block too, as in the paper; not causal, blocks are seen whole.
    Blocks shorter than ``block`` are padded on the left and the padding hidden by the key mask.
    """
    c, causal, lk = positive("block", block), call.causal, call.lk
    last = max(lk - 1, 0) // c

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        bi, bj = i.div(c, rounding_mode="floor"), j.div(c, rounding_mode="floor")
        seen = (bi == bj) | (bj == 0) | (bi == last)
        return seen & (j <= i) if causal else seen

    def spans(h: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        bi = i.div(c, rounding_mode="floor")
        lo = torch.stack([torch.where(bi == last, 0, bi * c), torch.zeros_like(i)])
        hi = torch.stack([torch.where(bi == last, lk, (bi + 1) * c), torch.full_like(i, c)])
        return lo, torch.minimum(hi, i + 1) if causal else hi

    return Rule(sees, spans, block=c)


def block_positions(length: int, *, block: int, apart: int = 16_384, device: torch.device | None = None) -> Tensor:
    """Positions (L,) for rotary embeddings: candidates stand behind the first block, the query at ``apart``.

    Candidates share their positions, so that their order does not matter.
    """
    c = positive("block", block)
    at = torch.arange(length, device=device)
    of = at.div(c, rounding_mode="floor")
    last = max(length - 1, 0) // c
    found = torch.where(of == 0, at, c + at % c)
    return torch.where((of == last) & (of > 0), apart + at % c, found)


def relevance(
    q: Tensor,
    k: Tensor,
    *,
    block: int,
    signal: int = 2,
    key_mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """How much the last ``signal`` queries attend to each candidate, (B, candidates), of sum 1; with gradients.

    The softmax is over the keys of all candidates alone, the mean over heads and queries. A batch item in which every
    candidate is hidden gets 0.

    Args:
        q: queries (B, Hq, Lq, D), of which the last ``signal`` are read.
        k: keys (B, Hk, Lk, D) of the whole sequence.
        block: keys of a block.
        signal: queries that are read; the paper's are the first token of the answer and the one before it.
        key_mask: bool (B, Lk), True where a key may be seen.
        scale: factor on the dot products, 1 / sqrt(D) if None.

    Raises:
        KernelError: if there is no candidate, i.e. no more than two blocks.
    """
    c, signal = positive("block", block), positive("signal", signal)
    heads = check_qkv(q, k, k)
    check_key_mask(key_mask, k)
    last = max(k.shape[2] - 1, 0) // c
    if last < 2:
        raise KernelError(f"{k.shape[2]} keys in blocks of {c} hold no candidate; expected more than {2 * c} keys")
    to = compute_dtype(q)
    rows = repeat_heads(q, heads)[:, :, -signal:].to(to)
    keys = repeat_heads(blanked(key_mask, k)[:, :, c : last * c], heads).to(to)
    scores = default_scale(q, scale) * torch.einsum("bhid,bhjd->bhij", rows, keys)
    if key_mask is not None:
        hidden = ~key_mask[:, None, None, c : last * c]
        # Rows without a candidate are computed as if they saw all, then thrown away.
        none = hidden.all(dim=-1, keepdim=True)
        weights = torch.softmax(scores.masked_fill(hidden & ~none, float("-inf")), dim=-1).masked_fill(none, 0.0)
    else:
        weights = torch.softmax(scores, dim=-1)
    return weights.mean(dim=(1, 2)).view(-1, last - 1, c).sum(dim=-1)


def relevance_loss(relevant: Tensor, positive_ones: Tensor, *, temperature: float = 0.05) -> Tensor:
    """The auxiliary loss: -log of the share that the positive candidates have of sum exp(relevance / temperature).

    ``relevant`` and the bool ``positive_ones`` are (B, candidates); the mean over the batch, 0 where all are positive.

    Raises:
        KernelError: for shapes that differ, a temperature that is not positive, or an item without a positive.
    """
    if relevant.shape != positive_ones.shape or positive_ones.dtype != torch.bool:
        raise KernelError(
            f"positives are {positive_ones.dtype} of shape {tuple(positive_ones.shape)}, expected torch.bool of shape "
            f"{tuple(relevant.shape)}"
        )
    if not temperature > 0.0:
        raise KernelError(f"temperature is {temperature}, expected a positive number")
    if not bool(positive_ones.any(dim=-1).all()):
        raise KernelError("an item of the batch has no positive candidate; expected at least one in each")
    sharp = relevant / temperature
    of_positives = torch.logsumexp(sharp.masked_fill(~positive_ones, float("-inf")), dim=-1)
    return (torch.logsumexp(sharp, dim=-1) - of_positives).mean()


MECHANISM = ruled_mechanism(
    "block_prefix_query",
    block_prefix_query,
    summary="candidates see themselves and the first block, the last block sees all (BlockRank)",
    paper="BlockRank, arXiv 2510.05396 (the form that is not causal is ours)",
    cost="O(L block D) time, linear in the number of candidates, O(L D) memory",
    use="ranks past days and peer services as analogues of the present window, many in one pass, by `relevance`",
    taxonomy=Taxonomy(unit="block", importance="fixed", budget="uniform", kv="keep all"),
)
