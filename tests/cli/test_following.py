"""A controller beside a journal: what it shows while another leads, and from its first own turn on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from controller.process.settings import ControllerSettings
from forecasting.errors import DataError
from harmony.app.following import Cluster, Follower
from harmony.app.keeping import recording, retaining
from harmony.cli.main import run
from harmony.journal import JournalStore, explain
from harmony.serving import Snapshot
from simulator.demo import DemoCluster
from tests.cli.serving import eventually, harmony_serve


@pytest.fixture(scope="module")
def lived() -> list[Snapshot]:
    """The services of a demo after its past."""
    cluster = DemoCluster(past_hours=1.0)
    cluster.advance()
    return list(cluster.hub.all())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JournalStore]:
    with JournalStore.open(f"sqlite:///{tmp_path}/j.db") as opened:
        yield opened


@dataclass
class Standing:
    """A controller as far as it is asked who leads."""

    is_leading: bool = False


@contextmanager
def standing_by(store: Any) -> Iterator[tuple[Cluster, Standing]]:
    """A cluster whose controller does not lead, following the journal."""
    cluster, controller, ended = Cluster(ControllerSettings(), store), Standing(), threading.Event()
    cluster._controller = controller  # type: ignore[assignment]
    thread = threading.Thread(target=cluster._follow, args=(ended,))
    thread.start()
    try:
        yield cluster, controller
    finally:
        ended.set()
        thread.join(30)


def names(snapshots: Sequence[Snapshot]) -> list[str]:
    return [s.service for s in snapshots]


def test_a_standby_shows_what_the_leader_writes_and_writes_none_of_it(
    store: JournalStore, lived: list[Snapshot]
) -> None:
    store.append(lived)
    with standing_by(store) as (cluster, _), recording(store, cluster):
        eventually(lambda: names(cluster.hub.all()) == names(lived))
        assert cluster.health() == ""
        assert cluster.turns is not None
        assert cluster.turns.version == 0, "it is in the journal already"


def test_the_first_turn_as_leader_takes_the_place_of_what_the_journal_told(
    store: JournalStore, lived: list[Snapshot]
) -> None:
    """A service that was deleted while nobody led is in the journal still: it must not be shown for ever."""
    kept, *deleted = lived
    assert deleted
    store.append(lived)
    with standing_by(store) as (cluster, controller):
        eventually(lambda: len(cluster.hub.all()) == len(lived))
        with recording(store, cluster):
            controller.is_leading = True
            cluster._publish([kept], ())
            assert names(cluster.hub.all()) == [kept.service]
            cluster._publish([kept, deleted[0]], ())
            cluster._publish([kept], [deleted[0].service])
            assert names(cluster.hub.all()) == [kept.service]
        assert len(store.decisions(kept.service)) == 1, "the same turn twice is one decision"


def test_a_standby_says_when_the_journal_cannot_be_read(lived: list[Snapshot]) -> None:
    class Lost:
        works = True

        def latest(self, since_s: float = 0.0) -> list[Snapshot]:
            if not self.works:
                raise DataError("server away")
            return lived

    lost = Lost()
    with standing_by(lost) as (cluster, _):
        eventually(lambda: cluster.hub.all())
        lost.works = False
        eventually(lambda: cluster.health() == "the journal cannot be read")
        assert names(cluster.hub.all()) == names(lived), "what is known stays shown"
        lost.works = True
        eventually(lambda: cluster.health() == "")


@pytest.mark.long
def test_a_journal_is_shortened_by_who_writes_it(store: JournalStore) -> None:
    demo = DemoCluster(past_hours=1.0)
    demo.advance()
    service = demo.hub.all()[0].service
    store.append(demo.hub.all())
    demo.advance()
    store.append(demo.hub.all())
    ours = Cluster(ControllerSettings(), store)
    with retaining(store, Follower(store), 0.0, None), retaining(store, ours, None, None):
        assert len(store.decisions(service)) == 2, "kept by readers, and for ever unless told otherwise"
    with retaining(store, ours, 30.0, 0.0):
        eventually(lambda: [explain(store, d.id).problem == "" for d in store.decisions(service)] == [True, False])
    with retaining(store, ours, 0.0, None):
        eventually(lambda: len(store.decisions(service)) == 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--demo", "--wait-for-key"], "add --journal"),
        (["--demo", "--retain-inputs-days", "7"], "goes with --retain-days"),
        (["--cluster", "--interval", "soon"], "soon"),
        (["--cluster", "--keda-tls-cert-file", "x.pem"], "give both or neither"),
        (["--cluster", "--prometheus-query-param", "tenant"], "expected KEY=VALUE"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", *words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert said in told


def test_a_server_that_waits_for_a_key_lets_nobody_in_until_there_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = f"sqlite:///{tmp_path}/j.db"
    with harmony_serve("--journal", journal, "--wait-for-key") as served:
        at = f"{served.url}/api/v1/services"
        assert httpx.get(at, timeout=30).status_code == 401, "from this machine, too"
        assert run(["keys", "create", "me", "--journal", journal]) == 0
        key = capsys.readouterr().out.strip()
        eventually(lambda: httpx.get(at, headers={"x-api-key": key}, timeout=30).status_code == 200)
        assert httpx.get(at, timeout=30).status_code == 401
        assert served.stop() == 0
