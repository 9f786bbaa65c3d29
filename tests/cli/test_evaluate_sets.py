"""`harmony evaluate SET --data FOLDER` on small files that are shaped like the published ones."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from forecasting.errors import DataError
from harmony.app.datasets import DATASETS, chosen, read_dataset
from harmony.app.forecast_evidence import Line, read_lines
from harmony.cli.main import run
from tests.helm.chart import ROOT

COMMITTED = ROOT / "evidence" / "forecasts"
FEW = ["--lookback", "12", "--samples", "20", "--windows", "15", "--jobs", "1"]


def write(path: Path, header: str, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join([header, *rows, ""]).encode()))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BurstGPT and ServeGen, 400 rows each."""
    folder = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(5)
    swing = 50 + 30 * np.sin(2 * np.pi * np.arange(400) / 24) + rng.gamma(2.0, 3.0, 400)
    hours = [f"{3600 * i},{v:.0f},{v / 4:.0f},{v + v / 4:.0f}" for i, v in enumerate(swing)]
    write(
        folder / "llm_burstgpt" / "hourly_days00-39.csv.gz",
        "timestamp,conversation_requests,api_requests,all_requests",
        hours,
    )
    for name in ("m-large", "m-mid"):
        rates = [f"{600 * i},{v * rng.uniform(0.9, 1.1):.3f},40,0.4,2.1,{int(i == 7)}" for i, v in enumerate(swing)]
        write(
            folder / "llm_servegen" / f"{name}_rate_10min.csv.gz",
            "timestamp,rate_rps,active_clients,top_client_share,client_iat_cv_rate_weighted,gap",
            rates,
        )
    return folder


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run(["evaluate", *arguments]) == 0
    return capsys.readouterr().out


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run(["evaluate", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err


def test_eight_sets_are_known_each_of_at_most_five_series_with_the_demand_first() -> None:
    assert list(DATASETS) == ["fisher", "nasa", "google", "servegen", "helios", "gentd26", "burstgpt", "nab"]
    assert all(1 <= len(d.series) <= 5 for d in DATASETS.values())
    assert chosen(["all", "nab"]) == list(DATASETS.values())
    assert [d.name for d in chosen(["nab", "fisher", "nab"])] == ["nab", "fisher"]


def test_series_are_read_with_the_demand_first_and_holes_absent(data: Path) -> None:
    panels = read_dataset(DATASETS["burstgpt"], data)
    assert {name: p.names for name, p in panels.items()} == {
        "conversation": ("conversation_requests",),
        "all": ("all_requests",),
    }
    rate = read_dataset(DATASETS["servegen"], data, ["m-mid"])
    assert list(rate) == ["m-mid"]
    assert np.flatnonzero(np.isnan(rate["m-mid"].values[:, 0])).tolist() == [7]
    with pytest.raises(DataError, match=r"usage_5min\.csv\.gz: no such file; google is read from cluster_google2019"):
        read_dataset(DATASETS["google"], data)


def test_several_sets_and_horizons_are_scored_in_one_call(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    asked = ["burstgpt", "servegen", "--data", str(data), "--horizon", "1", "--horizon", "3", *FEW]
    asked += ["-m", "ridge", "-m", "last_value", "--evidence", str(kept), "--json"]
    told = json.loads(said(asked, capsys))["reports"]
    assert {(r["dataset"], r["horizon"]) for r in told} == {(d, h) for d in ("burstgpt", "servegen") for h in (1, 3)}
    for report in told:
        assert (report["windows"], report["samples"], report["lookback"]) == (15, 20, 12)
        assert set(report["methods"]) == {"ridge", "last_value"}
        assert report["skill"]["last_value"]["best_rival"] == "ridge"
        ratio = [
            report["methods"]["last_value"]["series"][s]["crps"] / report["methods"]["ridge"]["series"][s]["crps"]
            for s in report["methods"]["ridge"]["series"]
        ]
        assert report["skill"]["last_value"]["over_ridge"] == pytest.approx(math.prod(ratio) ** (1 / len(ratio)))
    assert sorted(p.name for p in kept.iterdir()) == [
        f"{d}-h{h}.jsonl" for d in ("burstgpt", "servegen") for h in (1, 3)
    ]
    for line in read_lines(kept):
        assert line.scores.windows == len(line.scores.window_crps) == 15
        assert np.mean(line.scores.window_crps) == pytest.approx(line.scores.crps, rel=1e-3)
        assert Line.of(line.to_text()).to_text() == line.to_text()


def test_a_run_scores_only_what_is_not_kept_and_keeps_what_it_has_when_it_fails(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from forecasting.baselines.last_value import LastValue
    from forecasting.baselines.window_quantiles import WindowQuantiles

    kept = tmp_path / "kept"
    asked = ["burstgpt", "--data", str(data), "--horizon", "2", *FEW, "--evidence", str(kept)]
    asked += ["-m", "last_value", "-m", "window_quantiles"]
    learned: list[str] = []

    def fails(self: WindowQuantiles, *_: object) -> None:
        raise DataError("the disk is on fire")

    def learns(self: LastValue, *given: object) -> None:
        learned.append(self.name)
        spared(self, *given)  # type: ignore[arg-type]

    spared = LastValue._learn
    monkeypatch.setattr(LastValue, "_learn", learns)
    with monkeypatch.context() as patch:
        patch.setattr(WindowQuantiles, "_learn", fails)
        assert "on fire" in complaint(asked, capsys)
    assert {line.asked.method for line in read_lines(kept)} == {"last_value"}
    assert learned == ["last_value"] * 2
    before = {line.asked: line for line in read_lines(kept)}
    said(asked, capsys)
    after = {line.asked: line for line in read_lines(kept)}
    assert learned == ["last_value"] * 2  # not again
    assert {a.method for a in after} == {"last_value", "window_quantiles"}
    assert all(after[asked_then].to_text() == line.to_text() for asked_then, line in before.items())
    said([*asked, "--again"], capsys)
    assert learned == ["last_value"] * 4
    # A new version of a method takes the place of the old one; another seed stands beside it.
    monkeypatch.setattr(LastValue, "REVISION", 7)
    said(asked, capsys)
    said([*asked, "--seed", "1"], capsys)
    lines = [line.asked for line in read_lines(kept) if line.asked.method == "last_value"]
    assert sorted((a.series, a.seed, a.version) for a in lines) == [
        (s, seed, "7+unfitted") for s in ("all", "conversation") for seed in (0, 1)
    ]


def test_a_table_a_set_and_only_the_series_asked_for(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["servegen", "--data", str(data), "--horizon", "2", *FEW, "--evidence", str(tmp_path), "-m", "last_value"]
    told = said([*asked, "--series", "m-large"], capsys)
    assert "servegen, protocol split: 1 series, lookback 12, horizon 2" in told
    assert told.splitlines()[-1].split()[0] == "last_value"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nasa"], "nasa: expected fisher or traces and one folder, or known sets and --data FOLDER"),
        (["fisher", "a", "b"], "fisher a b: expected fisher or traces and one folder"),
        (["nassa", "--data", "DATA"], "no data set 'nassa'; did you mean 'nasa' or 'nab'?"),
        (["nasa", "--data", "nowhere"], "nowhere: no such folder"),
        (["nasa", "--data", "DATA"], "jul1995_1min.csv.gz: no such file; nasa is read from web_nasa/"),
        (["burstgpt", "--data", "DATA", "-m", "rigde"], "did you mean 'ridge'"),
        (["burstgpt", "--data", "DATA", "-m", "ridge", "-s", "some"], "no series some; known: conversation, all"),
        (["burstgpt", "--data", "DATA", "-m", "ridge", "--horizon", "90"], "fewer than the horizon 90"),
        (["burstgpt", "--data", "DATA", "-m", "ridge", "--jobs", "0"], "jobs 0: expected 1 or more"),
        (["traces", "DATA", "--horizon", "1", "--horizon", "2"], "several --horizon go with --data"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    arguments: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(data) if a == "DATA" else a for a in arguments]
    assert message in complaint([*asked, "--evidence", str(tmp_path / "kept")], capsys)


def test_a_damaged_line_of_evidence_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nab-h6.jsonl").write_text('{"asked": {}}\n')
    told = complaint(["burstgpt", "--data", str(data), "-m", "ridge", "--evidence", str(tmp_path)], capsys)
    assert "nab-h6.jsonl: line 1 is no score of a forecast" in told


@pytest.mark.data
def test_every_known_set_is_in_the_folder_of_real_traces_and_long_enough(data_dir: Path) -> None:
    from forecasting.evaluation import PROTOCOLS, Settings, Split

    for dataset in DATASETS.values():
        for name, panel in read_dataset(dataset, data_dir).items():
            settings = Settings(PROTOCOLS[dataset.protocol], dataset.lookback, 24, windows=300)
            assert len(Split.of(panel, settings).origins(settings)) > 100, name
            assert int(panel.indicators[0].level) == 1


# ---- the page ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def kept(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of three methods on two sets at two horizons."""
    folder = tmp_path_factory.mktemp("kept")
    asked = ["burstgpt", "servegen", "--data", str(data), "--horizon", "1", "--horizon", "3", *FEW]
    assert run(["evaluate", *asked, "-m", "ridge", "-m", "last_value", "--evidence", str(folder), "--json"]) == 0
    return folder


def page_of(kept: Path, capsys: pytest.CaptureFixture[str]) -> str:
    path = kept / "page.md"
    said(["--page-only", "--page", str(path), "--evidence", str(kept)], capsys)
    return path.read_text()


def row_of(page: str, title: str, start: str) -> list[str]:
    """Cells of the first row that starts so after a line that starts with ``title``."""
    lines = page.splitlines()
    after = next(i for i, line in enumerate(lines) if line.startswith(title))
    row = next(line for line in lines[after:] if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_page_says_what_the_kept_scores_give(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = page_of(kept, capsys)
    assert page.count("\n## Horizon") == 2
    lines = {(a.dataset, a.series, a.method, a.horizon): line for line in read_lines(kept) for a in [line.asked]}
    ratios = [
        lines["servegen", s, "last_value", 3].scores.crps / lines["servegen", s, "ridge", 3].scores.crps
        for s in ("m-large", "m-mid")
    ]
    table = page[page.index("## Horizon 3") :]
    assert row_of(table, "CRPS over", "method") == ["method", "servegen", "burstgpt", "mean (sets)"]
    cell = row_of(table, "CRPS over", "`last_value`")[1]
    # The least of each set is bold, of ridge and all others.
    assert row_of(table, "CRPS over", "`ridge`")[1] == ("1" if cell.startswith("**") else "**1**")
    value, low, high = (float(x) for x in re.findall(r"[\d.]+", cell))
    assert value == pytest.approx(math.prod(ratios) ** 0.5, abs=0.006)
    assert low <= value <= high
    assert "at most 15 windows" in page
    assert "12 rows read, 20 sample paths" in page


def test_the_product_stands_beside_the_best_rival_of_each_set(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The scores of ridge under the product's name, each window a tenth better.
    for path in kept.glob("*.jsonl"):
        told = [json.loads(text) for text in path.read_text().splitlines()]
        for line in [json.loads(json.dumps(one)) for one in told if one["asked"]["method"] == "ridge"]:
            line["asked"]["method"] = "harmony"
            line["window_crps"] = [None if v is None else 0.9 * v for v in line["window_crps"]]
            line["scores"] |= {"coverage_80": 0.83, "coverage_95": 0.98, "above_999": 0.002}
            line["scores"] |= {"randomised_80": 0.775, "randomised_95": 0.9, "randomised_99": 0.99}
            told.append(line)
        (tmp_path / path.name).write_text("".join(json.dumps(one) + "\n" for one in told))
    page = page_of(tmp_path, capsys)
    cells = row_of(page, "`harmony` beside the best rival", "burstgpt")
    assert cells[1:3] == ["`ridge`", "0.90 (0.90–0.90)"]
    assert (cells[5], cells[6], cells[-1]) == ("83.0", "98.0", "2.0")
    assert "At or below the best rival on 2 of 2 by CRPS" in page
    assert "0.900 of the CRPS of `ridge`" in page
    assert "Intervals: 80 % within 3 points on 2 of 2, 95 % within 2 points on 0 of 2" in page
    assert cells[8] == "77.5 / 90.0 / 99.0"
    assert (
        "by part: 80 % within 3 points on 2 of 2, 95 % within 2 points on 0 of 2, 99 % within 0.7 points on 2" in page
    )
    assert "the 0.999 quantile within a factor 2 on 2 of 2" in page


def test_the_product_stands_beside_each_rival_by_itself(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The scores of ridge under the product's name: a tenth better on one set, a fifth worse on the other.
    for path in kept.glob("*.jsonl"):
        told = [json.loads(text) for text in path.read_text().splitlines()]
        for line in [json.loads(json.dumps(one)) for one in told if one["asked"]["method"] == "ridge"]:
            factor = 0.9 if line["asked"]["dataset"] == "servegen" else 1.2
            line["asked"]["method"] = "harmony"
            line["window_crps"] = [None if v is None else factor * v for v in line["window_crps"]]
            line["scores"]["pinball_99"] *= factor
            told.append(line)
        (tmp_path / path.name).write_text("".join(json.dumps(one) + "\n" for one in told))
    page = page_of(tmp_path, capsys)
    found = row_of(page, "`harmony` beside each rival by itself", "`ridge`")
    both = f"{(0.9 * 1.2) ** 0.5:.2f} (0.90–1.20)"
    assert found == ["`ridge`", "2", both, "1", "1", both, "1"]


def test_an_expert_of_the_product_has_a_row_and_is_no_rival(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in kept.glob("*.jsonl"):
        told = [json.loads(text) for text in path.read_text().splitlines()]
        for line in [json.loads(json.dumps(one)) for one in told if one["asked"]["method"] == "ridge"]:
            for name, factor in (("harmony", 0.9), ("clock_ridge", 0.5)):
                crps = [None if v is None else factor * v for v in line["window_crps"]]
                told.append(line | {"asked": line["asked"] | {"method": name}, "window_crps": crps})
        (tmp_path / path.name).write_text("".join(json.dumps(one) + "\n" for one in told))
    page = page_of(tmp_path, capsys)
    assert row_of(page, "CRPS over", "`clock_ridge`")[1] == "**0.50** (0.50–0.50)"
    assert row_of(page, "`harmony` beside the best rival", "burstgpt")[1:3] == ["`ridge`", "0.90 (0.90–0.90)"]
    assert "`clock_ridge` beside the best rival" not in page


def test_scores_kept_before_intervals_were_counted_by_part_are_read_and_leave_the_cell_empty(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in kept.glob("*.jsonl"):
        told = [json.loads(text) for text in path.read_text().splitlines()]
        for line in told:
            line["asked"]["method"] = {"last_value": "harmony"}.get(line["asked"]["method"], "ridge")
            line["scores"] = {k: v for k, v in line["scores"].items() if not k.startswith("randomised")}
        (tmp_path / path.name).write_text("".join(json.dumps(one) + "\n" for one in told))
    page = page_of(tmp_path, capsys)
    assert row_of(page, "`harmony` beside the best rival", "burstgpt")[8] == ""
    assert "; by part: " not in page


def test_only_what_was_asked_alike_is_compared(
    kept: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in kept.glob("*.jsonl"):
        (tmp_path / path.name).write_text(path.read_text())
    asked = ["burstgpt", "--data", str(data), "--horizon", "1", *FEW, "--evidence", str(tmp_path)]
    said([*asked, "-m", "last_value", "--windows", "7"], capsys)  # the last of two --windows counts
    said([*asked, "-m", "window_quantiles", "--series", "all"], capsys)  # not the whole set
    page = page_of(tmp_path, capsys)
    table = page[page.index("## Horizon 1") :]
    columns = row_of(table, "CRPS over", "method")
    cells = row_of(table, "CRPS over", "`last_value`")
    assert cells[columns.index("burstgpt")] == ""
    assert cells[columns.index("servegen")] != ""
    assert cells[-1].endswith("(1)")
    assert "`window_quantiles`" not in page
    assert "Left out, as they were asked otherwise than `ridge`: `last_value` on burstgpt at 1." in page


def test_the_committed_page_is_what_its_evidence_gives(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert run(["evaluate", "--page-only", "--evidence", str(COMMITTED), "--page", str(page)]) == 0
    assert page.read_text() == (ROOT / "docs" / "forecast-results.md").read_text()


def test_committed_figures_by_hand() -> None:
    """Ridge and the last value on one set, read off the lines without the code that writes the page."""
    told = [json.loads(text) for text in (COMMITTED / "nasa-h6.jsonl").read_text().splitlines()]
    crps = {(t["asked"]["method"], t["asked"]["series"]): np.mean(t["window_crps"]) for t in told}
    ratio = math.prod(crps["last_value", s] / crps["ridge", s] for s in ("jul1995", "aug1995")) ** 0.5
    page = (ROOT / "docs" / "forecast-results.md").read_text()
    table = page[page.index("## Horizon 6") :].splitlines()
    column = next(line for line in table if line.startswith("| method |")).split(" | ").index("nasa")
    row = next(line for line in table if line.startswith("| `last_value` |")).split(" | ")
    assert row[column].split()[0].strip("*") == f"{ratio:.2f}"


def test_a_page_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    told = complaint(["--page-only", "--page", str(page), "--evidence", str(tmp_path / "none")], capsys)
    assert "no scores of ridge there" in told
    assert not page.exists()
    assert "give --page FILE" in complaint(["--page-only"], capsys)
    assert "nothing to score" in complaint([], capsys)
    assert "--page goes with --data" in complaint(["traces", str(tmp_path), "--page", "x.md"], capsys)
