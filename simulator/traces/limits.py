"""How large a trace may become: a small file must not ask for a machine's memory, nor one wrong time for years of rows.

Everything here is checked before memory is taken.
"""

from __future__ import annotations

import zlib

import numpy as np

from forecasting.errors import DataError
from forecasting.panel import FloatArray

__all__ = ["LEAST", "MOST_CELLS", "MOST_COLUMNS", "absurd_gap", "check_columns", "check_size", "unpacked"]

MOST_CELLS = 50_000_000
"""Rows times columns of a panel: 400 MB of numbers; a year of one-minute rows of 95 indicators."""
MOST_COLUMNS = 10_000
MOST_BYTES = 2_000_000_000
"""Bytes of a file, unpacked."""
MOST_RATIO = 100
"""How many times its packed size a file may unpack to (numbers as text pack 3 to 30 times); `ALWAYS_BYTES` are fine."""
ALWAYS_BYTES = 64_000_000
LEAST = float(np.finfo(np.float32).tiny)
"""Of a mean demand: a replica that carries less carries nothing."""
LONG_GAP_ROWS = 10_000
LONG_GAP_SHARE = 0.9
_PIECE = 1 << 20


def unpacked(data: bytes, name: str) -> bytes:
    """The gzip file's content; `DataError` where it is broken, or unpacks to far more than tables do."""
    most = min(MOST_BYTES, max(ALWAYS_BYTES, MOST_RATIO * len(data)))
    out, rest = bytearray(), data
    try:
        while rest:
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                piece = member.decompress(rest, _PIECE)
                rest = member.unconsumed_tail
                if not piece and not rest and not member.eof:
                    raise EOFError("it ends too early")
                out += piece
                if len(out) > most:
                    raise DataError(
                        f"{name}: {len(data):,} packed bytes unpack to more than {most:,}, which no table of numbers "
                        "does; unpack it yourself if it is meant"
                    )
            rest = member.unused_data.lstrip(b"\0")  # archives may be padded, and several may stand in a row
    except (EOFError, zlib.error) as exc:
        raise DataError(f"{name}: broken gzip archive ({exc}); unpack it or fetch it again") from exc
    return bytes(out)


def check_columns(name: str, count: int) -> None:
    """`DataError` for more columns than a table of indicators has."""
    if count > MOST_COLUMNS:
        raise DataError(f"{name}: {count:,} columns; expected at most {MOST_COLUMNS:,}")


def check_size(name: str, rows: float, columns: int, step_s: float | None = None) -> None:
    """`DataError` for more cells than are held; ``step_s`` seconds of a row on a grid, None for rows of a file."""
    if rows * max(1, columns) > MOST_CELLS:
        what = "rows" if step_s is None else f"steps of {step_s:.6g} s"
        raise DataError(
            f"{name}: {rows:,.0f} {what} x {columns} columns; expected at most {MOST_CELLS:,} cells in all: choose "
            "fewer columns, a longer step, or split the file"
        )


def absurd_gap(seconds: FloatArray, step_s: float) -> int | None:
    """The row after a gap that is absurd beside the step, else None: one wrong time makes nearly all of the span.

    ``seconds`` (rows,) ascending. A gap counts as absurd if it is longer than `LONG_GAP_ROWS` steps and more than
    `LONG_GAP_SHARE` of the time from the first row to the last.
    """
    gaps = np.diff(seconds)
    if not gaps.size:
        return None
    at = int(np.argmax(gaps))
    span = float(seconds[-1] - seconds[0])
    if gaps[at] > LONG_GAP_ROWS * step_s and gaps[at] > LONG_GAP_SHARE * span:
        return at + 1
    return None
