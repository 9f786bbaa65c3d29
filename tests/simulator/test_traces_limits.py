"""A small file asks for no large memory, and one wrong time makes no years of absent rows: refused where they stand."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.errors import DataError
from harmony.cli.main import run
from simulator import load_trace
from simulator.traces import limits
from simulator.traces.limits import unpacked

TABLE = "timestamp,rps\n" + "".join(f"{60 * i},{i % 7}\n" for i in range(50))


def test_an_archive_that_unpacks_to_far_more_than_tables_do(tmp_path: Path) -> None:
    bomb = tmp_path / "zeros.csv.gz"
    with gzip.open(bomb, "wb") as file:
        for _ in range(80):
            file.write(b"0" * 1_000_000)
    with pytest.raises(DataError, match=r"zeros\.csv\.gz: [0-9,]+ packed bytes unpack to more than 64,000,000"):
        load_trace(bomb)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4), st.integers(0, 5), st.integers(1, 40))
def test_unpacking_equals_gzips_own(parts: list[bytes], padding: int, cut: int) -> None:
    """Several members and padding, as gzip reads them; an archive cut short is broken."""
    packed = b"".join(gzip.compress(part) for part in parts)
    assert unpacked(packed + b"\0" * padding, "x.gz") == b"".join(parts) == gzip.decompress(packed)
    last = gzip.compress(parts[-1])
    with pytest.raises(DataError, match="broken gzip archive"):
        unpacked(packed[: len(packed) - min(cut, len(last) - 1)], "x.gz")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param(TABLE + "2556143999,7\n", "line 52", id="one row in 2051"),
        pytest.param("timestamp,rps\n-3e9,7\n" + TABLE.partition("\n")[2], "line 3", id="one row long before"),
        pytest.param("time,prompt_tokens,output_tokens\n".replace("time", "timestamp") + "0,1,1\n1e15,1,1\n", "line 3",
                     id="two requests ages apart"),
    ],
)  # fmt: skip
def test_one_wrong_time_is_named(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "usage.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"usage\.csv, {line}: a gap from .* is one of the times wrong"):
        load_trace(path)


def test_a_long_outage_is_no_mistake(tmp_path: Path) -> None:
    """Twelve days of minutes, then a week of nothing, then one more day."""
    times = [60 * i for i in range(12 * 1440)] + [60 * (19 * 1440 + i) for i in range(1440)]
    path = tmp_path / "usage.csv"
    path.write_text("timestamp,rps\n" + "".join(f"{t},5\n" for t in times))
    trace = load_trace(path)
    assert len(trace.panel) == 20 * 1440
    assert int(np.isnan(trace.panel.values).sum()) == 7 * 1440


def test_a_name_of_a_column_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(TABLE.replace("rps", "r" * 100_000))
    with pytest.raises(DataError, match=r"column 2, 'r{40}'\.\.\., has 100,000 characters") as caught:
        load_trace(path)
    assert len(str(caught.value)) < 300


def test_more_columns_than_indicators(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("timestamp," + ",".join(f"c{i}" for i in range(10_500)) + "\n")
    with pytest.raises(DataError, match=r"wide\.csv: 10,501 columns; expected at most 10,000"):
        load_trace(path)


@pytest.mark.parametrize("name", ["usage.csv", "usage.parquet", "long.csv"])
def test_more_cells_than_are_held(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound itself is 400 MB of numbers; here it is lowered instead of making such a file."""
    path = tmp_path / name
    times = list(range(0, 6000, 60))
    if name == "usage.csv":
        path.write_text("timestamp,a,b\n" + "".join(f"{t},1,2\n" for t in times))
    elif name == "long.csv":
        path.write_text("timestamp,metric,value\n" + "".join(f"{t},m{t},2\n" for t in times))
    else:
        pl.DataFrame({"timestamp": times, "a": times, "b": times}).write_parquet(path)
    assert len(load_trace(path).panel) == 100
    monkeypatch.setattr(limits, "MOST_CELLS", 150)
    with pytest.raises(DataError, match="expected at most 150 cells in all"):
        load_trace(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("," * 3_000_000, r"x\.csv: 3,000,001 columns; expected at most 10,000", id="a header of commas"),
        pytest.param(TABLE + "60" + ",1" * 1_500_000, r"x\.csv, line 52: 1,500,001 columns", id="a row of numbers"),
        pytest.param(TABLE + "1" * 3_000_000, "field larger than field limit", id="one number of three megabytes"),
    ],
)
def test_one_line_of_megabytes_is_refused_before_it_is_a_list(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=said) as caught:
            load_trace(path)
        assert tracemalloc.get_traced_memory()[1] < 12 * len(text), "the text, and copies of it, but no lists of cells"
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", ["zip", "bzip2", "xz", "zstd"])
def test_archives_that_are_not_unpacked_say_what_they_are(tmp_path: Path, kind: str) -> None:
    """Nothing of them is unpacked, so that none can be a bomb, whatever its name says."""
    zeros = b"0" * 100_000
    if kind == "zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("t.csv", zeros)
        data = packed.getvalue()
    else:
        zstd = b"\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00"
        data = {"bzip2": bz2.compress(zeros), "xz": lzma.compress(zeros), "zstd": zstd}[kind]
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"t\.csv: a {kind} archive; .* unpack it"):
        load_trace(path)


def test_texts_of_a_parquet_file_that_nobody_asks_for_are_not_unpacked(tmp_path: Path) -> None:
    """A few kilobytes of a packed text, the same in every row; a column of it costs nothing until it is wanted."""
    path = tmp_path / "t.parquet"
    times = list(range(0, 6000, 60))
    frame = pl.DataFrame({"timestamp": times, "rps": times, "note": ["x" * 1_000_000] * 100})
    frame.write_parquet(path, compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"column 'note': String values are no numbers|more than 10,000 bytes"):
        load_trace(path)
    assert load_trace(path, columns=["rps"]).panel.names == ("rps",)
    with pytest.raises(DataError, match=r"row 1, column 'note': a text of more than 10,000 bytes"):
        load_trace(path, time_column="note", columns=["rps"])


def answer_of(series: list[dict[str, str]]) -> str:
    rows = [{"metric": {"__name__": "m", **labels}, "values": [[60, "1"], [120, "2"]]} for labels in series]
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": rows}})


def test_series_each_with_labels_of_its_own_cost_no_more_than_they_hold(tmp_path: Path) -> None:
    """Every label was held against every series: 10,000 of each took minutes."""
    path = tmp_path / "answer.json"
    path.write_text(answer_of([{f"l{i}": "x", "job": "j"} for i in range(1_000)]))
    trace = load_trace(path)
    assert trace.panel.names[:2] == ('m{l0="x"}', 'm{l1="x"}')
    path.write_text(answer_of([{"i": str(i)} for i in range(10_001)]))
    with pytest.raises(DataError, match=r"10,001 columns; expected at most 10,000"):
        load_trace(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 300_000, "not JSON"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "not JSON"),
        (answer_of([{"job": "j"}]).replace("60", "6" * 5000), "not JSON|finite"),
        (TABLE.replace("timestamp", '# harmony-trace {"columns": ' + "[" * 100_000 + "\ntimestamp"), "not JSON"),
    ],
    ids=["brackets", "objects", "a number of 5,000 digits", "in the metadata of a table"],
)
def test_json_that_nests_without_end_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        load_trace(path)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("number", ["1e308", "-1e300", "1" + "0" * 60, "3.5e38"])
def test_an_absurd_number_is_named_where_it_stands(tmp_path: Path, number: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(TABLE.replace("\n600,3\n", f"\n600,{number}\n"))
    with pytest.raises(
        DataError, match=r"'rps' is -?[0-9.e+]+ at row 11 \(600 s\); expected numbers of at most 3\.4e\+38"
    ):
        load_trace(path)


@pytest.mark.parametrize("number", ["5e-324", "1e-310", "-0.0"])
def test_a_demand_next_to_0_throughout_gives_nothing_to_scale(
    tmp_path: Path, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("timestamp,rps\n" + "".join(f"{60 * i},{number}\n" for i in range(400)))
    assert run(["replay", str(path), "--demand", "rps", "--policy", "hpa", "--out", str(tmp_path / "out")]) == 2
    assert "nothing to scale" in capsys.readouterr().err


def test_whole_numbers_beyond_64_bits_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(TABLE.replace("\n600,3\n", f"\n600,{2**63 + 1}\n"))
    assert load_trace(path).panel.column("rps")[10] == 2.0**63


def test_of_rows_that_are_chosen_local_times_are_said_to_be_so_too(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [f"2026-10-25 {h:02d}:{m:02d},a,5" for h in (1, 2, 2, 3) for m in (0, 20, 40)]
    path.write_text("time,service,rps\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"line 8: .*were read as UTC.*write them with their offset"):
        load_trace(path, where={"service": "a"})


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["Europe/Madrid", "America/New_York", "Australia/Lord_Howe"])
def test_local_times_through_the_end_of_daylight_saving_say_so(tmp_path: Path, zone: str) -> None:
    """An hour (half an hour on Lord Howe) comes twice; whoever reads the refusal learns how to write such times."""
    from datetime import UTC, datetime, timedelta
    from zoneinfo import ZoneInfo

    start = datetime(2026, 1, 1, tzinfo=UTC)
    stamps = [(start + timedelta(minutes=10 * i)).astimezone(ZoneInfo(zone)) for i in range(6 * 24 * 330)]
    path = tmp_path / "usage.csv"
    path.write_text("time,rps\n" + "".join(f"{s:%Y-%m-%d %H:%M},5\n" for s in stamps))
    with pytest.raises(DataError, match=r"were read as UTC.*daylight saving.*write them with their offset"):
        load_trace(path)
