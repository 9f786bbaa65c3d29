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
