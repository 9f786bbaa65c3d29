"""What the pages say: figures that a reader compares agree with each other."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.specialists import LeadGrid
from harmony.api.models import WhatIfRequest
from harmony.api.what_if import what_if
from harmony.dashboard.history import Course
from harmony.dashboard.service import page_of
from harmony.dashboard.states import Ages
from harmony.decision.past.portfolio import Portfolio, PortfolioSetting, forecasters_of
from harmony.decision.rule import lead_window
from harmony.loop.violations import ViolationCounts
from harmony.model.decision import Reason
from harmony.model.objective import Objective
from harmony.serving import Snapshot
from harmony.serving.words import duration
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


RIDGE = "price on ridge point, price 92.8, hold 31 steps, at most the week's highest"


def deciding(**changes: Any) -> Snapshot:
    """A snapshot of a decision that differs in this, of a service whose replica costs 2.90 USD an hour."""
    looked = builders.seen(
        objective=Objective(epsilon=0.05, demand="requests", max_replicas=20, price_per_gpu_hour=2.9)
    )
    turn = builders.record(looked)
    return builders.snapshot(record=replace(turn, decision=replace(turn.decision, **changes)))


@pytest.mark.parametrize(
    ("setting", "decider", "is_fan"),
    [
        (RIDGE, "ridge, learned from this service's own past", False),
        ("price on forecast max, price 10, hold 1 steps", "the joint forecast (test)", True),
        (
            "price on ridge+forecast max, price 10, hold 1 steps",
            "the mean of the joint forecast (test) and ridge, learned from this service's own past",
            True,
        ),
        ("percentile 90, margin 1.2, hold 720 steps", "percentile 90, a rule of thumb on demand itself", False),
        ("", "the joint forecast (test), at one fixed risk level", True),
    ],
)
def test_who_decided_is_said_and_whether_that_is_the_fan(
    web: httpx.Client, site: Site, setting: str, decider: str, is_fan: bool
) -> None:
    page = shown(web, site, deciding(setting=setting, held=15, wanted=15, model="test"))
    assert f"Decided by {decider}" in page
    assert (f"The fan is the joint forecast beside what was decided by: {decider}." in page) == (not is_fan)
    assert ("this decision was made without it" in page) == (not is_fan)


@given(st.sampled_from(Portfolio().settings(LeadGrid(60.0, 5), 0.05)))
def test_a_settings_label_names_its_forecasters(setting: PortfolioSetting) -> None:
    named = () if setting.rule == "margin" else tuple(setting.expert.split("+"))
    assert forecasters_of(setting.label) == forecasters_of(setting.family) == named


def test_what_is_weighed_is_named_and_is_what_the_rule_weighs(web: httpx.Client, site: Site) -> None:
    """By a price: the bill and what violations are worth, least at what it picks; else what is idle and missing."""
    priced = deciding(setting=RIDGE, price=92.8, held=15, wanted=15)
    rows = page_of(priced, Course([]), Ages(builders.NOON_S)).candidates
    assert rows
    for row in rows:
        assert row["weighed"] == pytest.approx(2.9 * (row["replicas"] + 92.8 * row["violated_time"]))
    page = shown(web, site, priced)
    assert "bill and violations" in page
    assert "Price of an hour one replica short" not in page
    assert "Price of a GPU-hour" not in page
    plain = shown(web, site, deciding())
    assert "what is expected to be lost to idle replicas, to missing ones and to switching" in plain
    assert "Price of an hour one replica short" in plain


def test_where_changes_have_a_price_it_is_weighed_from_what_stood(web: httpx.Client, site: Site) -> None:
    looked = builders.seen(
        objective=Objective(epsilon=0.05, demand="requests", max_replicas=20, price_per_gpu_hour=2.0, switch_price=0.25)
    )
    turn = builders.record(looked)
    changes = {"setting": RIDGE, "price": 92.8, "held": 14, "wanted": 14, "stood": 14}
    priced = builders.snapshot(record=replace(turn, decision=replace(turn.decision, **changes)))  # type: ignore[arg-type]
    for row in page_of(priced, Course([]), Ages(builders.NOON_S)).candidates:
        without = 2.0 * (row["replicas"] + 92.8 * row["violated_time"])
        change = 2 * 0.25 * abs(row["replicas"] - 14)  # an hour has two of the times that it is set against
        assert row["weighed"] == pytest.approx(without + change)
    page = shown(web, site, priced)
    assert "bill, violations and changes" in page
    assert "what changes cost was weighed from 14" in page


def test_prices_change_nothing_where_a_setting_decides() -> None:
    """Which is why the page does not ask what if they were others."""
    priced = deciding(setting=RIDGE, price=92.8, held=15, wanted=15)
    for changes in ({"price_per_gpu_hour": 29.0}, {"miss_price_per_replica_hour": 500.0}):
        found = what_if(priced, WhatIfRequest(**changes))
        assert found.old == found.new


def test_two_stated_risks_are_told_apart_by_quantity_and_period(web: httpx.Client, site: Site) -> None:
    page = shown(web, site, builders.snapshot())
    window = duration(lead_window(builders.seen()) * builders.seen().step_s)
    assert f"expected share of violated time in the next {window}" in page
    assert "Stated on average 4 %: the mean of what past decisions stated for the judged steps" in page
    assert "2 of 400 steps since counting began" in page


def test_a_budget_tells_its_price_from_ones_own(web: httpx.Client, site: Site) -> None:
    page = shown(web, site, deciding(setting=RIDGE, price=100.0, held=15, wanted=15, budget_left=0.9))
    assert "A violated hour is worth 100 replica-hours (290.00 USD)" in page
    assert "You gave no price of your own for an hour one replica short." in page
