"""Written and read back: the same panel; and whatever stands in a file, nothing but a `DataError`."""

from __future__ import annotations

import contextlib
import gzip
import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from forecasting.errors import DataError, UsageError
from forecasting.panel import Indicator, Panel
from forecasting.synthetic import synthetic_service
from simulator.traces import list_traces, load_trace, table, write_trace

AGAIN = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=60
)
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=12).filter(
    lambda n: n != "timestamp" and not n.startswith(("#", "\ufeff")) and n == n.strip()
)


@st.composite
def panels(draw: st.DrawFn) -> Panel:
    rows, width = draw(st.integers(2, 12)), draw(st.integers(1, 4))
    cells = st.one_of(st.floats(0, 1e12), st.just(np.nan), st.integers(0, 1000).map(float))
    values = np.array(draw(st.lists(st.lists(cells, min_size=width, max_size=width), min_size=rows, max_size=rows)))
    values[draw(st.integers(0, rows - 1)), 0] = draw(st.floats(0, 1e6))
    names = draw(st.lists(NAMES, min_size=width, max_size=width, unique=True))
    levels = [1, *(draw(st.integers(1, 3)) for _ in names[1:])]
    indicators = tuple(
        Indicator(n, draw(st.sampled_from(["", "requests/s", "°C"])), level, draw(st.sampled_from(["gauge", "rate"])))  # type: ignore[arg-type]
        for n, level in zip(names, levels, strict=True)
    )
    return Panel(
        values,
        indicators,
        start_s=draw(st.sampled_from([0.0, 12.5, 1_767_571_200.0, 1_767_571_200.25, -60.0])),
        step_s=draw(st.sampled_from([0.25, 1.0, 57.0, 60.0, 3600.0, 1 / 3])),
        name=draw(st.sampled_from(["panel", "dienst-ü"])),
        calendar=draw(st.booleans()),
    )


@AGAIN
@given(panel=panels(), suffix=st.sampled_from([".csv", ".csv.gz", ".parquet"]))
def test_round_trip_is_exact(tmp_path: Path, panel: Panel, suffix: str) -> None:
    out = write_trace(panel, tmp_path / f"p{suffix}")
    back = load_trace(out).panel
    assert back.digest() == panel.digest()
    assert back.name == panel.name
    assert [p.name for p in tmp_path.iterdir() if p.suffix not in (".csv", ".gz", ".parquet")] == []


def test_same_panel_same_bytes_and_plain_is_plain(tmp_path: Path) -> None:
    panel = Panel(np.array([[1.0], [np.nan], [2.5]]), (Indicator("rps", "requests/s"),), 1767571200.0, 60.0)
    first = write_trace(panel, tmp_path / "a.csv.gz").read_bytes()
    assert write_trace(panel, tmp_path / "b.csv.gz").read_bytes() == first
    plain = write_trace(panel, tmp_path / "c.csv", plain=True).read_text()
    assert plain == ("timestamp,rps\n2026-01-05T00:00:00Z,1.0\n2026-01-05T00:01:00Z,\n2026-01-05T00:02:00Z,2.5\n")
    described = gzip.decompress(first).decode()
    assert described.startswith('# harmony-trace {"version":1,')
    assert described.endswith(plain)


def test_an_edited_file_keeps_its_description(tmp_path: Path) -> None:
    panel = Panel(np.arange(6.0)[:, None], (Indicator("rps", "requests/s"),), 1767571200.0, 60.0)
    path = write_trace(panel, tmp_path / "a.csv")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], *lines[4:]]))
    back = load_trace(path).panel
    assert (back.start_s, len(back), back.indicators[0].unit) == (1767571320.0, 4, "requests/s")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    panel = Panel(np.ones((2, 1)), (Indicator("rps"),), 0.0, 60.0)
    with pytest.raises(DataError, match=r"a name ending in \.csv, \.csv\.gz, \.parquet"):
        write_trace(panel, tmp_path / "a.xlsx")
    with pytest.raises(DataError, match="no such folder"):
        write_trace(panel, tmp_path / "no" / "a.csv")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_trace(panel, tmp_path / "dir.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["dir.csv"]
    with pytest.raises(DataError, match="name of the time column"):
        write_trace(panel.replace(indicators=(Indicator("timestamp"),)), tmp_path / "a.csv")


LINES = st.lists(
    st.text(st.sampled_from(list("0123456789.,;-+eE\"'\n\r\t# {}[]:Tzainf_\x00\u00e9")), max_size=40), max_size=8
)


@AGAIN
@given(lines=LINES)
@example(lines=["time,x", "0,1_000", "1,2"])
@example(lines=["time,x", "1e308,1", "-1e308,2"])
@example(lines=["time,x", "0001-01-01,1", "9999-12-31,2"])
@example(lines=["x,time", "1,2", "1,2", ""])
@example(lines=['"time,x', "1,2"])
@example(lines=['"0', '0"'])
@example(lines=["# harmony-trace {}", "time,x", "1,2", "2,3"])
@example(lines=['# harmony-trace {"indicators":[{"name":"x","unit":1,"level":"k","kind":2}]}', "t,x", "1,2", "2,3"])
@example(lines=['# harmony-trace {"indicators":3,"step_s":"a","start_s":[]}', "t,x", "1,2", "2,3"])
@example(lines=['# harmony-trace {"start_s":1e999,"step_s":NaN}', "t,x", "1,2", "2,3"])
def test_any_text_is_a_trace_or_a_data_error(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "any.csv"
    for text in ("\n".join(lines), "time,x\n" + "\n".join(lines), "time,x\n0,1\n60,2\n" + "\n".join(lines)):
        path.write_bytes(text.encode())
        try:
            trace = load_trace(path)
        except DataError as error:
            assert "\n" not in str(error).replace("\\n", "")  # noqa: PT017
        else:
            assert len(trace.panel) >= 2


@AGAIN
@given(lines=LINES, panel=panels())
def test_the_quick_way_through_large_tables_reads_the_same(tmp_path: Path, lines: list[str], panel: Panel) -> None:
    clean = write_trace(panel, tmp_path / "clean.csv").read_text()
    for text in (clean, clean + "\n".join(lines), "time,x\n0,1\n60,2\n" + "\n".join(lines)):
        path = tmp_path / "any.csv"
        path.write_bytes(text.encode())
        careful = _outcome(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(table, "BULK_SIZE", 0)
            assert _outcome(path) == careful


def _outcome(path: Path) -> str:
    try:
        return load_trace(path).panel.digest()
    except DataError as error:
        return str(error)


@AGAIN
@given(data=st.binary(max_size=200), head=st.sampled_from([b"", b"PAR1", b"\x1f\x8b", b"{", b'{"input_length"']))
def test_any_bytes_are_a_data_error(tmp_path: Path, data: bytes, head: bytes) -> None:
    path = tmp_path / "any.csv"
    path.write_bytes(head + data)
    with pytest.raises(DataError):
        load_trace(path)


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"time": [0.0, 60.0, 120.0], "x": [1.0, 2.0, None]}).write_parquet(buffer)
    return buffer.getvalue()


def test_a_parquet_cut_short_is_a_data_error(tmp_path: Path) -> None:
    good = _parquet()
    path = tmp_path / "any.parquet"
    for length in range(4, len(good), 37):
        path.write_bytes(good[:length])
        with pytest.raises(DataError, match=r"any.parquet: broken Parquet file|any.parquet"):
            load_trace(path)


@AGAIN
@given(at=st.integers(1, 400), byte=st.integers(0, 255))
def test_a_damaged_parquet_footer_is_a_trace_or_a_data_error(tmp_path: Path, at: int, byte: int) -> None:
    # Only the footer: a page header that claims an absurd size makes polars abort the process, which nothing catches.
    good = _parquet()
    path = tmp_path / "any.parquet"
    path.write_bytes(good[:-at] + bytes([byte]) + good[len(good) - at + 1 :])
    with contextlib.suppress(DataError):
        load_trace(path)


def test_list_names_the_bundled_trace_and_every_format_with_a_licence() -> None:
    infos = list_traces()
    bundled = [i.name for i in infos if i.kind == "bundled"]
    assert bundled[0] == "synthetic"
    assert len(bundled) == 12
    assert all(name.startswith("scenario:") for name in bundled[1:-1])
    assert bundled[-1] == "synthetic-service:SEED"
    formats = [i.name for i in infos if i.kind == "format"]
    assert len(set(formats)) == len(formats)
    assert {"fisher", "requests", "prometheus", "tidy", "helios", "nab", "servegen", "dlrm"} <= set(formats)
    assert all(i.licence and i.title for i in infos)


def test_a_synthetic_service_is_a_trace_by_its_seed() -> None:
    trace = load_trace("synthetic-service:7")
    service = synthetic_service(7)
    assert trace.panel.digest() == service.panel.digest()
    assert (trace.demand, trace.name, trace.licence) == ("demand", "synthetic-7", "Apache-2.0")
    assert trace.notes == (f"drawn: {service.story.family}, read as {service.story.readings}; seasons: none",)
    coarse = load_trace("synthetic-service:7", step_s=2 * trace.panel.step_s, demand=trace.panel.names[-1])
    assert coarse.panel.step_s == 2 * trace.panel.step_s
    assert coarse.panel.names[0] == trace.panel.names[-1]


@pytest.mark.parametrize("seed", ["", "x", "-1", "1.5", "\u0663", "9" * 19])
def test_what_is_no_seed_is_refused(seed: str) -> None:
    with pytest.raises(UsageError, match="expected a whole number after the colon, such as synthetic-service:7"):
        load_trace(f"synthetic-service:{seed}")
