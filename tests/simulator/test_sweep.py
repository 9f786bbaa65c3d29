"""Sweeps: hours at equal violation against a plain count, the same results wherever jobs run, the page."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import DataError, UsageError
from forecasting.panel import FloatArray
from forecasting.specialists import LeadGrid
from harmony.policies.reactive import ReactivePolicy
from simulator.hindsight import KINDS, RULES, Curve, at_level, filled, foresight, rules, yardstick
from simulator.pool import StartUp
from simulator.replaying import ReplaySettings, replay
from simulator.sweep.cells import as_stated, longest_run, run_cell, run_figures
from simulator.sweep.report import render_sweep
from simulator.sweep.running import SweepResult, frontier, sweep
from simulator.sweep.study import SWEPT, PolicyChoice, Study, TraceChoice
from simulator.sweep.workers import Job, Processes, RayCluster
from simulator.traces.trace import Trace
from tests.simulator.worlds import make_trace, waves

NAMES = ("hpa", "reactive", "bacc", "oracle", "oracle-free")


class Here:
    """Jobs done in this process, in reverse: results must not depend on the order."""

    def run(self, jobs: Sequence[Job], done: Callable[[int], None]) -> list[Any]:
        results: list[Any] = [None] * len(jobs)
        for number, (function, given_) in reversed(list(enumerate(jobs))):
            results[number] = function(*given_)
            done(number)
        return results


def trace(seed: int = 0, name: str = "made") -> Trace:
    """Six days of ten-minute steps."""
    days = np.tile(waves(144, seed), 6)
    noise = np.random.default_rng(seed).gamma(20.0, 1 / 20, days.size)
    return make_trace(days * noise, step_s=600.0, name=name)


def study(**changes: Any) -> Study:
    traces = (TraceChoice(trace(0, "one")), TraceChoice(trace(1, "two")))
    start_up = ReplaySettings(start_up=StartUp(1200.0))
    made = Study(traces, tuple(PolicyChoice(n) for n in NAMES), (0.01, 0.1), start_up, resamples=40)
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def result() -> SweepResult:
    return sweep(study(), Here())


def text(found: SweepResult) -> str:
    return json.dumps(found.to_json(), sort_keys=True, allow_nan=False)


# ---- the arithmetic --------------------------------------------------------------------------------------------------
def plain_at_level(hours: FloatArray, shares: FloatArray, share: float) -> float:
    """Least hours at a violated share on one configuration's frontier, in plain steps."""
    points = sorted(zip(shares.tolist(), hours.tolist(), strict=True))
    best, kept = math.inf, []
    for v, h in points:
        best = min(best, h)
        kept.append((v, best))
    below = [i for i, (v, _) in enumerate(kept) if v <= share]
    if not below:
        return math.nan
    i = below[-1]
    if i + 1 < len(kept) and kept[i][0] < kept[i + 1][0] < kept[i][0] + share:
        (v0, h0), (v1, h1) = kept[i], kept[i + 1]
        return h0 + (h1 - h0) * (share - v0) / (v1 - v0)
    return kept[i][1]


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), min_size=1, max_size=20), st.integers(0, 25))
def test_hours_at_a_level_are_read_off_the_frontier(points: list[tuple[int, int]], at: int) -> None:
    hours, shares = np.array([float(h) for h, _ in points]), np.array([v / 100 for _, v in points])
    expected = plain_at_level(hours, shares, at / 100)
    found = at_level([Curve(hours, shares)], at / 100)
    assert found == pytest.approx(expected, nan_ok=True)


def test_a_yardstick_is_every_rule_counted_step_by_step() -> None:
    demand = trace().panel.values[:, 0].copy()
    demand[700:705] = math.nan
    grid, capacity, start = LeadGrid(600.0, 2), 5.0, 518
    yard = yardstick(demand, capacity, grid, start)
    load = filled(demand) / capacity
    made: dict[str, list[FloatArray]] = {}
    for kind, counts in rules(load, grid, start):
        made.setdefault(kind, []).append(counts)
    assert set(made) == {"hpa", *RULES}
    for kind in made:
        counts, setting = made[kind][-1], 7
        ordered = missed = 0
        for t in range(start, demand.size):
            ordered += counts[t, setting]
            ready = counts[t - 2 : t + 1, setting].min()
            missed += (not math.isnan(demand[t])) and demand[t] / capacity > ready + 1e-9
        assert yard.ordered[kind][-1][:, setting].sum() == ordered
        assert yard.missed[kind][-1][:, setting].sum() == missed
    assert yard.known.sum() == demand.size - start - 5
    ahead = foresight(load, 2)
    assert ahead[600] == math.ceil(load[600:603].max() - 1e-9)
    assert yard.foresight.sum() == ahead[start:].sum()


def test_a_rule_of_thumb_in_the_loop_has_the_hours_that_the_yardstick_counts_for_it() -> None:
    choice = TraceChoice(trace())
    grid = LeadGrid(600.0, 2)
    made = replay(
        choice.loaded(), [ReactivePolicy(margin=math.exp(math.log(0.7) + 40 * 0.025) - 1, hold_s=0.0)],
        ReplaySettings(start_up=StartUp(1200.0)),
    )  # fmt: skip
    figures = run_figures(made, made.policies["reactive"])
    yard = yardstick(made.demand, made.replica_capacity, grid, made.scored_from)
    assert figures.ordered.tolist() == yard.ordered["reactive"][0][:, 40].tolist()
    assert figures.missed.tolist() == yard.missed["reactive"][0][:, 40].tolist()


# ---- a sweep ---------------------------------------------------------------------------------------------------------
@pytest.mark.long
def test_every_policy_meets_every_trace_at_every_objective(result: SweepResult) -> None:
    assert [(r.cell.trace, r.cell.policy, r.cell.epsilon) for r in result.rows] == [
        (t, p, e) for t in ("one", "two") for p in NAMES for e in (0.01, 0.1)
    ]
    for row in result.rows:
        alone = replay(trace(["one", "two"].index(row.cell.trace), row.cell.trace), [row.cell.policy],
                       result.study.traces[0].settings(result.study.settings, row.cell.epsilon))  # fmt: skip
        run = alone.policies[row.cell.policy]
        assert (row.cell.gpu_hours, row.cell.figures.violated) == (run.gpu_hours, run.violation_rate)


def test_what_was_stated_is_judged_as_a_replay_judges_it_and_counted_by_traces(result: SweepResult) -> None:
    """The same judgement, under the same key, as of a single replay; the tables count traces."""
    choice, chosen = TraceChoice(trace(0, "one")), study().settings
    cell = run_cell(choice, PolicyChoice("standin"), chosen, 0.1, None)
    alone = replay(trace(0, "one"), ["standin"], choice.settings(chosen, 0.1)).to_json()["policies"]["standin"]
    assert cell.stated_risk == alone["stated_risk"] is not None
    assert cell.stated_judgement == alone["stated_judgement"] is not None
    assert all(r.to_json()["stated_judgement"] is None for r in result.rows)  # these state nothing
    first = result.rows[0]

    def judged(*pairs: tuple[float | None, str | None]) -> str:
        rows = [
            dataclasses.replace(first, cell=dataclasses.replace(first.cell, stated_risk=risk, stated_judgement=said))
            for risk, said in pairs
        ]
        return dataclasses.replace(result, rows=tuple(rows)).judged(first.cell.policy, first.cell.epsilon)

    assert judged((0.1, "Agrees"), (0.1, "Understated"), (0.1, "Agrees"), (0.1, None)) == (
        "2 agrees, 1 understated, 1 too early"
    )
    assert judged((None, None)) == "-"


def test_ratios_are_those_of_the_hours_at_the_same_violations(result: SweepResult) -> None:
    for row in result.rows:
        world = next(w for w in result.worlds if w.trace == row.cell.trace)
        curves = world.yardstick.curves()
        ordered, share = row.cell.figures.ordered.sum(), row.cell.figures.violated
        for kind in KINDS:
            expected = ordered / at_level(curves[kind], share)
            assert row.compared.over[kind] == pytest.approx(expected, nan_ok=True)
        assert row.cell.gpu_hours == pytest.approx(ordered / 6)
        low, high = row.compared.intervals["oracle"]
        assert low <= row.compared.over["oracle"] <= high
    for name in ("oracle", "oracle-free"):
        assert all(r.compared.over["oracle"] <= 1.0 for r in result.of(name, 0.01))


@pytest.mark.long
def test_results_do_not_depend_on_who_does_the_jobs(result: SweepResult) -> None:
    told: list[tuple[str, int, int]] = []
    again = sweep(study(), Processes(2), lambda *seen: told.append(seen))
    assert text(again) == text(result)
    assert [d for _, d, _ in told] == list(range(len(told)))
    assert told[-1][1] == told[-1][2] == 2 * (1 + len(NAMES) * 2) + 2
    assert render_sweep(again) == render_sweep(result)


@pytest.mark.long
def test_a_ray_cluster_of_two_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # of 15, its default, other work on the machine leaves nothing
    small = study(policies=(PolicyChoice("reactive"), PolicyChoice("bacc")), epsilons=(0.01,), resamples=4)
    assert text(sweep(small, RayCluster("local", 2))) == text(sweep(small, Here()))


def test_a_failure_ends_the_sweep_and_says_what_it_was() -> None:
    broken = study(traces=(TraceChoice("no-such-trace"),))
    for workers in (Here(), Processes(2)):
        with pytest.raises(DataError, match="no trace 'no-such-trace'"):
            sweep(broken, workers)


def test_rungs_give_each_policy_a_frontier() -> None:
    made = sweep(study(policies=(PolicyChoice("reactive"), PolicyChoice("oracle")), rungs=4, resamples=0), Here())
    points = made.points("one", "reactive")
    ladders = ReactivePolicy().ladders(made_past())
    assert len(points) == 2 + 4 * len(ladders)
    kept = frontier(points)
    assert [v for v, _ in kept] == sorted(v for v, _ in kept)
    assert [h for _, h in kept] == sorted((h for _, h in kept), reverse=True)
    assert not any(v <= kv and h < kh for v, h in points for kv, kh in kept)
    assert made.points("one", "oracle") == [(0.0, made.rows[2].cell.gpu_hours)] * 2
    assert made.to_json()["frontier"]["one"]["reactive"] == [list(p) for p in kept]
    assert made.rows[0].compared.intervals == {}


def made_past() -> Any:
    from harmony.policies.base import Past

    return Past(np.ones(10), 600.0, 1200.0, 0.01)


def test_a_policys_own_settings_have_a_name_of_their_own() -> None:
    made = study(
        policies=(PolicyChoice("hpa", changes=(("target", 0.5),)), PolicyChoice("hpa", "loose", (("target", 1.0),))),
        epsilons=(0.01,), resamples=0,
    )  # fmt: skip
    found = sweep(made, Here())
    assert found.policies == ["hpa target=0.5", "loose"]
    tight, loose = (found.of(p, 0.01)[0].cell for p in found.policies)
    assert tight.settings["target"] == 0.5
    assert tight.gpu_hours > 1.5 * loose.gpu_hours


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"traces": ()}, "at least one trace"),
        ({"policies": ()}, "at least one policy"),
        ({"policies": (PolicyChoice("hpa"), PolicyChoice("hpa"))}, "called 'hpa'; give one of them a label"),
        ({"epsilons": (0.0,)}, "epsilons between 0 and 1"),
        ({"rungs": -1}, "0 or more"),
    ],
)
def test_a_study_that_cannot_be_done_says_so(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        study(**changes)
    with pytest.raises(UsageError, match="no setting 'goal'"):
        PolicyChoice("hpa", changes=(("goal", 1),))
    with pytest.raises(UsageError, match="--workers 0"):
        Processes(0)


def test_a_sweep_by_default_has_fourteen_policies() -> None:
    assert len(SWEPT) == len(set(SWEPT)) == 14


# ---- figures ---------------------------------------------------------------------------------------------------------
@given(st.lists(st.booleans(), max_size=40))
def test_the_longest_run_is_that_of_a_plain_count(violated: list[bool]) -> None:
    runs = "".join("x" if v else " " for v in violated).split()
    assert longest_run(np.array(violated, dtype=bool)) == max(map(len, runs), default=0)


def test_as_stated_knows_that_violations_come_in_blocks() -> None:
    rng = np.random.default_rng(0)
    single = rng.random(10_000) < 0.01
    assert as_stated(single, 0.01, 6) == "as stated"
    assert as_stated(single, 0.05, 6) == "less"
    assert as_stated(single, 0.001, 6) == "more"
    blocks = np.repeat(rng.random(170) < 0.012, 6)
    assert as_stated(blocks, 0.02, 6) == "as stated"  # two outages more or less
    assert as_stated(np.zeros(0, bool), 0.01, 6) == "as stated"


def test_the_page_needs_nothing_from_elsewhere(result: SweepResult) -> None:
    page = render_sweep(result)
    for words in ("At most 1 % of the time violated", "Stated against realised", "Cost against violations: two"):
        assert words in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert page.count("<svg") == 3
