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


@pytest.mark.parametrize("workers", [1, 4, 5])
def test_spreading_keeps_every_test_and_the_order_within_a_module(request: pytest.FixtureRequest, workers: int) -> None:
    items = list(request.session.items)
    spread = list(items)
    kinds.spread(spread, workers)
    assert sorted(i.nodeid for i in spread) == sorted(i.nodeid for i in items)
    orders = []
    for found in (items, spread):
        order: dict[tuple[str, bool], list[str]] = {}
        for item in found:
            order.setdefault((str(item.path), kinds._long(item)), []).append(item.nodeid)
        orders.append(order)
    assert orders[0] == orders[1]
