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
        order: dict[tuple[str, bool, bool], list[str]] = {}
        for item in found:
            kind = kinds._long(item), item.get_closest_marker("minute") is not None
            order.setdefault((str(item.path), *kind), []).append(item.nodeid)
        orders.append(order)
    assert orders[0] == orders[1]


class Named:
    """A test as far as spreading looks at one."""

    def __init__(self, module: int, number: int, *marks: str) -> None:
        self.path = kinds.ROOT / f"test_{module:02d}.py"
        self.number, self.marks = number, marks

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.marks else None


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_test_of_a_minute_begins_a_share_and_no_share_ends_in_a_long_one(workers: int) -> None:
    items = [Named(module, n) for module in range(40) for n in range(10)]
    items += [Named(module, n, "slow") for module in range(40, 60) for n in range(2)]
    minutes = [Named(module, 0, "minute") for module in range(60, 60 + workers)]
    spread = [*items, *minutes]
    kinds.spread(spread, workers)  # type: ignore[arg-type]
    share = len(spread) / workers
    for number, item in enumerate(minutes):
        assert abs(spread.index(item) - number * share) <= 0.05 * share + 1
    for worker in range(workers):
        end = spread[round((worker + 0.85) * share) : round((worker + 1) * share) - 1]
        assert not any(item.marks for item in end[:-1])
