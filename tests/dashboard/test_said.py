"""What the pages say: figures that a reader compares agree with each other."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace

import httpx2 as httpx
import pytest

from harmony.loop.violations import ViolationCounts
from harmony.model.decision import Reason
from harmony.serving import Snapshot
from tests.dashboard.site import Site
from tests.serving import builders


@pytest.fixture
def web(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=60) as client:
        yield client


def words(page: str) -> str:
    """A page's text: tags gone, blanks one."""
    page = re.sub(r"<script.*?</script>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def shown(web: httpx.Client, site: Site, snapshot: Snapshot) -> str:
    """The text of a service's page while this is its newest turn."""
    site.hub.publish([snapshot])
    return words(web.get(f"/services/{snapshot.service}").text)


def test_a_share_above_its_objective_is_not_written_like_it(web: httpx.Client, site: Site) -> None:
    page = shown(web, site, builders.snapshot(violations=ViolationCounts(12_500, 630, 200, 9, 1)))
    assert "5.04 %" in page
    assert "5.04 %" in words(web.get("/").text)


def test_what_limits_a_count_and_what_keeps_it_back_are_told_apart(web: httpx.Client, site: Site) -> None:
    turn = builders.record()
    changes = {"reason": Reason.STABILIZED, "bound_by": "hold", "replicas": 15, "unconstrained": 12}
    held = replace(turn, decision=replace(turn.decision, **changes, held_for_s=1500.0))  # type: ignore[arg-type]
    page = shown(web, site, builders.snapshot(record=held, desired=10, ordered=10, held_by="mode Recommend"))
    assert "12 would do, but 15 was asked for a short while ago; it may fall from 12:25 UTC" in page
    assert "Limit in the decision hold: the setting's own, on the way down" in page
    assert "Without that limit 12 replicas" in page
    assert "Kept back by mode Recommend" in page
