"""Arguments of other attention functions, and what is written here in their place."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FOREIGN", "hint"]

_NOT_HERE = "there is none here"
_ALL_WEIGHTS = "no matrix of weights is made; kernels.colstat gives the attention that each key receives"

FOREIGN: Mapping[str, str] = {
    # torch.nn.functional.scaled_dot_product_attention, torch.nn.MultiheadAttention
    "is_causal": "write causal=; its last query sees all keys, where PyTorch's mask starts at the first key",
    "attn_mask": "key_mask= (B, Lk) hides keys (True = seen), method='masked' takes a fixed pattern as a kernels.Rule",
    "dropout_p": f"{_NOT_HERE}; drop from the output",
    "enable_gqa": "leave it out; heads of k and v may always be fewer",
    "key_padding_mask": "write key_mask=~key_padding_mask: True is a key that may be seen",
    "need_weights": _ALL_WEIGHTS,
    # flash-attn
    "softmax_scale": "write scale=",
    "window_size": "method='sliding_window', window=left + 1, as the query counts; as far to the right unless causal",
    "softcap": _NOT_HERE,
    "alibi_slopes": "kernels.attention_with_lse takes alibi=, slopes per head; method='lightning' decays by log_decay=",
    "deterministic": "leave it out; only grids on a GPU add up gradients in any order",
    "return_attn_probs": _ALL_WEIGHTS,
    "cu_seqlens_q": "kernels.varlen_attention takes packed sequences, by any method",
    "cu_seqlens_k": "kernels.varlen_attention takes packed sequences, by any method",
    # xformers.ops.memory_efficient_attention, whose tensors are (B, L, H, D)
    "attn_bias": "kernels.attention_with_lse takes bias=; key_mask= hides keys, causal=True what follows",
    "p": f"{_NOT_HERE}; drop from the output",
    # fla.ops.*, whose tensors are (B, L, H, D)
    "g": "method='lightning' takes log_decay=, one number per head; gates that depend on the input there are not",
    "g_gamma": "method='lightning', log_decay=: both are logarithms, one per head",
    "initial_state": "kernels.attention_with_state goes from a state= to a state",
    "output_final_state": "kernels.attention_with_state gives the state as well",
    "cu_seqlens": "kernels.varlen_attention takes packed sequences, by any method",
    "head_first": "leave it out; heads always come before the length, (B, H, L, D)",
    "return_lse": "kernels.attention_with_lse gives the output and its log-sum-exp",
}
"""Names that other libraries use, each with a clause for a person who is used to them."""


def hint(name: str) -> str | None:
    """What to write in place of an argument of another library; None for a name that none of them has."""
    return FOREIGN.get(name)
