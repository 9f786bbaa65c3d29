"""The demo cluster: the real loop, kept promises, equal for equal seeds, and something of everything to look at."""

from __future__ import annotations

import functools
import itertools
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from scipy.stats import binomtest

from forecasting.errors import UsageError
from forecasting.refreshing import Standing
from harmony.journal import JournalStore
from harmony.journal.explaining import recompute
from harmony.metrics import CATALOGUE, Metrics
from harmony.model.authority import Mode
from harmony.model.decision import Reason
from harmony.serving import Hub, Snapshot, decision_json, forecast_json, history_json, summary_json
from simulator.demo import DemoCluster, demo_specs
from simulator.demo.cluster import FIRST_ROW, LATE_STEPS, PAST_EVERY, SHOWN_TURNS
from tests.bundled import base_model
from tests.forecasting.stand_ins import Around

STEPS = 150

pytestmark = pytest.mark.long


class Collected:
    """Everything that a demo published, in order."""

    def __init__(self, cluster: DemoCluster) -> None:
        self.cluster = cluster
        self.by_service: dict[str, list[Snapshot]] = {}
        publish = cluster.hub.publish

        def keep(snapshots: Sequence[Snapshot], gone: Sequence[str] = ()) -> int:
            for snapshot in snapshots:
                self.by_service.setdefault(snapshot.service, []).append(snapshot)
            return publish(snapshots, gone)

        cluster.hub.publish = keep  # type: ignore[method-assign,assignment]

    def all(self) -> list[Snapshot]:
        return [s for snapshots in self.by_service.values() for s in snapshots]


@functools.cache
def lived() -> Collected:
    """Some hours after the past, of the demo as it comes."""
    collected = Collected(DemoCluster(0))
    collected.cluster.advance(STEPS)
    return collected


def trail(seed: int, steps: int, **changes: object) -> list[str]:
    """All that was shown in every step, as text."""
    collected = Collected(DemoCluster(seed, services=2, past_hours=2.0, **changes))  # type: ignore[arg-type]
    collected.cluster.advance(steps)
    return [json.dumps([summary_json(s), decision_json(s), forecast_json(s, paths=2)]) for s in collected.all()]


# ---- it is the real thing ---------------------------------------------------------------------------------------
@pytest.mark.slow
def test_every_decision_is_the_rules_own() -> None:
    """Made again from what was seen, and from the table, price and hold that it names, it comes out the same."""
    checked = 0
    for snapshot in lived().all():
        turn = snapshot.record
        assert json.dumps(recompute(snapshot).to_json()) == json.dumps(turn.decision.to_json())
        checked += bool(turn.decision.setting) and turn.decision.reason is Reason.FORECAST
    assert checked > STEPS


def test_forecasts_are_the_bundled_models_and_joint() -> None:
    snapshot = lived().cluster.hub.latest("serving/chat")
    assert snapshot is not None
    forecast = snapshot.record.observation.forecast
    assert forecast is not None
    assert forecast.model == lived().cluster.model.name or forecast.model
    assert forecast.names == ("requests", "output_tokens", "gpu_utilization", "waiting_requests")
    assert forecast.paths.shape[0] == 200
    assert forecast.origin_s == snapshot.at_s
    tokens, requests = forecast.of("output_tokens")[:, 3], forecast.of("requests")[:, 3]
    assert np.corrcoef(tokens, requests)[0, 1] > 0.1  # paths are joint, not each for itself


def test_promises_are_kept() -> None:
    for snapshot in lived().cluster.hub.all():
        epsilon = snapshot.record.observation.objective.epsilon
        assert snapshot.realized is not None
        assert snapshot.stated is not None
        assert snapshot.realized <= 1.5 * epsilon, snapshot.service
        assert snapshot.realized - epsilon <= snapshot.stated <= snapshot.realized + 1.5 * epsilon, snapshot.service
        assert snapshot.mode == snapshot.effective_mode, snapshot.service


def test_forecasts_are_calibrated() -> None:
    for snapshot in lived().cluster.hub.all():
        assert 0.6 <= snapshot.coverage[0.8] <= 0.985, snapshot.service
        assert snapshot.crps > 0.0


# ---- each service is there for something --------------------------------------------------------------------------
def test_modes_as_granted() -> None:
    modes = {s.service: Mode(s.mode) for s in lived().cluster.hub.all()}
    assert modes == {
        "serving/chat": Mode.FULL,
        "serving/code": Mode.UP_ONLY,
        "batch/summaries": Mode.RECOMMEND,
        "search/rerank": Mode.FLOOR,
        "research/playground": Mode.FULL,
    }


def test_full_follows_both_ways_and_cold_starts_take_their_time() -> None:
    chat = lived().by_service["serving/chat"]
    ordered = [s.ordered for s in chat]
    assert max(ordered) - min(ordered) >= 4
    assert any(b < a for a, b in itertools.pairwise(ordered))
    assert any(s.ready < s.ordered for s in chat)
    assert all(s.ready <= s.ordered for s in chat)
    for snapshot in chat:
        able = {c["type"]: c["status"] for c in snapshot.conditions}["AbleToScale"] == "True"
        assert able == (snapshot.desired == snapshot.ordered == snapshot.record.applied)
    assert any(s.desired != s.ordered for s in chat)  # refused, and asked for again
    lead = chat[-1].record.observation.lead_time
    assert 200 < lead.median_s < 290  # 240 s, learned from a guess of 360 s


def test_up_only_never_lowers() -> None:
    code = lived().by_service["serving/code"]
    lowered = [b.at_s for a, b in itertools.pairwise(code) if b.ordered < a.ordered]
    assert lowered
    assert all(at_s % (4 * 3600) == 0 for at_s in lowered)  # only by the person who trims it
    assert any(s.recommended < s.ordered and s.held_by == "mode UpOnly" for s in code)


def test_recommend_lives_in_a_shadow_with_an_autoscaler_beside_it() -> None:
    shown = lived().by_service["batch/summaries"]
    assert any(s.record.observation.ordered != s.ordered for s in shown)
    assert shown[-1].gpu_hours_saved > 0.0
    assert shown[-1].shadow_s > 20 * 3600
    assert all(s.desired == s.ordered for s in shown)
    assert any(b.ordered != a.ordered for a, b in itertools.pairwise(shown))


def test_floor_holds_under_another_autoscaler() -> None:
    shown = lived().by_service["search/rerank"]
    for before, after in itertools.pairwise(shown):
        assert after.ordered >= before.recommended


def test_absent_readings_hold_the_count() -> None:
    shown = lived().by_service["search/rerank"]
    held = [s for s in shown if math.isnan(s.record.observation.demand)]
    assert len(held) > 10
    for snapshot in held:
        decision = snapshot.record.decision
        assert decision.replicas >= decision.current
        if decision.reason is Reason.FORECAST:  # which may still be there, and then asks for as many or for more
            assert snapshot.record.observation.forecast is not None
        else:
            assert decision.reason in (Reason.ABSENT_DATA, Reason.FALLBACK, Reason.STABILIZED)
        assert {c["type"]: c["status"] for c in snapshot.conditions}["MetricsAvailable"] == "False"
        assert summary_json(snapshot)["demand"] is None
    assert any(s.record.decision.reason is Reason.ABSENT_DATA for s in held)
    assert any(math.isfinite(s.record.observation.demand) for s in shown[shown.index(held[-1]) :])


def test_the_nearly_idle_one_keeps_its_minimum() -> None:
    ordered = Counter(s.ordered for s in lived().by_service["research/playground"])
    assert ordered.most_common(1)[0][0] == 1


class Counting:
    """The bundled model, which counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self._model = base_model()

    def predict(self, *arguments: object, **options: object) -> object:
        self.asked += 1
        return self._model.predict(*arguments, **options)  # type: ignore[arg-type]


# ---- the first page is full --------------------------------------------------------------------------------------
def test_the_first_page_is_full_and_plain_json() -> None:
    model = Counting()
    cluster = DemoCluster(0, model=model)  # type: ignore[arg-type]
    cluster.begin()
    assert model.asked == len(cluster.services), "the whole past of a service is forecast at once"
    assert cluster.hub.version == SHOWN_TURNS
    for snapshot in cluster.hub.all():
        known = np.count_nonzero(np.isfinite(snapshot.history))
        assert snapshot.history.size == snapshot.history_s.size == 288
        assert known > 200
        assert snapshot.record.decision.candidates is not None
        shown = [summary_json(snapshot), decision_json(snapshot), forecast_json(snapshot), history_json(snapshot)]
        assert "null, null, null" not in json.dumps(shown[:2], allow_nan=False)
        assert snapshot.realized is not None
        assert not math.isnan(snapshot.coverage[0.8])
    cluster.begin()
    assert cluster.hub.version == SHOWN_TURNS  # once


# ---- determinism --------------------------------------------------------------------------------------------------
def test_equal_seeds_and_steps_show_equal_things_whatever_the_speed() -> None:
    first = trail(3, 12)
    assert first == trail(3, 12, speed=600.0)
    assert first != trail(4, 12)
    assert len(first) == 2 * (2 * 60 // PAST_EVERY + 12)  # the turns of the past, and twelve


def test_services_learn_on_line_and_every_decision_says_which_version_forecast_it() -> None:
    def life() -> tuple[list[str], list[object]]:
        cluster = DemoCluster(0, services=2, past_hours=0.0, refresh_s=600.0, model=Around(40.0, offset=30.0))
        models = []
        for _ in range(8):
            cluster.advance()
            models += [s.record.decision.model for s in cluster.hub.all()]
        assert cluster._online is not None
        return models, [cluster._online.standing(k) for k in range(2)]

    models, standings = life()
    assert {type(s) for s in standings} == {Standing}
    assert any("~" in model for model in models), "a calibration of its own is in force"
    assert models == life()[0], "and it does not depend on the machine"


def test_more_services_are_copies_of_other_sizes_with_names_of_their_own() -> None:
    specs = demo_specs(60, 0)
    assert len({s.service for s in specs}) == 60
    assert specs[:5] == demo_specs(5, 0)
    assert specs[5].service == "serving/chat-2"
    cluster = DemoCluster(0, services=60)
    cluster.advance(3)
    assert len(cluster.hub.all()) == 60
    assert cluster.times.count == 3
    assert all(s.record.observation.forecast is not None for s in cluster.hub.all() if not s.name.startswith("rerank"))
    one = {s.name: s for s in cluster.hub.all()}
    assert not np.array_equal(one["chat"].history, one["chat-2"].history)


@pytest.mark.parametrize(
    "wrong", [{"services": 0}, {"seed": -1}, {"speed": 0.0}, {"speed": math.nan}, {"past_hours": -1}]
)
def test_what_makes_no_demo_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="demo"):
        DemoCluster(**({"seed": 0} | wrong))  # type: ignore[arg-type]


# ---- metrics ------------------------------------------------------------------------------------------------------
def test_every_metric_of_a_service_is_exported() -> None:
    cluster = lived().cluster
    text = cluster.metrics.exposition()[0].decode()
    found: dict[str, set[tuple[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "namespace" in sample.labels:
                names = found.setdefault(sample.name.removesuffix("_bucket"), set())
                names.add((sample.labels["namespace"], sample.labels["name"]))
    assert {d.name for d in CATALOGUE if d.per_service} - set(found) == set()
    for name in ("harmony_current_replicas", "harmony_violation_probability", "harmony_judged_steps_total"):
        assert len(found[name]) == 5
    chat = cluster.hub.latest("serving/chat")
    assert chat is not None
    assert f'harmony_ready_replicas{{kind="Demo",name="chat",namespace="serving"}} {chat.ready}' in _plain(text)


def _plain(text: str) -> str:
    """The exposition with labels in alphabetical order and whole numbers without a point."""
    lines = []
    for family in text_string_to_metric_families(text):
        for s in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(s.labels.items()))
            lines.append(f"{s.name}{{{labels}}} {s.value:g}")
    return "\n".join(lines)


def test_figures_of_the_process() -> None:
    metrics = Metrics("9.9.9", process=False)
    cluster = DemoCluster(0, past_hours=0.0, metrics=metrics, wall=lambda: 1_800_000_000.0)
    cluster.advance(4)
    text = _plain(metrics.exposition()[0].decode())
    assert "harmony_ticks_total{} 4" in text
    assert "harmony_leader{} 1" in text
    assert "harmony_last_tick_timestamp_seconds{} 1.8e+09" in text
    assert 'harmony_tick_duration_seconds_count{stage="forecast"} 4' in text
    assert 'harmony_managed_services{mode="Full"} 2' in text


# ---- time ----------------------------------------------------------------------------------------------------------
class FakeTime:
    """A clock that only a `wait` moves, and an event that is set after so many of them."""

    def __init__(self, ends_s: float, tick_s: float = 0.0) -> None:
        self.now = 100.0
        self.ends_s = self.now + ends_s
        self.tick_s = tick_s
        self.waits: list[float] = []
        self.stalls: dict[int, float] = {}

    def monotonic(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self.now += timeout + self.stalls.get(len(self.waits), 0.0)
        return self.now >= self.ends_s


def paced(clock: FakeTime, **changes: object) -> DemoCluster:
    cluster = DemoCluster(0, services=1, past_hours=0.0, monotonic=clock.monotonic, **changes)  # type: ignore[arg-type]
    cluster.run(clock)  # type: ignore[arg-type]
    return cluster


def test_run_keeps_to_its_speed_without_drift() -> None:
    cluster = paced(FakeTime(20.0), speed=60.0)
    assert cluster.times.count == 20
    assert paced(FakeTime(10.0), speed=120.0).times.count == 20


def test_late_steps_are_caught_up_but_not_those_of_a_night() -> None:
    late = FakeTime(20.0)
    late.stalls[5] = 7.5
    assert paced(late).times.count == 20
    assert late.waits[5:12] == [0.0] * 7  # as fast as it goes
    suspended = FakeTime(LATE_STEPS + 60.0)
    suspended.stalls[5] = LATE_STEPS + 50.0
    assert paced(suspended).times.count < 20


def test_run_ends_when_told_and_readers_may_read_meanwhile() -> None:
    hub = Hub()
    cluster = DemoCluster(0, services=2, past_hours=0.0, hub=hub, speed=6000.0)
    cluster.model  # noqa: B018  (load it before the clock runs)
    stop = threading.Event()
    runner = threading.Thread(target=cluster.run, args=(stop,))
    runner.start()
    deadline = time.monotonic() + 120
    while hub.version < 5 and time.monotonic() < deadline and not stop.wait(0.01):
        for snapshot in hub.all():
            json.dumps([summary_json(snapshot), decision_json(snapshot)], allow_nan=False)
    stop.set()
    runner.join(60)
    assert not runner.is_alive()
    assert hub.version >= 5
    assert cluster.row == FIRST_ROW - 1 + cluster.times.count


def test_a_failed_step_is_counted_and_the_next_one_comes(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeTime(6.0)
    cluster = DemoCluster(0, services=1, past_hours=0.0, monotonic=clock.monotonic)
    forecasts = cluster._forecasts
    calls = []

    def fails_once() -> object:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("no room")
        return forecasts()

    cluster._forecasts = fails_once  # type: ignore[method-assign,assignment]
    cluster.run(clock)  # type: ignore[arg-type]
    assert cluster.times.count == 5
    assert "a step failed" in caplog.text
    assert 'harmony_errors_total{component="tick",type="MemoryError"} 1' in _plain(
        cluster.metrics.exposition()[0].decode()
    )


def test_a_tick_asks_the_model_once_for_all_services() -> None:
    model = Counting()
    cluster = DemoCluster(0, services=3, past_hours=0.0, model=model)  # type: ignore[arg-type]
    cluster.advance(23)
    assert model.asked == 23


def test_two_weeks_on_demand_begins_again() -> None:
    cluster = DemoCluster(0, services=1, past_hours=0.0)
    cluster.row += 7 * 1440
    cluster.advance(2)
    chat = cluster.hub.latest("serving/chat")
    assert chat is not None
    assert math.isfinite(chat.record.observation.demand)
    assert chat.at_s == cluster.now_s()
    assert replace(cluster.specs[0], roll=0) == cluster.specs[0]


# ---- every figure from the journal alone -------------------------------------------------------------------------
@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Snapshot]]:
    """What a journal says of the demo's turns of a minute each, by service, oldest first; nothing else is used."""
    with JournalStore.open(f"sqlite:///{tmp_path_factory.mktemp('journal') / 'demo.db'}") as store:
        for snapshots in zip(*lived().by_service.values(), strict=True):
            store.append(snapshots)
        found: dict[str, list[Snapshot]] = {}
        newest = {s.service: s for s in store.latest()}
        for service, last in newest.items():
            rows = [d.snapshot for d in store.decisions(service, limit=STEPS)][::-1]
            found[service] = [*rows[:-1], last]
    return found


def steps_of(rows: list[Snapshot]) -> list[tuple[Snapshot, float]]:
    """Every turn whose step was judged by the newest one, with its demand; NaN where it was never read."""
    read = dict(zip(rows[-1].history_s.tolist(), rows[-1].history.tolist(), strict=True))
    return [(row, read[row.at_s]) for row in rows[:-1]]


def is_violated(row: Snapshot, demand: float, ready: int) -> bool:
    return demand / row.record.observation.capacity.median - ready > 1e-9


def shadow_ready(row: Snapshot) -> int:
    """Who would serve after the turn: what is dropped goes at once, and what starts first."""
    return min(row.record.observation.ready, row.record.applied)


def test_real_violations_recount(kept: dict[str, list[Snapshot]]) -> None:
    """Steps with known demand in which it exceeds what the real ready replicas carry."""
    found = 0
    for rows in kept.values():
        known = [(row, demand) for row, demand in steps_of(rows) if not math.isnan(demand)]
        violated = sum(is_violated(row, demand, row.ready) for row, demand in known)
        first, last = rows[0].violations, rows[-1].violations
        assert first is not None
        assert last is not None
        assert last.real_steps - first.real_steps == len(known)
        assert last.real_violated - first.real_violated == violated
        found += violated
        told = summary_json(rows[-1])["real"]
        assert told == {
            "steps": last.real_steps,
            "violated": last.real_violated,
            "rate": last.real_violated / last.real_steps,
        }
    assert found > 0


def test_shadow_violations_and_savings_recount(kept: dict[str, list[Snapshot]]) -> None:
    """The same of the shadow's replicas, and GPU-hours that the real ones cost more than they would have."""
    shadowed = {name: rows for name, rows in kept.items() if rows[-1].has_shadow}
    assert "batch/summaries" in shadowed
    assert len(shadowed) < len(kept)
    for name, rows in kept.items():
        if name not in shadowed:
            assert summary_json(rows[-1])["shadow"] is None
            assert decision_json(rows[-1])["shadow_ordered"] is None
            continue
        known = [(row, demand) for row, demand in steps_of(rows) if not math.isnan(demand)]
        judged = [(is_violated(r, d, r.ready), is_violated(r, d, shadow_ready(r))) for r, d in known]
        gpus = rows[-1].record.observation.objective.gpus_per_replica
        saved = sum((row.ordered - row.record.applied) * gpus / 60.0 for row, _ in known)
        assert any(s for _, s in judged)
        assert saved > 0
        first, last = rows[0], rows[-1]
        assert first.violations is not None
        assert last.violations is not None
        assert last.violations.shadow_steps - first.violations.shadow_steps == len(known)
        assert last.violations.shadow_violated - first.violations.shadow_violated == sum(s for _, s in judged)
        assert last.violations.real_beside - first.violations.real_beside == sum(r for r, _ in judged)
        assert last.gpu_hours_saved - first.gpu_hours_saved == pytest.approx(saved)
        assert last.misses_avoided_s - first.misses_avoided_s == 60.0 * sum(r and not s for r, s in judged)
        assert last.misses_caused_s - first.misses_caused_s == 60.0 * sum(s and not r for r, s in judged)
        told = decision_json(last)
        assert (told["ordered"], told["ready"]) == (last.ordered, last.ready)
        seen = last.record.observation
        assert (told["shadow_ordered"], told["shadow_ready"]) == (seen.ordered, seen.ready)


def test_bill_and_idle_recount(kept: dict[str, list[Snapshot]]) -> None:
    """Price times GPUs of the current replicas, and the part for replicas that present demand does not need."""
    for rows in kept.values():
        for row in rows:
            seen, told = row.record.observation, summary_json(row)
            price = seen.objective.at(row.at_s).price_per_gpu_hour * seen.objective.gpus_per_replica
            assert told["bill_per_hour"] == pytest.approx(row.ordered * price)
            if math.isnan(seen.demand):
                assert told["idle_per_hour"] is None
                continue
            needed = math.ceil(seen.demand / seen.capacity.median - 1e-9)
            assert told["idle_per_hour"] == pytest.approx(max(0, row.ordered - needed) * price)


def test_stated_and_realised_recount(kept: dict[str, list[Snapshot]]) -> None:
    """What decisions stated for the steps that followed, and what was violated of these, older ones counting less."""
    for rows in kept.values():
        begin = rows[0].agreement
        assert begin is not None
        epsilon = rows[0].record.observation.objective.epsilon
        block = rows[0].record.observation.lead_time.steps(60.0)
        steps = begin.blocks * block
        stated, violated = begin.stated * steps, begin.realised * steps
        for before, row in itertools.pairwise(rows):
            outcome, said = row.record.outcome, before.record.decision.violation_probability
            keep = math.exp(-outcome.steps * epsilon / (20.0 * block))
            counts = 0 if math.isnan(said) else outcome.steps
            steps, stated = steps * keep + counts, stated * keep + (counts * said if counts else 0.0)
            violated = violated * keep + (outcome.violated if counts else 0)
        last = rows[-1].agreement
        assert last is not None
        assert last.stated == pytest.approx(stated / steps, rel=0.02)
        assert last.realised == pytest.approx(violated / steps, rel=0.02, abs=1e-9)
        interval = binomtest(round(violated / block), round(steps / block)).proportion_ci(0.95)
        assert last.low == pytest.approx(interval.low, abs=0.02)
        assert last.high == pytest.approx(interval.high, abs=0.02)


def test_the_error_budget_recounts(kept: dict[str, list[Snapshot]]) -> None:
    """What is left: less by every violated step over those that 30 days allow; burn rate: of the present clock hour."""
    spent = 0.0
    for rows in kept.values():
        assert not any(math.isnan(row.record.decision.budget_left) for row in rows)
        judged: list[tuple[float, float]] = []  # time, and which part of a known step was violated
        for row in rows:
            seen = row.record.observation
            if not math.isnan(seen.demand):
                assert seen.objective.measure != "requests"
                judged.append((row.at_s, float(is_violated(row, seen.demand, seen.ready))))
        first, last = rows[0], rows[-1]
        epsilon = last.record.observation.objective.epsilon
        violated = sum(part for at_s, part in judged if at_s > first.at_s)
        allowed = epsilon * 30 * 86_400.0 / 60.0
        told = decision_json(last)
        assert told["budget_left"] == pytest.approx(first.record.decision.budget_left - violated / allowed, abs=1e-6)
        hour = [part for at_s, part in judged if at_s // 3600.0 == judged[-1][0] // 3600.0]
        assert told["burn_rate"] == pytest.approx(sum(hour) / len(hour) / epsilon)
        spent += violated
    assert spent > 0


def test_coverage_and_crps_recount(tmp_path: Path) -> None:
    """Readings inside the intervals that were forecast for them one lead time before, older ones counting less.

    How many steps counted before the first turn is in no row: the one number that fits all figures best must fit each.
    """
    turns = lived().by_service["serving/chat"]
    with JournalStore.open(f"sqlite:///{tmp_path / 'demo.db'}") as store:
        ids = store.append(turns)
        found = [d.snapshot for d in map(store.decision, ids[-STEPS:]) if d is not None]
        newest = next(s for s in store.latest() if s.service == "serving/chat")
    read = dict(zip(newest.history_s.tolist(), newest.history.tolist(), strict=True))
    ahead: dict[float, np.ndarray] = {}
    for row in found:
        forecast = row.record.observation.forecast
        if forecast is not None:
            ahead.setdefault(float(forecast.times_s[-1]), np.sort(forecast.paths[:, -1, 0]))
    first = next(at for at, row in enumerate(found) if row.at_s in ahead)
    begin, sums, steps = found[first], np.zeros(1 + len(newest.coverage)), 0.0
    decay = 1.0
    for before in found[first:-1]:  # whose steps the turns after it judged
        demand, paths = read[before.at_s], ahead.get(before.at_s)
        if paths is None or math.isnan(demand):
            continue
        ranks = 2 * np.arange(1, paths.size + 1) - paths.size - 1
        crps = np.abs(paths - demand).mean() - (ranks * paths).sum() / paths.size**2
        ends = [np.quantile(paths, [(1 - share) / 2, (1 + share) / 2]) for share in newest.coverage]
        sums = sums * 0.999 + [crps, *(low <= demand <= high for low, high in ends)]
        steps, decay = steps * 0.999 + 1, decay * 0.999
    told, was = (np.array([s.crps, *s.coverage.values()]) for s in (newest, begin))
    scale = np.array([newest.crps, *[1.0] * len(newest.coverage)])
    slope, rest = decay * (told - was) / scale, (sums - told * steps) / scale
    earlier = float(slope @ rest / (slope @ slope))
    assert steps > 100 * 0.9
    assert (was * earlier * decay + sums) / (earlier * decay + steps) / scale == pytest.approx(told / scale, abs=0.01)
    assert earlier > 0
