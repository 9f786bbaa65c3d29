from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from harmony.cli.main import run

TRAIN = ["--from-scratch", "--steps", "4", "--lookback", "24", "--horizon", "3"]


def write_trace(path: Path, rows: int = 260, *, seed: int = 0) -> Path:
    """A CSV trace of demand and CPU, a row a minute."""
    rng = np.random.default_rng(seed)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    lines = ["timestamp,rps,cpu"]
    for i in range(rows):
        rps = 20 + 10 * np.sin(i / 20) + rng.normal()
        lines.append(f"{(start + timedelta(minutes=i)).isoformat()},{rps:.3f},{rps / 3 + 0.1 * rng.normal():.3f}")
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.fixture(scope="session")
def trace(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_trace(tmp_path_factory.mktemp("traces") / "small.csv"))


@pytest.fixture(scope="session")
def fisher(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("fisher")
    for i in (1, 2, 10):
        write_trace(folder / f"container{i}.csv.gz", seed=i)
    (folder / "level.json").write_text("{}")
    return str(folder)


@pytest.fixture(scope="session")
def model(trace: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    assert run(["train", trace, "--out", str(folder), *TRAIN]) == 0
    return str(folder)


def output(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run(arguments) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_completion_offers_options() -> None:
    asked = {"_HARMONY_COMPLETE": "complete_bash", "COMP_WORDS": "harmony forecast --pl", "COMP_CWORD": "2"}
    code = "import sys; sys.argv[0] = 'harmony'; from harmony.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["--plot"]


# ---- evaluate ---------------------------------------------------------------------------------------------------
@pytest.mark.long
def test_evaluate_prints_the_promised_json(fisher: str, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["--method", "ridge", "--method", "last_value"]
    numbers = ["--lookback", "12", "--horizon", "2", "--samples", "20", "--seed", "3", "--jobs", "1"]
    said = json.loads(output(["evaluate", "fisher", fisher, *methods, *numbers, "--json"], capsys))
    assert (said["dataset"], said["protocol"], said["lookback"], said["horizon"]) == ("fisher", "fisher-paper", 12, 2)
    assert set(said["methods"]) == {"ridge", "last_value"}
    for entry in said["methods"].values():
        assert set(entry) == {"mean", "series"}
        assert set(entry["series"]) == {"container1", "container2", "container10"}
        keys = {"crps", "mse", "crps_load", "crps_forecastable", "coverage_50", "coverage_80", "coverage_95"}
        assert keys | {"fit_seconds", "predict_seconds"} <= set(entry["mean"])
        mean = sum(s["crps"] for s in entry["series"].values()) / 3
        assert entry["mean"]["crps"] == pytest.approx(mean)


def test_evaluate_prints_a_table_best_first(fisher: str, capsys: pytest.CaptureFixture[str]) -> None:
    methods = ["--method", "window_quantiles", "--method", "last_value"]
    said = output(
        ["evaluate", "fisher", fisher, *methods, "--series", "container2", "--lookback", "12", "--jobs", "1"], capsys
    )
    assert "fisher, protocol fisher-paper: 1 series, lookback 12, horizon 1" in said
    assert [line.split()[0] for line in said.splitlines()[-2:]] == ["last_value", "window_quantiles"]
    assert "…" not in said  # no cell is cut at 80 columns


def test_evaluate_scores_traces_of_ones_own(fisher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_trace(tmp_path / "mine.csv")
    said = json.loads(
        output(["evaluate", "traces", str(tmp_path), "-m", "ridge", "--lookback", "12", "--json"], capsys)
    )
    assert said["protocol"] == "split"
    assert set(said["methods"]["ridge"]["series"]) == {"mine"}


def test_a_file_that_cannot_be_read_is_left_out_of_a_folder_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("this is\nno trace\n")
    arguments = ["evaluate", "traces", str(tmp_path), "-m", "last_value", "--lookback", "12", "--json"]
    assert "bad.csv: no time column" in complaint(arguments, capsys)  # nothing else is there
    lines = write_trace(tmp_path / "mine.csv").read_text().splitlines()
    (tmp_path / "short.csv").write_text("\n".join(lines[:6]))
    assert run(arguments) == 0
    shown = capsys.readouterr()
    assert set(json.loads(shown.out)["methods"]["last_value"]["series"]) == {"mine"}
    assert "note: left out: bad.csv: no time column" in shown.err
    assert "note: left out: short: 5 rows leave 3 for training" in shown.err
    for name in ("bad", "short"):
        assert name in complaint([*arguments, "--series", "mine", "--series", name], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fischer", "."], "no dataset 'fischer'; did you mean 'fisher'?"),
        (["fisher", "nowhere"], "nowhere: no such folder; fisher is read from a folder of trace files"),
        (["traces", "/dev/null"], "/dev/null: is a device, no folder; traces is read from a folder of trace files"),
        (["fisher", "."], ".: no fisher series there; expected container1.csv.gz, container2.csv.gz, ..."),
        (["traces", "."], ".: no traces series there; expected CSV or Parquet files"),
        (["fisher", "DIR", "--series", "container3"], "no series 'container3'; did you mean 'container"),
        (["fisher", "DIR", "--method", "rigde"], "no forecasting method 'rigde'; did you mean 'ridge'"),
        (["fisher", "DIR", "-m", "ridge", "--lookback", "0"], "lookback 0: expected 1 or more"),
        (["fisher", "DIR", "-m", "ridge", "--horizon", "-2"], "horizon -2: expected 1 or more"),
        (
            ["fisher", "DIR", "-m", "ridge", "--lookback", "182"],
            "container1: 260 rows leave 182 for training, fewer than",
        ),
        (
            ["fisher", "DIR", "-m", "ridge", "--horizon", "53", "--lookback", "5"],
            "52 for testing, fewer than the horizon 53",
        ),
        (["fisher", "DIR", "-m", "ridge", "--jobs", "0"], "jobs 0: expected 1 or more"),
        (["fisher", "DIR", "--lookback", "many"], "Invalid value for '--lookback'"),
    ],
)
def test_evaluate_answers_mistakes_in_one_line(
    arguments: list[str],
    message: str,
    fisher: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in complaint(["evaluate", *(fisher if a == "DIR" else a for a in arguments)], capsys)


# ---- train ------------------------------------------------------------------------------------------------------
def test_train_saves_a_model_that_forecast_reads(model: str, trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(
        output(["forecast", trace, "--model", model, "--horizon", "3", "--lookback", "24", "--json"], capsys)
    )
    assert said["model"].startswith("harmony ")
    assert set(said["indicators"]) == {"rps", "cpu"}


def test_train_prints_validation_scores(trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "model"
    said = json.loads(output(["train", trace, "--demand", "cpu", "--out", str(out), "--json", *TRAIN], capsys))
    assert (said["demand"], said["start"], said["rows"]) == ("cpu", "scratch", {"training": 208, "validation": 52})
    assert said["validation"]["windows"] == 50
    assert 0 < said["validation"]["crps_load"] < 1
    assert [p.name for p in out.parent.iterdir()] == ["model"]


def test_train_with_attention_over_a_long_window(
    trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = ["--lookback", "96", "--horizon", "3", "--steps", "4", "--patch", "2", "--near-rows", "24"]
    attention = ["--temporal-attention", "sliding_window", "--temporal-option", "window=8"]
    out = tmp_path / "long"
    said = json.loads(output(["train", trace, "--out", str(out), "--json", *long, *attention], capsys))
    assert (said["start"], said["lookback"]) == ("scratch", 96)
    kept = json.dumps(json.loads((out / "model.json").read_text()))
    assert "sliding_window" in kept
    assert '"near_rows": 24' in kept
    again = json.loads(output(["forecast", trace, "--model", str(out), "--lookback", "96", "--json"], capsys))
    assert again["model"].endswith(said["version"])


@pytest.mark.parametrize(("more", "near"), [([], 24), (["--near-rows", "60"], 60), (["--lookback", "20"], None)])
def test_windows_longer_than_a_day_are_normalised_by_their_newest_day(
    more: list[str], near: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{1_767_225_600 + 3600 * i},{20 + i % 24}" for i in range(200)]
    (tmp_path / "hourly.csv").write_text("\n".join(["timestamp,rps", *lines]))
    brief = ["--from-scratch", "--lookback", "60", "--horizon", "2", "--steps", "2"]
    out = tmp_path / "model"
    output(["train", str(tmp_path / "hourly.csv"), "--out", str(out), "--json", *brief, *more], capsys)
    kept = json.dumps(json.loads((out / "model.json").read_text()))
    assert (f'"near_rows": {near}' in kept) if near else ("near_rows" not in kept)


def test_an_interrupted_training_leaves_nothing(
    trace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from forecasting.forecaster import Forecaster

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Forecaster, "fit", stop)
    assert run(["train", trace, "--out", str(tmp_path / "model"), *TRAIN]) == 130
    assert list(tmp_path.iterdir()) == []
    assert "interrupted" in capsys.readouterr().err


def test_train_refuses_a_folder_of_other_things_before_training(
    trace: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "holds other things" in complaint(["train", trace, "--out", str(tmp_path), *TRAIN], capsys)
    nowhere = tmp_path / "file"
    nowhere.touch()
    for out in (nowhere / "model", Path("/proc/model")):  # found before the minutes of training, not after them
        assert "nothing can be written there" in complaint(["train", trace, "--out", str(out), *TRAIN], capsys)
    assert "is a file" in complaint(["train", trace, "--out", str(tmp_path / "notes.txt"), *TRAIN], capsys)
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    assert "saved" in output(["train", trace, "--out", str(copy), *TRAIN], capsys)  # a model may be replaced


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lookback", "300"], "260 rows leave 208 for training, fewer than lookback 300"),
        (["--lookback", "0"], "lookback 0: expected 1 or more"),
        (["--validation", "1.5"], "--validation 1.5: expected a share between 0 and 1"),
        (["--demand", "rsp"], "no indicator 'rsp'; did you mean 'rps'?"),
        (["--steps", "0"], "steps is 0, expected 1 or more"),
        (["--temporal-attention", "wersaa"], "no temporal_attention 'wersaa'; did you mean 'wersa'"),
        (["--temporal-attention", "mala", "--temporal-option", "chunk"], "expected NAME=VALUE such as window=128"),
        (["--temporal-attention", "mala", "--temporal-option", "chunk=3"], "has no option 'chunk'"),
        (["--base", "--patch", "3"], "--base has its own shape"),
        (["--near-rows", "0"], "ModelConfig.near_rows is 0, expected 1 or more"),
    ],
)
def test_train_answers_mistakes_in_one_line(
    arguments: list[str], message: str, trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(["train", trace, "--out", str(tmp_path / "m"), *TRAIN, *arguments], capsys)
    assert message in said
    assert list(tmp_path.iterdir()) == []


# ---- forecast ---------------------------------------------------------------------------------------------------
def test_forecast_prints_the_promised_json(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "forecast",
        trace,
        "--model",
        "ridge",
        "--lookback",
        "24",
        "--horizon",
        "4",
        "--quantiles",
        "0.9,0.1,0.5",
    ]
    text = output([*arguments, "--seed", "1", "--json"], capsys)
    said = json.loads(text)
    assert said["trace"] == trace
    assert said["model"].startswith("ridge ")
    assert said["origin"] == "2026-01-01T04:19:00Z"
    assert said["step_seconds"] == 60.0
    assert list(said["indicators"]) == ["cpu", "rps"]  # sorted keys
    for name, level in (("rps", 1), ("cpu", 2)):
        entry = said["indicators"][name]
        assert (set(entry), entry["level"]) == ({"unit", "level", "quantiles"}, level)
        assert list(entry["quantiles"]) == ["0.1", "0.5", "0.9"]
        rising = np.array(list(entry["quantiles"].values()))
        assert rising.shape == (3, 4)
        assert (np.diff(rising, axis=0) > 0).all()
    assert output([*arguments, "--seed", "1", "--json"], capsys) == text
    assert output([*arguments, "--seed", "2", "--json"], capsys) != text


def test_forecast_prints_a_table(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["forecast", trace, "--model", "last_value", "--lookback", "12", "--only", "cpu", "--horizon", "8"]
    said = output(arguments, capsys)
    assert "8 steps of 60 s" in said
    assert "rps" not in said.splitlines()[-1]
    assert [line.split()[-4] for line in said.splitlines()[-5:]] == ["1", "2", "4", "6", "8"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "rige"], "--model rige: neither a model folder nor a method; did you mean 'ridge'"),
        (["--quantiles", "0,1"], "--quantiles '0,1': expected numbers between 0 and 1"),
        (["--quantiles", "a"], "--quantiles 'a'"),
        (["--horizon", "0"], "--horizon 0: expected 1 or more"),
        (["--samples", "0"], "--samples 0: expected 1 or more"),
        (
            ["--samples", "1000000000"],
            "--samples 1000000000 over --horizon 12 of 2 indicators are 24,000,000,000 numbers",
        ),
        (["--lookback", "-1"], "--lookback -1: expected 1 or more"),
        (["--only", "cpus"], "no indicator 'cpus'; did you mean 'cpu' or 'rps'?"),
        (["--lookback", "260"], "260 rows are too few for a lookback of 260"),
    ],
)
def test_forecast_answers_mistakes_in_one_line(
    arguments: list[str], message: str, trace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in complaint(["forecast", trace, "--model", "ridge", *arguments], capsys)


def test_what_is_absent_is_forecast_as_absent_and_not_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "dying.csv"
    path.write_text("t,rps,cpu\n" + "".join(f"{60 * i},{'' if i > 40 else i},{i % 7}\n" for i in range(100)))
    arguments = ["forecast", str(path), "--model", "last_value", "--lookback", "12", "--horizon", "1", "--explain"]
    assert run([*arguments, "--only", "rps", "--only", "cpu", "--json"]) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert [why["indicator"] for why in told["explanations"]] == ["cpu"]
    assert told["indicators"]["rps"]["quantiles"]["0.5"] == [None]
    assert "rps is absent all through the window" in shown.err
    assert "note: the newest 59 rows of rps are absent" in shown.err
    assert "rows of cpu" not in shown.err
    assert "cpu is forecast from" in output([*arguments, "--only", "cpu"], capsys)


def test_a_member_that_fails_is_named(
    trace: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from forecasting.baselines.analogues import Analogues

    def refuse(self: Analogues, *_: object, **__: object) -> Analogues:
        raise ValueError("no past like this")

    monkeypatch.setattr(Analogues, "fit", refuse)
    arguments = ["forecast", trace, "--model", "ensemble", "--lookback", "24", "--horizon", "2", "--json"]
    assert run(arguments) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["left_out"] == {"analogues": "ValueError: no past like this"}
    assert "note: analogues has no part in this forecast: ValueError: no past like this" in shown.err


def test_a_folder_that_is_no_model_is_refused(trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "harmony: " in complaint(["forecast", trace, "--model", str(tmp_path)], capsys)


def test_a_plot_shows_what_was_seen_and_the_fan(trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["forecast", trace, "--model", "last_value", "--lookback", "12", "--horizon", "8"]
    plain = output(arguments, capsys)
    for name, begins in (("fan.png", b"\x89PNG"), ("fan.svg", b"<?xml")):
        assert output([*arguments, "--plot", str(tmp_path / name)], capsys) == plain
        assert (tmp_path / name).read_bytes().startswith(begins)
    drawn = (tmp_path / "fan.svg").read_text()
    assert all(f">{text}</text>" in drawn for text in ("rps", "cpu", "seen", "0.05 to 0.95", "0.5"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fan.png", "fan.svg"]
    assert "ends in .png or .svg" in complaint([*arguments, "--plot", "fan.gif"], capsys)
    for option, name in (("--plot", "fan.svg"), ("--out", "fan.csv")):
        assert "there is no folder" in complaint([*arguments, option, str(tmp_path / "no" / name)], capsys)


def test_what_moved_a_forecast_is_said_in_words_and_numbers(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["forecast", trace, "--model", "last_value", "--lookback", "12", "--horizon", "2"]
    plain = output(arguments, capsys)
    said = output([*arguments, "--explain"], capsys)
    assert said.startswith(plain)
    assert "rps is forecast from last_value (100 %)" in " ".join(said[len(plain) :].split())
    told = json.loads(output([*arguments, "--explain", "--only", "cpu", "--json"], capsys))["explanations"]
    assert [e["indicator"] for e in told] == ["cpu"]
    assert told[0]["indicators"] == {"cpu": 1.0, "rps": 0.0}
    assert told[0]["past"][0] == {"label": "the newest row", "first": 1, "last": 1, "season_s": 0.0, "share": 1.0}
    assert told[0]["beyond_habit"] is None, "a rule has no attention"
    assert "explanations" not in json.loads(output([*arguments, "--json"], capsys))


def test_what_the_attention_is_on_beyond_habit_is_said(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["forecast", trace, "--lookback", "24", "--horizon", "2", "--explain"]
    said = " ".join(output(arguments, capsys).split())
    told = json.loads(output([*arguments, "--json"], capsys))["explanations"][0]["beyond_habit"]
    assert told["sentence"] in said
    assert [s["label"] for s in told["stretches"]] == ["rows 1 to 12 back", "rows 13 to 24 back"]
    assert sum(s["share"] for s in told["stretches"]) == pytest.approx(1.0)


# ---- help -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("verb", ["evaluate", "train", "forecast"])
def test_help_shows_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = output([verb, "--help"], capsys)
    assert "Examples:" in said
    assert said.count(f"harmony {verb} ") >= 2
