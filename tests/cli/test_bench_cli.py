"""`harmony bench kernels`: what is measured, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harmony.cli.main import run
from kernels import available, bench, describe
from kernels.bench import BenchSettings, known_methods
from kernels.lab.clock import peak_bytes
from kernels.masks import MASKS

SMALL = ("--lengths", "48,33", "--heads", "2", "--head-dim", "8", "--window", "16", "--threads", "1", "--no-predict")


@pytest.mark.long
def test_every_row_has_what_was_promised(capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    assert run(["bench", "kernels", "--methods", "sdpa,power,mala", *SMALL, "--batch", "3", "--json"]) == 0
    assert torch.get_num_threads() == before
    rows = json.loads(capsys.readouterr().out)
    assert [(r["length"], r["method"]) for r in rows] == [(n, m) for n in (48, 33) for m in ("sdpa", "power", "mala")]
    for row in rows:
        assert (row["batch"], row["heads"], row["head_dim"], row["dtype"]) == (3, 2, 8, "float32")
        assert row["forward_ms"] > 0
        assert row["sdpa_forward_ms"] > 0
        assert row["backward_ms"] >= 0
        # The output is a third of the inputs and must be there at once.
        assert row["input_bytes"] == 3 * 3 * 2 * row["length"] * 8 * 4
        assert 3 * row["peak_bytes"] >= row["input_bytes"]
        assert row["backward_peak_bytes"] >= row["peak_bytes"]
        assert row["rel_error"] < 1e-4
        assert row["flops_per_s"] > 0
        promised = (
            "method length batch heads head_dim dtype forward_ms backward_ms peak_bytes sdpa_forward_ms rel_error"
        )
        assert set(promised.split()) <= set(row)


# What looks at all keys to find what it turns down, or contrasts with itself, has no causal call of its own.
NOT_CAUSAL = ("calibrate_sinks", "contrast")
ALL = (
    ("--methods", ",".join(m for m in known_methods() if m not in NOT_CAUSAL)),
    ("--methods", ",".join(NOT_CAUSAL), "--no-causal"),
)


def rows_of_all(capsys: pytest.CaptureFixture[str], *options: str) -> list[Any]:
    rows: list[Any] = []
    for chosen in ALL:
        assert run(["bench", "kernels", *SMALL, *chosen, *options, "--json"]) == 0
        rows += json.loads(capsys.readouterr().out)
    return rows


def test_heads_can_share_keys(capsys: pytest.CaptureFixture[str]) -> None:
    for row in rows_of_all(capsys, "--heads", "4", "--kv-heads", "2"):
        assert (row["heads"], row["kv_heads"]) == (4, 2)
        assert row["input_bytes"] == (4 + 2 + 2) * row["length"] * 8 * 4
        assert row["rel_error"] < 1e-4


@pytest.mark.slow
def test_every_method_can_be_measured_in_every_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(known_methods()) == {m for m in available() if describe(m).backends}
    for dtype, worst in (("float64", 1e-4), ("bfloat16", 2e-2)):
        rows = rows_of_all(capsys, "--dtype", dtype, "--no-backward")
        assert {r["method"] for r in rows} == set(known_methods())
        assert all(r["rel_error"] < worst and r["backward_ms"] is None and r["dtype"] == dtype for r in rows)


def test_the_table_is_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "kernels", "--methods", "halo", *SMALL, "--no-causal", "--no-backward"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert "2 heads of 8" in lines[0]
    assert "not causal" in lines[0]
    assert [x.count("|") for x in lines[2:]] == [14] * 4
    assert lines[4].startswith("| `halo` | 48 |")


def test_a_row_is_kept_as_soon_as_it_is_measured_and_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.jsonl"
    measured: list[tuple[str, int]] = []
    really = bench._measured

    def some(method: str, settings: Any, ceilings: Any, qkv: Any, dense: Any) -> Any:
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append((method, qkv[0].shape[2]))
        return really(method, settings, ceilings, qkv, dense)

    asked = ["bench", "kernels", "--methods", "sdpa,mala", *SMALL, "--no-backward", "--out", str(out)]
    monkeypatch.setattr(bench, "_measured", some)
    assert run(asked) == 130
    assert f"what was measured is in {out}" in capsys.readouterr().err
    kept = out.read_text()
    assert len(kept.splitlines()) == 1 + 3  # and the ceilings
    measured.clear()
    out.write_text(kept[:-20])  # the last line was not written to its end
    assert run([*asked, "--json"]) == 0
    assert measured == [("sdpa", 33), ("mala", 33)]
    rows = json.loads(capsys.readouterr().out)
    assert [(r["method"], r["length"]) for r in rows] == [("sdpa", 48), ("mala", 48), ("sdpa", 33), ("mala", 33)]
    assert out.read_text().startswith("".join(kept.splitlines(keepends=True)[:-1]))
    measured.clear()
    assert run([*asked, "--window", "8", "--methods", "mala", "--lengths", "48"]) == 0
    assert measured == [("mala", 48)]  # other settings are measured
    out.write_text("no\n")
    assert run(asked) == 2
    assert "rows.jsonl, line 1 is no JSON; expected rows that" in capsys.readouterr().err


def test_what_methods_support_is_a_table_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["bench", "kernels", "--study", "cab", "--methods", "routing", *SMALL, "--lengths", "16,32,48"]
    asked += ["--out", str(tmp_path / "cab.jsonl")]
    assert run(asked) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1].startswith("| `routing` | yes | no | - | yes | no | ")
    assert lines[-1].count("|") == lines[-2].count("|") == lines[-3].count("|")
    assert run([*asked, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "cab.jsonl").read_text()) == row
    assert len(row["ms"]) == len(row["sdpa_ms"]) == len(row["peak_bytes"]) == 3


def test_masks_are_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "kernels", "--study", "masks", *SMALL, "--lengths", "32", "--no-backward"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert {line.split("|")[1].strip(" `") for line in lines[4:]} == set(MASKS)
    assert len({line.count("|") for line in lines[2:]}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "pwer"), "no attention method 'pwer' to measure; did you mean 'power'"),
        (("--methods", "sqa"), "no attention method 'sqa' to measure"),
        (("--methods", ","), "--methods is empty"),
        (("--lengths", "0"), "--lengths is '0'; expected whole numbers of at least 1"),
        (("--lengths", "12,x"), "--lengths is '12,x'"),
        (("--study", "mask"), "--study is 'mask'; did you mean 'masks'"),
        (("--study", "masks", "--lengths", "50"), "length is 50, expected a multiple of 16"),
        (("--study", "cab", "--lengths", "50"), "fitted to 3 lengths or more, not [50]"),
        (("--dtype", "float23"), "--dtype is 'float23'; did you mean 'float32'"),
        (("--device", "gpu"), "--device is 'gpu'"),
        (("--methods", "lightning", "--no-causal"), "'lightning' is causal only; pass --causal"),
        (("--lengths", "9999999999999999999999"), "GB here; expected smaller --lengths"),
        (("--lengths", "64", "--head-dim", "999999999999"), "GB here; expected smaller --lengths"),
        (("--device", "cuda"), "--device is cuda but PyTorch finds no such device here"),
        (("--power-block", "0"), "Invalid value for '--power-block'"),
        (("--kv-heads", "3"), "--kv-heads is 3; expected a number that divides the 4 --heads"),
        (("--heads", "0"), "Invalid value for '--heads'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(["bench", "kernels", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_peak_memory_is_what_is_held_at_once() -> None:
    x = torch.ones(1 << 18)

    def chain() -> torch.Tensor:
        y = x + 1.0
        for _ in range(5):
            y = y * 2.0
        return y

    assert BenchSettings().device == "cpu"
    # Two tensors of 1 MiB live at a time, however long the chain; small change is for the scalars.
    assert abs(peak_bytes(chain, "cpu") - 2 * x.nbytes) < 4096
    assert abs(peak_bytes(lambda: [x + n for n in range(4)], "cpu") - 4 * x.nbytes) < 4096
