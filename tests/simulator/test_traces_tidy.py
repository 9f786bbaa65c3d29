"""Files of one's own: column maps, long tables, times, and every mistake with where and what."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from forecasting.errors import DataError, UsageError
from simulator.traces import load_trace

GOOD = "time,rps,gpu\n2026-01-05T00:00:00Z,1,50\n2026-01-05T00:01:00Z,2,\n2026-01-05T00:02:00Z,3,70\n"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file into a fresh folder."""

    def put(text: str | bytes, name: str = "usage.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return put


def test_wide_first_column_is_demand_and_empty_is_absent(write: Write) -> None:
    trace = load_trace(write(GOOD))
    assert (trace.demand, trace.panel.names, trace.panel.step_s) == ("rps", ("rps", "gpu"), 60.0)
    assert [i.level for i in trace.panel.indicators] == [1, 2]
    np.testing.assert_array_equal(trace.panel.column("gpu"), [50, np.nan, 70])
    assert trace.panel.start.isoformat() == "2026-01-05T00:00:00+00:00"
    assert trace.licence == "not stated"


@pytest.mark.parametrize("sign", [";", "\t"])
def test_other_delimiters_and_byte_order_mark(write: Write, sign: str) -> None:
    trace = load_trace(write("\ufeff" + GOOD.replace(",", sign)))
    np.testing.assert_array_equal(trace.panel.column("rps"), [1, 2, 3])


@pytest.mark.parametrize(
    ("times", "start"),
    [
        (("2026-01-05 02:00:00+02:00", "2026-01-05 02:01:00+02:00"), 1767571200.0),
        (("1767571200", "1767571260"), 1767571200.0),
        (("1767571200000", "1767571260000"), 1767571200.0),
        (("1767571200000000", "1767571260000000"), 1767571200.0),
        (("2026-01-05", "2026-01-06"), 1767571200.0),
    ],
)
def test_ways_to_write_a_time(write: Write, times: tuple[str, str], start: float) -> None:
    panel = load_trace(write(f"ts,x\n{times[0]},1\n{times[1]},2\n")).panel
    assert panel.start_s == start
    assert panel.calendar


def test_seconds_from_an_unknown_start_have_no_calendar(write: Write) -> None:
    panel = load_trace(write("t,x\n0,1\n0.5,2\n1.0,3\n")).panel
    assert (panel.calendar, panel.step_s) == (False, 0.5)


def test_column_map_renames_selects_and_describes(write: Write) -> None:
    path = write("when,http:rps,note,errors\n0,1,a,0\n60,2,b,3\n120,4,c,9\n")
    trace = load_trace(path, time_column="when", columns=["rps=http:rps:requests/s:1:rate", "errors:errors:3:counter"])
    rps, errors = trace.panel.indicators
    assert (rps.name, rps.unit, rps.level, rps.kind) == ("rps", "requests/s", 1, "rate")
    assert (errors.unit, errors.level, errors.kind) == ("errors/s", 3, "rate")
    np.testing.assert_allclose(trace.panel.column("errors"), [np.nan, 0.05, 0.1])
    raw = load_trace(path, time_column="when", columns=["errors:errors:3:counter"], raw=True)
    np.testing.assert_allclose(raw.panel.column("errors"), [0, 3, 9])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("rsp", "no column 'rsp'; did you mean 'rps'"),
        ("x=rsp:req:1", "no column 'rsp'; did you mean 'rps'"),
        ("rps:req:4", "level '4' is not one of"),
        ("rps:req:1:guage", "kind 'guage' is not one of"),
    ],
)
def test_column_map_mistakes(write: Write, entry: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_trace(write(GOOD), columns=[entry])


def test_long_table_is_pivoted_and_missing_pairs_are_absent(write: Write) -> None:
    text = "timestamp,metric,value\n0,rps,1\n0,gpu,9\n60,rps,2\n120,gpu,8\n120,rps,3\n"
    trace = load_trace(write(text), demand="gpu")
    assert trace.panel.names == ("gpu", "rps")
    np.testing.assert_array_equal(trace.panel.column("gpu"), [9, np.nan, 8])
    with pytest.raises(DataError, match="line 7: a second value of 'rps'"):
        load_trace(write(text + "0,rps,1\n"))


def test_missing_steps_become_absent_rows_and_are_counted(write: Write) -> None:
    rows = "".join(f"{60 * i},{i}\n" for i in range(20) if i not in (3, 4, 11))
    trace = load_trace(write("timestamp,x\n" + rows))
    assert len(trace.panel) == 20
    assert np.flatnonzero(np.isnan(trace.panel.column("x"))).tolist() == [3, 4, 11]
    assert trace.notes == ("3 of 20 steps are missing in the file; their rows are absent",)


def test_many_missing_steps_still_show_the_step(write: Write) -> None:
    kept = [0, 1, 3, 5, 6, 9, 11, 12, 14, 17, 18, 20]
    trace = load_trace(write("timestamp,x\n" + "".join(f"{30 * i},{i}\n" for i in kept)))
    assert (trace.panel.step_s, len(trace.panel)) == (30.0, 21)


def test_small_jitter_is_forgiven(write: Write) -> None:
    rng = np.random.default_rng(0)
    times = 60.0 * np.arange(500) + rng.uniform(-0.25, 0.25, 500)
    trace = load_trace(write("timestamp,x\n" + "".join(f"{t:.3f},1\n" for t in times)))
    assert trace.panel.step_s == 60.0
    assert len(trace.panel) == 500


def test_step_averages_and_a_table_without_step_needs_one(write: Write) -> None:
    path = write("timestamp,x\n" + "".join(f"{60 * i},{i}\n" for i in range(7)))
    np.testing.assert_allclose(load_trace(path, step_s=180).panel.column("x"), [1, 4])
    with pytest.raises(DataError, match=r"step of 90 s cannot be made from one of 60 s; expected a multiple"):
        load_trace(path, step_s=90)
    irregular = write("timestamp,x\n0,1\n40,3\n65,5\n240,7\n")
    trace = load_trace(irregular, step_s=60)
    np.testing.assert_allclose(trace.panel.column("x"), [2, 5, np.nan, np.nan, 7])
    assert "averaged into steps of 60 s, of which 2 are absent" in trace.notes[0]


MISTAKES = {
    "empty": ("", "the file is empty"),
    "blank": ("\n\n", "the file is empty"),
    "header only": ("time,rps\n", "only a header line"),
    "one row": ("time,rps\n0,1\n", "1 row; expected at least 2"),
    "misplaced": (GOOD.replace("00:01:00", "00:09:00"), r"line 4: a step of 120 s to 2026-01-05T00:02:00Z"),
    "duplicate": (GOOD.replace("00:01:00", "00:00:00"), r"line 3: 2026-01-05T00:00:00Z repeats the time"),
    "irregular": ("t,x\n0,1\n60,1\n120,1\n150,1\n210,1\n270,1\n", r"line 5: a step of 30 s to 150 s where.*are 60 s"),
    "negative": (GOOD.replace(",2,", ",-2,"), r"demand 'rps' is -2 at row 2 \(2026-01-05T00:01:00Z\)"),
    "not a number": (GOOD.replace(",2,", ",two,"), "line 3, column 'rps': 'two' is not a number"),
    "not a time": (GOOD.replace("2026-01-05T00:01:00Z", "noon"), "line 3, column 'time': 'noon' is not a time"),
    "no time": (GOOD.replace("2026-01-05T00:01:00Z", ""), "line 3, column 'time': '' is not a time"),
    "mixed zones": (GOOD.replace("00:01:00Z", "00:01:00"), "line 3: some times have a zone"),
    "no time column": (
        GOOD.replace("time", "hour"),
        "no time column .* such as --time-column hour; the columns are: hour, rps, gpu",
    ),
    "infinite": (GOOD.replace(",2,", ",inf,"), "line 3, column 'rps': infinite"),
    "ragged": (GOOD.replace(",2,", ",2,5,"), "line 3: 4 fields, but the header has 3"),
    "cut short": (GOOD[:-4], "line 4: 2 fields|line 4"),
    "twice": (GOOD.replace("gpu", "rps"), "two columns are named 'rps'"),
    "unnamed": (GOOD.replace("gpu", ""), "column 3 has no name"),
    "only times": ("time\n0\n60\n", "no column besides the time"),
    "open quote": ('time,x\n0,"1\n60,2\n', "not a table"),
    "far future": (
        "t,x\n0,1\n1,1\n2,1\n99999999,1\n",
        "line 5: a gap from 2 s to 99999999 s beside steps of 1 s; is one of the times wrong",
    ),
    "time nan": ("t,x\n0,1\nnan,1\n", "line 3: the time is not a finite number"),
    "broken description": ("# harmony-trace {]\nt,x\n0,1\n1,2\n", "line 1: the metadata .* is not JSON"),
    "empty json": ("{}", "no series|result type|expected"),
}


@pytest.mark.parametrize("case", MISTAKES, ids=str)
def test_every_mistake_is_one_line_with_where_and_what(write: Write, case: str) -> None:
    text, message = MISTAKES[case]
    with pytest.raises(DataError, match=message) as caught:
        load_trace(write(text))
    assert "\n" not in str(caught.value)
    assert "usage" in str(caught.value)


def test_all_absent_demand_names_the_others(write: Write) -> None:
    path = write("t,a,b\n0,,1\n1,nan,2\n2,NA,\n")
    with pytest.raises(DataError, match=r"demand 'a' has no value at all; with values: b"):
        load_trace(path)
    with pytest.raises(DataError, match=r"no indicator 'c'; "):
        load_trace(path, demand="c")
    assert load_trace(path, demand="b").demand == "b"


def test_files_that_are_not_there_or_not_what_they_say(write: Write, tmp_path: Path) -> None:
    path = write(GOOD)
    with pytest.raises(DataError, match=r"usagee.csv: no such file; did you mean 'usage.csv'"):
        load_trace(tmp_path / "usagee.csv")
    with pytest.raises(DataError, match=r"no such file .nor folder"):
        load_trace(tmp_path / "nowhere" / "usage.csv")
    with pytest.raises(DataError, match="is a folder"):
        load_trace(tmp_path)
    with pytest.raises(DataError, match=r"/dev/null: is a device; expected a trace in a file \(CSV, TSV or Parquet"):
        load_trace("/dev/null")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe.csv: is a pipe; expected"):
        load_trace(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"named .gz but is not gzip"):
        load_trace(write(GOOD, "usage.csv.gz"))
    with pytest.raises(DataError, match="broken gzip"):
        load_trace(write(gzip.compress(GOOD.encode())[:-9], "cut.csv.gz"))
    with pytest.raises(DataError, match="line 3: not UTF-8 text"):
        load_trace(write(GOOD.replace(",2,", ",§,").encode("latin-1"), "latin.csv"))
    packed = write(gzip.compress(path.read_bytes()), "packed.csv")
    assert load_trace(packed).panel.digest() == load_trace(path).panel.digest()


def test_a_bare_name_that_is_nothing_is_answered_with_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no trace 'syntetic'.*did you mean 'synthetic'"):
        load_trace("syntetic")


def test_unknown_format_and_step_are_usage_errors(write: Write) -> None:
    with pytest.raises(UsageError, match="no trace format 'heelios'; did you mean 'helios'"):
        load_trace(write(GOOD), format="heelios")
    with pytest.raises(UsageError, match="expected a positive number of seconds"):
        load_trace(write(GOOD), step_s=0)


def test_parquet_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.parquet"
    times = pl.datetime_range(pl.datetime(2026, 1, 5), pl.datetime(2026, 1, 5, 0, 3), "1m", eager=True)
    frame = pl.DataFrame({"time": times, "rps": [1, 2, None, 4], "up": [True, False, True, True], "pod": list("abcd")})
    frame.write_parquet(path)
    with pytest.raises(DataError, match=r"column 'pod'.*no numbers"):
        load_trace(path)
    trace = load_trace(path, columns=["rps:requests/s", "up"])
    np.testing.assert_array_equal(trace.panel.column("rps"), [1, 2, np.nan, 4])
    np.testing.assert_array_equal(trace.panel.column("up"), [1, 0, 1, 1])
    assert trace.panel.step_s == 60.0
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="broken Parquet"):
        load_trace(path)
