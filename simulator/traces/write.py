"""Writing a panel as a tidy file that `load_trace` reads back to the same panel.

CSV starts with one comment line that carries what columns cannot say (units, levels, kinds, the exact grid); Parquet
carries it in the file's metadata. A file appears whole or not at all.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from forecasting.errors import DataError
from forecasting.panel import Panel
from simulator.traces.table import META_PREFIX

__all__ = ["SUFFIXES", "write_trace"]

SUFFIXES = (".csv", ".csv.gz", ".parquet")
TIME = "timestamp"


def write_trace(panel: Panel, out: str | Path, *, plain: bool = False, licence: str = "") -> Path:
    """Write the panel to ``out`` (.csv, .csv.gz or .parquet) and return the path.

    Times are ISO 8601 in UTC, or seconds where the panel has no calendar; an absent value is an empty cell (null).
    ``plain`` leaves the description out, for tools that know no comment lines. Same panel, same bytes.

    Raises:
        DataError: another suffix, an indicator called "timestamp", a folder that does not exist or cannot be written.
    """
    path = Path(out)
    suffix = next((s for s in reversed(SUFFIXES) if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise DataError(
            f"{path}: cannot tell the format from the name; expected a name ending in {', '.join(SUFFIXES)}"
        )
    if TIME in panel.names:
        raise DataError(f"{panel.name}: an indicator is called {TIME!r}, which is the name of the time column")
    if not path.parent.is_dir():
        raise DataError(f"{path}: no such folder {path.parent}")
    described = "" if plain else json.dumps(_description(panel, licence), ensure_ascii=False, separators=(",", ":"))
    if suffix == ".parquet":
        data = _parquet(panel, described)
    else:
        data = _csv(panel, described).encode()
        if suffix == ".csv.gz":
            data = gzip.compress(data, compresslevel=9, mtime=0)
    try:
        _replace(path, data)
    except OSError as exc:
        raise DataError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
    return path


def _dated(panel: Panel) -> bool:
    """Whether times are written as dates (else as seconds: no calendar, out of range, or too fine for microseconds)."""
    return panel.calendar and panel.start_s >= 0 and panel.end_s < 4e9 and panel.step_s >= 0.001


def _description(panel: Panel, licence: str) -> dict[str, object]:
    """What the columns of a table cannot say."""
    said: dict[str, object] = {"version": 1, "name": panel.name, "start_s": panel.start_s, "step_s": panel.step_s}
    said["calendar"] = panel.calendar
    if not _dated(panel):
        said["time_unit"] = "s"
    if licence:
        said["licence"] = licence
    said["indicators"] = [
        {"name": i.name, "unit": i.unit, "level": int(i.level), "kind": i.kind} for i in panel.indicators
    ]
    return said


def _csv(panel: Panel, described: str) -> str:
    """The panel as CSV text; numbers in their shortest exact form."""
    import csv

    buffer = io.StringIO()
    if described:
        buffer.write(META_PREFIX + described + "\n")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([TIME, *panel.names])
    stamps = panel.times_s.tolist()
    dated = _dated(panel)
    for stamp, row in zip(stamps, panel.values.tolist(), strict=True):
        when = _iso(stamp) if dated else repr(stamp)
        writer.writerow([when, *("" if value != value else repr(value) for value in row)])
    return buffer.getvalue()


def _iso(stamp: float) -> str:
    """Seconds since the Unix epoch as ISO 8601, to the microsecond if there is a fraction."""
    return datetime.fromtimestamp(round(stamp, 6), tz=UTC).isoformat().replace("+00:00", "Z")


def _parquet(panel: Panel, described: str) -> bytes:
    """The panel as the bytes of a Parquet file."""
    import polars as pl

    from simulator.traces.parquet import META_KEY

    stamps = pl.Series(TIME, panel.times_s)
    if _dated(panel):
        micros = np.round(panel.times_s * 1e6).astype(np.int64)
        stamps = pl.Series(TIME, micros).cast(pl.Datetime("us", "UTC"))
    columns = [pl.Series(n, panel.values[:, i]).fill_nan(None) for i, n in enumerate(panel.names)]
    buffer = io.BytesIO()
    extra = {META_KEY: described} if described else None
    pl.DataFrame([stamps, *columns]).write_parquet(buffer, compression="zstd", compression_level=19, metadata=extra)
    return buffer.getvalue()


def _replace(path: Path, data: bytes) -> None:
    """Write beside the target and rename, so that nobody ever reads half a file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
