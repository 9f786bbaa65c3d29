"""Parquet files as a `Table`."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import numpy as np
import polars as pl

from forecasting.errors import DataError
from forecasting.panel import FloatArray
from simulator.traces.dialect import PLAIN, Dialect
from simulator.traces.limits import check_columns, check_size
from simulator.traces.table import ParsedTimes, TextTable, check_names, numeric_times, parse_meta, pick_column

__all__ = ["META_KEY", "ParquetTable"]

META_KEY = "harmony-trace"
"""Key of the file metadata that carries units, levels and kinds (see `write`)."""

LONGEST_CELL = 10_000
"""Bytes of a text: each row gets a copy of its own, however often the file holds it once."""

EPOCH = datetime(1970, 1, 1)
T = TypeVar("T")


class ParquetTable:
    """A table in a Parquet file: numbers from numeric and boolean columns, times from dates, times or numbers."""

    def __init__(self, name: str, data: bytes, dialect: Dialect = PLAIN) -> None:
        self.name = name
        self._dialect = dialect
        lazy = pl.scan_parquet(io.BytesIO(data))
        self.header = tuple(self._guarded(lambda: lazy.collect_schema().names()))
        check_columns(name, len(self.header))
        self._rows = int(
            self._guarded(lambda: lazy.select(pl.len()).collect().item())
        )  # from the footer: nothing is unpacked
        check_size(name, self._rows, len(self.header))
        self._data = data
        if not self.header or not self._rows:
            raise DataError(f"{name}: no rows; expected at least 2")
        check_names(name, self.header)
        extra = self._guarded(lambda: pl.read_parquet_metadata(io.BytesIO(data)))
        self.meta: dict[str, Any] = parse_meta(name, extra[META_KEY]) if META_KEY in extra else {}

    def _read(self, columns: Sequence[str]) -> pl.DataFrame:
        """These columns alone: what nobody asks for may be texts of any size."""
        names = list(dict.fromkeys(pick_column(self, column) for column in columns))
        frame = self._guarded(lambda: pl.read_parquet(io.BytesIO(self._data), columns=names))
        if len(frame) != self._rows:
            raise DataError(
                f"{self.name}: broken Parquet file ({len(frame):,} rows, of which it states {self._rows:,})"
            )
        for series in frame.get_columns():
            if series.dtype == pl.String and len(frame):
                long = (series.str.len_bytes() > LONGEST_CELL).fill_null(False).to_numpy()
                if long.any():
                    raise DataError(
                        f"{self.name}, {self.where(int(np.argmax(long)))}, column {series.name!r}: a text of more than "
                        f"{LONGEST_CELL:,} bytes"
                    )
        return frame

    def _guarded(self, action: Callable[[], T]) -> T:
        """The action's result; what polars says of a broken file (even by a panic) becomes a `DataError`."""
        try:
            return action()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError, OverflowError) as exc:
            reason = (str(exc).strip() or type(exc).__name__).splitlines()[0][:160]
            raise DataError(f"{self.name}: broken Parquet file ({reason}); fetch or write it again") from exc

    def where(self, row: int) -> str:
        """The row number, counted from 1."""
        return f"row {row + 1}"

    def numbers(self, columns: Sequence[str]) -> FloatArray:
        """(rows, columns) float64, NaN where a cell is null or NaN."""
        parts = []
        frame = self._read(columns)
        for column in columns:
            series = frame[column]
            if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
                raise DataError(
                    f"{self.name}, column {column!r}: {series.dtype} values are no numbers; "
                    "choose the columns to read, or the rows (where COLUMN=TEXT)"
                )
            values = self._guarded(lambda s=series: s.cast(pl.Float64).fill_null(float("nan")).to_numpy())  # type: ignore[misc]
            if np.isinf(values).any():
                row = int(np.argmax(np.isinf(values)))
                raise DataError(
                    f"{self.name}, {self.where(row)}, column {column!r}: infinite; give a number or leave it null"
                )
            parts.append(values)
        return np.column_stack(parts) if parts else np.empty((self._rows, 0))

    def texts(self, column: str) -> list[str]:
        """One column as text, empty where null."""
        series = self._read([column])[column]
        return [
            "" if value is None else str(value) for value in self._guarded(lambda: series.cast(pl.String).to_list())
        ]

    def times(self, column: str) -> ParsedTimes:
        """One column as times (a date without a zone is taken as UTC)."""
        series = self._read([column])[column]
        if series.null_count():
            row = int(np.argmax(series.is_null().to_numpy()))
            raise DataError(f"{self.name}, {self.where(row)}, column {column!r}: no time")
        if series.dtype in (pl.Datetime, pl.Date):
            stamps = self._guarded(lambda: series.cast(pl.Datetime("us")).dt.epoch("us").to_numpy())
            local = getattr(series.dtype, "time_zone", None) is None
            if local and self._dialect.timezone:
                naive = [EPOCH + timedelta(microseconds=int(at)) for at in np.asarray(stamps)]
                return ParsedTimes(np.array(self._dialect.seconds(naive)), calendar=True)
            return ParsedTimes(np.asarray(stamps, dtype=np.float64) / 1e6, calendar=True, local=local)
        if series.dtype.is_numeric():
            return numeric_times(self.numbers([column])[:, 0], self, str(self.meta.get("time_unit", "")))
        cells = "\n".join([column, *self.texts(column)])
        return TextTable(self.name, cells, self._dialect).times(column)
