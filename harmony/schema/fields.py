"""What there is to tell of a dataclass: its fields with their shapes, read off its type hints once."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum, StrEnum
from functools import cache
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin, get_type_hints

import numpy as np

__all__ = ["PRIVATE", "About", "Class", "Field", "Shape", "columns_of", "fields_of", "is_table"]

Class: TypeAlias = Any  # a class, or an alias of one: mypy takes ``type[Any]`` for unhashable


@dataclass(frozen=True, slots=True)
class About:
    """What is said of a field wherever it is told, as ``Annotated[int, About("Replicas ordered before.", least=0)]``.

    `least` and `most` are its bounds; `private` fields are told nowhere. A field without any of this is told all the
    same, under its name.
    """

    text: str = ""
    least: float | None = None
    most: float | None = None
    private: bool = False


PRIVATE = About(private=True)


class Shape(Enum):
    """What a field holds."""

    NUMBER = "float; NaN and infinite are absent"
    WHOLE = "int"
    FLAG = "bool"
    WORD = "str, or a closed set of them"
    SERIES = "array of numbers, in a table of texts too"
    CURVES = "arrays by level (a number)"
    TABLE = "dataclass whose arrays are columns"


@dataclass(frozen=True, slots=True)
class Field:
    """One field: `hint` is its type, `inner` the class of a table, `dtype` the type of a series' elements."""

    name: str
    hint: Any
    shape: Shape
    about: About
    optional: bool
    default: Any
    inner: type[Any] | None = None
    dtype: type[Any] = np.float64

    @property
    def text(self) -> str:
        """What is said of it; its name in words where nothing is."""
        return self.about.text or f"{self.name.replace('_', ' ').capitalize()}."

    @property
    def is_large(self) -> bool:
        """True for what lists leave out."""
        return self.shape in (Shape.SERIES, Shape.CURVES, Shape.TABLE)

    @property
    def is_whole(self) -> bool:
        """True for a series of whole numbers."""
        return np.issubdtype(self.dtype, np.integer)

    @property
    def is_text(self) -> bool:
        """True for a column of texts."""
        return np.issubdtype(self.dtype, np.str_)


def fields_of(kind: Class) -> tuple[Field, ...]:
    """The fields of a dataclass that are told, in their order; `TypeError` for one of a type that cannot be."""
    return _fields_of(kind)


def columns_of(kind: Class) -> tuple[Field, ...]:
    """The columns of a table: its arrays. What else it has is about all of it."""
    return _columns_of(kind)


def is_table(kind: Class) -> bool:
    """Whether it is a dataclass with arrays."""
    return _is_table(kind)


@cache
def _fields_of(kind: Class) -> tuple[Field, ...]:
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for f in fields(kind):
        about, hint = _split(hints[f.name])
        if not about.private:
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            try:
                found.append(_field(f.name, hint, about, default))
            except TypeError as error:
                raise TypeError(f"{kind.__name__}.{f.name}: {error}") from None
    return tuple(found)


@cache
def _columns_of(kind: Class) -> tuple[Field, ...]:
    return tuple(f for f in fields_of(kind) if f.shape is Shape.SERIES)


@cache
def _is_table(kind: Class) -> bool:
    return is_dataclass(kind) and isinstance(kind, type) and bool(columns_of(kind))


def _split(hint: Any) -> tuple[About, Any]:  # noqa: ANN401
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        return next((n for n in notes if isinstance(n, About)), About()), inner
    return About(), hint


def _field(name: str, hint: Any, about: About, default: Any) -> Field:  # noqa: ANN401
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = [a for a in arguments if a is not type(None)]
        if len(inner) != 1 or len(inner) == len(arguments):
            raise TypeError(f"{hint} has no one shape")
        one = _field(name, inner[0], about, default)
        return Field(name, hint, one.shape, about, True, default, one.inner, one.dtype)
    if origin is np.ndarray:
        return Field(name, hint, Shape.SERIES, about, False, default, dtype=get_args(arguments[1])[0])
    if origin in (dict, Mapping) and arguments[0] is float and get_origin(arguments[1]) is np.ndarray:
        return Field(name, hint, Shape.CURVES, about, False, default)
    if is_table(hint):
        return Field(name, hint, Shape.TABLE, about, False, default, inner=hint)
    for shape, kinds in _PLAIN:
        if hint in kinds or (shape is Shape.WORD and isinstance(hint, type) and issubclass(hint, StrEnum)):
            return Field(name, hint, shape, about, False, default)
    known = "a number, text, flag, array, arrays by level or a dataclass of arrays"
    raise TypeError(f"{hint} is of no known shape: expected {known}, or the note PRIVATE")


_PLAIN = ((Shape.FLAG, (bool,)), (Shape.WHOLE, (int,)), (Shape.NUMBER, (float,)), (Shape.WORD, (str,)))
