"""A class is told everywhere as its fields say: values, models, and exactly back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from forecasting.errors import DataError
from forecasting.panel import FloatArray
from harmony.model.decision import Candidates, Decision, Reason
from harmony.schema.exact import dumps, jsonable, loads, rebuilt, restored
from harmony.schema.fields import PRIVATE, About, Shape, columns_of, fields_of
from harmony.schema.models import Types, model_of
from harmony.schema.surface import Spelling, Surface, plain
from tests.journal.equal import assert_equal

NAN, INF = math.nan, math.inf


@dataclass(frozen=True, eq=False, slots=True)
class Weighed:
    """A table with a note about all of it."""

    count: Annotated[npt.NDArray[np.int64], About("The count.", least=0)]
    risk: Annotated[FloatArray, About("The risk.", 0, 1)]
    paths: int = 3


@dataclass(frozen=True, eq=False, slots=True)
class Choice:
    """One field of each shape."""

    number: Annotated[float, About("A number.")]
    whole: int
    flag: bool = True
    word: Reason = Reason.FIXED
    maybe: int | None = None
    series: FloatArray = field(default_factory=lambda: np.array([1.0, NAN]))
    curves: dict[float, FloatArray] = field(default_factory=dict)
    table: Weighed | None = None
    secret: Annotated[Any, PRIVATE] = None


def table() -> Weighed:
    return Weighed(np.array([1, 2]), np.array([0.123456789, NAN]), 7)


def test_fields_are_read_off_the_type() -> None:
    assert {f.name: f.shape for f in fields_of(Choice)} == {
        "number": Shape.NUMBER,
        "whole": Shape.WHOLE,
        "flag": Shape.FLAG,
        "word": Shape.WORD,
        "maybe": Shape.WHOLE,
        "series": Shape.SERIES,
        "curves": Shape.CURVES,
        "table": Shape.TABLE,
    }
    assert [f.name for f in fields_of(Choice) if f.is_large] == ["series", "curves", "table"]
    assert [c.name for c in columns_of(Weighed)] == ["count", "risk"]
    assert [f.text for f in fields_of(Choice)][:2] == ["A number.", "Whole."]


def test_a_type_that_no_surface_can_tell_is_named_at_once() -> None:
    @dataclass
    class Odd:
        when: complex

    with pytest.raises(TypeError, match=r"Odd\.when: .*complex.* expected a number"):
        fields_of(Odd)


def test_absent_numbers_are_null_and_no_table_is_no_rows() -> None:
    curves = {0.5: np.array([INF, 2.0])}
    assert plain(Choice(-INF, 2, curves=curves, table=table(), secret=object())) == {
        "number": None,
        "whole": 2,
        "flag": True,
        "word": "Fixed",
        "maybe": None,
        "series": [1.0, None],
        "curves": {"0.5": [None, 2.0]},
        "table": [{"count": 1, "risk": 0.123456789}, {"count": 2, "risk": None}],
        "paths": 7,
    }
    none = plain(Choice(1.0, 2))
    assert (none["table"], none["paths"]) == ([], 3)


def test_a_surface_says_only_what_it_spells_otherwise() -> None:
    surface = Surface(
        {
            Choice: Spelling(names={"number": "amount"}, without=frozenset({"curves", "series", "flag"})),
            Weighed: Spelling(names={"count": "replicas"}, digits={"risk": 2}),
        }
    )
    assert surface.values(Choice(1.5, 2, table=table())) == {
        "amount": 1.5,
        "whole": 2,
        "word": "Fixed",
        "maybe": None,
        "table": [{"replicas": 1, "risk": 0.12}, {"replicas": 2, "risk": None}],
        "paths": 7,
    }


def test_a_field_of_a_class_made_of_another_is_told_by_the_same_surface() -> None:
    @dataclass(frozen=True, eq=False, slots=True)
    class Longer(Choice):
        example: int = 5

    surface = Surface({Choice: Spelling(without=frozenset({"series"}))})
    told = surface.values(Longer(1.0, 2))
    assert told["example"] == 5
    assert "series" not in told
    assert "example" in model_of(Longer, BaseModel, surface, Types()).model_fields


def test_a_model_takes_what_its_surface_tells_and_documents_it() -> None:
    surface = Surface()
    model: Any = model_of(Choice, BaseModel, surface, Types())
    told = surface.values(Choice(NAN, 2, table=table()))
    assert model.model_validate(told).model_dump() == told
    made = model(number=None, whole=1)  # an older server knows nothing of the rest
    assert (made.word, made.table, made.paths) == ("Fixed", None, 3)
    schema = model.model_json_schema()
    assert schema["properties"]["number"]["description"] == "A number."
    assert schema["required"] == ["number", "whole"]


FLOATS = st.floats(width=64)
ARRAYS = hnp.arrays(np.float64, 3, elements=FLOATS)


@given(FLOATS, st.integers(-(2**62), 2**62), ARRAYS, st.lists(ARRAYS, min_size=4, max_size=4))
def test_what_is_kept_comes_back_to_the_last_bit(
    x: float, n: int, curve: FloatArray, columns: list[FloatArray]
) -> None:
    candidates = Candidates(np.array([n, 0, 1]), *columns, paths=9)
    decision = Decision(n, 1, Reason.FORECAST, x, x, candidates, bound_by="epsilon", quantiles={0.1: curve}, model="m")
    values = loads(dumps({f.name: getattr(decision, f.name) for f in fields_of(Decision)}))
    assert_equal(rebuilt(Decision, values), decision, "decision")
    json.dumps(values, allow_nan=False)
    json.dumps(decision.to_json(), allow_nan=False)


def test_what_is_missing_takes_its_default_and_what_is_unknown_is_passed_over() -> None:
    values = {"replicas": 3, "current": 2, "reason": "Fixed", "of a later version": {}}
    assert_equal(rebuilt(Decision, values), Decision(3, 2, Reason.FIXED), "decision")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reason": "Whim"}, "not a Decision: reason: "),
        ({"replicas": "many"}, "not a Decision: replicas: "),
        ({"candidates": {"replicas": [1]}}, "not a Decision: candidates: .*not a Candidates"),
        ({"quantiles": {"half": [1.0]}}, "not a Decision: quantiles: "),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], words: str) -> None:
    values: dict[str, Any] = {"replicas": 3, "current": 2, "reason": "Fixed"}
    with pytest.raises(DataError, match=words):
        rebuilt(Decision, values | change)
    with pytest.raises(DataError, match="replicas"):
        rebuilt(Decision, {name: value for name, value in values.items() if name != "replicas"} | {"replicas": None})


def test_what_cannot_be_kept_is_refused() -> None:
    for odd in (object(), "\ud800"):
        with pytest.raises(DataError, match="cannot be kept"):
            dumps({"x": odd})
    with pytest.raises(DataError, match="cannot be kept"):
        jsonable(object())
    with pytest.raises(DataError, match="no JSON"):
        loads("{")
    with pytest.raises(DataError, match="not a "):
        restored(tuple[float, ...], "x")
