"""`harmony plan`: the example's plan, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harmony.cli.main import run

EXAMPLE = Path(__file__).parents[2] / "examples" / "simulator" / "fleet.yaml"
SMALL = """
types:
  - {name: big, price: 3, available: 4}
  - {name: small, price: 1}
services:
  - {name: chat, demand: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], perReplica: {big: 4, small: 1}, current: {small: 2}}
  - {name: code, demand: [2, 2], perReplica: {small: 1}, minReplicas: 3, priority: 2}
"""


def planned(folder: Path, text: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict:  # type: ignore[type-arg]
    (folder / "fleet.yaml").write_text(text)
    assert run(["plan", "-f", str(folder / "fleet.yaml"), "--json"]) == code
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_a_small_fleet_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path, SMALL + "violationPrice: 1000\n", capsys)
    # ten of demand: two big and two small (8) beat three big (9); code has its floor
    assert plan["services"]["chat"] == {"replicas": {"big": 2, "small": 2}, "cost_per_hour": 8.0, "risk": 0.0}
    assert plan["services"]["code"]["replicas"] == {"big": 0, "small": 3}
    assert plan["cost_per_hour"] == 11.0
    assert plan["one_type_cost_per_hour"] == {"big": None, "small": 13.0}
    cheap = planned(tmp_path, SMALL + "violationPrice: 9\n", capsys)
    assert cheap["services"]["chat"]["risk"] > 0
    assert cheap["cost_per_hour"] < 11.0


def test_a_shared_budget_is_kept_and_a_price_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path, SMALL + "epsilon: 0.08\n", capsys)
    risks = [plan["services"][name]["risk"] for name in ("chat", "code")]
    assert (risks[0] + 2 * risks[1]) / 3 <= 0.08
    assert risks[0] == pytest.approx(0.2)
    assert plan["violation_price"] > 0


def test_what_does_not_fit_keeps_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path, SMALL + "violationPrice: 5\nbudget: 2\n", capsys, code=1)
    assert "no plan fits" in plan["kept"]
    assert plan["services"]["chat"]["replicas"] == {"big": 0, "small": 2}
    assert run(["plan", "-f", str(tmp_path / "fleet.yaml")]) == 1
    assert "kept as it is" in capsys.readouterr().out


def test_the_example_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "-f", str(EXAMPLE)]) == 0
    out = capsys.readouterr().out
    assert "chat" in out
    assert "price of a violated hour" in out
    assert "l40s alone" in out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SMALL, "either violationPrice"),
        (SMALL + "epsilon: 2\n", "epsilon 2: expected a number of 0 or more and at most 1"),
        ("types: []\nservices: []\nepsilon: 0.1", "expected types and services"),
        (SMALL.replace("price: 3", "prise: 3") + "epsilon: 0.1", "price is missing"),
        (SMALL.replace("perReplica: {small: 1}", "perReplica: {tiny: 1}") + "epsilon: 0.1", "no GPU type 'tiny'"),
        (SMALL.replace("demand: [2, 2], ", "") + "epsilon: 0.1", "expected demand"),
        (SMALL.replace("demand: [2, 2]", "demand: [2, x]") + "epsilon: 0.1", "a list of numbers"),
        (SMALL.replace("demand: [2, 2]", "trace: nowhere.csv") + "epsilon: 0.1", "nowhere.csv"),
        (SMALL.replace("current: {small: 2}", "current: {small: 1.5}") + "epsilon: 0.1", "whole number"),
        (SMALL.replace("priority: 2", "priority: 0") + "epsilon: 0.1", "priority"),
        (SMALL + "epsilon: 0.1\nbudgett: 3", "did you mean 'budget'?"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fleet.yaml").write_text(text)
    assert run(["plan", "-f", str(tmp_path / "fleet.yaml")]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def lists_in_lists() -> str:
    """Sixty short lines that stand for a list of a billion billion numbers."""
    lines = ["l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 18)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lists_in_lists() + "\ntypes: *l17\n", "expected"),
        (lists_in_lists() + "\n" + SMALL.replace("price: 3", "price: *l17"), "price"),
        (lists_in_lists() + "\n" + SMALL.replace("[2, 2]", "*l17"), "demand"),
        (SMALL.replace("price: 3", "price: " + "9" * 400), "price"),
        (SMALL.replace("price: 3", "price: " + "9" * 5000), ""),
        (SMALL.replace("price: 3", "price: -0.0x"), "price"),
        (SMALL.replace("price: 3", "price: .inf"), "price"),
        (SMALL.replace("[2, 2]", "[2, " + "9" * 400 + "]"), "demand"),
        (SMALL.replace("price: 3", "price: 2026-99-99"), "not YAML"),
        ("a: " + "[" * 1200, "not YAML"),
    ],
)
def test_absurd_files_end_in_one_line_too(
    tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fleet.yaml").write_text(text)
    assert run(["plan", "-f", str(tmp_path / "fleet.yaml")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said) < 500 + len(str(tmp_path))
    assert said.count("\n") == 1


def test_a_file_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "-f", "none.yaml"]) == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().err
