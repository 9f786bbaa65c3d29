"""The dashboard over the demo: the real loop, living while one looks."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from harmony.api.app import create_app
from harmony.api.state import ApiState
from harmony.dashboard import Dashboard, add_dashboard, dashboard_settings
from simulator.demo import DemoCluster
from tests.api.serving import serving
from tests.dashboard.conftest import Tabs
from tests.dashboard.site import OPEN


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """The address of a demo that runs."""
    cluster = DemoCluster(past_hours=1.0)
    state = ApiState(cluster.hub, settings=dashboard_settings(OPEN))
    app = create_app(state)
    dashboard = Dashboard(state, speed=cluster.speed)
    add_dashboard(app, dashboard)
    cluster.begin()
    stop = threading.Event()
    living = threading.Thread(target=cluster.run, args=(stop,))
    living.start()
    with serving(app) as url:
        yield url
    stop.set()
    living.join()
    dashboard.close()


def test_a_newcomer_sees_it_live(browser: Browser, demo: str) -> None:
    tabs = Tabs(browser, demo)
    page = tabs.open("/")
    expect(page.locator("#rows tr")).to_have_count(5)
    expect(page.locator(".foot")).to_contain_text("60 times as fast as life")
    expect(page.locator("#live-age")).not_to_contain_text("stale")
    page.get_by_role("link", name="serving/chat").click()
    expect(page.locator("#plot-demand .main-svg").first).to_be_visible()
    origin = "document.getElementById('plot-demand').data.find(t => t.name === 'forecast median').x[0]"
    first = page.evaluate(origin)
    for _ in range(1200):
        page.wait_for_timeout(100)
        if page.evaluate(origin) >= first + 120_000:
            break
    assert page.evaluate(origin) >= first + 120_000  # two turns later
    page.get_by_label("Objective: violation rate").press("Home")
    expect(page.locator("output[for=wi-epsilon]")).to_have_text("0.01 %")
    expect(page.locator("#whatif-said")).to_contain_text("instead of")
    assert (tabs.errors, tabs.foreign) == ([], [])
    tabs.contexts[0].close()
