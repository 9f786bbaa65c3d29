"""What the pages answer over HTTP: headers, sessions, escaping, files."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import html
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.api.serving import key_for
from tests.dashboard.site import CLOSED, MARKUP, Site, report_in, running

PAGES = ["/", "/services/serving/chat", "/reports", "/reports/two-weeks", "/about"]
HTML = {"accept": "text/html"}


@pytest.fixture
def web(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def closed(reports: Path) -> Iterator[Site]:
    """A site that asks for a key."""
    with running(CLOSED, reports) as made:
        yield made


@pytest.fixture
def visitor(closed: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=closed.url, headers=HTML, timeout=60) as client:
        yield client


def sign_in(visitor: httpx.Client, site: Site, following: str = "/") -> httpx.Response:
    site.clock.monotonic += 6  # after so long keys are read again
    return visitor.post("/login", data={"key": key_for(site.journal, "read"), "next": following})


# ---- headers and files --------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", PAGES)
def test_pages_are_sent_with_a_strict_policy(web: httpx.Client, path: str) -> None:
    answer = web.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; script-src 'self'; ")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*(src=|type=\"application/json\"))", answer.text)
    assert not re.search(r"\s(style|on[a-z]+)=\"", answer.text)
    assert "//" not in " ".join(re.findall(r"(?:src|href)=\"([^\"]*)\"", answer.text))  # nothing from another host


def test_static_files_are_kept_for_ever_and_whole(web: httpx.Client) -> None:
    page = web.get("/services/serving/chat").text
    found = re.findall(r"(?:src|href)=\"(/static/[^\"]+)\"(?: integrity=\"sha384-([^\"]+)\")?", page)
    assert {url.rsplit("/", 1)[1] for url, _ in found} == {"harmony.css", "harmony.js", "plotly.min.js", "icon.svg"}
    for url, _ in found:
        answer = web.get(url)
        assert "immutable" in answer.headers["cache-control"]
        assert url.split("/")[2] == hashlib.sha256(answer.content).hexdigest()[:12]
    old = web.get(re.sub(r"/static/\w+/", "/static/000000000000/", found[0][0]))
    assert old.headers["cache-control"] == "no-cache"
    assert web.get("/static/0/..%2f..%2fpages.py").status_code == 404
    assert web.get("/static/0/pages.py").status_code == 404


def test_plotly_travels_compressed(web: httpx.Client, site: Site) -> None:
    assert site.dashboard is not None
    asset = site.dashboard.assets["plotly.min.js"]
    with httpx.stream("GET", site.url + asset.url, headers={"accept-encoding": "gzip"}) as answer:
        sent = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert len(sent) < 0.35 * len(asset.body)
    assert gzip.decompress(sent) == asset.body


def test_pages_are_light(web: httpx.Client) -> None:
    for path, most in (("/", 8_000), ("/services/serving/chat", 20_000)):
        with web.stream("GET", path, headers={"accept-encoding": "gzip"}) as answer:
            assert sum(len(part) for part in answer.iter_raw()) < most


# ---- what users wrote ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/", "/services/research/lab", "/?q=" + "%3Cimg+src%3Dx%3E", "/reports"])
def test_markup_is_escaped(web: httpx.Client, path: str) -> None:
    page = web.get(path).text
    assert MARKUP not in page
    assert "<img" not in page


def test_data_inside_scripts_cannot_end_them(web: httpx.Client, site: Site) -> None:
    page = web.get("/services/research/lab").text
    for data in re.findall(r"<script type=\"application/json\"[^>]*>(.*?)</script>", page):
        assert "<" not in data
        assert ">" not in data


def test_the_address_may_hold_anything(web: httpx.Client) -> None:
    for query in (
        "sort=nope",
        "page=99999999999999999999",
        "page=-1",
        "page=²",
        "dir=%00",
        "q=" + "x" * 5000,
        "mode=%FF",
    ):
        assert web.get(f"/?{query}").status_code == 200
    assert web.get("/services/a/b").status_code == 404
    assert "No such service" in web.get("/services/%3Cb%3E/x").text


def test_absent_figures_come_last_whichever_way(web: httpx.Client) -> None:
    for way in ("", "&dir=desc"):
        rows = re.findall(r'id="row-([^"]+)"', web.get(f"/?sort=demand{way}").text)
        assert rows[-1] == "search/rerank"
        assert len(rows) == 5


def test_attention_shows_what_needs_it(web: httpx.Client) -> None:
    rows = re.findall(r'id="row-([^"]+)"', web.get("/?show=attention").text)
    assert set(rows) == {"search/rerank", "serving/code"}


def test_stale_is_said_without_javascript(web: httpx.Client, site: Site) -> None:
    site.clock.now += 3600
    page = web.get("/services/serving/chat").text.replace("\N{NO-BREAK SPACE}", " ")
    assert "stale: as of 60 min ago" in page
    assert "nothing here is current" in page


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example", "/\\evil.example", "\nx", "javascript:x"])
def test_themes_and_logins_lead_nowhere_else(web: httpx.Client, visitor: httpx.Client, closed: Site, back: str) -> None:
    assert web.get("/theme/dark", params={"back": back}).headers["location"] == "/"
    assert sign_in(visitor, closed, back).headers["location"] == "/"


# ---- reports ------------------------------------------------------------------------------------------------
def test_reports_are_listed_and_kept_apart(web: httpx.Client) -> None:
    assert "HARMONY kept its promise &amp; saved" in web.get("/reports").text
    answer = web.get("/reports/two-weeks/report.html")
    assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")


def test_reports_stay_in_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "shown"
    report_in(folder, "mine")
    report_in(folder, "<b>bold")
    secret = report_in(tmp_path / "hidden", "other")
    (folder / "linked").mkdir()
    (folder / "linked" / "report.html").symlink_to(secret)
    os.mkfifo(folder / "fifo")
    with running(reports=folder) as site, httpx.Client(base_url=site.url, timeout=60) as web:
        page = web.get("/reports").text
        assert re.findall(r'href="/reports/([^"]+)"', page) == ["%3Cb%3Ebold", "mine"]
        assert "<b>bold" not in page
        assert web.get("/reports/%3Cb%3Ebold/report.html").status_code == 200
        for name in ("linked", "..", "..%2fhidden%2fother", "%2e%2e", "fifo", "mine%00", "none"):
            assert web.get(f"/reports/{name}/report.html").status_code == 404
        (folder / "mine" / "report.html").unlink()
        assert web.get("/reports/mine").status_code == 404


# ---- signing in ---------------------------------------------------------------------------------------------
def test_nothing_is_shown_without_a_key(visitor: httpx.Client) -> None:
    for path in PAGES:
        answer = visitor.get(path)
        assert answer.status_code == 303
        where = answer.headers["location"]
        assert where == "/login" if path == "/" else where == "/login?next=" + path.replace("/", "%2F")
        assert "chat" not in answer.text
    page = visitor.get("/login").text
    assert "serving" not in page
    assert "Fleet</a>" not in page


def test_a_session_lets_in_and_ends(visitor: httpx.Client, closed: Site) -> None:
    answer = sign_in(visitor, closed, "/about")
    assert (answer.status_code, answer.headers["location"]) == (303, "/about")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("harmony_session=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "hk_" not in cookie
    assert visitor.get("/").status_code == 200
    assert visitor.get("/api/v1/services").status_code == 200
    what_if = "/api/v1/services/serving/chat/what-if"
    assert visitor.post(what_if, json={}, headers={"origin": closed.url}).status_code == 200
    kept = dict(visitor.cookies)
    assert visitor.post("/logout", headers={"origin": closed.url}).status_code == 303
    visitor.cookies.update(kept)  # whoever kept the cookie has nothing
    assert visitor.get("/").status_code == 303


def test_other_sites_cannot_use_a_session(visitor: httpx.Client, closed: Site) -> None:
    sign_in(visitor, closed)
    what_if = "/api/v1/services/serving/chat/what-if"
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {}):
        assert visitor.post(what_if, json={}, headers=headers).status_code == 403
    foreign = {"origin": "https://evil.example"}
    assert visitor.post("/logout", headers=foreign).status_code == 403
    assert visitor.post("/login", data={"key": "x"}, headers=foreign).status_code == 403
    assert visitor.get("/").status_code == 200


def test_forged_and_foreign_cookies_are_worth_nothing(visitor: httpx.Client, closed: Site) -> None:
    value = sign_in(visitor, closed).cookies["harmony_session"]
    name, _, signature = value.partition(".")
    visitor.cookies.clear()
    for cookie in (name, f"{name}.", f"{name}x.{signature}", f"{name}.{signature[:-1]}0é", "", ".", "a.b"):
        assert visitor.get("/", headers={"cookie": f"harmony_session={cookie}".encode()}).status_code == 303
    key = key_for(closed.journal, "read")
    assert visitor.get("/", headers={"cookie": f"harmony_key={key}"}).status_code == 303  # only sessions come by cookie


def test_a_session_dies_with_its_key_and_with_time(visitor: httpx.Client, closed: Site) -> None:
    key = key_for(closed.journal, "read")
    closed.clock.monotonic += 6
    visitor.post("/login", data={"key": key})
    assert visitor.get("/").status_code == 200
    closed.journal.revoke_key(key.split("_")[1])
    closed.clock.monotonic += 6
    assert visitor.get("/").status_code == 303
    sign_in(visitor, closed)
    assert visitor.get("/").status_code == 200
    closed.clock.monotonic += 2 * 3600 + 1
    assert visitor.get("/").status_code == 303


def test_guessing_is_slowed_down(visitor: httpx.Client, closed: Site) -> None:
    closed.clock.monotonic += 1000
    codes = [visitor.post("/login", data={"key": f"hk_{i}"}).status_code for i in range(6)]
    assert codes == [401, 401, 401, 429, 429, 429]
    closed.clock.monotonic += 1000
    assert visitor.post(
        "/login", content=b"\xff\xfe=%ff&" * 3, headers={"content-type": "application/x-www-form-urlencoded"}
    ).status_code in (400, 401)


def test_keys_typed_into_addresses_of_pages_are_counted_too(visitor: httpx.Client, closed: Site) -> None:
    closed.clock.monotonic += 1000
    page = {"accept": "text/html", "x-api-key": "hk_no"}
    assert [visitor.get("/about", headers=page).status_code for _ in range(5)] == [303, 303, 303, 429, 429]
    assert visitor.get("/about", headers={"accept": "text/html"}).status_code == 303  # who brings none guesses nothing


TLS = [
    ({"x-forwarded-proto": "https"}, True),
    ({"x-forwarded-proto": "https, http"}, True),
    ({"x-forwarded-proto": "http, https"}, False),
    ({"forwarded": 'for=192.0.2.7; proto="https"'}, True),
    ({}, False),
]


@pytest.mark.parametrize(("headers", "is_tls"), TLS)
def test_behind_a_proxy_that_ends_tls_cookies_are_for_tls_alone(
    visitor: httpx.Client, closed: Site, headers: dict[str, str], is_tls: bool
) -> None:
    closed.clock.monotonic += 1000
    visitor.headers.update(headers)
    signed_in = sign_in(visitor, closed)
    assert ("; Secure" in signed_in.headers["set-cookie"]) is is_tls
    assert ("; Secure" in visitor.get("/theme/dark").headers["set-cookie"]) is is_tls
    for answer in (signed_in, visitor.get("/login"), visitor.get("/api/v1/services"), visitor.get("/healthz")):
        assert answer.headers.get("strict-transport-security") == ("max-age=31536000" if is_tls else None)


def test_a_page_of_a_large_fleet_has_a_hundred_services(site: Site, web: httpx.Client) -> None:
    one = site.chat()
    site.hub.publish([dataclasses.replace(one, service=f"many/s{i:04d}") for i in range(1000)])
    answer = web.get("/")
    assert answer.status_code == 200
    assert "page 1 of 11" in answer.text
    assert answer.text.count('<tr role="row" id="row-') == 100


# ---- reports that are searched and compared -------------------------------------------------------------------
@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Reports with figures, one of them damaged, and one without."""
    for name, hours in (("lead-5m", 1000.0), ("lead-3m", 900.0)):
        report_in(tmp_path, name)
        run = {"gpu_hours": hours, "cost": 2 * hours, "violation_rate": 0.01, "stated_risk": None, "scale_events": 5}
        figures = {"epsilon": 0.01, "trace": "chat", "lead_time_seconds": hours / 4, "policies": {"harmony": run}}
        (tmp_path / name / "replay.json").write_text(json.dumps(figures), encoding="utf-8")
    report_in(tmp_path, "no-figures")
    report_in(tmp_path, "damaged")
    (tmp_path / "damaged" / "replay.json").write_text("{}", encoding="utf-8")
    outside = tmp_path.parent / f"{tmp_path.name}-outside.json"
    outside.write_text((tmp_path / "lead-5m" / "replay.json").read_text(encoding="utf-8"), encoding="utf-8")
    report_in(tmp_path, "leading-out")
    (tmp_path / "leading-out" / "replay.json").symlink_to(outside)
    return tmp_path


def test_reports_are_found_by_words_and_compared_two_by_two(studies: Path) -> None:
    with running(reports=studies) as site, httpx.Client(base_url=site.url, timeout=60) as web:
        listed = re.compile(r'href="/reports/([^"]+)"')
        assert sorted(listed.findall(web.get("/reports").text)) == sorted(p.name for p in studies.iterdir())
        page = web.get("/reports", params={"q": "LEAD kept"}).text
        assert set(listed.findall(page)) == {"lead-5m", "lead-3m", "leading-out"}
        assert "No report matches" in web.get("/reports", params={"q": '"<b>'}).text
        assert set(re.findall(r"<option[^>]*>([^<]+)", page)) == {"lead-5m", "lead-3m", "damaged"}
        both = {"a": "lead-5m", "b": "lead-3m"}
        assert 'src="/compare/page.html?a=lead-5m&amp;b=lead-3m"' in web.get("/compare", params=both).text
        answer = web.get("/compare/page.html", params=both)
        assert "\N{MINUS SIGN}10.0%" in answer.text
        assert "lead time, s" in answer.text
        assert answer.headers["content-security-policy"].startswith("sandbox ")


@pytest.mark.parametrize("other", ["no-figures", "damaged", "leading-out", "nobody", "../lead-5m", ""])
def test_what_has_no_figures_is_not_compared(studies: Path, other: str) -> None:
    with running(reports=studies) as site, httpx.Client(base_url=site.url, timeout=60) as web:
        answer = web.get("/compare/page.html", params={"a": "lead-5m", "b": other})
        assert answer.status_code == 404
        assert "replay.json" in answer.json()["detail"]
        assert str(studies) not in answer.text


# ---- the part of time that charts show ------------------------------------------------------------------------
def test_a_range_is_part_of_the_address_and_moves_by_links(web: httpx.Client, site: Site) -> None:
    """Without a script: every range is a link, and what memory does not hold comes from the journal."""
    site.journal.append([site.chat()])
    at_s = site.clock.now
    site.clock.now += 100 * 60.0
    site.tick()
    path = "/services/serving/chat"
    page = web.get(path, params={"range": "1h"})
    links = dict(re.findall(r'<a href="([^"]+)" data-live-link[^>]*>([^<]+)</a>', page.text))
    assert list(links.values()) == ["Recent", "1\xa0h", "6\xa0h", "24\xa0h", "7\xa0d", "Earlier"]
    earlier = web.get(html.unescape(next(url for url, label in links.items() if label == "Earlier")))
    figure = json.loads(re.findall(r'id="figure-replicas">(.*?)</script>', earlier.text)[0])
    first, last = figure["layout"]["xaxis"]["range"]
    assert first <= 1000 * at_s <= last
    assert 1000 * at_s in figure["data"][0]["x"]
    assert ">Now</a>" in earlier.text


def test_a_range_that_is_none_is_one_line(web: httpx.Client) -> None:
    answer = web.get("/services/serving/chat?range=soon")
    assert answer.status_code == 400
    assert "expected a positive one such as 15s, 5m, 1h30m or 2d" in html.unescape(answer.text)
