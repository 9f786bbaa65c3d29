"""Start-up times by GPU type."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from harmony.loop.lead_times import MOST_TYPES, LeadTimes
from harmony.model.lead_time import LeadTime

FRESH = LeadTime.measured(300.0)


def learned(seconds: float, starts: int = 10) -> LeadTime:
    lead = FRESH
    for _ in range(starts):
        lead = lead.observe(seconds)
    return lead


def test_a_target_that_moves_back_finds_what_was_learned_there() -> None:
    on_a100 = learned(60.0)
    times, on_h100 = LeadTimes().move("A100", "H100", on_a100, FRESH)
    assert on_h100 == FRESH
    times, back = times.move("H100", "A100", learned(200.0), FRESH)
    assert back == on_a100
    assert times.elsewhere == {"H100": learned(200.0)}


def test_a_type_that_gets_a_name_keeps_what_was_learned() -> None:
    assert LeadTimes().move("", "H100", learned(60.0), FRESH)[1] == learned(60.0)


def test_starts_elsewhere_teach_only_their_own_type() -> None:
    times = LeadTimes().observe([(90.0, "L4"), (80.0, "L4"), (500.0, "H100")], FRESH)
    assert times.elsewhere["L4"] == FRESH.observe(90.0).observe(80.0)
    assert times.elsewhere["H100"].median_s > 300.0


def test_the_type_left_first_is_forgotten_first() -> None:
    times = LeadTimes()
    for i in range(MOST_TYPES + 3):
        times, _ = times.move(f"gpu-{i}", f"gpu-{i + 1}", learned(float(i + 1)), FRESH)
    assert len(times.elsewhere) == MOST_TYPES
    assert "gpu-0" not in times.elsewhere


def test_it_survives_being_written_down() -> None:
    times = LeadTimes({"H100": learned(120.0)})
    back = LeadTimes.from_json(FRESH, json.loads(json.dumps(times.to_json())))
    assert abs(back.elsewhere["H100"].quantile_s(0.9) / learned(120.0).quantile_s(0.9) - 1) < 1e-4


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=True) | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@given(JSON)
def test_nothing_that_may_stand_there_breaks_it(data: object) -> None:
    for lead in LeadTimes.from_json(FRESH, data).elsewhere.values():
        assert lead.quantile_s(0.9) >= 0.0
