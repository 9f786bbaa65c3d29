"""Surgery on demand: what each operation leaves alone and what it does; how operations are written; ten scenarios."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.errors import DataError, UsageError
from forecasting.panel import FloatArray
from simulator.replaying import ReplaySettings, replay
from simulator.traces import list_traces, load_trace
from simulator.traces.operating import OPERATIONS, operate
from simulator.traces.scenarios import PREFIX, SCENARIOS
from simulator.traces.surgery import dropout, mix, scale, shift, spike, splice
from simulator.traces.trace import Trace
from tests.simulator.worlds import make_trace, waves

DAY = 1440
Steps = st.integers(0, 99)


def demand(seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    values = rng.gamma(2.0, 50.0, 100)
    values[rng.random(100) < 0.1] = math.nan
    values[0] = 60.0
    return values


@given(st.integers(0, 500), Steps, Steps, st.floats(0, 10))
def test_scale_is_a_factor_inside_and_nothing_outside(seed: int, a: int, b: int, factor: float) -> None:
    before, (low, high) = demand(seed), sorted((a, b))
    kept = before.copy()
    after = scale(before, 60.0, factor, low * 60.0, (high + 1) * 60.0)
    inside = np.zeros(100, bool)
    inside[low : high + 1] = True
    np.testing.assert_array_equal(after[~inside], before[~inside])
    np.testing.assert_allclose(after[inside], factor * before[inside])
    np.testing.assert_array_equal(before, kept)  # what it was given is left as it was


@given(st.integers(0, 500), Steps, st.floats(1, 9), st.integers(1, 20), st.integers(0, 20))
def test_a_spike_is_as_high_as_it_says_and_ends(seed: int, at: int, height: float, length: int, ramp: int) -> None:
    before = demand(seed)
    factor = spike(np.ones(100), 60.0, at * 60.0, height, length * 60.0, ramp * 60.0)
    assert factor[at : at + length] == pytest.approx(height)
    assert (factor >= 1 - 1e-12).all()
    assert (factor <= height + 1e-12).all()
    near = max(1, ramp)
    assert factor[: max(0, at - near)] == pytest.approx(1.0)
    assert factor[at + length - 1 + near :][1:] == pytest.approx(1.0)
    after = spike(before, 60.0, at * 60.0, height, length * 60.0, ramp * 60.0)
    np.testing.assert_allclose(after, before * factor)


@given(st.integers(0, 500), Steps, Steps)
def test_dropout_hides_a_stretch_and_nothing_else(seed: int, a: int, b: int) -> None:
    before, (low, high) = demand(seed), sorted((a, b))
    after = dropout(before, 60.0, low * 60.0, (high + 1) * 60.0)
    assert np.isnan(after[low : high + 1]).all()
    np.testing.assert_array_equal(np.delete(after, slice(low, high + 1)), np.delete(before, slice(low, high + 1)))


@given(st.integers(0, 500), st.integers(-300, 300))
def test_shift_keeps_every_value_and_can_be_undone(seed: int, steps: int) -> None:
    before = demand(seed)
    after = shift(before, 60.0, steps * 60.0)
    np.testing.assert_array_equal(shift(after, 60.0, -steps * 60.0), before)
    assert after[(7 + steps) % 100] == before[7] or math.isnan(before[7])


@given(st.integers(0, 500), st.floats(0, 1), st.integers(20, 200))
def test_mix_keeps_the_mean_and_its_ends_are_either_trace(seed: int, weight: float, size: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.gamma(2.0, 50.0, 100), rng.gamma(2.0, 5.0, size)
    if size == 100:
        assert mix(one, other, weight).mean() == pytest.approx(one.mean())
    np.testing.assert_allclose(mix(one, other, 0.0), one)
    alike = np.resize(other, 100) * one.mean() / other.mean()
    np.testing.assert_allclose(mix(one, other, 1.0), alike)
    np.testing.assert_allclose(mix(one, other, weight), (1 - weight) * one + weight * alike)


@given(st.integers(0, 500), Steps)
def test_splice_is_one_trace_and_then_the_other(seed: int, at: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.gamma(2.0, 50.0, 100), rng.gamma(2.0, 5.0, 100)
    after = splice(one, other, 60.0, at * 60.0)
    np.testing.assert_array_equal(after[:at], one[:at])
    np.testing.assert_allclose(after[at:], other[at:] * one.mean() / other.mean())


# ---- written ---------------------------------------------------------------------------------------------------------
def test_operations_are_done_in_order_and_leave_the_demand_alone_that_is_asked_for() -> None:
    trace = make_trace(waves())
    assert operate(trace, ()) is trace
    made = operate(trace, ["scale:by=2,from=1h,to=2h", "dropout:from=3h,to=3h30m", "shift:by=-10m"])
    expected = scale(trace.panel.values[:, 0], 60.0, 2.0, 3600.0, 7200.0)
    assert made.events is not None
    assert made.events.demand is not None
    np.testing.assert_allclose(made.events.demand, shift(expected, 60.0, -600.0))
    seen = made.panel.values[:, 0]
    assert np.isnan(seen[170:200]).all()
    assert np.isnan(seen).sum() == 30
    assert "surgery: scale:by=2" in made.notes[0]
    later = operate(made, ["dropout:from=0,to=5m"])  # what was hidden before stays hidden
    assert np.isnan(later.panel.values[:, 0]).sum() == 35


def test_another_trace_is_mixed_in_by_name() -> None:
    made = operate(load_trace("scenario:weekend"), ["mix:with=scenario:midnight-batch,weight=0.25"])
    assert made.panel.values[:, 0].mean() == pytest.approx(load_trace("scenario:weekend").panel.values[:, 0].mean())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("spice:at=1h", "no surgery 'spice'; did you mean 'splice'"),
        ("spike:at=1h,height=3", "no length; expected spike:at=2d6h,height=2,length=2d6h,[ramp=2d6h]"),
        ("scale:by=lots", "by=lots is no number"),
        ("scale:to=2h", "no by"),
        ("scale:factor=2", "expected scale:by=2"),
        ("scale:by=-1", "factor of 0 or more"),
        ("dropout:from=20h,to=21h", "no step of a trace"),
        ("spike:at=20h,height=2,length=5m", "touches no step"),
        ("shift:by=soon", "no duration"),
        ("mix:with=synthetic,weight=2", "expected 0 to 1"),
        ("mix:with=no-such-trace", "no trace 'no-such-trace'"),
    ],
)
def test_mistakes_in_an_operation_say_what_is_accepted(text: str, words: str) -> None:
    with pytest.raises((UsageError, DataError)) as error:
        operate(make_trace(waves()), [text])
    assert words in str(error.value)


def test_every_operation_is_offered() -> None:
    assert set(OPERATIONS) == {"scale", "splice", "spike", "dropout", "shift", "mix"}


# ---- scenarios -------------------------------------------------------------------------------------------------------
def asked(trace: Trace) -> FloatArray:
    events = trace.events
    return trace.panel.values[:, 0] if events is None or events.demand is None else events.demand


def day(trace: Trace, number: int) -> FloatArray:
    return asked(trace)[number * DAY : (number + 1) * DAY]


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_a_scenario_is_two_weeks_that_come_out_the_same_each_time(name: str) -> None:
    trace, again = load_trace(PREFIX + name), load_trace(PREFIX + name)
    np.testing.assert_array_equal(trace.panel.values, again.panel.values)
    assert len(trace.panel) == 14 * DAY
    assert np.isfinite(asked(trace)).all()
    assert trace.name == name
    assert trace.notes == (SCENARIOS[name].title,)


def test_the_ten_of_them_are_listed() -> None:
    listed = {t.name for t in list_traces() if t.name.startswith(PREFIX)}
    assert listed == {PREFIX + n for n in SCENARIOS}
    assert len(listed) == 10
    with pytest.raises(UsageError, match="did you mean 'flash-crowd'"):
        load_trace("scenario:flash-crowds")
    with pytest.raises(DataError, match="leave out --step"):
        load_trace("scenario:weekend", step_s=300.0)


def test_what_happens_in_each_scenario() -> None:
    made = {name: load_trace(PREFIX + name) for name in SCENARIOS}
    calm = asked(made["cold-start-doubling"])
    assert asked(made["flash-crowd"])[9 * DAY + 14 * 60 + 5] == pytest.approx(4 * calm[9 * DAY + 14 * 60 + 5])
    monday = made["slow-monday"]
    assert (monday.panel.start_s + 10 * 86_400.0) // 86_400 % 7 == 4  # 1 January 1970 was a Thursday
    assert day(monday, 10).mean() < 0.5 * day(monday, 3).mean()
    week = made["weekend"]
    assert max(day(week, d).mean() for d in (5, 6, 12, 13)) < 0.5 * min(day(week, d).mean() for d in (0, 3, 7, 11))
    change = asked(made["regime-change"])
    np.testing.assert_allclose(change[11 * DAY :], 2 * calm[11 * DAY :])
    seen = made["metric-outage"].panel.values[:, 0]
    assert np.isnan(seen).sum() == 90
    np.testing.assert_array_equal(asked(made["metric-outage"]), calm)
    flips = asked(made["flapping-noise"])[9 * DAY : 9 * DAY + 700] / calm[9 * DAY : 9 * DAY + 700]
    assert (np.abs(np.diff(flips)) > 0.5).sum() == pytest.approx(100, abs=1)
    storm = asked(made["retry-storm"]) / calm
    peaks = [storm[9 * DAY + 11 * 60 + 5 * i] for i in range(10)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] == pytest.approx(3.5)
    batch = asked(made["midnight-batch"]) / calm
    assert all(batch[d * DAY : d * DAY + 60].min() == pytest.approx(5.0) for d in range(14))


def test_a_shortage_holds_growth_down_and_takes_nothing_away() -> None:
    trace = load_trace("scenario:gpu-shortage")
    run = replay(trace, ["reactive"], ReplaySettings()).policies["reactive"]
    assert trace.events is not None
    assert trace.events.free is not None
    most = np.floor(trace.events.free * 20.0 + 1e-9)  # 20 replicas carry the mean demand
    grown = np.flatnonzero(np.diff(run.ordered) > 0) + 1
    assert (run.ordered[grown] <= most[grown]).all()
    short = np.isfinite(most)
    assert run.violated[short].mean() > 5 * run.violated[~short].mean()


def test_cold_starts_take_twice_as_long_from_day_ten_on() -> None:
    trace = load_trace("scenario:cold-start-doubling")
    run = replay(trace, ["reactive"], ReplaySettings()).policies["reactive"]

    def least_ordered(lead: int, rows: range) -> bool:
        return all(run.ready[t] == run.ordered[t - lead : t + 1].min() for t in rows)

    assert least_ordered(5, range(9 * DAY, 9 * DAY + 600))
    assert least_ordered(10, range(12 * DAY, 12 * DAY + 600))


def test_an_outage_is_judged_by_what_was_asked_for() -> None:
    trace = load_trace("scenario:metric-outage")
    result = replay(trace, ["hpa", "oracle"], ReplaySettings())
    assert np.isfinite(result.demand).all()
    for run in result.policies.values():
        hidden = np.flatnonzero(np.isnan(trace.panel.values[:, 0]))
        if run.name == "hpa":
            assert (np.diff(run.ordered)[hidden[1:] - 1] >= 0).all()
    assert result.policies["oracle"].violation_rate == 0.0
