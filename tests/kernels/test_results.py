"""The page of results is what its command makes of measured rows, and it leaves no method out."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.kernels_results import (
    INPUTS,
    PAGE,
    ROWS,
    SPARSER,
    dense_results,
    measurable,
    measured,
    page,
    read_rows,
    replace_rows,
    trained,
    training,
)
from kernels import attention, available, describe
from kernels.registry import mechanism

SPARSE = ("block_prefix_query", "dhsa", "flexprefill", "hip", "hyper", "landmark", "routing")


def test_the_page_is_what_its_command_makes() -> None:
    assert PAGE.read_text() == "\n".join(page(read_rows())) + "\n", "run `make generated`"


@pytest.mark.parametrize("method", available())
def test_every_method_says_where_it_is_and_what_it_is_for(method: str) -> None:
    told = describe(method)
    assert importlib.import_module(told.home).MECHANISM is mechanism(method)
    assert told.use
    assert f"| `{method}` | {told.paper} | `{told.home}` | {told.use} |" in PAGE.read_text().splitlines()


def test_what_was_measured_is_known_and_has_figures() -> None:
    rows = {row["measured"]: row for row in read_rows() if "measured" in row}
    assert set(rows) <= set(available())
    assert set(SPARSE) <= set(rows)
    for row in rows.values():
        for kind in INPUTS:
            assert row[kind]["ms"] > 0
            assert row[kind]["sdpa_ms"] > 0
    assert [json.dumps(row, ensure_ascii=False) for row in read_rows()] == ROWS.read_text().splitlines()


def test_a_measurement_beside_dense_attention() -> None:
    ticks = iter(range(1000))

    def clock() -> float:
        return float(next(ticks))

    row = measured("sliding_window", dense_results(600, clock), clock)
    assert row["measured"] == "sliding_window"
    assert "sliding_window" in measurable()
    assert "masked" not in measurable()
    for kind in INPUTS:
        assert row[kind]["ms"] == row[kind]["sdpa_ms"] == 1000.0
        assert 0.3 < row[kind]["products"] < 1.5
        assert 0.0 < row[kind]["apart"] < 1.0
    torch.testing.assert_close(INPUTS["history"](300)[0].shape, torch.Size([1, 4, 300, 64]))


def test_both_passes_are_timed_beside_dense_attention() -> None:
    rows = trained(["sliding_window", "mala"], 600, rounds=1)
    assert [row["timed"] for row in rows] == ["sliding_window", "mala"]
    for row in rows:
        for kind in INPUTS:
            for passes in ("forward", "both"):
                assert row[kind][passes]["ms"] > 0
                assert row[kind][passes]["sdpa_ms"] == rows[0][kind][passes]["sdpa_ms"] > 0
                assert 0.1 < row[kind][passes]["products"] < 1.5
    rows[0]["noise"]["both"] = {"ms": 30.0, "sdpa_ms": 20.0, "products": 0.75}
    told = "\n".join(training(rows))
    assert (
        "- `sliding_window` on noise, forward and back: 1.50 times the time. It needs 75% of the products, each of "
        "which takes 2.0 times as long" in told
    )


def test_what_is_measured_can_be_called_with_its_defaults() -> None:
    q, k, v = INPUTS["noise"](70)
    for method in measurable():
        assert attention(q, k, v, causal=True, method=method).shape == q.shape


def test_every_method_that_does_not_compute_all_pairs_was_timed_going_back() -> None:
    timed = {row["timed"] for row in read_rows() if "timed" in row}
    assert timed == {name for name in measurable() if describe(name).home.startswith(SPARSER)}


def test_rows_replace_those_of_the_same_name_and_other_entries_stay(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    entry: dict[str, Any] = {
        "entry": "a cache",
        "home": "kernels.caches",
        "paper": "P",
        "use": "u",
        "figures": {"x": 2},
    }
    replace_rows([{"measured": "mala", "n": 1}, entry], file)
    replace_rows([{"measured": "mala", "n": 2}], file)
    assert read_rows(file) == [entry, {"measured": "mala", "n": 2}]
    told = "\n".join(page([entry]))
    assert "| a cache | P | `kernels.caches` | u |" in told
    assert "| a cache | x | 2 |" in told
