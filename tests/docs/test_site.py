"""The site: it builds without a warning, every link and anchor leads somewhere, and nothing comes from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from from_chart import values
from from_cli import cli_page, verbs
from from_code import promised_names
from site_pages import filled, other_pages, readable

from harmony.metrics.catalogue import LIMITERS, limiter
from harmony.model.decision import Reason
from tests.docs.pages import DOCS, PAGES, ROOT

PICTURES = DOCS / "_static" / "pictures"
LOADS = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "srcset")}


# ---- made from the code -----------------------------------------------------------------------------------------
def test_every_verb_and_option_is_in_the_reference() -> None:
    text = cli_page()
    for name, verb in verbs():
        section = text.partition(f"## `{name}`\n")[2].partition("\n## ")[0]
        assert section, name
        for parameter in verb.params:
            if parameter.param_type_name == "option":
                assert all(f"`{flag}`" in section for flag in parameter.opts), f"{name} {parameter.opts}"


def test_every_value_of_the_chart_has_a_meaning() -> None:
    found = {name: text for name, _, _, text in values()}
    assert len(found) > 90
    assert all(found.values())
    assert "watch.selector" in found


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing generates 'weather'"):
        filled("<!-- generated: weather -->")


def test_docstrings_are_made_readable() -> None:
    assert readable("the norm |x| of `a|b`") == ["the norm \\|x\\| of `a|b`"]
    assert readable("    low, high: bounds.") == ["    low: see `high`.", "    high: bounds."]
    assert readable("    low: one, two: three") == ["    low: one, two: three"]


def test_new_pages_are_listed(tmp_path: Path) -> None:
    (tmp_path / "index.md").write_text("```{toctree}\n:hidden:\n\ninstall\nA title <metrics>\n```\n")
    for page in ("install", "metrics", "api"):
        (tmp_path / f"{page}.md").write_text(f"# {page}\n")
    assert other_pages(tmp_path) == ["api"]


# ---- closed sets ------------------------------------------------------------------------------------------------
def table_of(title: str) -> dict[str, str]:
    """First cell to the rest of each row in the tables of a section of the FAQ."""
    section = (DOCS / "faq.md").read_text().partition(f"### {title}\n")[2]
    section = re.split(r"^##", section, maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (`.+?) \| (.+) \|$", section, re.MULTILINE)
    return dict(rows)


def test_the_faq_explains_every_reason_and_no_other() -> None:
    explained = [cell.strip("`") for cell in table_of("Every reason")]
    assert sorted(explained) == sorted(str(reason) for reason in Reason)


def test_the_faq_explains_every_limit() -> None:
    explained = {limiter(word) for cell in table_of("Every limit") for word in re.findall(r"`([^`]+)`", cell)}
    assert explained >= set(LIMITERS) - {"other"}


# ---- pictures ---------------------------------------------------------------------------------------------------
def drawn() -> list[str]:
    return sorted(path.stem for path in PICTURES.glob("*.svg"))


@pytest.mark.parametrize("name", drawn())
def test_a_picture_is_light_and_explained(name: str) -> None:
    path = PICTURES / f"{name}.svg"
    text = path.read_text()
    assert len(text) < 120_000
    ET.fromstring(text)
    assert "currentColor" in text
    assert not re.search(r"fill: #(?:fff|000)|(?:href|src)=\"http", text)
    uses = [
        found
        for page in PAGES
        for found in re.findall(rf"!\[(.*?)\]\([./]*_static/pictures/{name}\.svg \"(.+)\"\)", page.read_text())
    ]
    assert uses, f"no page shows {name}"
    assert all(len(alt) > 60 and len(caption) > 30 for alt, caption in uses)


def labels(path: Path) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.slow
def test_pictures_are_those_of_the_script(tmp_path: Path) -> None:
    """The quick ones are drawn again: the same words, titles and ticks."""
    code = f"import sys; sys.path.insert(0, {str(DOCS)!r})\nimport pictures, pathlib\n"
    code += f"assert sorted(pictures.PICTURES) == {drawn()!r}, sorted(pictures.PICTURES)\n"
    code += f"[pictures.write(n, pathlib.Path({str(tmp_path)!r})) for n in ('loop', 'lead-time', 'decision')]\n"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
    for name in ("loop", "lead-time", "decision"):
        assert labels(tmp_path / f"{name}.svg") == labels(PICTURES / f"{name}.svg"), f"python docs/pictures.py {name}"


# ---- the built site ---------------------------------------------------------------------------------------------
class Page(HTMLParser):
    """The ids of a page, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.ids |= {found[key] for key in ("id", "name") if key in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        self.loads += [found[key] for loading, key in LOADS if loading == tag and key in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def html(site: Path) -> dict[Path, Page]:
    return {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_page_is_built(site: Path) -> None:
    for page in PAGES:
        if page.is_relative_to(DOCS):
            assert (site / page.relative_to(DOCS).with_suffix(".html")).exists(), page


@pytest.mark.slow
def test_internal_links_and_anchors_lead_somewhere(html: dict[Path, Page]) -> None:
    checked = 0
    for path, page in html.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link}"
            if parts.fragment and target in html:
                assert unquote(parts.fragment) in html[target].ids, f"{path.name}: {link}"
            checked += 1
    assert checked > 1_000


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path, html: dict[Path, Page]) -> None:
    for path, page in html.items():
        away = [url for url in page.loads if urlsplit(url).netloc and "github.com/harmony-autoscaler" not in url]
        assert not away, f"{path.name} loads {away}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


@pytest.mark.slow
def test_pictures_take_the_colours_of_the_page(site: Path) -> None:
    text = (site / "concepts" / "decision.html").read_text(encoding="utf-8")
    assert '<svg role="img" aria-label="Left: stated' in text
    assert "pictures/decision.svg" not in text
    assert "<style>:root" not in text


@pytest.mark.slow
def test_reference_pages_are_filled(site: Path) -> None:
    pages = {
        name: (site / "reference" / f"{name}.html").read_text(encoding="utf-8")
        for name in ("python", "json", "cli", "examples")
    }
    assert all("generated:" not in text for text in pages.values())
    for name in promised_names():
        assert f'id="{name}"' in pages["python"], name
    assert "policies.POLICY.violation_rate" in pages["json"]
    assert "--fail-on" in pages["cli"]
    assert "LeaderWorkerSet" in pages["examples"]
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    assert json.dumps("howto/epsilon") in index
