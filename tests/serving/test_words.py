"""Figures and decisions in words."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony.model.decision import Reason
from harmony.serving import Snapshot, sentence
from harmony.serving.words import allowed, chance, percent
from tests.serving import builders

shares = st.floats(0.0001, 1.0)


@pytest.mark.parametrize(
    ("share", "limits", "text"),
    [
        (0.0104, (), "1 %"),
        (0.0104, (0.01,), "1.04 %"),
        (0.00996, (0.01,), "0.996 %"),
        (0.01, (0.01,), "1 %"),
        (0.01 * (1 + 1e-12), (0.01,), "1 %"),
        (0.0100049, (0.01,), "1.0005 %"),
        (0.023, (0.01,), "2.3 %"),
        (0.994, (), "99 %"),
        (0.9996, (), "100 %"),
        (0.9996, (0.999,), "100 %"),
        (-2.5, (), "-250 %"),
        (0.00002, (0.01,), "< 0.01 %"),
        (0.00002, (0.00001,), "0.002 %"),
        (0.98, (math.nan,), "98 %"),
        (math.nan, (0.01,), "unknown"),
    ],
)
def test_a_share_beside_its_limit_has_the_digits_that_tell_them_apart(
    share: float, limits: tuple[float, ...], text: str
) -> None:
    assert percent(share, *limits) == text


@given(shares, shares)
def test_what_is_above_a_limit_is_read_above_it(share: float, near: float) -> None:
    """The limit as it is written, and the share as it is written beside it, compare as they do."""
    limit = float(f"{near:.3g}")
    read, beside = (float(text.split()[0]) for text in (percent(share, limit), allowed(limit)))
    if not math.isclose(share, limit, rel_tol=2e-5):
        assert (read > beside, read < beside) == (share > limit, share < limit)


def test_a_limit_is_written_as_it_was_given() -> None:
    assert [allowed(x) for x in (0.01, 0.00125, 0.07, 0.999, 0.00001)] == [
        "1 %", "0.125 %", "7 %", "99.9 %", "0.001 %",
    ]  # fmt: skip


def test_a_chance_counted_on_paths_has_these_digits_too() -> None:
    assert chance(0.0104, 200, 0.01) == "1.04 %"
    assert chance(0.0, 200, 0.01) == "< 0.5 %"


def deciding(**changes: Any) -> Snapshot:
    """A snapshot of a decision that differs in this."""
    turn = builders.record()
    return builders.snapshot(record=replace(turn, decision=replace(turn.decision, **changes)))


@pytest.mark.parametrize(
    ("wanted", "for_s", "said"),
    [
        (12, 1500.0, "12 would do, but 15 was asked for a short while ago; it may fall from 12:25 UTC."),
        (12, 1501.0, "12 would do, but 15 was asked for a short while ago; it may fall from 12:26 UTC."),
        (12, math.nan, "12 would do, but 15 was asked for a short while ago and is held."),
        (18, 60.0, "18 is wanted, but no more than 15 was asked for a short while ago; it may rise from 12:01 UTC."),
    ],
)
def test_a_count_that_is_held_says_which_and_until_when(wanted: int, for_s: float, said: str) -> None:
    held = {"reason": Reason.STABILIZED, "bound_by": "hold", "replicas": 15, "unconstrained": wanted}
    assert said in sentence(deciding(**held, held_for_s=for_s))
