"""The pages in a real browser."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from harmony.loop.violations import ViolationCounts
from tests.api.serving import key_for
from tests.dashboard.conftest import Tabs
from tests.dashboard.site import CLOSED, MARKUP, Site, running, snapshot

CHAT = "/services/serving/chat"
FAN = "document.getElementById('plot-demand').data"


def live(page: Page) -> None:
    """Wait until the page hears from the server."""
    expect(page.locator("#live-state")).to_have_text("Live")


def until(page: Page, expression: str) -> None:
    """Wait until it holds; asked from here, because the pages' policy forbids Playwright's own polling."""
    for _ in range(1200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def drawn(page: Page) -> None:
    until(page, "document.querySelectorAll('.plot .main-svg').length >= 4")


def test_the_fleet_fills_and_lives(tabs: Tabs, site: Site) -> None:
    page = tabs.open()
    live(page)
    expect(page.locator("#rows tr")).to_have_count(5)
    demand = page.locator("[id='row-serving/chat'] td[data-label=Demand]")
    expect(demand).to_contain_text("1,015")
    site.tick()
    expect(demand).to_contain_text("1,020")
    site.hub.publish([], gone=["serving/code"])
    expect(page.locator("#rows tr")).to_have_count(4)


def test_the_fan_is_drawn_and_moves(tabs: Tabs, site: Site) -> None:
    page = tabs.open(CHAT)
    live(page)
    drawn(page)
    before = page.evaluate(f"{FAN}.find(t => t.name === 'forecast median').y")
    assert len(before) == 5
    box = page.locator("#plot-demand .main-svg").first.bounding_box()
    site.tick(2)
    until(page, f"{FAN}.find(t => t.name === 'forecast median').y[0] > {before[0] + 9}")
    assert page.locator("#plot-demand .main-svg").first.bounding_box() == box
    assert None in page.evaluate(f"{FAN}.find(t => t.name === 'demand').y")  # absent readings are gaps


def test_dragging_over_a_chart_zooms_and_links_lead_back(tabs: Tabs, site: Site) -> None:
    """The address holds what was dragged over; a live page then stays there, and goes on when it is sent back."""
    page = tabs.open(CHAT)
    live(page)
    drawn(page)
    surface = page.locator("#plot-demand .nsewdrag").first
    surface.scroll_into_view_if_needed()
    box = surface.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.2 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], y, steps=5)
    page.mouse.up()
    until(page, "location.search.includes('range=') && location.search.includes('to=')")
    axis = "document.getElementById('plot-replicas').layout.xaxis.range.map((at) => new Date(at).getTime())"
    until(page, f"!{FAN}.some((t) => t.name === 'forecast median')")
    zoomed = page.evaluate(axis)
    assert zoomed[1] < 1000 * site.clock.now
    page.go_back()
    until(page, f"location.search === '' && {FAN}.some((t) => t.name === 'forecast median')")
    page.go_forward()
    until(page, f"location.search.includes('to=') && !{FAN}.some((t) => t.name === 'forecast median')")
    site.tick()
    page.get_by_role("link", name="Now", exact=True).click()
    until(page, f"{FAN}.some((t) => t.name === 'forecast median')")
    now = page.evaluate(axis)
    assert now[1] > 1000 * site.clock.now
    assert "to=" not in page.url
    page.get_by_role("link", name="24\xa0h", exact=True).click()
    until(page, "location.search === '?range=1d'")
    until(page, f"({axis})[0] < {now[0]}")
    expect(page.get_by_role("link", name="24\xa0h", exact=True)).to_have_attribute("aria-current", "true")


def test_live_updates_keep_focus_scroll_and_open_details(tabs: Tabs, site: Site) -> None:
    page = tabs.open(CHAT)
    live(page)
    drawn(page)
    page.locator("#d-readings summary").click()
    page.evaluate("scrollTo(0, 500)")
    page.locator("#d-readings summary").evaluate("e => { e.focus({preventScroll: true}); window.kept = e; }")
    site.tick()
    expect(page.locator("#d-readings tbody tr").first).to_contain_text("1,020")
    assert page.evaluate("document.activeElement === window.kept && window.kept.isConnected")
    assert page.evaluate("document.getElementById('d-readings').open")
    assert page.evaluate("scrollY") == 500


def test_what_if_changes_the_recommendation(tabs: Tabs, site: Site) -> None:
    page = tabs.open(CHAT)
    old, new = page.locator("[data-old=replicas]"), page.locator("[data-new=replicas]")
    expect(old).to_have_text(re.compile(r"\d+"))
    assert old.inner_text() == new.inner_text()
    slider = page.get_by_label("Objective: violation rate")
    slider.focus()
    slider.press("End")  # tolerate a miss every other time
    expect(page.locator("#whatif-said")).to_contain_text("instead of")
    assert int(new.inner_text()) < int(old.inner_text())
    expect(page.locator("output[for=wi-epsilon]")).to_have_text("49 %")
    site.tick()  # the form keeps what was asked
    expect(page.locator("#d-readings tbody tr").first).to_contain_text("1,020", use_inner_text=False)
    expect(page.locator("output[for=wi-epsilon]")).to_have_text("49 %")
    page.get_by_role("button", name="Back to the service's own settings").click()
    expect(page.locator("#whatif-said")).to_have_text("These are the service's own settings.")


def test_what_if_is_about_the_turn_that_the_page_shows(tabs: Tabs, site: Site) -> None:
    """However fast turns come, the last one is asked about as well; its moment stands beside the answer."""
    page = tabs.open(CHAT)
    live(page)
    for _ in range(4):
        site.tick()
        page.wait_for_timeout(300)
    newest = page.locator("section:has(#h-why) time")
    at = time.strftime("%H:%M:%S UTC", time.gmtime(site.clock.now))
    expect(newest).to_have_attribute("datetime", re.compile(at.split()[0]))
    expect(page.locator("#whatif-at")).to_have_text(at)


def test_sorting_and_filtering_without_a_reload(tabs: Tabs, site: Site) -> None:
    page = tabs.open()
    live(page)
    page.evaluate("window.same = true")
    page.get_by_role("link", name="Service", exact=True).click()
    expect(page.locator("#rows tr").first).to_have_attribute("id", "row-batch/summaries")
    page.get_by_role("link", name=re.compile("^Service")).click()
    expect(page.locator("#rows tr").first).to_have_attribute("id", "row-serving/code")
    expect(page.locator("th[aria-sort]")).to_have_attribute("aria-sort", "descending")
    page.keyboard.press("/")
    page.keyboard.type("serving")
    expect(page.locator("#count")).to_have_text("2 of 5 services")
    site.tick()  # what was asked holds for news as well
    expect(page.locator("[id='row-serving/chat'] td[data-label=Demand]")).to_contain_text("1,020")
    assert page.locator("#rows tr").count() == 2
    assert page.evaluate("document.activeElement.name") == "q"
    assert "q=serving" in page.url
    assert page.evaluate("window.same")
    page.reload()
    expect(page.locator("#count")).to_have_text("2 of 5 services")


def test_a_report_opens_in_its_sandbox(tabs: Tabs) -> None:
    page = tabs.open("/reports")
    page.get_by_role("link", name="two-weeks").click()
    frame = page.frame_locator("iframe.report")
    expect(frame.locator("#said")).to_have_text("script ran")
    expect(frame.locator("body")).to_have_attribute("data-kept", "in")
    assert page.title().startswith("two-weeks")
    assert frame.locator("h1").evaluate("e => getComputedStyle(e).color") == "rgb(1, 2, 3)"
    page.get_by_role("link", name="Open it alone").click()
    expect(page.locator("#said")).to_have_text("script ran")
    assert page.evaluate("(() => { try { return document.cookie; } catch (e) { return 'apart'; } })()") == "apart"


def test_a_lost_connection_is_said_and_found_again(tabs: Tabs, site: Site) -> None:
    page = tabs.open()
    live(page)
    context = page.context
    context.set_offline(True)
    page.evaluate("dispatchEvent(new Event('pagehide'))")  # the stream ends, as with a server that went away
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    expect(page.locator("#live-state")).to_have_text("Connection lost")
    expect(page.locator("#live")).to_have_class(re.compile("lost"))
    expect(page.locator("#rows tr")).to_have_count(5)  # what was known stays, with its age
    expect(page.locator("#live-age")).to_contain_text("ago")
    context.set_offline(False)
    live(page)
    assert all("ERR_INTERNET_DISCONNECTED" in e for e in tabs.errors)  # that is the browser's own word on it
    tabs.errors.clear()


def test_old_figures_are_called_stale(tabs: Tabs, site: Site) -> None:
    page = tabs.open(CHAT)
    live(page)
    site.clock.now += 600
    page.reload()
    expect(page.locator("#live-age")).to_have_text("stale: as of 10 min ago")
    expect(page.locator(".head .state")).to_contain_text("Stale for 10 min")


def test_updates_pause_while_the_tab_is_hidden(tabs: Tabs, site: Site) -> None:
    page = tabs.open()
    live(page)
    hide = "(h) => { Object.defineProperty(document, 'hidden', {value: h, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    expect(page.locator("#live-state")).to_have_text("Paused")
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    site.tick()
    page.wait_for_timeout(1500)
    assert asked == []
    page.evaluate(hide, False)
    expect(page.locator("[id='row-serving/chat'] td[data-label=Demand]")).to_contain_text("1,020")
    live(page)


def test_the_theme_is_kept(tabs: Tabs) -> None:
    page = tabs.open(CHAT, color_scheme="light")
    drawn(page)
    colour = "getComputedStyle(document.body).backgroundColor"
    stroke = "document.querySelector('#plot-demand .xtick text').style.fill"
    light, ink = page.evaluate(colour), page.evaluate(stroke)
    page.get_by_role("link", name="Dark").click()
    until(page, f"{colour} !== '{light}' && {stroke} !== '{ink}'")
    page.goto(page.url.replace(CHAT, "/about"))
    assert page.evaluate(colour) != light
    expect(page.get_by_role("link", name="Dark")).to_have_attribute("aria-current", "true")


@pytest.mark.parametrize("width", [1280, 1440])
def test_no_column_of_the_fleet_is_cut_off(tabs: Tabs, site: Site, width: int) -> None:
    violated = ViolationCounts(12_500, 1_630, 12_500, 630, 1_600)
    site.hub.publish([snapshot(site, "serving/assistant", violations=violated, gpu_hours_saved=12_345.6)])
    site.hub.publish([], gone=["research/lab"])  # whose unit is markup
    page = tabs.open("/", viewport={"width": width, "height": 900})
    expect(page.locator("[id='row-serving/assistant'] .state")).to_have_text("Objective not kept")
    card = page.locator(".card.scroll")
    assert card.evaluate("e => e.scrollWidth - e.clientWidth") <= 0


@pytest.mark.parametrize("path", ["/", CHAT, "/services/research/lab", "/services/search/rerank", "/about", "/reports"])
def test_the_page_fits_a_phone(tabs: Tabs, path: str) -> None:
    page = tabs.open(path, viewport={"width": 360, "height": 740}, has_touch=True)
    page.wait_for_timeout(400)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("scrollTo(99, 0), scrollX") == 0


@pytest.mark.parametrize("path", ["/", CHAT])
def test_everything_is_reached_by_keyboard(tabs: Tabs, path: str) -> None:
    page = tabs.open(path)
    live(page)
    page.evaluate("document.body.focus()")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    wanted = page.evaluate(
        "[...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, summary')]"
        ".filter(e => e.checkVisibility()).length"
    )
    seen, unmarked = set(), []
    for _ in range(wanted + 20):
        at = page.evaluate(
            "(() => { const e = document.activeElement; window.ids ??= new Map();"
            "if (!window.ids.has(e)) window.ids.set(e, window.ids.size);"
            "const s = getComputedStyle(e);"
            "return [window.ids.get(e), e.matches('a[href], button, input, select, summary'),"
            "s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0 || e === document.body,"
            "e.outerHTML.slice(0, 90)]; })()"
        )
        if at[1]:
            seen.add(at[0])
        if not at[2]:
            unmarked.append(at[3])
        page.keyboard.press("Tab")
    assert len(seen) == wanted
    assert unmarked == []


def test_markup_in_names_stays_text(tabs: Tabs) -> None:
    page = tabs.open("/services/research/lab")
    drawn(page)
    expect(page.locator(".facts")).to_contain_text(MARKUP)
    assert page.locator("img").count() == 0
    page.goto(page.url.split("/services")[0] + "/?q=" + "%3Cscript%3Ealert(1)%3C/script%3E")
    expect(page.get_by_role("searchbox")).to_have_value("<script>alert(1)</script>")


def test_without_javascript_it_is_a_plain_page(tabs: Tabs) -> None:
    page = tabs.open("/", java_script_enabled=False)
    assert page.locator("#rows tr").count() == 5
    assert "as of 0 s ago" in page.inner_text("#live").replace("\N{NO-BREAK SPACE}", " ")
    page.get_by_label("Find").fill("chat")
    page.get_by_role("button", name="Apply").click()
    assert page.locator("#rows tr").count() == 1
    page.get_by_role("link", name="Demand").click()
    assert page.locator("#rows tr").count() == 1
    page.get_by_role("link", name="Dark").click()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.get_by_role("link", name="serving/chat").click()
    assert "The chart needs JavaScript" in page.inner_text("#plot-demand")
    page.locator("#d-candidates summary").click()
    assert page.locator("#d-candidates tbody tr.chosen").count() == 1
    assert not page.locator("#whatif-said").is_visible()


def test_signing_in_and_out(browser: Browser, reports: Path) -> None:
    with running(CLOSED, reports) as site:
        tabs = Tabs(browser, site.url)
        page = tabs.open(CHAT)
        assert page.url.endswith("/login?next=%2Fservices%2Fserving%2Fchat")
        page.get_by_label("API key").fill(key_for(site.journal, "read"))
        site.clock.monotonic += 6  # keys are read again
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("serving/chat")
        live(page)
        expect(page.locator("[data-old=replicas]")).to_have_text(re.compile(r"\d+"))
        assert (tabs.errors, tabs.foreign) == ([], [])
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
        # The page that is left may still have asked for news, without the key that was given up.
        assert ([e for e in tabs.errors if "401" not in e], tabs.foreign) == ([], [])
        tabs.contexts[0].close()


def test_absent_is_said_and_never_zero(tabs: Tabs) -> None:
    page = tabs.open("/services/search/rerank")
    live(page)
    body = page.inner_text("main")
    assert "There is no forecast" in body
    assert "The newest reading is absent" in body
    assert "No alternatives were weighed" in body
    labels, values = page.locator(".tiles .label"), page.locator(".tiles .value")
    tiles = dict(zip(labels.all_inner_texts(), values.all_inner_texts(), strict=True))
    assert tiles["Stated risk"].startswith("–")
    assert tiles["Would save"].startswith("–")
    assert set(page.evaluate(f"{FAN}.find(t => t.name === 'demand').y")) <= {None}
