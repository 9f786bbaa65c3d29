"""The laboratory's checkers find what was planted, and its figures are those of made-up costs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import KernelError, attention, attention_with_state
from kernels.bench import BenchSettings
from kernels.engines.rules import Call, Rule, boolean
from kernels.lab import masks
from kernels.lab.cab import SUPPORTS, compositional_index, efficiency_length, method_supports, supports
from kernels.lab.rows import RowFile
from kernels.lab.studies import Unit, rows_of
from kernels.masks import MASKS

ALL = dict.fromkeys(SUPPORTS, "yes")


# ---- supports ---------------------------------------------------------------------------------------------------
def test_what_methods_support() -> None:
    assert method_supports("sdpa") == ALL
    assert method_supports("mala") == ALL
    only_causal = {"noncausal_self": "-", "noncausal_cross": "-", "causal_cross": "-", "causal_self": "yes"}
    assert method_supports("lightning") == only_causal | {"incremental": "yes"}
    assert method_supports("landmark") == only_causal | {"incremental": "-"}
    looks = method_supports("routing")  # clusters are of all queries and keys
    assert (looks["causal_self"], looks["causal_cross"]) == ("no", "no")
    assert method_supports("hyper")["causal_self"] == "no"
    assert method_supports("wersa")["noncausal_cross"] == "-"


def dense(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    return attention(q, k, v, causal=causal)


def one_key_too_many(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Query 40 sees key 41, and no other query anything that it should not."""
    if not causal:
        return dense(q, k, v, causal=False)
    rule = Rule(
        lambda h, i, j: (j <= i) | ((i == 40) & (j == 41)),
        lambda h, i: ((0 * i)[None], (i + 1 + (i == 40).to(i.dtype))[None]),
    )
    return attention(q, k, v, method="masked", rule=rule)


def later_queries_count(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Temperature by all queries: the last ones change it for those before them."""
    return attention(q, k, v, causal=causal, scale=0.25 * float(q.norm() / q.shape[2] ** 0.5))


def the_last_value_a_little(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    return attention(q, k, v, causal=causal) + 1e-3 * v[:, :, -1:]


def a_wrong_shape(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    return attention(q, k, v, causal=causal)[:, :1]


@pytest.mark.parametrize(
    ("run", "caught"),
    [
        (dense, set()),
        (one_key_too_many, {"causal_self", "incremental"}),
        (later_queries_count, {"causal_self", "incremental", "causal_cross"}),
        # Across, the last value is one of another sequence, all of which may be seen.
        (the_last_value_a_little, {"causal_self", "incremental"}),
        (a_wrong_shape, {"noncausal_self", "noncausal_cross", "incremental"}),
    ],
)
def test_a_planted_leak_is_caught(run: Any, caught: set[str]) -> None:
    def stateful(q: Tensor, k: Tensor, v: Tensor, *, state: Any) -> tuple[Tensor, Any]:
        return attention_with_state(q, k, v, state=state)

    assert supports(run, stateful) == ALL | dict.fromkeys(caught, "no")
    if run is dense:
        assert supports(run)["incremental"] == "-"


# ---- efficiency length ------------------------------------------------------------------------------------------
def test_the_efficiency_length_is_where_made_up_costs_meet() -> None:
    lengths = [256, 512, 1024, 2048, 4096]
    dense = [2e-6 * n * n + 1e-4 * n + 0.05 for n in lengths]

    def line(d: float, e: float) -> list[float]:
        return [d * n + e for n in lengths]

    meets = 1500
    e = 2e-6 * meets**2 + 1e-4 * meets + 0.05 - 1e-3 * meets
    assert efficiency_length(lengths, dense, line(1e-3, e)) == pytest.approx(meets)
    # The shortest length of a method is not looked at.
    assert efficiency_length(lengths, dense, [2 * e, *line(1e-3, e)[1:]]) == pytest.approx(meets)
    assert efficiency_length(lengths, dense, line(1e-5, 0.01)) == 0.0
    assert efficiency_length(lengths, dense, [1.02 * t for t in dense]) == math.inf  # no line at all
    assert efficiency_length(lengths, dense, [0.5 * t for t in dense]) == 0.0
    linear = [1e-3 * n + 0.05 for n in lengths]
    assert efficiency_length(lengths, linear, line(2e-3, 0.06)) == math.inf
    assert efficiency_length(lengths, linear, line(5e-4, 0.01)) == 0.0


def test_the_compositional_index() -> None:
    scores = {
        "steady": {"crps": {"a": 1.0, "b": 2.0, "c": 3.0}, "mse": {"a": 5.0, "b": 5.0, "c": 5.0}},
        "bursts": {"crps": {"a": 2.0, "b": 1.5, "c": 1.0}},
    }
    z = math.sqrt(1.5)
    found = compositional_index(scores)
    assert found == pytest.approx({"a": (z / 2 - z) / 2, "b": 0.0, "c": (-z / 2 + z) / 2})
    assert compositional_index(scores, lower_is_better=False)["a"] == pytest.approx(-found["a"])
    scores["bursts"]["crps"].pop("a")
    with pytest.raises(KernelError, match=r"metric 'crps' of 'bursts' has \['b', 'c'\]"):
        compositional_index(scores)


# ---- rows -------------------------------------------------------------------------------------------------------
def test_a_study_goes_on_where_it_stopped(tmp_path: Path) -> None:
    measured: list[int] = []
    told: list[tuple[str, float, float]] = []

    def unit(n: int) -> Unit:
        def measure() -> dict[str, Any]:
            measured.append(n)
            return {"found": n * n}

        return Unit(f"row {n}", n, {"study": "x", "n": n}, measure)

    path = tmp_path / "deep" / "rows.jsonl"
    stopped = rows_of([unit(n) for n in (1, 2, 3)], RowFile(path))
    assert next(stopped) == {"study": "x", "n": 1, "found": 1}
    assert len(path.read_text().splitlines()) == 1
    found = list(rows_of([unit(n) for n in (1, 2, 3)], RowFile(path), lambda *what: told.append(what)))
    assert [row["found"] for row in found] == [1, 4, 9]
    assert measured == [1, 2, 3]
    assert told == [("row 1", 0.0, 6), ("row 2", 1.0, 6), ("row 3", 3.0, 6)]


# ---- masks ------------------------------------------------------------------------------------------------------
def test_every_pattern_is_measured_by_every_backend() -> None:
    settings = BenchSettings(lengths=(64,), heads=2, kv_heads=1, head_dim=8, window=6, backward=False)
    planned = masks.units(settings)
    assert [unit.asked["pattern"] for unit in planned] == list(MASKS)
    assert set(masks.patterns(1024, 100)) == set(MASKS)
    for unit in planned[9:11]:
        row = unit.measure()
        rule = masks.patterns(64, 6)[unit.asked["pattern"]]
        mask = boolean(rule, Call(1, 64, 64, False, torch.device("cpu"), 0))
        assert row["density"] == float(mask.double().mean())
        assert set(row["rel_error"]) == {"blocks", "sdpa with a mask"}
        assert max(row["rel_error"].values()) < 1e-5
        assert set(row["forward_ms"]) == {"blocks", "sdpa with a mask", "sdpa without one"}
    with pytest.raises(KernelError, match="length is 72, expected a multiple of 16"):
        masks.patterns(72, 6)
