"""Figures and decisions in words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony.serving.words import allowed, chance, percent

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
