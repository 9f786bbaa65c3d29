"""The live clock: steps of the machine's wall clock do not move it, Prometheus's clock does, slowly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.process.clock import LiveClock, rfc3339


class Machine:
    """A machine's two clocks."""

    def __init__(self) -> None:
        self.wall_s, self.mono_s = 1_700_000_000.0, 50.0

    def clock(self) -> LiveClock:
        return LiveClock(lambda: self.wall_s, lambda: self.mono_s)

    def pass_s(self, seconds: float) -> None:
        self.wall_s += seconds
        self.mono_s += seconds


def test_it_begins_with_the_wall_clock_and_goes_on_by_the_monotonic_one() -> None:
    machine = Machine()
    clock = machine.clock()
    assert clock.now_s() == 1_700_000_000.0
    machine.pass_s(12.5)
    machine.wall_s -= 86_400
    assert clock.now_s() == 1_700_000_012.5
    assert clock.monotonic_s() == 62.5


def test_a_better_clock_is_taken_at_the_start() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.begin_at(1_600_000_000.0)
    machine.pass_s(1.0)
    assert clock.now_s() == 1_600_000_001.0


def test_a_glitch_is_not_believed_and_a_lasting_difference_is() -> None:
    machine = Machine()
    clock = machine.clock()
    assert clock.follow(clock.now_s() + 3600) == 3600
    assert abs(clock.now_s() - 1_700_000_000.0) <= 1.0
    clock.follow(clock.now_s())
    for _ in range(2):
        clock.follow(1_700_003_600.0)
        assert clock.now_s() < 1_700_000_010.0
    clock.follow(1_700_003_600.0)
    assert clock.now_s() == 1_700_003_600.0


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(-29, 29)), max_size=30), st.floats(-1e6, 1e6))
def test_small_differences_move_it_by_at_most_a_second_a_time(script: list, jump: float) -> None:
    machine = Machine()
    clock = machine.clock()
    for seconds, apart in script:
        before = clock.now_s()
        machine.pass_s(seconds)
        machine.wall_s += jump
        assert clock.now_s() == before + seconds or abs(clock.now_s() - before - seconds) < 1e-6
        away = clock.now_s()
        clock.follow(away + apart)
        moved = clock.now_s() - away
        assert abs(moved) <= min(1.0, abs(apart)) + 1e-6
        assert moved * apart >= 0


@given(st.floats(-1000, 1000))
def test_it_arrives(apart: float) -> None:
    machine = Machine()
    clock = machine.clock()
    offset = apart
    for _ in range(40):
        machine.pass_s(1.0)
        clock.follow(1_700_000_000.0 + machine.mono_s - 50.0 + offset)
    assert abs(clock.now_s() - (1_700_000_000.0 + machine.mono_s - 50.0 + offset)) < 1e-3


def test_times_as_kubernetes_writes_them() -> None:
    assert rfc3339(1_700_000_000.9) == "2023-11-14T22:13:20Z"
