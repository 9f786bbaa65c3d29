"""Series of a data set in a folder: one trace file each, by name and in natural order."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from forecasting.errors import DataError, suggest, what_is

if TYPE_CHECKING:
    from forecasting.evaluation import Settings
    from forecasting.panel import Panel
    from harmony.app.settings import TraceSettings

__all__ = ["long_enough", "read_series"]

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

    Of a folder of anything a file that cannot be read is left out, which a note says, unless it is ``wanted`` by name.

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
    strict = bool(wanted) or dataset in _PREFIXES  # asked for by name, or a known set, whose mean is over all of it
    return _each(
        dict.fromkeys(wanted or files), lambda name: reading.load(str(files[name]), demand, raw=raw).panel, strict
    )


def long_enough(panels: Mapping[str, Panel], settings: Settings) -> dict[str, Panel]:
    """Those with rows enough to be scored; a note of each other, unless there is no other: that is a `DataError`."""
    from forecasting.evaluation import Split

    def checked(name: str) -> Panel:
        Split.of(panels[name], settings)
        return panels[name]

    return _each(panels, checked, strict=False)


def _each(names: Iterable[str], made: Callable[[str], Panel], strict: bool) -> dict[str, Panel]:
    """What can be ``made`` of each name; a note of each that cannot. Raises if ``strict``, or where nothing can."""
    found: dict[str, Panel] = {}
    failed: list[DataError] = []
    for name in names:
        try:
            found[name] = made(name)
        except DataError as error:
            if strict:
                raise
            failed.append(error)
    if failed and not found:
        raise failed[0]
    for why in failed:
        print(f"note: left out: {why}", file=sys.stderr)
    return found


def _is_trace(path: Path) -> bool:
    name = path.name.removesuffix(".gz")
    return path.is_file() and not name.startswith(".") and name.endswith((".csv", ".tsv", ".parquet"))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts container2 before container10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
