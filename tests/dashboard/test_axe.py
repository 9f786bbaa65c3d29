"""axe-core on every page in both themes: nothing serious, nothing critical."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.conftest import Tabs
from tests.dashboard.site import CLOSED, Site, running
from tests.dashboard.test_browser import until

PAGES = ["/", "/services/serving/chat", "/services/search/rerank", "/services/research/lab", "/services/no/such"]
COLOURS = ["color-contrast", "link-in-text-block"]  # the rules that a theme can break; all others see the same page
PAGES += ["/reports", "/reports/two-weeks", "/about", "/?q=nothing"]


def shown(page: Page) -> None:
    """Wait until all charts are drawn, and transitions are over."""
    source = "document.getElementById(p.dataset.figure)"
    until(page, f"[...document.querySelectorAll('.plot')].every(p => !{source} || p.querySelector('.main-svg'))")
    page.wait_for_timeout(400)


def faults(page: object, theme: str = "light") -> list[str]:
    only = {"runOnly": {"type": "rule", "values": COLOURS}} if theme == "dark" else None
    found = Axe().run(page, options=only).response["violations"]
    return [
        f"{v['id']} ({v['impact']}): {n['html']}"
        for v in found
        for n in v["nodes"]
        if v["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_no_serious_fault(tabs: Tabs, site: Site, path: str, theme: str) -> None:
    page = tabs.open(path, color_scheme=theme)
    shown(page)
    for details in page.locator("details").all():
        details.evaluate("e => { e.open = true; }")
    assert faults(page, theme) == []
    tabs.errors[:] = [e for e in tabs.errors if "404" not in e]  # the page that is not there


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_fault_while_the_journal_is_in_trouble(tabs: Tabs, site: Site, theme: str) -> None:
    assert site.dashboard is not None
    trouble = ["journal sqlite:///j.db: the disk is full; decisions go on, 12 of them wait to be recorded"]
    site.dashboard.state.notice = lambda: trouble[0]
    page = tabs.open("/", color_scheme=theme, viewport={"width": 360, "height": 740})
    expect(page.get_by_role("note")).to_contain_text("Not being recorded: journal sqlite:///j.db: the disk is full")
    assert faults(page, theme) == []
    expect(page.locator("#live-state")).to_have_text("Live")
    trouble[0] = ""
    site.tick()
    expect(page.get_by_role("note")).to_have_count(0)


@pytest.mark.parametrize("path", ["/", "/services/serving/chat"])
def test_no_serious_fault_on_a_phone(tabs: Tabs, path: str) -> None:
    page = tabs.open(path, viewport={"width": 360, "height": 740})
    shown(page)
    assert faults(page) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_fault_at_the_login(browser: Browser, reports: Path, theme: str) -> None:
    with running(CLOSED, reports) as site:
        tabs = Tabs(browser, site.url)
        page = tabs.open("/", color_scheme=theme)
        assert page.url.endswith("/login")
        assert faults(page, theme) == []
        page.get_by_label("API key").fill("hk_wrong")
        page.get_by_role("button", name="Sign in").click()
        assert "unknown" in page.inner_text("[role=alert]")
        assert faults(page, theme) == []
        tabs.contexts[0].close()
