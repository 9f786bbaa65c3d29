"""A journal in which rows of every table are damaged: the API tells the others, and no answer is a server's fault."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from harmony.api.app import create_app
from harmony.api.jobs import Jobs
from harmony.api.keys import new_key
from harmony.api.shelf import Shelf
from harmony.api.state import ApiState
from harmony.app.answering import explainer
from harmony.journal import ApiKey, JournalStore, StoredJob
from harmony.serving import Hub
from tests.api.conftest import GENEROUS
from tests.api.serving import serving
from tests.fuzz.journals import without_triggers
from tests.journal.builders import fleet

DAMAGE = (
    "UPDATE decisions SET unit = x'80' WHERE rowid = 2",
    'UPDATE decisions SET quantiles = \'{"0.5": "high"}\' WHERE rowid = 3',
    "UPDATE decisions SET at_s = 1e300 WHERE rowid = 4",
    "UPDATE inputs SET blob = x'0102' WHERE rowid = 5",
    "UPDATE audit SET detail = '[' WHERE id = 2",
    "UPDATE audit SET at_s = 1e300 WHERE id = 3",
    "UPDATE api_keys SET role = 'owner' WHERE name = 'one'",
    "UPDATE api_keys SET secret_hash = 'h\u00e9' WHERE name = 'two'",
    "UPDATE api_keys SET created_s = 9e20 WHERE name = 'three'",
    "UPDATE jobs SET state = 'half done' WHERE id = '0000000000000001'",
    "UPDATE jobs SET progress = '{\"progress\": 7}' WHERE id = '0000000000000002'",
    "UPDATE jobs SET progress = '{\"started_s\": 1e99}' WHERE id = '0000000000000003'",
    "UPDATE jobs SET result = '7' WHERE id = '0000000000000004'",
)
TURNS = 8


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[httpx.Client, list[str], dict[str, str]]]:
    """A client of an administrator, the ids of all decisions, and keys by name."""
    path = tmp_path / "j.db"
    with JournalStore.open(str(path)) as store:
        world = fleet(1)[0]
        ids = store.append([world.snapshot("serving/chat") for _ in range(TURNS)])
        keys = {name: new_key() for name in ("mine", "one", "two", "three")}
        for at, (name, key) in enumerate(keys.items()):
            store.add_key(ApiKey(key.id, name, "admin", key.secret_hash, 1e9 + at))
            store.audit("alice", "keys.create", {"name": name})
        for i in range(6):
            done = {"progress": 1.0, "started_s": 1e9, "ended_s": 1e9}
            store.put_job(StoredJob(f"{i:016x}", "backtest", "done", 1e9, 1e9, {"by": "alice"}, done, {"a": 1}))
    with sqlite3.connect(path) as connection:
        without_triggers(connection)
        for statement in DAMAGE:
            assert connection.execute(statement).rowcount == 1, statement
    connection.close()
    with JournalStore.open(str(path)) as store:
        jobs = Jobs("tests.api.work:work", shelf=Shelf(store))
        state = ApiState(Hub(), store, explainer(store), jobs=jobs, settings=GENEROUS)
        with serving(create_app(state)) as url:
            mine = {"x-api-key": keys["mine"].text}
            with httpx.Client(base_url=f"{url}/api/v1", headers=mine, timeout=60) as client:
                yield client, ids, {name: key.text for name, key in keys.items()}


def test_the_rest_is_told_and_no_answer_is_a_fault(
    served: tuple[httpx.Client, list[str], dict[str, str]],
) -> None:
    client, ids, keys = served

    def items(path: str) -> list[dict[str, object]]:
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, object]] = answer.json()["items"]
        return found

    whole = [ids[i] for i in (0, 4, 5, 6, 7)]
    assert [d["id"] for d in items("/services/serving/chat/decisions")] == whole[::-1]
    assert {a["id"] for a in items("/audit")} == {"1", "4"}
    assert {k["name"] for k in items("/keys")} == {"mine", "two"}
    assert {j["id"] for j in items("/jobs")} == {f"{i:016x}" for i in (0, 5)}
    for i, decision_id in enumerate(ids):
        readable = i in (0, 5, 6, 7)  # of the fifth the list needs no inputs, one decision does
        for path in (f"/decisions/{decision_id}", f"/decisions/{decision_id}/explanation"):
            answer = client.get(path)
            assert answer.status_code == (200 if readable else 422), (i, path, answer.text)
            assert readable or decision_id in answer.json()["detail"]
    for i in range(6):
        assert client.get(f"/jobs/{i:016x}").status_code == (200 if i in (0, 5) else 422)
    for name, status in (("mine", 200), ("one", 401), ("two", 401), ("three", 401)):
        assert client.get("/me", headers={"x-api-key": keys[name]}).status_code == status, name
