"""Pydantic models made of the model's classes: what a surface tells, as types that document and check it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import MISSING
from typing import Any, TypeVar

from pydantic import BaseModel, Field, create_model

from harmony.schema.fields import About, Class, Shape, columns_of
from harmony.schema.fields import Field as Told
from harmony.schema.surface import Surface

__all__ = ["Types", "model_of", "row_of"]

M = TypeVar("M", bound=BaseModel)


class Types:
    """Which types the models of a surface have. A place that has other numbers, texts or lists says so in a subclass.

    `sparse` surfaces leave out what is absent, so all that is not required may be missing.
    """

    sparse = False

    def __init__(self) -> None:
        self.known: dict[tuple[Class, Class], Any] = {}  # models of rows

    def number(self, about: About) -> Any:  # noqa: ANN401  (all of these are types)
        """A number that may be absent."""
        return float | None

    def whole(self, about: About) -> Any:  # noqa: ANN401
        """A whole number."""
        return int

    def word(self, told: Told) -> Any:  # noqa: ANN401
        """A text, or a word of a closed set."""
        return str

    def series(self, told: Told) -> Any:  # noqa: ANN401
        """An array."""
        return list[self.element(told)]  # type: ignore[misc]

    def curves(self, told: Told) -> Any:  # noqa: ANN401
        """Arrays by level."""
        return dict[str, list[self.number(About())]]  # type: ignore[misc]

    def rows(self, told: Told, row: type[BaseModel]) -> Any:  # noqa: ANN401
        """The rows of a table."""
        return list[row]  # type: ignore[valid-type]

    def element(self, told: Told) -> Any:  # noqa: ANN401
        """One number of an array."""
        if told.is_text:
            return str
        return self.whole(told.about) if told.is_whole else self.number(told.about)


def model_of(
    kind: Class,
    base: type[M],
    surface: Surface,
    types: Types,
    name: str = "",
    required: Collection[str] = (),
) -> type[M]:
    """A model with what ``surface`` tells of ``kind``, on top of ``base``; ``required`` are names there.

    A field of the dataclass that has a default has one here, so that a client takes answers of an older server; what
    is large may be null everywhere.
    """
    made: dict[str, Any] = {}
    for key, told, _ in surface.told(kind):
        hint = _hint(told, base, surface, types)
        default = _default(told)
        if told.is_large or told.optional or (types.sparse and key not in required):
            hint, default = hint | None, None
        made[key] = (hint, Field(... if key in required else default, description=told.text))
    return _made(name or surface.spelling(kind).name or kind.__name__, kind.__doc__, base, made)


def row_of(kind: Class, base: type[M], surface: Surface, types: Types) -> type[M]:
    """The model of a table's row, made once; its first column says which row it is."""
    known: type[M] | None = types.known.get((kind, base))
    if known is not None:
        return known
    spelling = surface.spelling(kind)
    made: dict[str, Any] = {}
    for column in columns_of(kind):
        if column.name not in spelling.without:
            hint: Any = types.element(column)
            default: Any = ...
            if types.sparse and made:
                hint, default = hint | None, None
            made[spelling.names.get(column.name, column.name)] = (hint, Field(default, description=column.text))
    row = _made(spelling.name or kind.__name__, spelling.text or kind.__doc__, base, made)
    types.known[kind, base] = row
    return row


def _made(name: str, text: str, base: type[M], fields: dict[str, Any]) -> type[M]:
    create: Any = create_model
    made: type[M] = create(name, __base__=base, __module__=base.__module__, __doc__=text, **fields)
    return made


def _hint(told: Told, base: type[M], surface: Surface, types: Types) -> Any:  # noqa: ANN401
    if told.inner is not None:
        return types.rows(told, row_of(told.inner, base, surface, types))
    makers: dict[Shape, Callable[[], Any]] = {
        Shape.NUMBER: lambda: types.number(told.about),
        Shape.WHOLE: lambda: types.whole(told.about),
        Shape.FLAG: lambda: bool,
        Shape.WORD: lambda: types.word(told),
        Shape.SERIES: lambda: types.series(told),
        Shape.CURVES: lambda: types.curves(told),
    }
    return makers[told.shape]()


def _default(told: Told) -> Any:  # noqa: ANN401
    if told.default is MISSING:
        return ...
    return None if isinstance(told.default, float) and not math.isfinite(told.default) else told.default
