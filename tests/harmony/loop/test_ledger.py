"""The ledger judges every step at most once, in order, against the counts that were in force."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from harmony.loop.ledger import KEEP_S, JudgedStep, Ledger, Note

NAN = math.nan
STEP_S = 60.0


def note(at_s: float, ready: int = 4, *, shadow: int | None = None, teaches: bool = True) -> Note:
    shadow = ready if shadow is None else shadow
    return Note(at_s, ready, ready, shadow, shadow, teaches)


def book(*notes: Note, gap_s: float = 90.0) -> Ledger:
    made = Ledger(STEP_S, gap_s)
    for n in notes:
        made.add(n)
    return made


def judged(ledger: Ledger, *rows: tuple[float, float, float], at_most: float | None = None) -> list[JudgedStep]:
    return ledger.judge(rows, 25.0, at_most, settled_before_s=-math.inf)


def test_a_step_is_judged_by_the_counts_in_force() -> None:
    ledger = book(note(0, 4), note(60, 2), note(120, 8))
    steps = judged(ledger, (60.0, 100.0, NAN), (120.0, 100.0, NAN))
    assert [(s.at_s, s.missed) for s in steps] == [(60.0, True), (120.0, False)]
    assert judged(ledger, (60.0, 100.0, NAN), (120.0, 100.0, NAN)) == []


def test_rounding_alone_is_no_miss() -> None:
    (step,) = judged(book(note(0, 3)), (60.0, 3 * 25.0 * (1 + 1e-12), NAN))
    assert step.missed is False


def test_the_shadow_is_judged_by_capacity_and_the_target_by_its_bound() -> None:
    ledger = book(note(0, 4, shadow=2), note(60, 4, shadow=2), note(120, 4, shadow=2))
    rows = [(60.0, 90.0, 0.9), (120.0, 90.0, 0.1), (180.0, 90.0, NAN)]
    steps = ledger.judge(rows, 25.0, 0.5, settled_before_s=-math.inf)
    assert [(s.missed, s.held, s.shadow_missed) for s in steps] == [
        (True, False, True),
        (False, True, True),
        (None, None, True),
    ]
    assert [s.load_per_replica for s in steps[:2]] == [22.5, 22.5]
    assert math.isnan(steps[2].load_per_replica), "what cannot be said teaches nothing"


def test_cold_replicas_teach_nothing() -> None:
    (step,) = judged(book(note(0, 4, teaches=False)), (60.0, 90.0, 0.9), at_most=0.5)
    assert step.missed is True
    assert math.isnan(step.load_per_replica)
    (step,) = judged(book(note(0, 0)), (60.0, 90.0, 0.9), at_most=0.5)
    assert math.isnan(step.load_per_replica), "nobody was there to carry anything"


def test_absent_demand_is_waited_for_and_then_given_up() -> None:
    ledger = book(note(0), note(60), note(120))
    rows = [(60.0, NAN, NAN), (120.0, 50.0, NAN)]
    assert ledger.judge(rows, 25.0, None, settled_before_s=0.0) == []
    assert ledger.judged_until_s == -math.inf
    assert [s.at_s for s in ledger.judge(rows, 25.0, None, settled_before_s=60.0)] == [120.0]
    late = [(60.0, 50.0, NAN), (120.0, 50.0, NAN)]
    assert ledger.judge(late, 25.0, None, settled_before_s=60.0) == []


def test_steps_that_nobody_watched_are_not_judged() -> None:
    ledger = book(note(1000), gap_s=90.0)
    assert judged(ledger, (960.0, 500.0, NAN)) == []
    assert judged(ledger, (1200.0, 500.0, NAN)) == []
    assert ledger.judged_until_s == 1200.0


def test_notes_are_kept_for_a_while_only() -> None:
    ledger = book(*(note(60.0 * k) for k in range(1000)))
    assert len(ledger._notes) <= KEEP_S / 60 + 2
    assert ledger.newest == note(60.0 * 999)


def test_a_clock_that_went_back_starts_the_book_anew() -> None:
    ledger = book(note(600, 9), note(60, 1))
    assert [s.note.ready for s in judged(ledger, (100.0, 20.0, NAN))] == [1]
    assert judged(ledger, (600.0, 20.0, NAN)) == []


demands = st.one_of(st.just(NAN), st.floats(0, 500))
calls = st.lists(
    st.tuples(st.integers(0, 400), st.lists(st.tuples(st.integers(0, 40), demands), max_size=12)), max_size=12
)


@given(calls, st.floats(-100, 3000))
def test_every_step_is_judged_at_most_once_and_in_order(script: list, settled_s: float) -> None:
    ledger = Ledger(STEP_S, 90.0)
    seen: list[float] = []
    now = 0.0
    for forward, rows in script:
        now += forward
        ledger.add(note(now))
        ordered = sorted((STEP_S * k, d, NAN) for k, d in rows if not math.isnan(d))
        steps = ledger.judge(ordered, 25.0, None, settled_s)
        seen += [s.at_s for s in steps]
        assert all(s.at_s - s.note.at_s <= 90.0 for s in steps)
        assert all(s.note.at_s <= s.at_s for s in steps)
    assert seen == sorted(set(seen))


@given(st.lists(demands, min_size=1, max_size=30), st.lists(st.integers(0, 30), max_size=6))
def test_where_it_is_cut_does_not_matter(values: list[float], cuts: list[int]) -> None:
    """Judged in one go or in pieces, settled or not: the same steps come out."""
    rows = [(STEP_S * k, d, NAN) for k, d in enumerate(values, 1)]
    notes = [note(STEP_S * k) for k in range(len(values) + 1)]
    whole = book(*notes).judge(rows, 25.0, None, math.inf)
    pieces = book(*notes)
    out = [s for cut in sorted(cuts) for s in pieces.judge(rows[:cut], 25.0, None, -math.inf)]
    out += pieces.judge(rows, 25.0, None, math.inf)
    assert [(s.at_s, s.demand) for s in out] == [(s.at_s, s.demand) for s in whole]
