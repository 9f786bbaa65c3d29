"""Conditions as written: the transition time moves only when the status does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.process.clock import rfc3339
from controller.reporting.conditions import Condition, merged

conditions = st.lists(
    st.builds(
        Condition,
        st.sampled_from(["Ready", "AbleToScale", "Paused"]),
        st.sampled_from(["True", "False", "Unknown"]),
        st.sampled_from(["A", "B"]),
        st.text(max_size=5),
    ),
    unique_by=lambda c: c.type,
    max_size=3,
)


def test_three_truths() -> None:
    assert [Condition.of("Ready", holds, "Why").status for holds in (True, False, None)] == ["True", "False", "Unknown"]


@given(st.lists(conditions, min_size=1, max_size=8))
def test_the_transition_time_is_that_of_the_last_change_of_status(history: list[list[Condition]]) -> None:
    written: list = []
    since: dict[str, tuple[str, str]] = {}
    for turn, new in enumerate(history):
        now_s = 1_700_000_000.0 + 60 * turn
        before = {c["type"] for c in written}
        written = merged(written, new, generation=turn, now_s=now_s)
        for condition in new:
            known = since.get(condition.type) if condition.type in before else None
            if known is None or known[0] != condition.status:
                since[condition.type] = (condition.status, rfc3339(now_s))
        assert {c["type"]: (c["status"], c["lastTransitionTime"]) for c in written} == {
            c.type: since[c.type] for c in new
        }
        assert [(c["reason"], c["message"], c["observedGeneration"]) for c in written] == [
            (c.reason, c.message, turn) for c in new
        ]


def test_what_others_wrote_into_the_list_does_no_harm() -> None:
    strange = [None, "x", {"status": "True"}, {"type": "Ready", "status": "True"}]
    (ready,) = merged(strange, [Condition("Ready", "True", "Working")], 1, 1_700_000_000.0)  # type: ignore[list-item]
    assert ready["lastTransitionTime"] == rfc3339(1_700_000_000.0)
