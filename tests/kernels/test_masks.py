"""The twelve masks of long-context training, against their definitions pair by pair."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kernels import KernelError
from kernels.engines.rules import Call, area, boolean, causal_part
from kernels.masks import MASKS
from tests.kernels.cases import grads, random_qkv, relative

DOCS = [5, 1, 9, 9]
BLOCKS = [8, 4, 12]
N = 24
WHERE = [d for d, n in enumerate(DOCS) for _ in range(n)]
LOCAL = [x for n in DOCS for x in range(n)]
OF_BLOCK = [d for d, n in enumerate(BLOCKS) for _ in range(n)]

PREDICATES: dict[str, tuple[dict[str, Any], Callable[[int, int], bool]]] = {
    "full": ({"length": N}, lambda i, j: True),
    "causal": ({"length": N}, lambda i, j: j <= i),
    "full_document": ({"documents": DOCS}, lambda i, j: WHERE[i] == WHERE[j]),
    "causal_document": ({"documents": DOCS}, lambda i, j: WHERE[i] == WHERE[j] and j <= i),
    "sliding_window": ({"window": 3}, lambda i, j: abs(i - j) <= 3),
    "sliding_window_causal": ({"window": 3}, lambda i, j: 0 <= i - j <= 3),
    "share_question": (
        {"documents": DOCS},
        lambda i, j: (WHERE[i] == WHERE[j] and j <= i) or (WHERE[j] == 0 and WHERE[i] != 0),
    ),
    "causal_blockwise": (
        {"documents": DOCS},
        lambda i, j: j <= i and (WHERE[i] == WHERE[j] or WHERE[i] == len(DOCS) - 1),
    ),
    "prefix_lm_causal": ({"prefix": 6}, lambda i, j: j <= i or (i < 6 and j < 6)),
    "prefix_lm_document": (
        {"documents": DOCS, "prefix": 4},
        lambda i, j: WHERE[i] == WHERE[j] and (j <= i or (LOCAL[i] < 4 and LOCAL[j] < 4)),
    ),
    "global_sliding_window": (
        {"length": N, "window": 2, "globals_": 3},
        lambda i, j: abs(i - j) <= 2 or i < 3 or j < 3,
    ),
    "block_causal_document": (
        {"documents": BLOCKS, "block": 4},
        lambda i, j: OF_BLOCK[i] == OF_BLOCK[j] and j // 4 <= i // 4,
    ),
}


def test_all_masks_have_a_predicate() -> None:
    assert set(PREDICATES) == set(MASKS)


@pytest.mark.parametrize("name", sorted(PREDICATES))
def test_a_mask_is_its_predicate_and_its_area_the_count(name: str) -> None:
    options, visible = PREDICATES[name]
    rule = MASKS[name](**options)
    call = Call(heads=1, lq=N, lk=N, causal=False, device=torch.device("cpu"), offset=0)
    want = torch.tensor([[visible(i, j) for j in range(N)] for i in range(N)])
    assert torch.equal(boolean(rule, call)[0], want)
    assert area(rule, call).tolist() == [int(want.sum())]
    cut = causal_part(rule)
    assert torch.equal(boolean(cut, call)[0], want.tril())
    assert area(cut, call).tolist() == [int(want.tril().sum())]


@pytest.mark.parametrize(("name", "causal"), list(itertools.product(sorted(PREDICATES), (False, True))))
def test_attention_under_a_mask_equals_the_definition(name: str, causal: bool) -> None:
    rule = MASKS[name](**PREDICATES[name][0])
    (q, k, v), g = random_qkv(N, N, seed=1)
    mask = torch.rand(2, N, generator=g) < 0.8
    weight = torch.randn(v.shape, generator=g, dtype=torch.float64)
    got, want = (
        grads([q, k, v], key_mask=mask, weight=weight, method="masked", rule=rule, causal=causal, backend=backend)
        for backend in ("torch", "reference")
    )
    for a, b in zip(got, want, strict=True):
        assert relative(a, b) < 1e-12


def test_masks_refuse_documents_that_cannot_be() -> None:
    with pytest.raises(KernelError, match="expected lengths of at least 1"):
        MASKS["full_document"]([3, 0])
    with pytest.raises(KernelError, match="not multiples of the block 1024"):
        MASKS["block_causal_document"]([1024, 100])
