"""Reading a table of text or Parquet with errors that say where: the border between files and numbers.

A `Table` knows its header at once and reads columns when asked. Gzip is recognised by its content, whatever the name.
"""

from __future__ import annotations

import csv
import io
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from forecasting.errors import DataError, UsageError, suggest, what_is
from forecasting.panel import FloatArray
from simulator.traces.dialect import PLAIN, Dialect
from simulator.traces.limits import MOST_BYTES, MOST_COLUMNS, check_columns, unpacked

__all__ = [
    "META_PREFIX",
    "FilteredTable",
    "KnownTimes",
    "Located",
    "ParsedTimes",
    "SortedTable",
    "Table",
    "TextTable",
    "check_names",
    "decode",
    "find_file",
    "in_order",
    "numeric_times",
    "parse_meta",
    "pick_column",
    "read_bytes",
]

META_PREFIX = "# harmony-trace "
"""Start of the optional first line of a CSV file that carries units, levels and kinds (see `write`)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BLOCK = 20_000
BULK_SIZE = 4_000_000
"""Characters from which on the quick way through a table is tried first (see `bulk`)."""
_ABSENT = frozenset({"", "nan", "na", "n/a", "null", "none", "-"})
_DELIMITERS = (",", ";", "\t")
_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
}


@dataclass(frozen=True)
class ParsedTimes:
    """Times of a table's rows: (rows,) seconds; ``calendar`` is False when they count from an unknown start.

    ``local`` is True for dates without an offset, which are read as UTC.
    """

    seconds: FloatArray
    calendar: bool
    local: bool = False


class Located(Protocol):
    """Something with rows that messages can point at."""

    @property
    def name(self) -> str:
        """File name, for messages."""
        ...

    def where(self, row: int) -> str:
        """Where data row ``row`` (from 0) stands, such as "line 17"."""
        ...


class Table(Located, Protocol):
    """What readers need of a file: its name, header, metadata, and columns on demand."""

    @property
    def header(self) -> tuple[str, ...]:
        """Column names in file order."""
        ...

    @property
    def meta(self) -> dict[str, Any]:
        """Metadata written by `write`, empty for other files."""
        ...

    def numbers(self, columns: Sequence[str]) -> FloatArray:
        """(rows, columns) float64, NaN where a cell is empty; `DataError` for anything else than a finite number."""
        ...

    def texts(self, column: str) -> list[str]:
        """One column as text."""
        ...

    def times(self, column: str) -> ParsedTimes:
        """One column as times; `DataError` for what is neither a number of seconds nor ISO 8601."""
        ...


def find_file(path: Path) -> Path:
    """The path if it is a readable file, else a `DataError` that names near files of its folder."""
    if path.is_file():
        return path
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name one trace file in it")
    if kind := what_is(path):
        raise DataError(f"{path}: is {kind}; expected a trace in a file (CSV, TSV or Parquet; gzip is unpacked)")
    folder = path.parent
    if not folder.is_dir():
        raise DataError(f"{path}: no such file (nor folder {folder})")
    near = suggest(path.name, sorted(p.name for p in folder.iterdir() if p.is_file()))
    raise DataError(f"{path}: no such file; {near}" if near else f"{path}: no such file; the folder is empty")


def read_bytes(path: Path) -> bytes:
    """The file's bytes, unpacked if they are gzip; `DataError` if it is empty, unreadable or a broken archive."""
    try:
        size = find_file(path).stat().st_size
        if size > MOST_BYTES:
            raise DataError(
                f"{path.name}: {size:,} bytes; expected at most {MOST_BYTES:,}: split it, or pack it as Parquet"
            )
        data = path.read_bytes()
    except OSError as exc:
        raise DataError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
    if not data:
        raise DataError(f"{path.name}: the file is empty; expected a header line and rows")
    archive = next((kind for start, kind in _ARCHIVES.items() if data.startswith(start)), "")
    if archive:
        raise DataError(f"{path.name}: a {archive} archive; expected CSV, Parquet or JSON, plain or gzip: unpack it")
    if data[:2] == b"\x1f\x8b":
        data = unpacked(data, path.name)
    elif path.suffix == ".gz":
        raise DataError(f"{path.name}: named .gz but is not gzip; rename it or compress it")
    if not data.strip():
        raise DataError(f"{path.name}: the file is empty; expected a header line and rows")
    return data


def decode(name: str, data: bytes) -> str:
    """The bytes as text; `DataError` naming the line that is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise DataError(f"{name}, line {line}: not UTF-8 text (byte 0x{data[exc.start]:02x})") from exc


def pick_column(table: Table, column: str) -> str:
    """The column if the table has it, else a `DataError` with near names."""
    if column in table.header:
        return column
    raise DataError(f"{table.name}: no column {column!r}; {suggest(column, table.header)}")


LONGEST_NAME = 200
"""Characters of a column's name: several stand in one message."""


def check_names(name: str, columns: Sequence[str]) -> None:
    """`DataError` for a name that is empty, holds a line break or another control character, or stands twice."""
    check_columns(name, len(columns))
    seen: set[str] = set()
    for number, column in enumerate(columns, 1):
        if not column:
            raise DataError(f"{name}: column {number} has no name; give every column a name in the header")
        if len(column) > LONGEST_NAME:
            raise DataError(
                f"{name}: the name of column {number}, {column[:40]!r}..., has {len(column):,} characters; "
                f"expected at most {LONGEST_NAME}: is the first line a header?"
            )
        if any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in column):
            raise DataError(f"{name}: the name of column {number}, {column[:40]!r}, holds a control character")
        if column in seen:
            raise DataError(f"{name}: two columns are named {column!r}; names must be unique")
        seen.add(column)


class TextTable:
    """A table of delimited text (comma, semicolon or tab) with one header line."""

    def __init__(self, name: str, text: str, dialect: Dialect = PLAIN) -> None:
        self.name = name
        self._dialect = dialect
        self.meta: dict[str, Any] = {}
        self._skipped = 0
        body = text
        while body.startswith("#"):
            line, _, body = body.partition("\n")
            self._skipped += 1
            if line.startswith(META_PREFIX):
                self.meta = parse_meta(name, line[len(META_PREFIX) :])
        self._body = body
        first = body.partition("\n")[0]
        self._delimiter = max(_DELIMITERS, key=first.count)
        head = next(self._rows(), None)
        if head is None or not any(cell.strip() for cell in head):
            raise DataError(f"{name}, line {self._skipped + 1}: no header line; expected column names")
        self.header = tuple(cell.strip() for cell in head)
        check_names(name, self.header)

    def _rows(self) -> Iterator[list[str]]:
        """Cells of every line that is not blank, header first; csv mistakes become `DataError`."""
        reader = csv.reader(self._lines(), delimiter=self._delimiter, strict=True)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as exc:
                raise DataError(f"{self.name}, line {self._skipped + reader.line_num}: not a table ({exc})") from exc
            if row:
                yield row

    def _lines(self) -> Iterator[str]:
        """The lines, none of which has more fields than a table has columns: a list of each would take memory."""
        for number, line in enumerate(io.StringIO(self._body, newline=""), self._skipped + 1):
            if len(line) > MOST_COLUMNS:
                where = self.name if number == self._skipped + 1 else f"{self.name}, line {number}"
                check_columns(where, line.count(self._delimiter) + 1)
            yield line

    def _blocks(self) -> Iterator[tuple[int, list[list[str]]]]:
        """(number of the first row, rows) in pieces, every row as long as the header."""
        rows = islice(self._rows(), 1, None)
        first, width = 0, len(self.header)
        while block := list(islice(rows, _BLOCK)):
            for offset, row in enumerate(block):
                if len(row) != width:
                    raise DataError(
                        f"{self.name}, {self.where(first + offset)}: {len(row)} fields, but the header has {width}"
                    )
            yield first, block
            first += len(block)
        if first == 0:
            raise DataError(f"{self.name}: only a header line; expected rows below it")

    def where(self, row: int) -> str:
        """The line of a data row in the file."""
        reader = csv.reader(io.StringIO(self._body, newline=""), delimiter=self._delimiter)
        seen = -1
        for cells in reader:
            seen += bool(cells)
            if seen > row:
                break
        return f"line {self._skipped + reader.line_num}"

    def first_row(self) -> tuple[str, ...]:
        """Cells of the first data row, empty if there is none."""
        return tuple(next(islice(self._rows(), 1, None), ()))

    def numbers(self, columns: Sequence[str]) -> FloatArray:
        """(rows, columns) float64, NaN where a cell is empty."""
        at = [self.header.index(pick_column(self, c)) for c in columns]
        quick = self._bulk_numbers(at)
        if quick is not None:
            return quick
        parts = []
        for first, block in self._blocks():
            part = np.empty((len(block), len(at)))
            for out, index in enumerate(at):
                cells = [row[index] for row in block]
                try:
                    if self._dialect.decimal == ",":
                        raise ValueError("one by one: 1.234 may be a thousand")
                    part[:, out] = list(map(float, cells if all(cells) else [cell or "nan" for cell in cells]))
                except ValueError:
                    part[:, out] = [self._number(first + i, columns[out], cell) for i, cell in enumerate(cells)]
            if np.isinf(part).any():
                row, out = (int(i) for i in np.argwhere(np.isinf(part))[0])
                raise DataError(
                    f"{self.name}, {self.where(first + row)}, column {columns[out]!r}: infinite; "
                    "give a number or leave the cell empty"
                )
            parts.append(part)
        return np.concatenate(parts)

    def _number(self, row: int, column: str, cell: str) -> float:
        """One cell as a number, with the absent spellings; `DataError` names the line and the column."""
        if cell.strip().lower() in _ABSENT:
            return math.nan
        try:
            return self._dialect.number(cell, self._delimiter)
        except ValueError:
            raise DataError(
                f"{self.name}, {self.where(row)}, column {column!r}: {cell[:40]!r} is not a number; "
                "give a number, leave the cell empty, choose the columns to read, or the rows (where COLUMN=TEXT)"
            ) from None

    def texts(self, column: str) -> list[str]:
        """One column as text."""
        at = self.header.index(pick_column(self, column))
        if len(self._body) >= BULK_SIZE:
            from simulator.traces.bulk import bulk_texts

            quick = bulk_texts(self._body, self._delimiter, len(self.header), at)
            if quick is not None:
                return quick
        return [row[at] for _, block in self._blocks() for row in block]

    def _bulk_numbers(self, at: list[int]) -> FloatArray | None:
        """The columns by the quick way, if the table is large and plainly clean."""
        if len(self._body) < BULK_SIZE or self._dialect.decimal == ",":
            return None
        from simulator.traces.bulk import bulk_numbers

        return bulk_numbers(self._body, self._delimiter, len(self.header), at)

    def times(self, column: str) -> ParsedTimes:
        """One column as times."""
        unit = str(self.meta.get("time_unit", ""))
        quick = self._bulk_numbers([self.header.index(pick_column(self, column))])
        if quick is not None and not np.isnan(quick).any():
            return numeric_times(quick[:, 0], self, unit)
        cells = self.texts(column)
        try:
            return numeric_times(np.array([float(c) for c in cells]), self, unit)
        except ValueError as exc:
            if isinstance(exc, DataError):
                raise
        try:
            stamps = self._dialect.stamps(cells)
        except UsageError as exc:
            raise DataError(f"{self.name}, column {column!r}: {exc}") from None
        except ValueError:
            raise DataError(self._bad_time(column, cells)) from None
        zones = [stamp.tzinfo is not None for stamp in stamps]
        if any(zones) and not all(zones):
            row = zones.index(not zones[0])
            raise DataError(f"{self.name}, {self.where(row)}: some times have a zone and some have none; give all one")
        local = not zones[0] and not self._dialect.timezone
        if self._dialect.timezone and not zones[0]:
            return ParsedTimes(np.array(self._dialect.seconds(stamps)), calendar=True)
        if not zones[0]:
            stamps = [stamp.replace(tzinfo=UTC) for stamp in stamps]
        return ParsedTimes(np.array([(s - _EPOCH).total_seconds() for s in stamps]), calendar=True, local=local)

    def _bad_time(self, column: str, cells: list[str]) -> str:
        """Message for the first cell that is no time (as the majority of cells read: numbers or dates)."""
        for row, cell in enumerate(cells):
            try:
                self._dialect.stamps([cell])
            except UsageError:
                continue
            except ValueError:
                return (
                    f"{self.name}, {self.where(row)}, column {column!r}: {cell[:40]!r} is not a time; "
                    "expected seconds, or ISO 8601 such as 2026-01-05T00:00:00Z, or 05.01.2026 00:00"
                )
        return f"{self.name}: column {column!r} is not a time"


def numeric_times(values: FloatArray, table: Located, unit: str = "") -> ParsedTimes:
    """Numbers as times: from 1e8 on seconds since 1970 (from 1e11 milli-, 1e14 micro-, 1e17 nanoseconds).

    Smaller numbers count seconds from an unknown start. ``unit="s"`` says seconds whatever the size.
    """
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise DataError(f"{table.name}, {table.where(row)}: the time is not a finite number")
    largest = float(np.abs(values).max(initial=0.0))
    if unit == "s":
        return ParsedTimes(values, calendar=largest >= 1e8)
    _refuse_dates(values, table)
    scale = next((s for least, s in ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3)) if largest >= least), 1.0)
    return ParsedTimes(values / scale, calendar=largest >= 1e8)


_DATE_DIGITS = {8: "YYYYMMDD", 10: "YYYYMMDDhh", 12: "YYYYMMDDhhmm", 14: "YYYYMMDDhhmmss"}
_SHEET_DAYS = (25_569.0, 73_050.0)
"""1970 and 2100 as spreadsheets count days."""


def _refuse_dates(values: FloatArray, table: Located) -> None:
    """`DataError` for dates written without separators, and days of a spreadsheet: as seconds they mean nothing."""
    if len(values) < 2:
        return
    if (written := _written_dates(values)) is not None:
        raise DataError(
            f"{table.name}, {table.where(0)}: the time {values[0]:.0f} looks like {written}, not like seconds; "
            "expected 2026-01-05T00:00:00Z or seconds since 1970"
        )
    if not (_SHEET_DAYS[0] <= values.min() and values.max() <= _SHEET_DAYS[1]):
        return
    gap = float(np.median(np.diff(values)))
    if 0 < gap < 1:
        in_days, in_milliseconds = gap * 86_400.0, gap * 1_000.0  # days have about eight decimals in a cell
        if abs(in_days - round(in_days)) < 0.1 and abs(in_milliseconds - round(in_milliseconds)) > 1e-3:
            raise DataError(
                f"{table.name}, {table.where(0)}: the time {values[0]:.10g} looks like days as spreadsheets count "
                f"them, in steps of {in_days:.0f} s; write the cells as dates, such as 2026-01-05T00:00:00Z"
            )


def _written_dates(values: FloatArray) -> str | None:
    """How dates are written as whole numbers, where all of them can be read so; None where not."""
    digits = len(f"{abs(float(values[0])):.0f}")
    if digits not in _DATE_DIGITS or (values != np.floor(values)).any():
        return None
    rest = values / 10.0 ** (digits - 8)
    days = np.floor(rest)
    if not ((days >= 19_700_101) & (days < 21_000_101)).all():
        return None
    clock = values - days * 10.0 ** (digits - 8)
    parts = [(days // 100 % 100, 1, 12), (days % 100, 1, 31)]
    for most in (23, 59, 59)[: (digits - 8) // 2]:
        digits -= 2
        unit = 10.0 ** (digits - 8)
        parts.append((clock // unit % 100, 0, most))
    fit = all(((part >= low) & (part <= high)).all() for part, low, high in parts)
    return _DATE_DIGITS[len(f"{abs(float(values[0])):.0f}")] if fit else None


def parse_meta(name: str, text: str) -> dict[str, Any]:
    """The metadata line of a CSV file, or of a Parquet file, as a dict."""
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{name}, line 1: the metadata after {META_PREFIX.strip()!r} is not JSON ({exc})") from exc
    if not isinstance(meta, dict):
        raise DataError(f"{name}, line 1: the metadata is not a JSON object")
    return meta


class SortedTable:
    """The rows of a table in the order of their times; rows of one time keep their order."""

    def __init__(self, base: Table, order: npt.NDArray[np.int64], time_column: str, times: ParsedTimes) -> None:
        self._base = base
        self._order = order
        self._time_column, self._times = time_column, times
        self.name, self.meta, self.header = base.name, base.meta, base.header

    def where(self, row: int) -> str:
        """Where a row stands in the file."""
        return self._base.where(int(self._order[row]))

    def numbers(self, columns: Sequence[str]) -> FloatArray:
        """(rows, columns) numbers."""
        return np.asarray(self._base.numbers(columns)[self._order])

    def texts(self, column: str) -> list[str]:
        """Texts."""
        cells = self._base.texts(column)
        return [cells[row] for row in self._order]

    def times(self, column: str) -> ParsedTimes:
        """Times."""
        times = self._times if column == self._time_column else self._base.times(column)
        return ParsedTimes(times.seconds[self._order], times.calendar, times.local)


class KnownTimes:
    """A table whose times were read already."""

    def __init__(self, base: Table, time_column: str, times: ParsedTimes) -> None:
        self._base, self._time_column, self._times = base, time_column, times
        self.name, self.meta, self.header = base.name, base.meta, base.header
        self.where, self.numbers, self.texts = base.where, base.numbers, base.texts

    def times(self, column: str) -> ParsedTimes:
        """Times, read once."""
        return self._times if column == self._time_column else self._base.times(column)


def in_order(table: Table, time_column: str) -> tuple[Table, str]:
    """The table with its rows in the order of their times, and what was done in words; empty where they were."""
    times = table.times(time_column)
    if len(times.seconds) < 2 or not np.isfinite(times.seconds).all() or not (np.diff(times.seconds) < 0).any():
        return KnownTimes(table, time_column, times), ""
    moved = int((np.diff(times.seconds) < 0).sum())
    order = np.argsort(times.seconds, kind="stable")
    note = f"sorted {len(order):,} rows by {time_column}: {moved:,} stood before the row above them"
    return SortedTable(table, order, time_column, times), note


class FilteredTable:
    """The rows of a table in which some columns have a given text; those columns are left out."""

    def __init__(self, base: Table, where: Mapping[str, str]) -> None:
        self._base = base
        self.name = base.name
        self.meta = base.meta
        keep = np.ones(0, dtype=bool)
        for column, text in where.items():
            cells = base.texts(pick_column(base, column))
            match = np.array([cell == text for cell in cells])
            if not match.any():
                raise DataError(f"{base.name}: no row has {column}={text}; {suggest(text, dict.fromkeys(cells))}")
            keep = match if not len(keep) else keep & match
        self._rows = np.flatnonzero(keep)
        if not len(self._rows):
            raise DataError(f"{base.name}: no row has " + " and ".join(f"{c}={t}" for c, t in where.items()))
        self.header = tuple(c for c in base.header if c not in where)

    def where(self, row: int) -> str:
        """Where a kept row stands in the file."""
        return self._base.where(int(self._rows[row]))

    def numbers(self, columns: Sequence[str]) -> FloatArray:
        """(rows, columns) the kept rows' numbers."""
        return np.asarray(self._base.numbers(columns)[self._rows])

    def texts(self, column: str) -> list[str]:
        """The kept rows' text."""
        cells = self._base.texts(column)
        return [cells[row] for row in self._rows]

    def times(self, column: str) -> ParsedTimes:
        """The kept rows' times."""
        times = self._base.times(column)
        return ParsedTimes(times.seconds[self._rows], times.calendar, times.local)
