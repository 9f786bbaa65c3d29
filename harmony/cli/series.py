"""Series of a data set in a folder: one trace file each, by name and in natural order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from forecasting.errors import DataError, suggest, what_is

if TYPE_CHECKING:
    from forecasting.panel import Panel
    from harmony.app.settings import TraceSettings

__all__ = ["read_series"]

# What the files of a data set are called; others may be called anything.
_PREFIXES = {"fisher": "container"}
_EXPECTED = {"fisher": "container1.csv.gz, container2.csv.gz, ..."}


def read_series(
    dataset: str,
    directory: Path,
    wanted: list[str] | None,
    reading: TraceSettings,
    demand: str | None,
    *,
    raw: bool,
) -> dict[str, Panel]:
    """The series by name; with ``raw`` counters stay levels, as recorded.

    Raises `DataError` for a missing folder, a folder without series or a ``wanted`` name that is not there.
    """
    if not directory.is_dir():
        found = f"is {kind}, no folder" if (kind := what_is(directory)) else "no such folder"
        raise DataError(f"{directory}: {found}; {dataset} is read from a folder of trace files")
    files = {_stem(p): p for p in sorted(directory.iterdir(), key=_natural) if _is_trace(p)}
    files = {name: p for name, p in files.items() if name.startswith(_PREFIXES.get(dataset, ""))}
    if not files:
        expected = _EXPECTED.get(dataset, "CSV or Parquet files")
        raise DataError(f"{directory}: no {dataset} series there; expected {expected}")
    for name in wanted or ():
        if name not in files:
            raise DataError(f"{directory}: no series {name!r}; {suggest(name, files)}")
    return {name: reading.load(str(files[name]), demand, raw=raw).panel for name in dict.fromkeys(wanted or files)}


def _is_trace(path: Path) -> bool:
    name = path.name.removesuffix(".gz")
    return path.is_file() and not name.startswith(".") and name.endswith((".csv", ".tsv", ".parquet"))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts container2 before container10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
