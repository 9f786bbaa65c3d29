"""`SpecError`: what is wrong in which field of which object, and what would be accepted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from forecasting.errors import InputError, suggest

__all__ = ["SpecError", "from_validation"]

Loc = tuple[int | str, ...]
COMPARISONS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}
TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "an object",
    "finite_number": "a finite number",
}


class SpecError(InputError):
    """A mistake in a GPUAutoscaler's spec or in an annotation.

    `where` is namespace/name of the object, `path` the field in dotted form.
    """

    def __init__(self, where: str, path: str, message: str) -> None:
        super().__init__(f"{where}: {path}: {message}")
        self.where, self.path, self.message = where, path, message


def from_validation(
    error: ValidationError, where: str, root: str, model: type[BaseModel], names: Mapping[Loc, str] | None = None
) -> SpecError:
    """The first mistake as a sentence, and where the others are.

    ``names`` gives other names to some fields (those that were read from annotations).
    """
    found = error.errors(include_url=False)

    def path(loc: Loc) -> str:
        return (names or {}).get(loc) or dotted(root, loc)

    first = found[0]
    message = _message(first, model)
    others = list(dict.fromkeys(path(e["loc"]) for e in found[1:]))
    if others:
        message += f" (also wrong: {', '.join(others[:3])}{', ...' if len(others) > 3 else ''})"
    return SpecError(where, path(first["loc"]), message)


def dotted(root: str, loc: Iterable[int | str]) -> str:
    """Path of a field as people write it: ``spec.schedules[0].name``."""
    out = root
    for part in loc:
        out += f"[{part}]" if isinstance(part, int) else f".{part}"
    return out


def _message(error: ErrorDetails, model: type[BaseModel]) -> str:
    """What is wrong, and what would be accepted."""
    kind, loc, context = error["type"], error["loc"], error.get("ctx", {})
    hint = _hint(_field(model, loc))
    if kind == "missing":
        return f"is missing{hint}"
    if kind == "extra_forbidden":
        inside = _model(model, loc[:-1])
        known = [] if inside is None else [f.alias or name for name, f in inside.model_fields.items()]
        offer = suggest(str(loc[-1]), known)
        return f"no such field{'; ' + offer if offer else ''}"
    shown = _shown(error["input"])
    if kind in COMPARISONS:
        limit, sign = COMPARISONS[kind]
        if isinstance(context[limit], float) and 0.0 < context[limit] < 1.0:
            hint += "; a share of 1, not percent"
        return f"{shown} is not {sign} {_number(context[limit])}{hint}"
    if kind == "literal_error":
        return f"{shown} is not one of {context['expected'].replace(' or ', ', ').replace(chr(39), '')}"
    if kind == "string_pattern_mismatch":
        return f"{shown} does not have the right form{hint}"
    if kind in TYPES:
        return f"{shown} is not {TYPES[kind]}{hint}"
    said = error["msg"]
    return f"{shown}: {said[0].lower()}{said[1:]}{hint}"


def _shown(value: object) -> str:
    """A value as JSON, cut to a readable length."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _number(value: float) -> str:
    return f"{value:,.15g}".replace(",", "_") if abs(value) >= 1e6 else f"{value:g}"


def _hint(field: FieldInfo | None) -> str:
    """The first clause of a field's description as what is expected."""
    if field is None or not field.description:
        return ""
    clause = field.description.split(";")[0].split(" (default")[0].rstrip(".").replace(", such as", " such as")
    first = clause.split()[0]
    return f"; {clause if any(c.isupper() for c in first[1:]) else clause[0].lower() + clause[1:]}"


def _inner(annotation: object) -> type[BaseModel] | None:
    """The model inside an annotation such as ``tuple[ScheduleSpec, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for m in map(_inner, get_args(annotation)) if m is not None), None)


def _field(model: type[BaseModel], loc: Loc) -> FieldInfo | None:
    """The innermost field that ``loc`` passes through."""
    field: FieldInfo | None = None
    inside: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int) or inside is None:
            continue
        found = next((f for name, f in inside.model_fields.items() if part in (f.alias, name)), None)
        if found is None:
            return field
        field, inside = found, _inner(found.annotation)
    return field


def _model(model: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    """The model that ``loc`` leads to."""
    field = _field(model, loc)
    return model if field is None else _inner(field.annotation)
