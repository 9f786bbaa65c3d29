"""Values as JSON and back to the last bit, through pydantic: what a store keeps.

Numbers that JSON lacks are the words "NaN", "Infinity" and "-Infinity". On reading, fields that are missing take their
defaults and unknown ones are passed over, so that either side may be of another version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, partial
from typing import Annotated, Any, TypeVar

import numpy as np
import orjson
from pydantic import BaseModel, BeforeValidator, TypeAdapter, ValidationError, create_model
from pydantic_core import PydanticSerializationError, to_json

from forecasting.errors import DataError
from harmony.schema.fields import Class, Field, Shape, fields_of

__all__ = ["dumps", "jsonable", "loads", "rebuilt", "restored"]

T = TypeVar("T")


def dumps(value: Any) -> str:  # noqa: ANN401
    """``value`` (plain values, dataclasses, arrays) as JSON text; `DataError` for what cannot be kept."""
    return _written(value).decode()


def jsonable(value: Any) -> Any:  # noqa: ANN401
    """The same as plain values, for a larger JSON."""
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, np.ndarray) and (value.dtype.kind == "U" or bool(np.isfinite(value).all())):
        return value.tolist()
    return orjson.loads(_written(value))


def _written(value: Any) -> bytes:  # noqa: ANN401
    try:
        return to_json(value, inf_nan_mode="strings", fallback=_other)
    except (PydanticSerializationError, TypeError) as error:
        raise DataError(f"{type(value).__name__} cannot be kept: {error}") from error


def loads(text: str | bytes) -> Any:  # noqa: ANN401
    """What `dumps` wrote, as plain values; `DataError` for what is no JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(f"no JSON: {error}") from error


def restored(kind: type[T], value: Any) -> T:  # noqa: ANN401
    """A value of ``kind`` (a dataclass, tuple, ...) from its plain values; `DataError` if they do not fit."""
    try:
        adapter: Class = kind
        out: T = _adapter(adapter).validate_python(value)
    except ValidationError as error:
        raise _misfit(kind, error) from error
    return out


def rebuilt(kind: type[T], values: Mapping[str, Any]) -> T:
    """The same for a class with arrays, all of whose fields are told (see `harmony.schema.fields`)."""
    try:
        target: Class = kind
        made = _reader(target).model_validate(values)
        return kind(**{name: getattr(made, name) for name in made.model_fields_set})
    except ValidationError as error:
        raise _misfit(kind, error) from error
    except TypeError as error:
        raise DataError(f"not a {kind.__name__}: {error}") from error


@cache
def _adapter(kind: Class) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@cache
def _reader(kind: Class) -> type[BaseModel]:
    fields: dict[str, Any] = {f.name: (_hint(f), None) for f in fields_of(kind)}
    return create_model(kind.__name__, **fields)


def _hint(told: Field) -> Any:  # noqa: ANN401
    if told.shape is Shape.SERIES:
        return Annotated[Any, BeforeValidator(partial(np.asarray, dtype=told.dtype))]
    if told.shape is Shape.CURVES:
        return Annotated[Any, BeforeValidator(_curves)]
    if told.inner is not None:
        return Annotated[Any, BeforeValidator(partial(_table, told.inner))]
    return told.hint


def _curves(value: Mapping[str, Any]) -> dict[float, Any]:
    return {float(level): np.asarray(values, dtype=np.float64) for level, values in value.items()}


def _table(kind: Class, value: Mapping[str, Any] | None) -> Any:  # noqa: ANN401
    return None if value is None else rebuilt(kind, value)


def _other(value: Any) -> Any:  # noqa: ANN401
    """Arrays as lists."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is no plain value")


def _misfit(kind: Class, error: ValidationError) -> DataError:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return DataError(f"not a {getattr(kind, '__name__', kind)}: {f'{where}: ' if where else ''}{first['msg']}")
