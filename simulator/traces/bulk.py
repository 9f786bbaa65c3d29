"""The quick way through large, clean tables of text; whatever is not plainly clean is left to the careful way.

`TextTable` reads cell by cell and knows the line of every mistake. For tables of many megabytes that takes a while, so
it asks here first. The answer is None as soon as anything is out of the ordinary (quotes, rows of another length, cells
that are no numbers), and the careful way then either reads it or says what is wrong: both ways give equal values.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import polars as pl

from forecasting.panel import FloatArray

__all__ = ["bulk_numbers", "bulk_texts"]


def bulk_numbers(body: str, delimiter: str, width: int, at: Sequence[int]) -> FloatArray | None:
    """(rows, len(at)) the columns ``at`` as numbers, NaN where empty; None unless every cell is finite or empty."""
    frame = _frame(body, delimiter, width, at)
    if frame is None:
        return None
    columns = []
    for series in frame.get_columns():
        numbers = series.cast(pl.Float64, strict=False)
        if numbers.null_count() != int((series == "").sum()):
            return None
        values = numbers.fill_null(float("nan")).to_numpy()
        if np.isinf(values).any():
            return None
        columns.append(values)
    return np.column_stack(columns) if columns else np.empty((len(frame), 0))


def bulk_texts(body: str, delimiter: str, width: int, at: int) -> list[str] | None:
    """The column ``at`` as text; None unless the table is clean."""
    frame = _frame(body, delimiter, width, [at])
    if frame is None:
        return None
    texts: list[str] = frame.to_series().to_list()
    return texts


def _frame(body: str, delimiter: str, width: int, at: Sequence[int]) -> pl.DataFrame | None:
    """The columns as text, the header left out; None unless every line has ``width`` fields and nothing is quoted."""
    if width < 2 or '"' in body or "\r" in body or "\0" in body:
        return None
    data = body.encode()
    if not _even(np.frombuffer(data, dtype=np.uint8), ord(delimiter), width):
        return None
    names = [str(number) for number in range(width)]
    try:
        frame = pl.read_csv(
            io.BytesIO(data),
            has_header=False,
            skip_rows=1,
            new_columns=names,
            separator=delimiter,
            quote_char=None,
            infer_schema=False,
        )
    except pl.exceptions.PolarsError:
        return None
    return frame.select([names[number] for number in at]).fill_null("") if frame.width == width else None


def _even(data: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], delimiter: int, width: int) -> bool:
    """Whether the text has a header, at least one more line, and ``width - 1`` delimiters in every line."""
    ends = np.flatnonzero(data == 10)
    if len(ends) == 0 or ends[-1] != len(data) - 1:
        ends = np.append(ends, len(data))
    if len(ends) < 2:
        return False
    found = np.searchsorted(np.flatnonzero(data == delimiter), ends)
    return bool((np.diff(found, prepend=0) == width - 1).all())
