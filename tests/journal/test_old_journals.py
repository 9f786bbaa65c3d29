"""A journal that an older harmony wrote opens and says what it said; a row that cannot be read hides no other.

`data/v0002.json` holds the rows that harmony of journal version 0002 wrote of turns of `builders.World`, and the
decisions and summaries that it read from them.
"""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from forecasting.errors import DataError
from harmony.journal import JournalStore, explain
from harmony.journal.connecting import connect, journal_url
from harmony.journal.tables import METADATA
from harmony.model.decision import Decision
from harmony.schema.fields import fields_of
from harmony.serving.views import decision_json, summary_json
from tests.journal.builders import fleet
from tests.journal.test_migrations import at_version

OLD = json.loads((Path(__file__).parent / "data" / "v0002.json").read_text())


@pytest.fixture
def old(url: str) -> str:
    """The address of a journal as version 0002 left it."""
    at_version(url, OLD["version"])
    engine = connect(journal_url(url))
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        for name, rows in OLD["tables"].items():
            connection.execute(METADATA.tables[name].insert(), [_row(row) for row in rows])
    engine.dispose()
    return url


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {k: base64.b64decode(v["base64"]) if isinstance(v, dict) else v for k, v in row.items()}


def test_it_says_what_it_said(old: str) -> None:
    with JournalStore.open(old) as store:
        for key, said in OLD["decisions"].items():
            stored = store.decision(key)
            assert stored is not None
            told = json.loads(json.dumps(decision_json(stored.snapshot), allow_nan=False))
            facts = {name: value for name, value in said.items() if name != "sentence"}  # words are of who reads
            told["outcome"] = {name: told["outcome"][name] for name in facts["outcome"]}  # it says more by now
            assert {name: told[name] for name in facts} == facts
        assert [d.id for d in store.decisions(limit=1000)] == sorted(OLD["decisions"], reverse=True)
        told = [summary_json(s) for s in store.latest()]
        assert [{k: row[k] for k in old} for row, old in zip(told, OLD["summaries"], strict=True)] == OLD["summaries"]
        assert all(row["real"] is row["shadow"] is row["stated_judgement"] is None for row in told)  # nobody counted
        assert [e.actor for e in store.audits()] == ["alice"]
        assert store.unreadable == 0


def test_its_decisions_come_out_the_same(old: str) -> None:
    with JournalStore.open(old) as store:
        for key in OLD["decisions"]:
            told = explain(store, key)
            assert told is not None
            assert (told.same, [str(d) for d in told.differences]) == (True, [])
            assert told.to_json()["decision"]["id"] == key


def test_it_goes_on_and_exports(old: str, tmp_path: Path) -> None:
    import polars as pl

    from harmony.journal import export_to

    with JournalStore.open(old) as store:
        store.append([fleet(1)[0].snapshot("serving/new")])
        table = pl.concat([pl.read_parquet(p) for p in export_to(tmp_path, store) if p.name.startswith("decisions")])
    assert table.height == len(OLD["decisions"]) + 1
    assert {f.name for f in fields_of(Decision) if not f.is_large} <= set(table.columns)


DAMAGE = {
    "a reason of the future": "UPDATE decisions SET reason = 'Clairvoyance' WHERE id = :id",
    "candidates that end early": "UPDATE decisions SET candidates = '{\"replicas\": [1,' WHERE id = :id",
    "candidates without costs": "UPDATE decisions SET candidates = '{\"replicas\": [1]}' WHERE id = :id",
    "no objective": "UPDATE decisions SET context = '{}' WHERE id = :id",
    "a step of nothing": "UPDATE decisions SET step_s = 0 WHERE id = :id",
    "an objective that never was": "UPDATE decisions SET context = '{\"objective\": 7}' WHERE id = :id",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_row_that_cannot_be_read_hides_no_other(old: str, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    newest = max(row["decision_id"] for row in OLD["tables"]["services"])
    service = next(row["service"] for row in OLD["tables"]["decisions"] if row["id"] == newest)
    engine = connect(journal_url(old))
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        for trigger in ("decisions_no_update", "decisions_append_only"):  # only whoever drops these can do that
            on = " ON decisions" if connection.dialect.name == "postgresql" else ""
            connection.execute(text(f"DROP TRIGGER IF EXISTS {trigger}{on}"))
        assert connection.execute(text(damage), {"id": newest}).rowcount == 1
    engine.dispose()
    others = sorted(set(OLD["decisions"]) - {newest}, reverse=True)
    with JournalStore.open(old) as store, caplog.at_level(logging.ERROR, "harmony.journal.store"):
        assert [d.id for d in store.decisions(limit=1000)] == others
        assert [d.id for d in store.decisions(limit=2)] == others[:2]  # a page is as long as it was asked to be
        assert [s.service for s in store.latest()] == [
            s["service"] for s in OLD["summaries"] if s["service"] != service
        ]
        assert store.unreadable == 1
        assert [newest in record.getMessage() for record in caplog.records] == [True]  # said once
        with pytest.raises(DataError, match=newest):
            store.decision(newest)
        turns = sorted(row["at_s"] for row in OLD["tables"]["decisions"] if row["service"] == service)
        hidden = 1 if "context" in damage else 0  # a chart needs less of a row
        assert [p.at_s for p in store.points(service, 0.0, 9e9)] == turns[: len(turns) - hidden]
