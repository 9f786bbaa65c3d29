"""A slice of every kind of hostile input; `make fuzz` runs thousands."""

from __future__ import annotations

import pytest

from tests.fuzz import journals
from tests.fuzz.tally import Tally


def check(tally: Tally, least: int) -> None:
    assert tally.faults == []
    assert tally.cases >= least
    assert set(tally.outcomes) == {"answered", "refused"}, tally.outcomes  # neither all refused nor all let through


@pytest.mark.parametrize("seed", [0])
def test_damaged_journals(seed: int) -> None:
    check(journals.run(36, seed), 36)
