"""Two API servers beside one PostgreSQL: whichever is asked, the answer is the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2 as httpx
import pytest

from harmony.api.app import create_app
from harmony.api.jobs import Jobs
from harmony.api.keys import new_key
from harmony.api.shelf import Shelf
from harmony.api.state import ApiState
from harmony.app.answering import explainer
from harmony.app.following import Follower
from harmony.journal import ApiKey, JournalStore, JournalWriter
from harmony.serving import Hub
from simulator.demo import DemoCluster
from tests.api.conftest import GENEROUS, cards, forecast
from tests.api.serving import serving
from tests.journal.postgres import RealPostgres, need_postgres
from tests.journal.test_writer import eventually

pytestmark = pytest.mark.long

LONG = {"demand": [1.0] * 300, "seed": 4}  # the work of these tests takes a minute with this seed
QUICK = {"demand": [1.0] * 300, "seed": 0}


class Pair:
    """Two replicas, and the loop that writes what they read."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.cluster = DemoCluster(past_hours=1.0)
        self.writer = stack.enter_context(JournalWriter(stack.enter_context(JournalStore.open(url))))
        self.writer.follow(self.cluster.hub)
        self.followers, self.clients, self.stores = [], [], []
        fresh = new_key()
        for _ in range(2):
            store = stack.enter_context(JournalStore.open(url))
            if not store.keys():
                store.add_key(ApiKey(fresh.id, "me", "admin", fresh.secret_hash, 0.0))
            follower = Follower(store)
            self.stores.append(store)
            state = ApiState(
                follower.hub, store, explainer(store), forecast, Jobs("tests.api.work:work", shelf=Shelf(store)),
                cards, settings=GENEROUS, health=follower.health,
            )  # fmt: skip
            address = stack.enter_context(serving(create_app(state)))
            headers = {"x-api-key": fresh.text}
            self.clients.append(stack.enter_context(httpx.Client(base_url=address, headers=headers, timeout=60)))
            self.followers.append(follower)

    def turn(self, turns: int = 1) -> None:
        """Let the loop decide, and both replicas read it."""
        for _ in range(turns):
            self.cluster.advance()
        for follower in self.followers:
            eventually(lambda follower=follower: (follower._read(), self._times(follower.hub) == self._times())[1])

    def _times(self, hub: Hub | None = None) -> dict[str, float]:
        return {s.service: s.at_s for s in (hub or self.cluster.hub).all()}

    def both(self, path: str, **query: Any) -> httpx.Response:
        """The answer of both."""
        one, other = (client.get(path, params=query) for client in self.clients)
        assert (one.status_code, one.content) == (other.status_code, other.content), path
        assert one.headers.get("etag") == other.headers.get("etag"), path
        return one


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with RealPostgres(need_postgres()) as server, ExitStack() as stack:
        made = Pair(server.database(), stack)
        made.turn(3)
        yield made


def test_both_say_the_same_of_every_service_and_decision(pair: Pair) -> None:
    for _ in range(3):
        pair.turn()
        fleet, other = (client.get("/api/v1/services").json()["items"] for client in pair.clients)
        assert fleet == other  # beside it stands a version, which each server counts for itself
        assert [row["service"] for row in fleet] == [s.service for s in pair.cluster.hub.all()]
        for row in fleet:
            one = f"/api/v1/services/{row['service']}"
            for path in (one, one + "/calibration", one + "/decisions"):
                assert pair.both(path).status_code == 200
            pair.both(one + "/forecast")
            pair.both(one + "/forecast", paths=5, level=1)
            newest = pair.both(one + "/decisions", limit=1).json()["items"][0]
            assert newest["at"] == row["at"]
            assert pair.both(f"/api/v1/decisions/{newest['id']}/explanation").json()["same"]
    chat = "/api/v1/services/serving/chat"
    what_if = [c.post(chat + "/what-if", json={"epsilon": 0.001}).json() for c in pair.clients]
    assert what_if[0] == what_if[1]


def test_pages_may_be_turned_at_the_other_one(pair: Pair) -> None:
    path = "/api/v1/services/serving/chat/decisions"
    wanted = [d["id"] for d in pair.both(path).json()["items"]]
    got, cursor = [], None
    for number in range(20):
        query = {"limit": 1} | ({"cursor": cursor} if cursor else {})
        page = pair.clients[number % 2].get(path, params=query).json()
        got += [d["id"] for d in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert got == wanted


def test_keys_and_audit_are_those_of_both(pair: Pair) -> None:
    made = pair.clients[0].post("/api/v1/keys", json={"name": "ci"}).json()
    mine = {"x-api-key": made["key"]}
    eventually(lambda: pair.clients[1].get("/api/v1/me", headers=mine).status_code == 200)
    assert pair.clients[1].delete(f"/api/v1/keys/{made['id']}").status_code == 204
    eventually(lambda: pair.clients[0].get("/api/v1/me", headers=mine).status_code == 401)
    actions = [a["action"] for a in pair.both("/api/v1/audit").json()["items"]]
    assert actions[:2] == ["keys.revoke", "keys.create"]


def job(client: httpx.Client, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/v1/jobs/{job_id}").json()
    return found


def is_so(client: httpx.Client, job_id: str, **wanted: object) -> Callable[[], bool]:
    return lambda: wanted.items() <= job(client, job_id).items()


def test_a_job_is_seen_and_cancelled_at_the_other_one(pair: Pair) -> None:
    here, there = pair.clients
    running = here.post("/api/v1/jobs/backtests", json=LONG).json()["id"]
    waiting = here.post("/api/v1/jobs/backtests", json=LONG).json()["id"]
    eventually(is_so(there, running, state="running", progress=0.25, note="a quarter"))
    assert job(there, waiting)["state"] == "queued"
    assert [j["id"] for j in there.get("/api/v1/jobs").json()["items"]][:2] == [waiting, running]
    for job_id in (waiting, running):
        assert there.delete(f"/api/v1/jobs/{job_id}").json()["state"] == "cancelled"
        assert job(here, job_id)["state"] == "cancelled"
    quick = here.post("/api/v1/jobs/backtests", json=QUICK).json()["id"]  # the worker is free again
    eventually(is_so(there, quick, state="done", progress=1.0))
    assert job(there, quick)["result"] == job(here, quick)["result"] != {}
    assert job(there, quick)["by"] == job(here, quick)["by"] != ""
    assert there.delete(f"/api/v1/jobs/{quick}").json()["state"] == "done"  # it has ended


def test_jobs_outlive_their_server_and_lost_ones_are_said(pair: Pair) -> None:
    store = pair.stores[0]
    quick = pair.clients[0].post("/api/v1/jobs/backtests", json=QUICK).json()["id"]
    eventually(is_so(pair.clients[0], quick, state="done"))
    assert quick in [j.id for j in Jobs("tests.api.work:work", shelf=Shelf(store)).all()]
    running = pair.clients[0].post("/api/v1/jobs/backtests", json=LONG).json()["id"]
    later = Jobs("tests.api.work:work", shelf=Shelf(store, lambda: time.time() + 90))  # noqa: TID251
    found = later.get(running)
    assert found is not None
    assert (found.state, found.error) == ("failed", "the server that worked on it is gone")
    assert pair.clients[0].delete(f"/api/v1/jobs/{running}").json()["state"] == "cancelled"
