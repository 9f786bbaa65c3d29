"""`harmony replay --sweep` and `-f study.yaml` as a user runs them: files, table, exit codes, mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator

import harmony.app
from forecasting.errors import UsageError
from harmony.app.backtesting import read_manifest
from harmony.app.sweeping import read_study, study_in
from harmony.app.written import Fields
from harmony.cli.main import run
from simulator.traces.trace import Trace
from tests.simulator.worlds import waves

STUDY = """
traces:
  - service.csv
  - {trace: service.csv, label: doubled, leadTime: 10m, replicaCapacity: 4, surgery: "scale:by=2,from=5h"}
policies:
  - hpa
  - {policy: reactive, label: wide, margin: 0.5}
  - oracle
epsilons: [0.01, 0.05]
meanReplicas: 10
minReplicas: 2
testFraction: 0.5
seed: 7
resamples: 20
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A tidy CSV of 10 hours at one minute."""
    rows = [f"{i * 60},{d:.3f}" for i, d in enumerate(waves())]
    path = tmp_path / "service.csv"
    path.write_text("timestamp,requests_per_second\n" + "\n".join(rows) + "\n")
    return path


def error_line(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert run(["replay", *(str(a) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


@pytest.mark.long
def test_a_study_file_says_all_of_it(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    path.write_text(STUDY)
    assert run(["replay", "-f", str(path), "--workers", "1", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "at most 1 % violated, 2 traces" in shown
    assert "wide" in shown
    assert sorted(p.name for p in out.iterdir()) == ["sweep.html", "sweep.json"]
    found = json.loads((out / "sweep.json").read_text())
    assert found["study"]["policies"][1] == {"policy": "reactive", "label": "wide", "margin": 0.5}
    assert [(r["trace"], r["policy"]) for r in found["rows"]][:6:2] == [
        ("service.csv", "hpa"), ("service.csv", "wide"), ("service.csv", "oracle"),
    ]  # fmt: skip
    doubled = found["traces"]["doubled"]
    assert (doubled["lead_time_seconds"], doubled["replica_capacity"], doubled["scored_steps"]) == (600.0, 4.0, 300)
    assert any("surgery" in note for note in doubled["notes"])
    row = found["rows"][0]
    promised = {"gpu_hours", "violation_rate", "verdict", "over", "intervals", "longest_run_minutes", "worst_hour"}
    assert promised <= row.keys()
    assert all(r["stated_judgement"] is None for r in found["rows"])  # these policies state nothing
    assert row["over"].keys() == {"oracle", "rival", "hpa", "hpa_window"}
    assert found["frontier"]["doubled"].keys() == {"hpa", "wide", "oracle"}


@pytest.mark.long
def test_flags_say_it_too_and_the_exit_code_says_whether_the_promise_was_kept(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [str(trace), "--sweep", "--workers", "1", "--resamples", "0", "-p", "reactive", "-p", "oracle", "--json"]
    assert run(["replay", *flags, "--fail-on", "reactive", "--epsilons", "0.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(r["policy"], r["epsilon"]) for r in found["rows"]] == [("reactive", 0.5), ("oracle", 0.5)]
    assert run(["replay", *flags, "--fail-on", "reactive", "--epsilon", "0.00001", "--max-replicas", "9"]) == 1


def test_surgery_is_done_to_a_single_replay_too(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [str(trace), "-p", "oracle", "--replica-capacity", "5", "--json"]
    assert run(["replay", *flags]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert run(["replay", *flags, "--surgery", "scale:by=2"]) == 0
    doubled = json.loads(capsys.readouterr().out)
    assert doubled["policies"]["oracle"]["gpu_hours"] > 1.9 * plain["policies"]["oracle"]["gpu_hours"]
    assert run(["replay", "scenario:weekend", "-p", "static", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trace"] == "weekend"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no trace given"),
        (["{trace}", "{trace}"], "2 traces: several are compared by --sweep"),
        (["{trace}", "{trace}", "--sweep"], "two entries of the study are called"),
        (["-f", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["{trace}", "-f", "nowhere.yaml"], "names its traces itself"),
        (["{trace}", "--sweep", "--epsilons", "some"], "--epsilons 'some': expected numbers"),
        (["{trace}", "--sweep", "--epsilons", "2"], "epsilons between 0 and 1"),
        (["{trace}", "--surgery", "spike"], "no at and no height and no length"),
        (["scenario:nothing"], "no scenario 'nothing'"),
        (["{trace}", "--seed", "-1"], "seed -1: expected 0 or more"),
        (["{trace}", "--surgery", "scale:by=1e308,from=1h"], "more demand than a number holds"),
        (["{trace}", "--surgery", "shift:by=soon"], "surgery 'shift:by=soon': by: 'soon' is no duration"),
        (["{trace}", "--epsilons", "0.1"], "--epsilons says something of a sweep: add --sweep"),
        (["{trace}", "--workers", "2"], "--workers says something of a sweep"),
        (["{trace}", "--sweep", "--decisions"], "--decisions writes those of a single replay"),
        (["{trace}", "--sweep", "-p", "hpa", "--fail-on", "keda"], "add --policy keda"),
        (["{trace}", "--sweep", "--fail-on", "quantile"], "add --policy quantile"),
    ],
)
def test_mistakes_end_in_one_line(
    trace: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in error_line(capsys, *(a.replace("{trace}", str(trace)) for a in arguments))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected fields with values, got nothing"),
        ("a: [", "not YAML"),
        ("traces: synthetic", "traces 'synthetic': expected a list"),
        ("traces: [{label: x}]", "traces[0]: trace is missing: expected a text"),
        ("traces: [{trace: x, lead_time: 5m}]", "traces[0]: no field 'lead_time'; did you mean 'leadTime'"),
        ("tracks: [x]", "no field 'tracks'; did you mean 'traces'"),
        ("traces: []", "at least one trace"),
        ("traces: [synthetic]\npolicies: [hpb]", "did you mean 'hpa'"),
        ("traces: [synthetic]\npolicies: [{policy: hpa, goal: 1}]", "no setting 'goal'"),
        ("traces: [synthetic]\nseed: many", "seed 'many': expected a whole number"),
        ("traces: [synthetic]\ntune: 1", "tune 1: expected true or false"),
        ("traces: [synthetic]\nleadTime: soon", "'soon' is no duration"),
        ("traces: [synthetic]\nepsilons: [often]", "epsilons ['often']: expected a list of numbers"),
        ("traces: [synthetic]\ntestFraction: 2", "test fraction 2"),
        ("traces: [synthetic]\nleadTime: soon", "study.yaml: leadTime 'soon'"),
        ("traces: [synthetic]\ndecideEvery: often", "study.yaml: decideEvery 'often'"),
        ("traces: [synthetic]\nseed: 1\nseed: 2", "seed is there twice"),
        ("traces: [synthetic]\npolicies: [{policy: hpa, target: high}]", "target 'high': expected a number above 0"),
        ("traces: [synthetic]\npolicies: [{policy: hpa, target: 0}]", "target 0: expected a number above 0"),
        (
            "traces: [synthetic]\npolicies: [{policy: reactive, margin: -1}]",
            "margin -1: expected a number of 0 or more",
        ),
        ("traces: [synthetic]\npolicies: [{policy: hpa, starting: idle}]", "'idle': expected unready or missing"),
        ("traces: [synthetic]\npolicies: [{policy: hpa, behavior_: {}}]", "cannot be set in a study"),
        ("traces: [synthetic]\npolicies: [{policy: harmony, thumbs: 1}]", "thumbs 1: expected true or false"),
    ],
)
def test_a_study_that_cannot_be_read_says_where(
    tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert words in error_line(capsys, "-f", path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epsilon", "0.1"], "says itself how it is done; leave out --epsilon"),
        (["-p", "hpa"], "leave out --policy"),
        (["--fail-on", "hpc"], "no policy of"),
        (["--fail-on", "wide-one"], "did you mean 'wide'?"),
    ],
)
def test_flags_beside_a_study_are_not_passed_over(
    trace: Path, tmp_path: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    assert words in error_line(capsys, "-f", path, *flags)


def test_numbers_are_written_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("traces: [synthetic]\nepsilons: [1e-3, .5e-1, 0.1, 0.001]\n")
    assert read_study(path).epsilons == (0.001, 0.05, 0.1)


def test_an_object_s_numbers_are_read_as_kubectl_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "chat.yaml"
    path.write_text(
        "apiVersion: autoscaling.harmony-autoscaler.io/v1alpha1\nkind: GPUAutoscaler\nmetadata: {name: chat}\nspec:\n"
        "  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: chat}\n  maxReplicas: 20\n"
        "  indicators: [{name: requests, query: up}]\n"
        "  objective: {demand: requests, perReplica: 25, epsilon: 1e-2}\n"
    )
    assert read_manifest(path).objective.epsilon == 0.01


def test_traces_of_a_study_are_looked_for_beside_it(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    study = read_study(path)
    loaded = [choice.loaded() for choice in study.traces]
    assert all(isinstance(t, Trace) for t in loaded)
    np.testing.assert_allclose(loaded[1].panel.values[300:], 2 * loaded[0].panel.values[300:])
    assert study.settings.objective.min_replicas == 2


# ---- the published schema -------------------------------------------------------------------------------------------
SCHEMA = json.loads((Path(harmony.app.__file__).parent / "study.schema.json").read_text(encoding="utf-8"))
VALUES: dict[str, object] = {
    "trace": "usage.csv", "label": "x", "demand": "rps", "step": "5m", "surgery": ["scale:by=2"],
    "replicaCapacity": 2.5, "meanReplicas": 10, "leadTime": "5m*1.4",
    "policies": ["hpa"], "epsilons": [0.01], "minReplicas": 1, "maxReplicas": 9,
    "gpusPerReplica": 2, "price": 2.5, "missPrice": 1, "testFraction": 0.5, "tune": True, "forecaster": "ridge",
    "samples": 50, "lookback": 72, "decideEvery": "90", "seed": 3, "rungs": 2, "resamples": 5, "traces": ["usage.csv"],
}  # fmt: skip


def test_every_field_of_the_published_schema_is_read_and_no_other() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    valid = Draft202012Validator(SCHEMA).is_valid
    trace = SCHEMA["properties"]["traces"]["items"]["anyOf"][1]["properties"]
    whole = {"traces": [{name: VALUES[name] for name in trace}]}
    study = {**{name: VALUES[name] for name in SCHEMA["properties"]}, **whole}
    assert valid(study)
    fields = Fields(study, "study.yaml")
    assert study_in(fields, Path()).settings.samples == 50
    assert fields.asked == set(SCHEMA["properties"])
    changed = {"traces": [{**whole["traces"][0], "wholly-unknown": 1}]}
    assert not valid(changed)
    assert not valid({**study, "wholly-unknown": 1})
    with pytest.raises(UsageError, match="no field 'wholly-unknown'") as caught:
        study_in(Fields(changed, "study.yaml"), Path())
    assert set(str(caught.value).partition("known: ")[2].split(", ")) == set(trace)


@pytest.mark.parametrize(
    "text",
    ["traces: []", "traces: synthetic", "traces: [{label: x}]", "tracks: [x]", "traces: [a]\nseed: many",
     "traces: [a]\ntune: 1", "traces: [a]\nepsilons: [2]", "traces: [a]\nleadTime: 5",
     "traces: [{trace: a, lead_time: 5m}]"],
)  # fmt: skip
def test_what_the_schema_refuses_is_refused(text: str, tmp_path: Path) -> None:
    assert not Draft202012Validator(SCHEMA).is_valid(yaml.safe_load(text))
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_study(path)
