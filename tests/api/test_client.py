"""The typed client against the real server over HTTP, with a real journal behind it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from forecasting.errors import UsageError
from harmony.api import models
from harmony.api.app import create_app
from harmony.api.keys import new_key
from harmony.api.state import ApiState
from harmony.app.answering import explainer
from harmony.app.following import Follower
from harmony.cli.main import run
from harmony.client import ApiError, Client, Unreachable
from harmony.journal import ApiKey, JournalStore
from harmony.serving import Hub
from simulator.demo import DemoCluster
from tests.api.conftest import GENEROUS, cards, forecast
from tests.api.memory import MemoryJournal
from tests.api.serving import serving


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, cluster: DemoCluster, lived: tuple[Hub, MemoryJournal]
) -> Iterator[JournalStore]:
    """A journal in SQLite with the cluster's newest turn, and one key."""
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    with JournalStore.open(f"sqlite:///{path}", whole_forecasts=True) as opened:
        opened.append(lived[0].all())
        yield opened


@pytest.fixture(scope="module")
def served(store: JournalStore) -> Iterator[tuple[str, str]]:
    """Address and an admin's key of a server without a loop: all it knows is the journal's."""
    follower = Follower(store)
    follower._read()
    fresh = new_key()
    store.add_key(ApiKey(fresh.id, "me", "admin", fresh.secret_hash, 0.0))
    state = ApiState(follower.hub, store, explainer(store), forecast, models=cards, settings=GENEROUS)
    with serving(create_app(state)) as url:
        yield url, fresh.text


@pytest.mark.long
def test_client_reads_what_the_journal_tells(served: tuple[str, str], lived: tuple[Hub, MemoryJournal]) -> None:
    url, key = served
    with Client(url, key) as client:
        rows = list(client.services(limit=2))
        assert [r.service for r in rows] == [s.service for s in lived[0].all()]
        name = rows[0].service
        whole = client.service(name)
        assert whole.summary == rows[0]
        assert whole.forecast is not None
        assert client.forecast(name) == whole.forecast
        experts = whole.forecast.indicators[whole.forecast.demand].experts
        made = next(s for s in lived[0].all() if s.service == name).record.observation.forecast
        assert made is not None
        assert experts == made.leading_experts(whole.forecast.demand)
        assert sum((experts or {"none": math.nan}).values()) == pytest.approx(1.0, abs=1e-5)
        assert len(client.forecast(name, paths=3).indicators[whole.forecast.demand].paths or []) == 3
        found = list(client.decisions(name))
        told = client.explanation(found[0].id or "")
        assert (told.same, told.problem) == (True, "")
        assert client.decision(found[0].id or "").replicas == found[0].replicas
        assert client.what_if(name, epsilon=0.001).new.epsilon == 0.001
        assert client.calibration(name).promised == rows[0].epsilon
        assert client.model_cards()[0].name == "base"
        assert client.health().status == "ok"
        with contextlib.closing(client.changes(5)) as changes:
            assert next(changes)["changed"] == [r.service for r in rows]
        request = models.AdHocRequest(
            indicators=[models.IndicatorRequest(name="a")], step_seconds=60, values=[[1.0]] * 20, horizon=2
        )
        assert client.ad_hoc(request).horizon == 2
        made = client.create_key("ci")
        with Client(url, made.key) as other:
            assert other.me().role == "read"
        client.revoke_key(made.id)
        assert [a.action for a in client.audit(2)] == ["keys.revoke", "keys.create"]


def test_errors_say_what_to_do(served: tuple[str, str]) -> None:
    url, key = served
    with Client(url, key, sleep=lambda _: None) as client:
        with pytest.raises(ApiError, match="`harmony services` lists") as told:
            client.service("no/such")
        assert (told.value.status, told.value.type) == (404, "urn:harmony:problem:not-found")
        with pytest.raises(ApiError, match=r"body.epsilon: Input should be less than or equal to 0.5"):
            client.what_if("no/such", epsilon=2.0)
        with pytest.raises(UsageError, match="NAMESPACE/NAME"):
            client.service("chat")
        with pytest.raises(ApiError, match="started without jobs"):
            client.job("0123456789abcdef")
    with Client(url) as nobody, pytest.raises(ApiError, match="harmony keys create"):
        nobody.me()
    with Client("http://127.0.0.1:9") as far, pytest.raises(Unreachable, match="is `harmony serve` running there"):
        far.me()
    with pytest.raises(UsageError, match="http://HOST:PORT"):
        Client("localhost:8000")


def test_busy_answers_are_asked_again_after_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [httpx.Response(429, headers={"retry-after": "7"}), httpx.Response(503, headers={"retry-after": "x"})]
    answers.append(httpx.Response(200, json={"id": "a", "name": "a", "role": "read", "method": "key"}))
    waits: list[float] = []
    client = Client("http://x", sleep=waits.append)
    monkeypatch.setattr(client._http, "request", lambda *_, **__: answers.pop(0))
    assert client.me().role == "read"
    assert waits == [7.0, 1.0]
    answers.append(httpx.Response(503, json={"type": "urn:harmony:problem:not-configured", "title": "t"}))
    with pytest.raises(ApiError, match="start `harmony serve`"):
        client.me()


def test_verbs_on_the_command_line(
    served: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, key = served
    monkeypatch.setenv("HARMONY_URL", url)
    monkeypatch.setenv("HARMONY_API_KEY", key)
    assert run(["services"]) == 0
    name = capsys.readouterr().out.splitlines()[1].split()[0]
    assert run(["decisions", name]) == 0
    assert "Stated risk" in capsys.readouterr().out
    assert run(["what-if", name, "--epsilon", "0.001", "--json"]) == 0
    assert models.WhatIf.model_validate_json(capsys.readouterr().out).new.epsilon == 0.001
    assert run(["what-if", "chat"]) == 2
    assert "NAMESPACE/NAME" in capsys.readouterr().err
    journal = f"sqlite:///{tmp_path}/j.db"
    assert run(["keys", "create", "me", "--role", "admin", "--journal", journal]) == 0
    made = capsys.readouterr().out.strip()
    assert made.startswith("hk_")
    assert run(["keys", "list", "--journal", journal]) == 0
    listed = capsys.readouterr().out
    assert made.split("_")[1] in listed
    assert made.split("_")[2] not in listed
    assert run(["keys", "revoke", made.split("_")[1], "--journal", journal]) == 0
    assert run(["keys", "revoke", made.split("_")[1], "--journal", journal]) == 2


def test_serve_refuses_to_be_open_to_others(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    journal = f"sqlite:///{tmp_path}/j.db"
    for words in (["--journal", journal, "--address", ":0"], ["--demo", "--address", "0.0.0.0:0"]):
        assert run(["serve", *words]) == 2
        assert "nobody has a key: make one with" in capsys.readouterr().err
    assert run(["serve"]) == 2
    assert run(["serve", "--demo", "--cluster"]) == 2
    assert run(["serve", "--journal", journal, "--address", "nowhere"]) == 2
