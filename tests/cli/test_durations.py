"""Durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.errors import UsageError
from harmony.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("15s", 15),
        ("1h", 3600),
        ("2d", 172_800),
        ("1w", 604_800),
        ("90", 90),
        ("1.5", 1.5),
        ("500ms", 0.5),
        ("1h30m", 5400),
        (" 1H 30M ", 5400),
        (".5h", 1800),
    ],
)
def test_what_is_accepted(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "m", "5x", "-5m", "0", "0s", "5m!", "nan", "inf", "1e5", "5 minutes", "m5", "٣s"])
def test_what_is_not(text: str) -> None:
    with pytest.raises(UsageError, match="expected a positive one such as 15s, 5m, 1h30m or 2d"):
        parse_duration(text)


@given(seconds=st.integers(1, 10**9))
def test_written_and_read_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


def test_the_shortest_writing() -> None:
    assert [format_duration(s) for s in (60, 90, 1_209_600, 0.25, 0)] == ["1m", "1m30s", "2w", "0.25s", "0s"]


@given(text=st.text(max_size=12))
def test_any_text_is_a_duration_or_a_usage_error(text: str) -> None:
    try:
        assert parse_duration(text) > 0
    except UsageError as error:
        assert "is no duration" in str(error)  # noqa: PT017


@pytest.mark.parametrize("text", ["0", "0s", "0h"])
def test_zero_is_a_duration_only_where_it_means_never(text: str) -> None:
    assert parse_duration(text, zero=True) == 0.0
    with pytest.raises(UsageError):
        parse_duration(text)
    with pytest.raises(UsageError):
        parse_duration("-1s", zero=True)
