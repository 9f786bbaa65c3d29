"""A small file asks for no large memory, and one wrong time makes no years of absent rows: refused where they stand."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.errors import DataError
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
