"""A header and arrays in one compact byte string, exactly: what the journal keeps of forecasts and histories."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from forecasting.errors import DataError
from harmony.schema.exact import dumps, loads

__all__ = ["pack", "unpack"]

FORMAT = 1
TELLING = 2  # bytes per number (sign, exponent, first digits) that neighbours have in common; the others are noise
SAMPLE = 256  # numbers that are looked at

Array = npt.NDArray[Any]


def pack(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """``header`` (what `harmony.schema.exact.dumps` takes) and little-endian ``arrays`` as bytes.

    The bytes of the numbers are sorted by significance; only those with something in common are compressed, which is
    both smaller and several times faster than to compress them all.
    """
    about, telling, noise = [], [], []
    for name, array in arrays.items():
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        planes = array.reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T
        cut = planes.shape[0] - TELLING
        if planes.size and not planes[0, :SAMPLE].any():  # whole numbers and the like: no noise
            cut = 0
        noise.append(planes[:cut].tobytes())
        telling.append(planes[cut:].tobytes())
        about.append([name, array.dtype.str, list(array.shape), cut])
    head = dumps({"header": header, "arrays": about}).encode()
    packed = zlib.compress(b"".join([len(head).to_bytes(4, "little"), head, *telling]), 1)
    return b"".join([bytes([FORMAT]), len(packed).to_bytes(4, "little"), packed, *noise])


def unpack(blob: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Header and arrays; `DataError` for what `pack` did not write."""
    if len(blob) < 5 or blob[0] != FORMAT:
        raise DataError(f"journal: a packed value of format {blob[:1].hex() or 'none'}, expected {FORMAT:02x}")
    size = int.from_bytes(blob[1:5], "little")
    try:
        body, noise = zlib.decompress(blob[5 : 5 + size]), blob[5 + size :]
        end = 4 + int.from_bytes(body[:4], "little")
        head, body = loads(body[4:end]), body[end:]
        arrays = {}
        for name, kind, shape, cut in head["arrays"]:
            dtype = np.dtype(kind)
            count = int(np.prod(shape))
            low, noise = noise[: cut * count], noise[cut * count :]
            high, body = body[: (dtype.itemsize - cut) * count], body[(dtype.itemsize - cut) * count :]
            planes = np.frombuffer(low + high, np.uint8).reshape(dtype.itemsize, count)
            arrays[name] = np.ascontiguousarray(planes.T).reshape(-1).view(dtype).reshape(shape)
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise DataError(f"journal: a packed value is damaged ({error})") from error
    return head["header"], arrays
