"""A newcomer's own files: out of order, with decimal commas, days first, local times, counters; one command each."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.errors import DataError, UsageError
from harmony.cli.main import run
from simulator.traces.dialect import Dialect
from simulator.traces.registry import load_trace

ROWS = 240
START = datetime(2026, 10, 24, 23, 0, tzinfo=UTC)  # daylight saving ends in Berlin two hours later
TIMES = [START + timedelta(minutes=5 * i) for i in range(ROWS)]
LOAD = [20.0 + (i % 12) + i / 64 for i in range(ROWS)]


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


def plain() -> str:
    return lines("time,rps", *(f"{t.isoformat()},{v}" for t, v in zip(TIMES, LOAD, strict=True)))


def german() -> str:
    local = [t.astimezone(ZoneInfo("Europe/Berlin")).strftime("%d.%m.%Y %H:%M") for t in TIMES]
    return lines("time;rps", *(f"{t};{str(v).replace('.', ',')}" for t, v in zip(local, LOAD, strict=True)))


def shuffled() -> str:
    head, *rows = plain().splitlines()
    random.Random(5).shuffle(rows)
    return lines(head, *rows)


def with_offset() -> str:
    local = (t.astimezone(ZoneInfo("Europe/Berlin")).isoformat() for t in TIMES)
    return lines("time,rps", *(f"{t},{v}" for t, v in zip(local, LOAD, strict=True)))


def milliseconds() -> str:
    return lines("ts,rps", *(f"{int(t.timestamp() * 1000)},{v}" for t, v in zip(TIMES, LOAD, strict=True)))


def answer() -> str:
    values = [[t.timestamp(), str(v)] for t, v in zip(TIMES, LOAD, strict=True)]
    kept = [pair for i, pair in enumerate(values) if i not in (20, 21)]
    result = [{"metric": {"__name__": "rps"}, "values": kept}]
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})


FILES = {
    "german.csv": (german, ["--timezone", "Europe/Berlin"]),
    "shuffled.csv": (shuffled, []),
    "offset.csv": (with_offset, []),
    "milliseconds.csv": (milliseconds, []),
    "answer.json": (answer, []),
    "load.parquet": (None, []),
}


def write(folder: Path, name: str) -> Path:
    path, made = folder / name, FILES[name][0]
    if made is None:
        pl.DataFrame({"timestamp": [t.replace(tzinfo=None) for t in TIMES], "rps": LOAD}).write_parquet(path)
    else:
        path.write_text(made())
    return path


@pytest.mark.parametrize("name", FILES)
def test_each_goes_through_replay_and_forecast_with_one_command(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, options = write(tmp_path, name), FILES[name][1]
    assert run(["forecast", str(path), *options, "--model", "last_value", "--horizon", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "rps" in json.dumps(told)
    assert run(["replay", str(path), *options, "--policy", "hpa", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == ROWS


@pytest.mark.parametrize("name", [n for n in FILES if n != "answer.json"])
def test_all_of_them_say_the_same(name: str, tmp_path: Path) -> None:
    zone = {"timezone": "Europe/Berlin"} if name == "german.csv" else {}
    panel = load_trace(write(tmp_path, name), **zone).panel  # type: ignore[arg-type]
    assert panel.start_s == START.timestamp()
    assert panel.step_s == 300.0
    assert panel.values[:, 0].tolist() == LOAD


DATES = {"%Y%m%d": 86_400, "%Y%m%d%H": 3600, "%Y%m%d%H%M": 60, "%Y%m%d%H%M%S": 1}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("form", DATES)
def test_dates_without_separators_are_not_taken_for_seconds(form: str, kind: str, tmp_path: Path) -> None:
    """As milliseconds 20260105000000 would be in the year 2612, and the step half a second."""
    stamps = [int(datetime.strftime(START + timedelta(seconds=DATES[form] * i), form)) for i in range(100)]
    path = tmp_path / f"t.{kind}"
    frame = pl.DataFrame({"time": stamps, "rps": LOAD[:100]})
    frame.write_csv(path) if kind == "csv" else frame.write_parquet(path)
    with pytest.raises(DataError, match=rf"the time {stamps[0]} looks like YYYYMMDD(hh(mm(ss)?)?)?, not like seconds"):
        load_trace(path)


@pytest.mark.parametrize("step_s", [60, 300, 900, 3600])
def test_days_of_a_spreadsheet_are_not_taken_for_seconds(step_s: int, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(lines("time,rps", *(f"{46027 + i * step_s / 86400:.8f},{v}" for i, v in enumerate(LOAD))))
    with pytest.raises(DataError, match=f"days as spreadsheets count them, in steps of {step_s} s"):
        load_trace(path)


@given(
    st.integers(0, 4 * 10**9), st.sampled_from([0.001, 0.5, 1, 15, 57, 60, 300, 600, 3600]), st.sampled_from([1, 1000])
)
def test_seconds_stay_seconds(start: int, step_s: float, scale: int) -> None:
    """Whatever start and step, in seconds and milliseconds: what counts evenly is no list of dates."""
    from simulator.traces.table import TextTable, numeric_times

    values = (start + np.arange(120) * step_s) * scale
    found = numeric_times(values, TextTable("t.csv", "time,rps\n0,1\n"))
    assert len(found.seconds) == 120


def test_the_hour_that_daylight_saving_takes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    start = datetime(2026, 3, 28, 12, tzinfo=UTC)
    local = [(start + timedelta(minutes=5 * i)).astimezone(ZoneInfo("Europe/Berlin")) for i in range(ROWS)]
    path.write_text(lines("time,rps", *(f"{t:%Y-%m-%d %H:%M},{v}" for t, v in zip(local, LOAD, strict=True))))
    (note,) = [n for n in load_trace(path).notes if "daylight saving" in n]
    assert note.startswith("no times between 2026-03-29 02:00 and an hour later")
    zoned = load_trace(path, timezone="Europe/Berlin")
    assert (len(zoned.panel), zoned.panel.start_s, zoned.notes) == (ROWS, start.timestamp(), ())
    path.write_text(lines("time,rps", *(f"{t.astimezone(UTC):%Y-%m-%d %H:%M}Z,5" for t in local[:100] + local[112:])))
    assert not any("daylight" in n for n in load_trace(path).notes)  # these say which zone they are in


def test_what_is_no_file_is_told_so() -> None:
    for name, what in (("-", "the standard input"), ("http://prometheus:9090/api", "an address")):
        with pytest.raises(DataError, match=f"{what} is not read as a trace; save it in a file first"):
            load_trace(name)


def test_a_time_that_comes_twice_says_what_can_be_done(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(lines("time,pod,rps", *(f"{60 * i},{pod},{5 + i}" for i in range(20) for pod in ("a", "b"))))
    with pytest.raises(DataError, match=r"repeats the time of .* \(--step\), or choose the rows of one service"):
        load_trace(path, columns=["rps"])
    assert load_trace(path, where={"pod": "a"}).panel.step_s == 60
    assert load_trace(path, columns=["rps"], step_s=60).panel.column("rps").tolist() == [5.0 + i for i in range(20)]


def test_sorting_is_told_and_can_be_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "shuffled.csv")
    assert load_trace(path).notes[0].startswith(f"sorted {ROWS} rows by time: ")
    with pytest.raises(DataError, match=r"line \d+: .* is earlier than the row before it"):
        load_trace(path, sort=False)


def test_what_only_rises_is_a_counter_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "counted.csv"
    total = np.tile(np.arange(ROWS // 2) * 600, 2)  # 2 a second, restarted once
    rows = zip(TIMES, LOAD, total, total, strict=True)
    path.write_text(lines("time,rps,errors_total,height", *(f"{t.isoformat()},{a},{b},{c}" for t, a, b, c in rows)))
    found = load_trace(path)
    kinds = {i.name: i.kind for i in found.panel.indicators}
    assert kinds["height"] == "gauge"
    assert np.nanmax(found.panel.column("errors_total")) == pytest.approx(2.0)
    assert any("errors_total" in note for note in found.notes)
    kept = load_trace(path, columns=["rps", "errors_total:::gauge"]).panel
    assert kept.column("errors_total")[:2].tolist() == [0.0, 600.0]


@given(st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1)).map(lambda t: t.replace(second=0, microsecond=0)))
def test_dates_with_the_day_first_are_read_back(moment: datetime) -> None:
    for form in ("%d.%m.%Y %H:%M", "%d/%m/%Y %H:%M"):
        assert Dialect(dayfirst=True).stamps([moment.strftime(form)]) == [moment]
    assert Dialect(dayfirst=False).stamps([moment.strftime("%m/%d/%Y %H:%M")]) == [moment]


def test_what_is_ambiguous_is_asked() -> None:
    with pytest.raises(UsageError, match="--dayfirst or --no-dayfirst"):
        Dialect().stamps(["03/04/2026 00:00"])
    assert Dialect().stamps(["03/04/2026 9:05", "13/04/2026 9:05"])[0] == datetime(2026, 4, 3, 9, 5)
    assert Dialect().stamps(["03/04/2026", "03/14/2026"])[0] == datetime(2026, 3, 4)
    with pytest.raises(UsageError, match="Europe/Berlin"):
        Dialect(timezone="Europe/Berlinn")
    with pytest.raises(UsageError, match=r"expected \. or ,"):
        Dialect(decimal=";")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cell", "decimal", "delimiter", "value"),
    [("1,5", None, ";", 1.5), ("1.5", None, ";", 1.5), ("1.234,5", ",", ";", 1234.5), ("1.234", ",", ";", 1234.0),
     ("-0,25", ",", ",", -0.25), ("1e3", ",", ";", 1000.0)],
)  # fmt: skip
def test_numbers_as_people_write_them(cell: str, decimal: str | None, delimiter: str, value: float) -> None:
    assert Dialect(decimal=decimal).number(cell, delimiter) == value  # type: ignore[arg-type]


def test_a_comma_is_no_decimal_sign_where_nobody_said_so() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        Dialect().number("1,5", ",")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_forecast_is_written_as_a_table(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path, "offset.csv"), tmp_path / f"forecast.{ending}"
    assert run(["forecast", str(path), "--model", "last_value", "--horizon", "3", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["indicators"]["rps"]["quantiles"]
    frame = pl.read_csv(out, try_parse_dates=True) if ending == "csv" else pl.read_parquet(out)
    assert frame.columns == ["time", "indicator", "unit", "q0.05", "q0.5", "q0.95"]
    assert frame["q0.95"].to_list() == pytest.approx(told["0.95"])
    assert frame["time"][0].timestamp() == TIMES[-1].timestamp() + 300.0
    assert run(["forecast", str(path), "--out", str(tmp_path / "forecast.xlsx")]) == 2
    assert "expected a file that ends in .csv or .parquet" in capsys.readouterr().err
