"""What the pages say: figures that a reader compares agree with each other."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import httpx2 as httpx
import pytest

from harmony.loop.violations import ViolationCounts
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
