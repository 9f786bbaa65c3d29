"""The ledger judges every step at most once, in order, against the counts that were in force."""

from __future__ import annotations

import math
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from harmony.loop.ledger import KEEP_S, JudgedStep, Ledger, Note, Row

NAN = math.nan
STEP_S = 60.0
GAP_S = 90.0


def note(at_s: float, ready: int = 4, *, shadow: int | None = None, teaches: bool = True) -> Note:
    shadow = ready if shadow is None else shadow
    return Note(at_s, ready, ready, shadow, shadow, teaches)


class Book:
    """A ledger as it grows."""

    def __init__(self, *notes: Note) -> None:
        self.ledger = Ledger()
        for n in notes:
            self.ledger = self.ledger.add(n)

    def judge(
        self, rows: Iterable[Row], at_most: float | None = None, settled_before_s: float = 0.0
    ) -> list[JudgedStep]:
        self.ledger, steps = self.ledger.judge(rows, 25.0, at_most, settled_before_s, GAP_S)
        return steps


def judged(book: Book, *rows: Row, at_most: float | None = None) -> list[JudgedStep]:
    return book.judge(rows, at_most, -math.inf)


def test_a_step_is_judged_by_the_counts_in_force() -> None:
    book = Book(note(0, 4), note(60, 2), note(120, 8))
    steps = judged(book, (60.0, 100.0, NAN), (120.0, 100.0, NAN))
    assert [(s.at_s, s.missed) for s in steps] == [(60.0, True), (120.0, False)]
    assert judged(book, (60.0, 100.0, NAN), (120.0, 100.0, NAN)) == []


def test_what_was_ordered_in_good_time_and_does_not_serve_is_no_mistake_of_decisions() -> None:
    def at(at_s: float, ordered: int) -> Note:
        return Note(at_s, ordered, 1, ordered, 1, False)

    ledger = Ledger()
    for n in (at(0, 4), at(60, 4), at(120, 8), at(180, 3), at(240, 4), at(300, 4), at(360, 4), at(420, 4)):
        ledger = ledger.add(n, lead_s=120.0)
    assert ledger.orders == ((0, 4), (120, 8), (180, 3), (240, 4))
    rows = [(60.0 * k, 100.0, NAN) for k in range(1, 8)]
    ledger, steps = ledger.judge(rows, 25.0, None, -math.inf, GAP_S, 120.0)
    assert [s.covered for s in steps] == [False, True, False, False, False, True, True]
    assert all(s.missed for s in steps)
    assert ledger.add(at(480, 4), lead_s=120.0).orders == ((240, 4),), "what no start can be about is let go"
    assert ledger.ordered_throughout(420.0, 120.0) == 4
    assert ledger.ordered_throughout(420.0, 1e6) == 0, "nobody looked so long ago"
    served = Ledger().add(note(0, 4)).add(note(60, 4))
    assert served.judge([(60.0, 100.0, 0.9)], 25.0, 0.5, -math.inf, GAP_S, 1.0)[1][0].covered is False, "they serve"


def test_rounding_alone_is_no_miss() -> None:
    (step,) = judged(Book(note(0, 3)), (60.0, 3 * 25.0 * (1 + 1e-12), NAN))
    assert step.missed is False


def test_the_shadow_is_judged_by_capacity_and_the_target_by_its_bound() -> None:
    book = Book(note(0, 4, shadow=2), note(60, 4, shadow=2), note(120, 4, shadow=2))
    rows = [(60.0, 90.0, 0.9), (120.0, 90.0, 0.1), (180.0, 90.0, NAN)]
    steps = book.judge(rows, 0.5, -math.inf)
    assert [(s.missed, s.held, s.shadow_missed) for s in steps] == [
        (True, False, True),
        (False, True, True),
        (None, None, True),
    ]
    assert [s.load_per_replica for s in steps[:2]] == [22.5, 22.5]
    assert math.isnan(steps[2].load_per_replica), "what cannot be said teaches nothing"


def test_cold_replicas_teach_nothing() -> None:
    (step,) = judged(Book(note(0, 4, teaches=False)), (60.0, 90.0, 0.9), at_most=0.5)
    assert step.missed is True
    assert math.isnan(step.load_per_replica)
    (step,) = judged(Book(note(0, 0)), (60.0, 90.0, 0.9), at_most=0.5)
    assert math.isnan(step.load_per_replica), "nobody was there to carry anything"


def test_absent_demand_is_waited_for_and_then_given_up() -> None:
    book = Book(note(0), note(60), note(120))
    rows = [(60.0, NAN, NAN), (120.0, 50.0, NAN)]
    assert book.judge(rows, None, settled_before_s=0.0) == []
    assert book.ledger.judged_until_s == -math.inf
    assert [s.at_s for s in book.judge(rows, None, settled_before_s=60.0)] == [120.0]
    late = [(60.0, 50.0, NAN), (120.0, 50.0, NAN)]
    assert book.judge(late, None, settled_before_s=60.0) == []


def test_steps_that_nobody_watched_are_not_judged() -> None:
    book = Book(note(1000))
    assert judged(book, (960.0, 500.0, NAN)) == []
    assert judged(book, (1200.0, 500.0, NAN)) == []
    assert book.ledger.judged_until_s == 1200.0


def test_notes_are_kept_for_a_while_only() -> None:
    book = Book(*(note(60.0 * k) for k in range(1000)))
    assert len(book.ledger.notes) <= KEEP_S / 60 + 2
    assert book.ledger.newest == note(60.0 * 999)


def test_what_no_step_can_refer_to_any_more_is_dropped() -> None:
    book = Book(note(0, 1), note(60, 2), note(120, 3))
    assert [s.note.ready for s in judged(book, (100.0, 20.0, NAN))] == [2]
    book.ledger = book.ledger.add(note(180, 4))
    assert [n.ready for n in book.ledger.notes] == [2, 3, 4]


def test_the_last_word_on_a_moment_counts() -> None:
    book = Book(note(0, 4), note(60, 9), note(60, 2))
    assert [s.note.ready for s in judged(book, (60.0, 20.0, NAN))] == [2]


def test_what_the_shadow_ordered_holds_from_just_after_the_look() -> None:
    book = Book(note(0, 4), note(60, 4))
    book.ledger = book.ledger.then(2, 1)
    steps = judged(book, (60.0, 75.0, NAN), (90.0, 75.0, NAN))
    assert [(s.note.shadow_ready, s.shadow_missed) for s in steps] == [(4, False), (1, True)]
    book.ledger = book.ledger.add(note(60, 9))
    assert [n.ready for n in book.ledger.notes] == [4, 9]


def test_a_clock_that_went_back_starts_the_book_anew() -> None:
    book = Book(note(600, 9), note(60, 1))
    assert [s.note.ready for s in judged(book, (100.0, 20.0, NAN))] == [1]
    assert judged(book, (600.0, 20.0, NAN)) == []


demands = st.one_of(st.just(NAN), st.floats(0, 500))
calls = st.lists(
    st.tuples(st.integers(0, 400), st.lists(st.tuples(st.integers(0, 40), demands), max_size=12)), max_size=12
)


@given(calls, st.floats(-100, 3000))
def test_every_step_is_judged_at_most_once_and_in_order(script: list, settled_s: float) -> None:
    book = Book()
    seen: list[float] = []
    now = 0.0
    for forward, rows in script:
        now += forward
        book.ledger = book.ledger.add(note(now))
        ordered = sorted((STEP_S * k, d, NAN) for k, d in rows if not math.isnan(d))
        steps = book.judge(ordered, None, settled_s)
        seen += [s.at_s for s in steps]
        assert all(s.at_s - s.note.at_s <= 90.0 for s in steps)
        assert all(s.note.at_s <= s.at_s for s in steps)
    assert seen == sorted(set(seen))


@given(st.lists(demands, min_size=1, max_size=30), st.lists(st.integers(0, 30), max_size=6))
def test_where_it_is_cut_does_not_matter(values: list[float], cuts: list[int]) -> None:
    """Judged in one go or in pieces, settled or not: the same steps come out."""
    rows = [(STEP_S * k, d, NAN) for k, d in enumerate(values, 1)]
    notes = [note(STEP_S * k) for k in range(len(values) + 1)]
    whole = Book(*notes).judge(rows, None, math.inf)
    pieces = Book(*notes)
    out = [s for cut in sorted(cuts) for s in pieces.judge(rows[:cut], None, -math.inf)]
    out += pieces.judge(rows, None, math.inf)
    assert [(s.at_s, s.demand) for s in out] == [(s.at_s, s.demand) for s in whole]
