"""The default policy in the loop through troubles that no metric shows: nothing is lost by them, over in one turn.

A metric outage and a dead forecaster are in `test_harmony_policy.py`; a budget of GPUs that is cut while the controller
runs, pods that never start and quotas are in `tests/controller/e2e`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from forecasting.panel import Indicator, Panel
from harmony.model.decision import Reason
from harmony.model.objective import Behavior, Objective, ScalingRules, Stages
from harmony.model.record import Record
from harmony.policies.harmony import HarmonyPolicy
from simulator.pool import StartUp
from simulator.replaying import ReplaySettings, replay
from simulator.traces.trace import Events, Trace
from tests.harmony.test_harmony_policy import OWN, STEP_S, rhythm

ROWS = 700
PEAK = 576 + 36  # a quarter of the fifth day


@pytest.fixture(scope="module")
def demand() -> np.ndarray:
    return rhythm(ROWS)


def lived(policy: HarmonyPolicy, demand: np.ndarray, events: Events | None = None) -> list[Record]:
    """The journal of a replay, lead time three steps."""
    panel = Panel(values=demand[:, None], indicators=(Indicator("demand"),), start_s=0.0, step_s=STEP_S)
    kept: list[Record] = []
    settings = ReplaySettings(replica_capacity=100.0, start_up=StartUp(1800.0), objective=Objective(epsilon=0.02))
    replay(Trace(panel, "demand", events=events), [policy], settings, journal=lambda _, r: kept.append(r))
    return kept


def test_a_forecast_that_rises_ends_a_staged_scale_down_at_once(demand: np.ndarray) -> None:
    """Whatever stage is on, a wish for as many or more is granted in its own turn; stages only slow what falls."""
    staged = replace(OWN, limits=Behavior(ScalingRules(), ScalingRules(), Stages(10, 3 * STEP_S)))
    journal, stages_cut = lived(staged, demand), 0
    for before, now in pairwise(journal):
        decision, ordered = now.decision, now.observation.ordered
        wish = decision.unconstrained
        if wish >= ordered:
            assert now.applied >= ordered
            assert now.applied == wish
            stages_cut += before.decision.bound_by == "stages"
        elif decision.bound_by == "stages":
            assert decision.reason is Reason.RATE_LIMITED
            assert wish < now.applied <= ordered
    assert stages_cut > 3, "rises came in the midst of stages"


def test_a_gpu_type_that_is_exhausted_takes_nothing_away_and_is_made_up_for_at_once(demand: np.ndarray) -> None:
    """For five hours around the peak nothing more can be had; what runs goes on, and the journal has the wish."""
    free = np.full(ROWS, np.inf)
    free[PEAK - 15 : PEAK + 15] = 0.5
    calm, short = lived(OWN, demand), lived(OWN, demand, Events(free=free))
    inside = range(PEAK - 15, PEAK + 15)
    for row in inside:
        if short[row].decision.replicas >= short[row].observation.ordered:
            assert short[row].applied >= short[row].observation.ordered
    wanting = [r for r in inside if short[r].decision.replicas > short[r].applied]
    assert len(wanting) > 3, "the journal says what was wanted and what there was"
    after = short[PEAK + 15]
    assert after.applied == after.decision.replicas
    assert after.applied >= int(np.ceil(demand[PEAK + 15] / 100.0))
    assert abs(after.applied - calm[PEAK + 15].applied) <= 0.1 * calm[PEAK + 15].applied
