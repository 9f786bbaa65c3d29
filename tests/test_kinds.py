"""A test that starts what its markers do not name fails, so that `make test-fast` starts nothing by accident."""

from __future__ import annotations

import pytest

from tests import kinds


@pytest.mark.parametrize("kind", ["browser", "cluster", "prometheus"])
def test_what_no_marker_names_may_not_be_started(kind: str) -> None:
    with pytest.raises(pytest.fail.Exception, match=f"starts what the marker `{kind}` stands for"):
        kinds.starting(kind)


@pytest.mark.slow
def test_what_a_marker_names_may_be_started() -> None:
    kinds.starting("slow")


def test_folders_that_are_marked_are_there() -> None:
    assert all((kinds.ROOT / folder).is_dir() for folder in kinds.FOLDERS)


def test_spreading_keeps_every_test_and_the_order_within_a_module(request: pytest.FixtureRequest) -> None:
    items = list(request.session.items)
    spread = list(items)
    kinds.spread(spread)
    assert sorted(i.nodeid for i in spread) == sorted(i.nodeid for i in items)
    for path in {i.path for i in items}:
        for waits in (False, True):
            of = [[i.nodeid for i in found if i.path == path and kinds._waits(i) is waits] for found in (items, spread)]
            assert of[0] == of[1]
