"""report.html: what it says, that it needs nothing else, that nothing in a trace can change the page."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from scipy.stats import binom

from harmony.model.decision import Tried
from simulator.charts.axes import percent_label
from simulator.findings import headline, met, sentences
from simulator.report import render_report, save_overview_png, write_report
from simulator.result import PolicyRun, ReplayResult
from tests.counting import calls
from tests.simulator.fake_result import fake_result, run_of

VOID = {"meta", "br", "hr", "img", "input", "link"}
NASTY = "</title><script>alert(1)</script>\"><img src=x onerror=alert(2)>{{ 7*7 }} $x^2$ 'q' ]]> -->"


class Page(HTMLParser):
    """The page as a browser would see it: elements with attributes, text per element, balance of tags."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def text(self) -> str:
        return " ".join(" ".join(t for tag, t in self.texts if tag not in ("style", "script")).split())


@pytest.fixture(scope="module")
def result() -> ReplayResult:
    return fake_result()


@pytest.fixture(scope="module")
def html(result: ReplayResult) -> str:
    return render_report(result)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture
def words_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the charts out where only words are looked at: they take nearly all of the time."""
    monkeypatch.setattr("simulator.report._charts", lambda result: {})


def with_run(result: ReplayResult, name: str, **changes: Any) -> ReplayResult:
    return replace(result, policies=result.policies | {name: replace(result.policies[name], **changes)})


# ---- one file ---------------------------------------------------------------------------------------------------
def test_page_needs_nothing_from_elsewhere(html: str, page: Page) -> None:
    assert not re.search(r"https?:|//[a-z]", html)
    assert not re.search(r"@import|url\((?!#)", html)
    for _, attrs in page.elements:
        assert not {"src", "srcset", "action", "data", "poster", "background"} & set(attrs)
        for key in ("href", "xlink:href"):
            assert (attrs.get(key) or "#").startswith("#")


def test_markup_is_sound(page: Page) -> None:
    assert not page.unbalanced
    assert not page.open
    ids = [str(a["id"]) for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attrs in page.elements:
        wanted = re.findall(r"url\(#([^)]+)\)", " ".join(str(v) for v in attrs.values()))
        wanted += [str(attrs["xlink:href"])[1:]] if "xlink:href" in attrs else []
        wanted += str(attrs.get("aria-labelledby", "")).split()
        assert set(wanted) <= set(ids)
    assert page.elements[0] == ("html", {"lang": "en"})
    assert any(m.get("name") == "viewport" for m in page.named("meta"))


def test_charts_and_tables_can_be_read_without_seeing_them(page: Page) -> None:
    charts = [a for a in page.named("svg") if a.get("role") == "img"]
    assert len(charts) == 9  # three in two widths, three in one
    assert all(a.get("aria-labelledby") for a in charts)
    assert len(page.named("desc")) == len(charts)
    assert all(a.get("aria-hidden") == "true" for a in page.named("svg") if a.get("role") != "img")
    assert page.named("th")
    assert all(a.get("scope") in ("col", "row") for a in page.named("th"))
    for chart in ("Demand and what was ready", "close up", "Replicas, policy by policy", "Cost against violations"):
        assert chart in page.text()
    assert "From 5 Mar 2024 04:45 UTC to 8 Mar 2024 00:00 UTC. Violated steps: HARMONY 0.12%" in page.text()


def test_text_stays_text_and_follows_the_theme(html: str) -> None:
    drawing = html[html.index('<svg class="wide"') : html.index("</figure>")]
    assert ">requests/s</text>" in drawing
    assert ">6 Mar</text>" in drawing
    assert "font-family" not in drawing
    assert not re.search(r"#[0-9a-f]{6}", drawing)
    for role in re.findall(r"var\(--([a-z-]+)\)", html):
        assert html.count(f"--{role}:") == 2, role  # light and dark


def test_only_the_page_s_own_script_may_run(html: str, page: Page) -> None:
    (script,) = [text for tag, text in page.texts if tag == "script"]
    policy = next(str(m["content"]) for m in page.named("meta") if "http-equiv" in m)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    toggles = {a["data-toggle"] for a in page.named("button")}
    series = {a["data-series"] for _, a in page.elements if "data-series" in a}
    assert toggles == {"0", "1", "2", "3", "4"} <= series


# ---- what it says -----------------------------------------------------------------------------------------------
def test_every_policy_stands_in_the_table_with_its_figures(result: ReplayResult, page: Page) -> None:
    text = page.text()
    for run in result.policies.values():
        assert f"{run.gpu_hours:,.0f}" in text
        assert percent_label(run.violation_rate) in text
        assert f"{round(run.violated_seconds / result.step_s)} of 807 steps" in text
    assert "1.00×" in text  # the oracle, to itself
    assert "forecaster base, hold_s 900" in text
    assert "0.93%" in text  # stated
    assert "Forecast" in text
    assert "640 (79.3%)" in text
    assert "the last 807 steps (2 d 19 h)" in text
    assert "made up for a test" in text


@pytest.mark.usefixtures("words_only")
def test_on_a_phone_every_cell_bears_its_column_s_title(html: str) -> None:
    tables = re.findall(r"<table>.*?</table>", html, re.DOTALL)
    assert tables
    for table in tables:
        head, _, body = table.partition("</thead>")
        titles = re.findall(r"<th scope=\"col\"[^>]*>([^<]*)</th>", head)
        rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
        assert rows
        for row in rows:
            assert re.findall(r"<td[^>]* data-title=\"([^\"]*)\"", row.replace("<td ", "<td  ")) == titles[1:]


def test_headline_says_met_or_not(result: ReplayResult) -> None:
    assert (
        headline(result) == "HARMONY met its objective: demand exceeded what was ready 0.12% of the time (1% allowed)."
    )
    broken = with_run(result, "harmony", violation_rate=0.021)
    assert "did not meet its objective" in headline(broken)
    assert ">not met</span>" in render_report(broken)
    never = with_run(result, "harmony", violation_rate=0.0)
    assert headline(never) == "HARMONY met its objective: demand never exceeded what was ready (1% allowed)."
    assert met(result, replace(result.policies["hpa"], violation_rate=0.01))


def test_rivals_are_judged_by_the_same_promise(result: ReplayResult) -> None:
    text = " ".join(sentences(result))
    assert "28% less than HPA (1,618), which violated 0.12% and met the objective too" in text
    assert "1.05 times what perfect foresight needs" in text
    assert "HPA, reactive and static met it too, at a higher cost." in text
    cheap = with_run(with_run(result, "static", violation_rate=0.2), "reactive", gpu_hours=1_000.0)
    text = " ".join(sentences(cheap))
    assert "Static did not meet the objective." in text
    assert "Reactive met it for 14% less." in text
    bad_rival = with_run(result, "hpa", violation_rate=0.05)
    assert "which violated 5% and did not meet the objective" in " ".join(sentences(bad_rival))


@pytest.mark.usefixtures("words_only")
def test_objective_out_of_reach_is_said_plainly(result: ReplayResult) -> None:
    out = with_run(result, "harmony", objective_met=False, unreachable_steps=1_037)
    words = "HARMONY could not meet the objective at 1,037 decisions"
    assert words in Page(render_report(out)).text()
    assert "out of reach at 1,037 decisions" in Page(render_report(out)).text()


@pytest.mark.usefixtures("words_only")
def test_requests_are_shown_where_there_are_any(result: ReplayResult, page: Page) -> None:
    assert "What requests felt" not in page.text()
    figures = {"requests": 8_000.0, "unfinished": 2.0, "ttft_slo_s": 2.0, "slo_miss_rate": 0.0125, "ttft_p95_s": 1.234,
               "e2e_p99_s": 432.1, "idle_ttft_p95_s": 0.31}  # fmt: skip
    text = Page(render_report(with_run(result, "harmony", requests=figures))).text()
    for shown in ("What requests felt", "8,000", "1.25%", "1.23 s", "432.1 s", "bound on TTFT is 2 s", "0.31 s"):
        assert shown in text
    assert "No number of replicas" not in text
    slow = render_report(with_run(result, "harmony", requests=figures | {"idle_ttft_p95_s": 9.0}))
    assert "No number of replicas keeps the bound for such prompts." in slow


def test_without_a_calendar_time_is_elapsed(result: ReplayResult) -> None:
    before = dict(matplotlib.rcParams)
    html = render_report(replace(result, calendar=False))
    assert dict(matplotlib.rcParams) == before  # global settings of the drawing library are left alone
    assert "UTC" not in html
    assert not re.search(r"\b(Mar|2024|1970)\b", html)
    assert "Times count from the start of the trace." in html
    assert ">5 d</text>" in html


@pytest.mark.usefixtures("words_only")
def test_absent_demand_is_said_and_left_out() -> None:
    text = Page(render_report(fake_result(absent=(100, 300)))).text()
    assert "200 scored steps; they count neither way" in text
    assert "of 607 steps" in text


# ---- the same every time ----------------------------------------------------------------------------------------
def test_same_result_same_bytes(html: str, tmp_path: Path) -> None:
    write_report(fake_result(), tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == html


@pytest.mark.usefixtures("words_only")
def test_timings_stand_in_cells_of_their_own(result: ReplayResult) -> None:
    once, slower = render_report(result), render_report(with_run(result, "harmony", seconds=77.7))
    assert slower != once
    timing = re.compile(r'<td class="timing"[^>]*>[^<]*</td>')
    assert timing.sub("", slower) == timing.sub("", once)


def test_same_bytes_in_another_process(html: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from simulator.report import write_report\n"
        "from tests.simulator.fake_result import fake_result\n"
        "write_report(fake_result(), Path(sys.argv[1]))"
    )
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b.html")], check=True, env=env, cwd=tmp_path)
    assert (tmp_path / "b.html").read_text(encoding="utf-8") == html


# ---- names from outside -----------------------------------------------------------------------------------------
def test_names_cannot_become_markup(result: ReplayResult) -> None:
    run = replace(
        result.policies["hpa"], name=NASTY, settings={NASTY: NASTY}, reasons={NASTY: 5}, requests={NASTY: 1.0}
    )
    policies: dict[str, PolicyRun] = {"harmony": result.policies["harmony"], NASTY: run}
    evil = replace(
        result, trace=NASTY, demand_name=NASTY, unit=NASTY, trace_digest=NASTY, world=NASTY, notes=(NASTY,),
        policies=policies,
    )  # fmt: skip
    page = Page(render_report(evil))
    assert not page.unbalanced
    assert len(page.named("script")) == 1
    assert not page.named("img")
    assert not [k for _, attrs in page.elements for k in attrs if k.startswith("on")]
    assert page.text().count("<script>alert(1)</script>") >= 5
    assert "{{ 7*7 }}" in page.text()
    assert "49" not in re.findall(r"\b49\b", page.text().replace("of 49", ""))


@pytest.mark.parametrize(
    "name", ["", "  ", "日本語のトレース", "a\ud800b", "x" * 400, "a\x00b\x1b[31m", "$\\frac{$", "_hidden"]
)
def test_odd_names_are_survived(result: ReplayResult, name: str, tmp_path: Path) -> None:
    policies = {name or "?": result.policies["hpa"], "oracle": result.policies["oracle"]}
    write_report(replace(result, trace=name, demand_name=name, unit=name, policies=policies), tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert not page.unbalanced


# ---- odd results ------------------------------------------------------------------------------------------------
def test_many_policies_keep_their_own_looks(result: ReplayResult) -> None:
    runs = {f"rival-{i}": replace(result.policies["reactive"], name=f"rival-{i}") for i in range(9)}
    text = Page(render_report(replace(result, policies=result.policies | runs))).text()
    assert "rival-8" in text


def test_single_policies_and_none(result: ReplayResult) -> None:
    for only in ("oracle", "static"):
        alone = replace(result, policies={only: result.policies[only]})
        assert "what perfect foresight needs" not in " ".join(sentences(alone))
        assert not Page(render_report(alone)).unbalanced
    assert "No policy was replayed." in render_report(replace(result, policies={}))


@pytest.mark.parametrize(
    "values",
    [np.full(60, np.nan), np.zeros(60), np.full(60, 1e13), np.where(np.arange(60) % 2, np.nan, 5e-9)],
)
def test_odd_demand_is_drawn(values: Any) -> None:
    common: dict[str, Any] = {"capacity": 4.0, "scored_from": 36, "step_s": 60.0}
    runs = {n: run_of(n, np.full(60, k), values, **common) for n, k in (("harmony", 2), ("oracle", 1))}
    html = render_report(fake_result(60, step_s=60.0, demand=values, scored_from=36, policies=runs))
    assert not Page(html).unbalanced
    if np.isnan(values).all():
        assert "Nothing can be said about HARMONY" in html
        assert "nan" not in Page(html).text().lower()


def test_edges_of_size_and_promise(result: ReplayResult) -> None:
    last = with_run(replace(result, scored_from=result.demand.size - 1, epsilon=0.0), "oracle", gpu_hours=0.0)
    assert "(0% allowed)" in render_report(last)
    assert not Page(render_report(last)).unbalanced
    assert not Page(render_report(replace(result, scored_from=result.demand.size))).unbalanced


@pytest.mark.long
def test_long_traces_stay_small_and_cost_little_more_than_short_ones() -> None:
    short, long = (fake_result(n, step_s=60.0, absent=(3_000, 4_000)) for n in (4_464, 44_640))
    render_report(short)
    pages: list[str] = []
    assert calls(lambda: pages.append(render_report(long))) <= 1.5 * calls(lambda: render_report(short))
    assert len(pages[0].encode()) < 1_500_000


def test_overview_picture_is_written(result: ReplayResult, tmp_path: Path) -> None:
    save_overview_png(result, tmp_path / "one.png")
    save_overview_png(result, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    head = (tmp_path / "one.png").read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(head[16:20]) == 1920
    save_overview_png(replace(result, policies={"static": result.policies["static"]}), tmp_path / "three.png")


# ---- what was tried, and the budget's band ----------------------------------------------------------------------
@pytest.mark.usefixtures("words_only")
def test_what_else_was_tried_is_a_table_of_what_would_have_been(result: ReplayResult) -> None:
    tried = Tried(
        np.array(["price on ridge", "reactive"]), np.array(["price on ridge max", "reactive, margin 1.2"]),
        np.array([12.3, 14.0]), np.array([0.008, 0.01]), allowed=0.009,
    )  # fmt: skip
    text = Page(render_report(with_run(result, "harmony", tried=tried))).text()
    assert "What else HARMONY tried" in text
    assert "price on ridge max 12.3 0.8% in force reactive, margin 1.2 14 1% breaks the budget" in text
    assert "What else" not in Page(render_report(result)).text()
    told = with_run(result, "harmony", tried=tried).to_json()["policies"]
    assert [row["family"] for row in told["harmony"]["tried"]["families"]] == ["price on ridge", "reactive"]
    assert "tried" not in told["hpa"]


def test_the_budget_is_told_with_the_band_that_chance_makes(result: ReplayResult) -> None:
    """Recounted from violated steps and SciPy's binomial quantiles of runs of one lead time."""
    known = np.isfinite(result.demand[result.scored_from :])
    run_steps = math.ceil(result.lead_time_s / result.step_s) + 1
    few, many = binom.ppf([0.025, 0.975], known.sum() // run_steps, result.epsilon) * run_steps
    for name, told in result.to_json()["policies"].items():
        budget = told["error_budget"]
        spent = int(result.policies[name].violated[result.scored_from :].sum())
        assert budget["spent_steps"] == spent
        assert budget["allowed_steps"] == pytest.approx(result.epsilon * known.sum())
        assert budget["band_steps"] == pytest.approx([few, many])
        assert budget["within_band"] == (few <= spent <= many)
        assert 0.0 <= budget["time_within_band"] <= 1.0
