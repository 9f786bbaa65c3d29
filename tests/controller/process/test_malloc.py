"""How the collector is kept from looking through what a tick makes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from controller.process.malloc import uninterrupted


@pytest.fixture(autouse=True)
def _searching() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


class Knot:
    """Garbage that only a search for cycles finds."""

    def __init__(self) -> None:
        self.me = self


def test_nothing_is_searched_meanwhile_and_what_is_left_is_found_once_at_the_end() -> None:
    searches: list[str] = []
    gc.callbacks.append(lambda phase, _: searches.append(phase))
    try:
        with uninterrupted():
            knot = weakref.ref(Knot())
            many = [[i] for i in range(2 * gc.get_threshold()[0])]
            assert searches == []
            assert knot() is not None
            assert len(many) == 2 * gc.get_threshold()[0]
        assert searches == ["start", "stop"]
    finally:
        gc.callbacks.pop()
    assert knot() is None
    assert gc.isenabled()


def test_after_an_exception_the_search_goes_on() -> None:
    with pytest.raises(ValueError, match="as it came"), uninterrupted():
        raise ValueError("as it came")
    assert gc.isenabled()


def test_of_several_at_once_the_last_to_have_found_it_on_puts_it_on_again() -> None:
    one, other = uninterrupted(), uninterrupted()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)  # the first may end before the second
    other.__exit__(None, None, None)
    assert gc.isenabled()


def test_whoever_keeps_it_off_keeps_it_off() -> None:
    gc.disable()
    with uninterrupted():
        pass
    assert not gc.isenabled()
