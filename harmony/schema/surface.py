"""`Surface`: one place where the model is told, as plain values; only what it spells otherwise is written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harmony.schema.fields import Class, Field, Shape, columns_of, fields_of

__all__ = ["PLAIN", "Spelling", "Surface", "number", "numbers", "plain"]

Json = dict[str, Any]
Encode = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a surface tells one class.

    Attributes:
        name, text: what its model (of a table: that of a row) is called there and what it says of itself; empty for
            the class's own name and words.
        names: names there of fields that are called otherwise.
        without: fields that are not told there.
        digits: significant digits of a field's numbers.
    """

    name: str = ""
    text: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    digits: Mapping[str, int] = field(default_factory=dict)


class Surface:
    """Tells values of the model's classes as JSON has them: an absent number (NaN, infinite) is null.

    What a table says about all of itself stands beside it, as `paths` beside `candidates`; no table is no rows.
    """

    def __init__(self, spelt: Mapping[Class, Spelling] | None = None) -> None:
        self._spelt = dict(spelt or {})
        self._plans: dict[Class, tuple[tuple[str, str, Encode], ...]] = {}

    # ---- what surfaces may do otherwise ---------------------------------------------------------------------
    def key(self, name: str) -> str:
        """How a name is written."""
        return name

    def number(self, digits: int | None) -> Encode:
        """How a number is written."""
        return number if digits is None else lambda value: _short(value, digits)

    def series(self, digits: int | None) -> Encode:
        """How an array is written."""
        one = self.number(digits)
        return lambda values: [one(v) for v in values.tolist()]

    def curves(self, digits: int | None) -> Encode:
        """How arrays by level are written."""
        series = self.series(digits)
        return lambda curves: {f"{level:g}": series(values) for level, values in curves.items()}

    # ---- telling --------------------------------------------------------------------------------------------
    def spelling(self, kind: Class) -> Spelling:
        """How a class, or one that it is made of, is told here."""
        return next((self._spelt[base] for base in kind.__mro__ if base in self._spelt), Spelling())

    def told(self, kind: Class) -> tuple[tuple[str, Field, Field], ...]:
        """All that is told of a class: its name here, the field, and the field whose value has it (mostly itself)."""
        spelling = self.spelling(kind)
        return tuple(
            (spelling.names.get(one.name, one.name), one, owner)
            for owner in fields_of(kind)
            if owner.name not in spelling.without
            for one in (owner, *_beside(owner))
        )

    def values(self, value: Any) -> Json:  # noqa: ANN401  (any dataclass)
        """All that is told of a value."""
        kind = type(value)
        plan = self._plans.get(kind)
        if plan is None:
            plan = self._plans[kind] = self._plan(kind)
        return {key: encode(getattr(value, name)) for key, name, encode in plan}

    def rows(self, table: Any) -> list[Json]:  # noqa: ANN401
        """One object per row of a table."""
        spelling = self.spelling(type(table))
        told = [c for c in columns_of(type(table)) if c.name not in spelling.without]
        names = [self.key(spelling.names.get(c.name, c.name)) for c in told]
        columns = [self._column(c, getattr(table, c.name), spelling) for c in told]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]

    def _column(self, told: Field, values: Any, spelling: Spelling) -> list[Any]:  # noqa: ANN401
        as_it_is = told.is_whole or told.is_text
        out: list[Any] = values.tolist() if as_it_is else self.series(spelling.digits.get(told.name))(values)
        return out

    def _plan(self, kind: Class) -> tuple[tuple[str, str, Encode], ...]:
        spelling = self.spelling(kind)
        return tuple(
            (
                self.key(name),
                owner.name,
                self._encoder(one, spelling) if one is owner else self._encoder_beside(one, spelling),
            )
            for name, one, owner in self.told(kind)
        )

    def _encoder_beside(self, told: Field, spelling: Spelling) -> Encode:
        encode, name, default = self._encoder(told, spelling), told.name, told.default
        return lambda table: encode(default if table is None else getattr(table, name))

    def _encoder(self, told: Field, spelling: Spelling) -> Encode:
        digits = spelling.digits.get(told.name)
        if told.shape is Shape.TABLE:
            return lambda table: [] if table is None else self.rows(table)
        makers: dict[Shape, Callable[[], Encode]] = {
            Shape.NUMBER: lambda: self.number(digits),
            Shape.WHOLE: lambda: int,
            Shape.FLAG: lambda: bool,
            Shape.WORD: lambda: str,
            Shape.SERIES: lambda: self.series(digits),
            Shape.CURVES: lambda: self.curves(digits),
        }
        encode = makers[told.shape]()
        return (lambda value: None if value is None else encode(value)) if told.optional else encode


def _beside(told: Field) -> tuple[Field, ...]:
    """What a table says about all of itself: fields that stand beside it."""
    if told.inner is None:
        return ()
    return tuple(f for f in fields_of(told.inner) if f.shape is not Shape.SERIES)


def number(value: float | None) -> float | None:
    """The number, or None where it is absent or infinite."""
    return None if value is None or not math.isfinite(value) else float(value)


def numbers(values: Any) -> list[float | None]:  # noqa: ANN401  (an array)
    """(n,) values as a list, None where absent; six significant digits."""
    return [_short(v, 6) for v in values.tolist()]


def _short(value: float, digits: int) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


PLAIN = Surface()


def plain(value: Any) -> Json:  # noqa: ANN401  (any dataclass)
    """All that is told of a dataclass, under its own names; absent numbers are null."""
    return PLAIN.values(value)
