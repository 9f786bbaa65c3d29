"""Every decision comes out the same again, bit for bit; what was changed is named; words say why."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harmony.journal import JournalStore, explain
from harmony.journal.inputs import decode_inputs, encode_inputs
from harmony.model.decision import Reason
from harmony.model.objective import Objective
from harmony.serving import Snapshot
from tests.harmony.builders import forecast, observation
from tests.journal.builders import NOON_S, fleet, snapshot_of_record
from tests.serving.builders import record

WORLDS, TURNS = 30, 12


@pytest.fixture(scope="module")
def snapshots() -> list[Snapshot]:
    worlds = fleet(WORLDS, 11)
    return [w.snapshot(f"demo/s{i}") for _ in range(TURNS) for i, w in enumerate(worlds)]


@pytest.mark.slow
def test_hundreds_of_decisions_come_out_the_same(store: JournalStore, snapshots: list[Snapshot]) -> None:
    ids = store.append(snapshots)
    reasons: Counter[str] = Counter()
    for decision_id, snapshot in zip(ids, snapshots, strict=True):
        told = explain(store, decision_id)
        assert told is not None
        assert told.same is True, (told.differences, told.problem)
        again, made = told.recomputed, snapshot.record.decision
        assert again is not None
        assert (again.replicas, again.reason, again.bound_by) == (made.replicas, made.reason, made.bound_by)
        assert (again.candidates is None) == (made.candidates is None)
        if made.candidates is not None and again.candidates is not None:
            np.testing.assert_array_equal(again.candidates.expected_cost, made.candidates.expected_cost)
            assert again.candidates.paths == made.candidates.paths > 0
        reasons[made.reason] += 1
    assert len(ids) == WORLDS * TURNS >= 200
    # the worlds are such that most of what can decide did
    assert {Reason.FORECAST, Reason.ABSENT_DATA, Reason.STABILIZED, Reason.WARMING_UP} <= set(reasons), reasons
    assert len(reasons) >= 7, reasons


@pytest.mark.parametrize(
    ("column", "value"),
    [("replicas", 777), ("reason", "Paused"), ("bound_by", "nothing"), ("violation_probability", 0.123)],
)
def test_what_was_tampered_with_is_named(
    store: JournalStore, snapshots: list[Snapshot], column: str, value: Any
) -> None:
    chosen = next(s for s in snapshots if s.record.decision.candidates is not None)
    decision = replace(chosen.record.decision, **{column: Reason(value) if column == "reason" else value})
    forged = replace(chosen, record=replace(chosen.record, decision=decision))
    told = explain(store, store.append([forged])[0])
    assert told is not None
    assert told.same is False
    assert [d.field for d in told.differences] == [column]
    assert any("DIFFERS" in line for line in told.lines)
    assert told.to_json()["differences"][0]["field"] == column


def test_changed_candidates_and_quantiles_are_named(store: JournalStore, snapshots: list[Snapshot]) -> None:
    chosen = next(s for s in snapshots if s.record.decision.candidates is not None)
    made = chosen.record.decision
    assert made.candidates is not None
    costs = made.candidates.expected_cost.copy()
    costs[0] = np.nextafter(costs[0], 1e9)  # one bit
    quantiles = made.quantiles | {0.5: made.quantiles[0.5] * 1.001}
    decision = replace(made, candidates=replace(made.candidates, expected_cost=costs), quantiles=quantiles)
    told = explain(store, store.append([replace(chosen, record=replace(chosen.record, decision=decision))])[0])
    assert told is not None
    first = int(made.candidates.replicas[0])
    assert [d.field for d in told.differences] == [f"candidates.expected_cost at {first} replicas", "quantiles.0.5"]


def test_words_say_what_was_seen_weighed_and_bound(store: JournalStore, snapshots: list[Snapshot]) -> None:
    chosen = next(
        s for s in snapshots if s.record.decision.reason is Reason.FORECAST and s.record.decision.bound_by == "epsilon"
    )
    told = explain(store, store.append([replace(chosen, desired=1, held_by="mode Recommend")])[0])
    assert told is not None
    text = "\n".join(told.lines)
    decision = chosen.record.decision
    parts = [
        "Seen: demand",
        "Window:",
        "Objective: at most",
        "<- decided",
        "What bound it: epsilon",
        "200 sample paths",
    ]
    parts += [chosen.service, f"{decision.replicas} replica", "held by mode Recommend", "bit for bit"]
    for part in parts:
        assert part in text, part


def test_without_inputs_it_says_so(store: JournalStore, snapshots: list[Snapshot]) -> None:
    ids = store.append(snapshots[:WORLDS] + snapshots[-WORLDS:])
    store.retain(30, inputs_days=1 / 86_400)
    told = explain(store, ids[0])
    assert told is not None
    assert told.same is None
    assert "no longer kept" in told.problem
    assert "cannot be decided again" in told.lines[-1]
    assert explain(store, "0" * 31) is None


def test_another_policys_decision_is_not_recomputed(store: JournalStore, snapshots: list[Snapshot]) -> None:
    chosen = snapshots[0]
    decision = replace(chosen.record.decision, reason=Reason.TARGET_RATIO)
    told = explain(store, store.append([replace(chosen, record=replace(chosen.record, decision=decision))])[0])
    assert told is not None
    assert told.same is None
    assert "another policy" in told.problem


def test_single_precision_is_given_up_where_a_decision_could_tell(store: JournalStore) -> None:
    """Demand a hair above a whole number of replicas: rounded to it, one replica fewer would do."""
    paths = np.full((200, 5), 1000.0 * (1 + 2e-9))  # single precision makes 1000 of it: 10 replicas instead of 11
    seen = observation(
        now_s=NOON_S, forecast=forecast(paths), demand=900.0, objective=Objective(demand="requests", max_replicas=20)
    )
    turn = record(seen)
    assert turn.decision.replicas == 11
    assert not decode_inputs(encode_inputs(turn)).rounded
    told = explain(store, store.append([snapshot_of_record(turn, "serving/edge", None)])[0])
    assert told is not None
    assert told.same
    assert not told.decision.rounded
    easy = record(replace(seen, forecast=forecast(paths * 0.987)))
    assert decode_inputs(encode_inputs(easy)).rounded


def test_huge_and_absent_values_come_out_the_same(store: JournalStore) -> None:
    objective = Objective(demand="requests", max_replicas=50)
    looks = [
        observation(now_s=NOON_S, demand=1e300, objective=objective),
        observation(now_s=NOON_S, demand=math.nan, objective=objective),
        observation(now_s=NOON_S, forecast=forecast(np.full((3, 5), 1e39)), objective=objective),
        observation(now_s=NOON_S, forecast=forecast(np.full((3, 5), np.nan)), objective=objective),
        observation(now_s=NOON_S, forecast=forecast(np.full((3, 5), -5.0)), objective=objective),
    ]
    turns = [snapshot_of_record(record(seen), f"serving/s{i}", None) for i, seen in enumerate(looks)]
    for decision_id in store.append(turns):
        told = explain(store, decision_id)
        assert told is not None
        assert told.same is True, told.differences
