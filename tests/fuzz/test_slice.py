"""A slice of every kind of hostile input; `make fuzz` runs thousands."""

from __future__ import annotations

import pytest

from tests.fuzz import journals, keda, models, requests, traces
from tests.fuzz.tally import Tally


def check(tally: Tally, least: int) -> None:
    assert tally.faults == []
    assert tally.cases >= least
    assert set(tally.outcomes) == {"answered", "refused"}, tally.outcomes  # neither all refused nor all let through


@pytest.mark.slow
def test_damaged_journals() -> None:
    check(journals.run(36), 36)


def test_model_folders_with_valid_checksums_and_bad_content() -> None:
    check(models.run(60), 60)


def test_requests_to_everything_that_is_posted() -> None:
    check(requests.run(150), 150)


def test_messages_to_the_external_scaler() -> None:
    check(keda.run(100), 100)


def test_trace_files_of_every_format() -> None:
    check(traces.run(250, bombs=0), 250)
