"""Request-level traces: the three published spellings, and what a panel counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.errors import DataError
from simulator.traces import RequestTrace, load_trace

PLAIN = (
    "timestamp,prompt_tokens,output_tokens,model\n0.0,100,10,azure-code\n14.9,50,30,azure-code\n"
    "31,7,9,azure-code\n47,1,1,azure-code\n"
)


def test_plain_spelling_counts_per_step_and_means_absent_where_no_request(tmp_path: Path) -> None:
    path = tmp_path / "code_requests.csv"
    path.write_text(PLAIN)
    trace = load_trace(path)
    assert trace.requests is not None
    assert len(trace.requests) == 4
    assert (trace.format, trace.licence, trace.demand) == ("requests", "CC-BY-4.0", "requests_per_second")
    assert trace.panel.start.isoformat() == "2023-11-16T18:17:03.979960+00:00"
    np.testing.assert_allclose(trace.panel.column("requests_per_second"), np.array([2, 0, 1]) / 15)
    np.testing.assert_allclose(trace.panel.column("prompt_tokens_per_second"), np.array([150, 0, 7]) / 15)
    np.testing.assert_allclose(trace.panel.column("mean_output_tokens"), [20, np.nan, 9])


def test_azure_as_published(tmp_path: Path) -> None:
    path = tmp_path / "AzureLLMInferenceTrace_conv.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:16:46.6805900,10,1\n"
    )
    trace = load_trace(path, step_s=20)
    assert trace.panel.calendar
    assert trace.panel.step_s == 20
    assert trace.requests is not None
    np.testing.assert_allclose(trace.requests.arrival_s, [0, 4.314579, 60.0], atol=1e-5)
    np.testing.assert_allclose(trace.panel.column("requests_per_second"), [0.1, 0, 0])


def test_burstgpt_as_published(tmp_path: Path) -> None:
    path = tmp_path / "BurstGPT_1.csv"
    path.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,230,1317,API log\n118,ChatGPT,417,276,693,API log\n"
    )
    trace = load_trace(path)
    assert trace.requests is not None
    assert trace.requests.models == ("ChatGPT", "GPT-4", "ChatGPT")
    np.testing.assert_allclose(trace.requests.output_tokens, [18, 230, 276])


def test_mooncake_as_published_counts_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "conversation_trace.jsonl"
    lines = [{"timestamp": t, "input_length": 10, "output_length": 2, "hash_ids": [1]} for t in (0, 3000, 40_000)]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    trace = load_trace(path)
    assert trace.requests is not None
    np.testing.assert_allclose(trace.requests.arrival_s, [0, 3, 40])
    assert trace.licence == "Apache-2.0"
    path.write_text('{"timestamp": 0, "input_length": 10, "output_length": 2}\n{"timestamp": 1}\n')
    with pytest.raises(DataError, match="line 2"):
        load_trace(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("100", "-100"), "line 2.*prompt tokens"),
        (("30,azure", ",azure"), "line 3.*output tokens"),
        (("50", "many"), "line 3, column 'prompt_tokens'.*'many' is not a number"),
        (("14.9", "soon"), "line 2|line 3"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "r.csv"
    path.write_text(PLAIN.replace(*change))
    with pytest.raises(DataError, match=message):
        load_trace(path)


def test_too_short_for_two_steps(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text(PLAIN)
    with pytest.raises(DataError, match="expected 2 or more"):
        load_trace(path, step_s=30)


@given(
    gaps=st.lists(st.floats(0, 50, allow_nan=False), min_size=3, max_size=60).filter(lambda g: sum(g[1:]) > 40),
    step=st.sampled_from([1.0, 5.0, 15.0]),
)
def test_complete_steps_count_every_request_once(gaps: list[float], step: float) -> None:
    arrival = np.cumsum([0.0, *gaps[1:]])
    tokens = np.arange(len(arrival), dtype=float) + 1
    panel = RequestTrace(arrival, tokens, tokens * 2).to_panel(step)
    covered = arrival < len(panel) * step - 1e-6
    assert abs(panel.column("requests_per_second").sum() * step - covered.sum()) <= 1 + 1e-6
    assert (panel.column("output_tokens_per_second") == 2 * panel.column("prompt_tokens_per_second")).all()
    means, rate = panel.column("mean_prompt_tokens"), panel.column("requests_per_second")
    np.testing.assert_array_equal(np.isnan(means), rate == 0)


def test_arrivals_out_of_order_are_sorted_and_told(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text(PLAIN.replace("14.9", "34.9"))
    trace = load_trace(path)
    assert trace.requests is not None
    assert (np.diff(trace.requests.arrival_s) >= 0).all()
    assert trace.notes[0].startswith("sorted ")
    with pytest.raises(DataError, match=r"line 4.*before the request above"):
        load_trace(path, sort=False)
