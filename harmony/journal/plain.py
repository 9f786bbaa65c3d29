"""Dataclasses as strict JSON and back, exactly: missing fields take their defaults, unknown ones are passed over."""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import lru_cache
from math import isfinite
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import orjson

from forecasting.errors import DataError
from forecasting.panel import FloatArray

__all__ = ["dumps", "floats", "loads", "plain", "restored"]

T = TypeVar("T")
AS_IT_IS = frozenset({str, int, bool, type(None)})


def plain(value: Any) -> Any:  # noqa: ANN401
    """``value`` (numbers, text, dataclasses, tuples, dicts with text keys, None) as JSON can hold it.

    Numbers that JSON lacks become the words "nan", "inf" and "-inf".
    """
    kind: Any = type(value)
    if kind is float:
        return value if isfinite(value) else str(value)
    if kind in AS_IT_IS:
        return value
    if kind is tuple or kind is list:
        return [plain(v) for v in value]
    names = _names(kind)
    if names is not None:
        return {name: plain(getattr(value, name)) for name in names}
    return _rarer(value)


def _rarer(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float | np.floating):
        return plain(float(value))
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, frozenset | set):
        return [plain(v) for v in sorted(value)]
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    raise DataError(f"journal: a {type(value).__name__} cannot be kept")


def restored(kind: type[T], value: Any) -> T:  # noqa: ANN401
    """What `plain` made of a value of type ``kind``; `DataError` if it does not fit."""
    try:
        out: T = _restored(kind, value)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"journal: not a {getattr(kind, '__name__', kind)}: {error}") from error
    return out


def _restored(kind: Any, value: Any) -> Any:  # noqa: ANN401
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else _restored(next(a for a in arguments if a is not type(None)), value)
    if kind is Any or origin is Literal:
        return value
    if origin in (tuple, frozenset):
        many = origin is frozenset or (len(arguments) == 2 and arguments[1] is Ellipsis)
        kinds: Iterable[Any] = [arguments[0]] * len(value) if many else arguments
        return origin(_restored(k, v) for k, v in zip(kinds, value, strict=True))
    if origin is dict:
        return {_restored(arguments[0], k): _restored(arguments[1], v) for k, v in value.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{n: _restored(hint, value[n]) for n, hint in hints if n in value})
    return kind(value)


@lru_cache(maxsize=256)
def _names(kind: type[Any]) -> tuple[str, ...] | None:
    """Fields of a dataclass; None for any other type."""
    return tuple(f.name for f in fields(kind) if f.init) if is_dataclass(kind) else None


@lru_cache(maxsize=64)
def _hints(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((f.name, hints[f.name]) for f in fields(kind) if f.init)


def floats(values: FloatArray) -> list[Any]:
    """(n,) numbers as a JSON list."""
    out: list[Any] = values.tolist()
    return out if bool(np.isfinite(values).all()) else plain(out)


def dumps(value: Any) -> str:  # noqa: ANN401
    """Plain values as JSON text; floats keep every bit."""
    return orjson.dumps(value).decode()


def loads(text: str | bytes) -> Any:  # noqa: ANN401
    """What `dumps` wrote."""
    return orjson.loads(text)
