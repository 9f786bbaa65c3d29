"""What may be done of what was decided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.errors import UsageError
from harmony.decision.authority import Permitted, permitted
from harmony.model.authority import Mode, Pause
from harmony.model.decision import Reason

counts = st.integers(0, 50)
pauses = st.builds(
    Pause, paused=st.booleans(), replicas=st.none() | counts, scale_in=st.booleans(), scale_out=st.booleans()
)


@given(st.sampled_from(Mode), pauses, counts, counts)
def test_never_goes_beyond_what_was_wanted_or_allowed(mode: Mode, pause: Pause, current: int, wanted: int) -> None:
    allowed = permitted(mode, pause, current, wanted)
    assert (allowed.bound_by == "") == (allowed.replicas == wanted)
    assert (allowed.reason is None) == (allowed.bound_by == "")
    if mode in (Mode.OBSERVE, Mode.RECOMMEND, Mode.FLOOR):
        assert allowed.replicas == current, "a mode that moves nothing"
        return
    if pause.replicas is not None:
        assert allowed.replicas == pause.replicas
        return
    assert allowed.replicas in (current, wanted)
    if pause.paused:
        assert allowed.replicas == current
    if mode is Mode.UP_ONLY or pause.scale_in:
        assert allowed.replicas >= current
    if pause.scale_out:
        assert allowed.replicas <= current


@given(st.sampled_from(Mode), st.sampled_from(Mode), counts, counts)
def test_more_authority_never_allows_less(one: Mode, two: Mode, current: int, wanted: int) -> None:
    less, more = sorted((one, two), key=lambda m: m.rank)
    moved = [abs(permitted(m, Pause(), current, wanted).replicas - current) for m in (less, more)]
    assert moved[0] <= moved[1]


@pytest.mark.parametrize(
    ("mode", "pause", "wanted", "expected"),
    [
        (Mode.FULL, Pause(), 3, Permitted(3)),
        (Mode.UP_ONLY, Pause(), 3, Permitted(5, "mode UpOnly")),
        (Mode.UP_ONLY, Pause(), 9, Permitted(9)),
        (Mode.RECOMMEND, Pause(), 9, Permitted(5, "mode Recommend")),
        (Mode.FULL, Pause(paused=True), 9, Permitted(5, "paused")),
        (Mode.FULL, Pause(paused=True, replicas=2), 9, Permitted(2, "paused-replicas")),
        (Mode.UP_ONLY, Pause(replicas=2), 9, Permitted(2, "paused-replicas")),
        (Mode.FLOOR, Pause(replicas=2), 9, Permitted(5, "mode Floor")),
        (Mode.RECOMMEND, Pause(replicas=2), 5, Permitted(5)),
        (Mode.OBSERVE, Pause(paused=True, replicas=2), 9, Permitted(5, "paused")),
        (Mode.FULL, Pause(scale_in=True), 3, Permitted(5, "paused-scale-in")),
        (Mode.FULL, Pause(scale_in=True), 9, Permitted(9)),
        (Mode.FULL, Pause(scale_out=True), 9, Permitted(5, "paused-scale-out")),
    ],
)
def test_the_limit_is_named(mode: Mode, pause: Pause, wanted: int, expected: Permitted) -> None:
    assert permitted(mode, pause, 5, wanted) == expected


def test_reasons_belong_to_the_closed_set() -> None:
    assert permitted(Mode.FLOOR, Pause(), 5, 9).reason is Reason.MODE_LIMITED
    assert permitted(Mode.FULL, Pause(paused=True), 5, 9).reason is Reason.PAUSED


def test_modes_are_ordered_and_capped() -> None:
    assert [m.rank for m in Mode] == [0, 1, 2, 3, 4]
    assert Mode.FULL.capped(Mode.UP_ONLY) is Mode.UP_ONLY
    assert Mode.OBSERVE.capped(Mode.UP_ONLY) is Mode.OBSERVE


def test_a_pause_at_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="paused replicas -1"):
        Pause(replicas=-1)
    assert Pause(replicas=0).is_active
    assert not Pause().is_active
