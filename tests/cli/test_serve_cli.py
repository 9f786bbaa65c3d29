"""`harmony serve --demo` as a newcomer starts it: dashboard, API, metrics and journal of one process."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from harmony.api import models
from harmony.cli.main import run
from harmony.client import Client
from tests.cli.serving import Served, eventually, free_ports, harmony_serve, health

CHAT = "serving/chat"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal") / "j.db"


@pytest.fixture(scope="module")
def demo(journal: Path) -> Iterator[Served]:
    (port,) = free_ports(1)
    words = ("--journal", f"sqlite:///{journal}", "--health-address", f"127.0.0.1:{port}")
    with harmony_serve("--demo", *words) as served:
        served.probes = port
        yield served
        assert served.stop() == 0
    assert served.errors == []


def test_it_greets_and_shows_the_fleet(demo: Served) -> None:
    assert "5 services, 60 times as fast as life" in demo.greeting
    page = httpx.get(demo.url + "/", timeout=30)
    assert page.status_code == 200
    assert page.text.count('id="row-') == 5
    assert health(demo)["status"] == "ok"
    ready = httpx.get(demo.url + "/readyz", timeout=30)
    assert (ready.status_code, ready.json()) == (200, health(demo))
    probed = httpx.get(f"http://127.0.0.1:{demo.probes}/healthz?verbose", timeout=30)
    assert (probed.status_code, probed.text) == (200, "[+]api ok\n[+]source ok\nok\n")
    with Client(demo.url) as client:
        (chat,) = client.services(search=CHAT)
        assert chat.violation_probability is not None  # the day before has been lived through
        first = client.service(CHAT).decision.at
        eventually(lambda: client.service(CHAT).decision.at != first)  # and it lives on


def test_every_part_of_the_api_is_there(demo: Served) -> None:
    with Client(demo.url) as client:
        assert client.what_if(CHAT, max_replicas=1).new.replicas == 1
        (decision,) = eventually(lambda: list(client.decisions(CHAT, 1)))
        told = client.explanation(decision.id or "")
        assert (told.same, told.problem) == (True, "")
        card = client.model_cards()[0]
        assert card.in_use
        assert (card.parameters or 0) > 10_000
        request = models.AdHocRequest(
            indicators=[models.IndicatorRequest(name="rps")],
            step_seconds=60,
            values=[[float(20 + i % 7)] for i in range(144)],
            horizon=6,
        )
        assert client.ad_hoc(request).horizon == 6
        job = client.start_backtest({"demand": [100.0 + 40 * (i % 60) / 60 for i in range(400)], "per_replica": 20.0})
        done = eventually(lambda: (now := client.job(job.id)).ended and now)
        assert (done.state, done.progress, done.error) == ("done", 1.0, "")
        assert done.result
    metrics = httpx.get(demo.url + "/api/v1/metrics", timeout=30).text
    assert re.search(r'^harmony_ready_replicas\{.*name="chat".*\} \d', metrics, re.M)


def test_the_verbs_speak_with_it(demo: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["services", "--url", demo.url]) == 0
    told = capsys.readouterr().out
    assert CHAT in told
    assert " 0 %" not in told, "a risk that no path took is below one in so many, not 0"
    assert run(["what-if", CHAT, "--epsilon", "0.001", "--url", demo.url]) == 0
    assert "stated risk" in capsys.readouterr().out
    assert run(["explain", CHAT, "--url", demo.url]) == 0
    assert "Decided again from the journal: the same" in capsys.readouterr().out
    assert run(["explain", "no/such", "--url", demo.url]) == 2
    assert "no decision about no/such" in capsys.readouterr().err


def test_many_services_live_in_a_process_of_their_own() -> None:
    with harmony_serve("--demo", "--services", "25", "--speed", "6") as served:
        with Client(served.url) as client:
            eventually(lambda: len(list(client.services())) == 25)
            (decision,) = eventually(lambda: list(client.decisions(next(client.services()).service, 1)))
            assert client.explanation(decision.id or "").same
        assert served.stop() == 0
    assert served.errors == []


def test_a_journal_that_cannot_grow_stops_nothing_and_is_said(demo: Served, journal: Path) -> None:
    """A limit on the size of files is a full disk that needs no rights; it comes and is lifted while the demo runs."""
    assert journal.exists()
    resource.prlimit(demo.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    with Client(demo.url) as client:
        eventually(lambda: health(demo)["status"] == "degraded")
        told = health(demo)
        assert told["problem"] == "decisions are not being recorded; the log says why"  # open to all: no path in it
        page = httpx.get(demo.url + "/", timeout=30).text
        assert "Not being recorded:" in page
        assert "decisions go on" in page
        first = client.service(CHAT).decision.at
        later = eventually(lambda: (at := client.service(CHAT).decision.at) != first and at)
        assert health(demo)["status"] == "degraded"  # decided while nothing could be recorded
        resource.prlimit(demo.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        eventually(lambda: health(demo)["status"] == "ok")
        eventually(lambda: later in [d.at for d in client.decisions(CHAT, 500)])  # and what was decided then is kept
        assert "Not being recorded:" not in httpx.get(demo.url + "/", timeout=30).text
    eventually(lambda: "the journal works again" in "".join(demo.errors))
    assert "".join(demo.errors).count("decisions go on") >= 1
    assert all("journal" in line for line in demo.errors), demo.errors
    demo.errors.clear()
