"""Saved answers of query_range."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecasting.errors import DataError
from simulator.traces import load_trace


def answer(*series: tuple[dict[str, str], list[list[Any]]], **extra: object) -> str:
    result = [{"metric": metric, "values": values} for metric, values in series]
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}, **extra})


def save(folder: Path, text: str) -> Path:
    path = folder / "answer.json"
    path.write_text(text)
    return path


def test_series_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    metric = {"__name__": "queue_length", "job": "llm"}
    text = answer(
        ({**metric, "pod": "a"}, [[1767571200, "1"], [1767571215, "NaN"], [1767571230, "3"]]),
        ({**metric, "pod": "b"}, [[1767571215, "5"], [1767571230, "+Inf"]]),
    )
    panel = load_trace(save(tmp_path, text)).panel
    assert panel.names == ('queue_length{pod="a"}', 'queue_length{pod="b"}')
    assert (panel.step_s, panel.start_s, panel.calendar) == (15.0, 1767571200.0, True)
    np.testing.assert_array_equal(panel.values, [[1, np.nan], [np.nan, 5], [3, np.nan]])


def test_counters_become_rates_with_restart(tmp_path: Path) -> None:
    samples = [[1767571200 + 10 * i, str(v)] for i, v in enumerate([100, 130, 20, 50])]
    trace = load_trace(save(tmp_path, answer(({"__name__": "http_requests_total"}, samples))))
    np.testing.assert_allclose(trace.panel.column("http_requests_total"), [np.nan, 3, 2, 3])
    assert trace.panel.indicators[0].kind == "rate"


def test_missing_samples_are_absent_rows(tmp_path: Path) -> None:
    samples = [[1767571200 + 30 * i, "1"] for i in (0, 1, 2, 5, 6)]
    trace = load_trace(save(tmp_path, answer(({}, samples))))
    assert trace.panel.names == ("value",)
    assert np.flatnonzero(np.isnan(trace.panel.column("value"))).tolist() == [3, 4]
    assert "2 of 7 steps" in trace.notes[0]


def test_columns_rename_and_describe(tmp_path: Path) -> None:
    text = answer(({"__name__": "a_bytes"}, [[0, "1"], [15, "2"]]), ({"__name__": "b:rate5m"}, [[0, "3"], [15, "4"]]))
    trace = load_trace(save(tmp_path, text), columns=["rps=b:rate5m:requests/s:1:rate", "a_bytes"])
    rps, memory = trace.panel.indicators
    assert (trace.demand, rps.unit, memory.unit) == ("rps", "requests/s", "bytes")
    assert not trace.panel.calendar


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "expected a Prometheus answer"),
        ('{"status": "error", "error": "bad query"}', "answered with an error: bad query"),
        ('{"status": "success", "data": {"resultType": "vector", "result": []}}', "result type 'vector'"),
        (answer(), "holds no series"),
        (answer(({}, [])), "series 1 has no"),
        (answer(({}, [[0, "x"], [1, "2"]])), "sample 1"),
        (answer(({}, [[0, "1"]])), "1 row"),
        (answer(({}, [[5, "1"], [0, "1"]])), "ascending"),
        (answer(({}, [[0, "1"], [10, "1"], [13, "1"]])), "a step of"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_trace(save(tmp_path, text))
