"""The same tests on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harmony.journal import JournalStore
from tests.journal.postgres import RealPostgres, need_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[RealPostgres]:
    with RealPostgres(need_postgres()) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a fresh journal."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'journal.db'}"
    server: RealPostgres = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def store(url: str) -> Iterator[JournalStore]:
    with JournalStore.open(url) as opened:
        yield opened
