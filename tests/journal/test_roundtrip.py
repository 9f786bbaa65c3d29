"""What goes in comes out, to the last bit."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import DataError
from harmony.journal import JournalStore
from harmony.journal.ids import decision_id, first_id_at
from harmony.journal.packing import pack, unpack
from harmony.journal.rows import encode, snapshot_of
from harmony.model.capacity import Capacity
from harmony.model.decision import Decision, Reason
from harmony.model.lead_time import LeadTime
from harmony.model.memory import GuardMemory, TurnMemory
from harmony.model.objective import Objective
from harmony.model.schedule import Schedule
from harmony.schema.exact import dumps, loads, restored
from tests.harmony.builders import observation
from tests.journal.builders import NOON_S, fleet, snapshot_of_record
from tests.journal.equal import assert_same
from tests.serving.builders import record

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)
FLOAT = st.floats(width=64)
COUNT = st.integers(-(2**62), 2**62)


@settings(deadline=None)
@given(
    arrays=st.dictionaries(
        TEXT,
        hnp.arrays(st.sampled_from([np.float64, np.float32]), hnp.array_shapes(min_dims=1, max_dims=3, min_side=0)),
        max_size=3,
    ),
    header=st.dictionaries(TEXT, st.one_of(TEXT, COUNT, st.none(), st.floats(allow_nan=False, allow_infinity=False))),
)
def test_packed_arrays_come_back(arrays: dict[str, Any], header: dict[str, Any]) -> None:
    blob = pack(header, arrays)
    got_header, got = unpack(blob)
    assert got_header == header
    assert set(got) == set(arrays)
    for name, array in arrays.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        assert got[name].tobytes() == array.tobytes()  # NaN payloads and signed zeros too


@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_damaged_blobs_are_refused_and_nothing_worse(noise: bytes, cut: int) -> None:
    blob = pack({"a": 1}, {"x": np.linspace(0.1, 9, 50)})
    for bad in (noise, blob[: cut % len(blob)]):
        with pytest.raises(DataError, match="journal"):
            unpack(bad)


def test_settings_come_back_and_old_ones_take_defaults() -> None:
    night = Schedule("Nacht ☾", "Europe/Berlin", frozenset({0, 6}), 60, 120, min_replicas=3)
    objective = Objective(epsilon=0.07, schedules=(night,), max_replicas=9)
    assert restored(Objective, loads(dumps(objective))) == objective
    memory = TurnMemory(GuardMemory(((1.5, 2), (2.5, 1)), stage=(0.1, 4)), 3, True, False, True, 2.5)
    assert restored(TurnMemory, loads(dumps(memory))) == memory
    assert restored(TurnMemory, {"absent_turns": 2}).cap == 5.0  # as decisions were made before it was kept
    lead = LeadTime.known(300.0)  # weight is infinite
    assert restored(LeadTime, loads(dumps(lead))) == lead
    assert restored(Objective, {"epsilon": 0.2, "a field of the future": 1}) == Objective(epsilon=0.2)
    with pytest.raises(DataError):
        restored(Objective, {"epsilon": "many"})
    with pytest.raises(DataError):
        dumps(object())


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_rows_come_back(data: st.DataObject) -> None:
    """Through JSON and blobs, as the database hands them back (NULL for absent)."""
    seen = observation(
        now_s=data.draw(st.floats(0, 1e10)), demand=data.draw(FLOAT), ordered=data.draw(COUNT), ready=data.draw(COUNT)
    )
    decision = Decision(
        replicas=data.draw(COUNT),
        current=data.draw(COUNT),
        reason=data.draw(st.sampled_from(list(Reason))),
        violation_probability=data.draw(FLOAT),
        expected_cost=data.draw(FLOAT),
        unconstrained=data.draw(COUNT),
        bound_by=data.draw(TEXT),
        quantiles={0.5: data.draw(hnp.arrays(np.float64, 3)), 0.95: data.draw(hnp.arrays(np.float64, 0))},
        model=data.draw(TEXT),
    )
    turn = replace(record(observation()), observation=seen, decision=decision)
    changes = {name: data.draw(TEXT) for name in ("target", "unit", "held_by", "gpu_type", "currency")}
    changes["crps"] = data.draw(FLOAT)
    snapshot = snapshot_of_record(turn, data.draw(TEXT), None, **changes)
    rows = encode(snapshot, whole_forecast=False)
    got = snapshot_of(rows.decision, rows.inputs["blob"], rows.service["summary"], rows.service["series"])
    assert_same(got, snapshot, history=True)


MOMENTS = itertools.count()


@settings(deadline=None, max_examples=25)
@given(service=TEXT, held_by=TEXT, demand=st.one_of(st.just(math.nan), st.floats(-1e18, 1e18)), cost=FLOAT)
def test_the_database_gives_back_what_it_took(
    tmp_path_factory: pytest.TempPathFactory, service: str, held_by: str, demand: float, cost: float
) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "shared.db"
    turn = record(observation(now_s=NOON_S + next(MOMENTS), demand=demand))
    turn = replace(turn, decision=replace(turn.decision, expected_cost=cost))
    snapshot = snapshot_of_record(turn, service, None, held_by=held_by)
    with JournalStore.open(str(path)) as store:
        got = store.decision(store.append([snapshot])[0])
    assert got is not None
    assert_same(got.snapshot, snapshot)


@given(st.floats(0, 4e10), st.floats(0, 4e10), TEXT, TEXT)
def test_ids_sort_by_time_and_tell_services_apart(a: float, b: float, one: str, two: str) -> None:
    first, second = decision_id(one, a), decision_id(two, b)
    assert len(first) == 31
    if round(a * 1e6) < round(b * 1e6):
        assert first < second
        assert first < first_id_at(b) < second
    if round(a * 1e6) == round(b * 1e6):
        assert (first == second) == (one == two)


def test_learned_capacity_is_kept_with_all_its_weights() -> None:
    capacity = Capacity.prior(100.0)
    for load in (80.0, 120.0, 95.0):
        capacity = capacity.observe_held(load, load < 100)
    world = fleet(1)[0]
    turn = world.turn()
    turn = replace(turn, observation=replace(turn.observation, capacity=capacity))
    rows = encode(snapshot_of_record(turn, "a/b", None), whole_forecast=False)
    assert snapshot_of(rows.decision, rows.inputs["blob"]).record.observation.capacity == capacity
    without = snapshot_of(rows.decision).record.observation.capacity
    assert (without.median, without.weights) == (capacity.median, ())
    assert math.isclose(without.sigma, capacity.sigma)
