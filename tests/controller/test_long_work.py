"""Pasts that are to be replayed, in a tick that has time for it and in one that has none: the real tick over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from controller import tick
from controller.service import Service
from harmony.decision.past.tried import YET_TO_REPLAY
from harmony.policies.harmony import Replayed
from tests.laws.test_three_worlds import TEN_AND_THREE
from tests.laws.worlds import GROUP, PER_REPLICA, Cluster, Story, Told

SERVICES, CHANGED, TIME_AGAIN = 4, 3, 5  # turns: limits are changed after 3, and there is time again from 5 on
WINDOW_S = 1200
SPEC = {**TEN_AND_THREE.spec, "objective": {"perReplica": PER_REPLICA, "epsilon": 0.05}}
STORY = Story(SPEC, {}, {}, ready=6, pending=(), demand=(240, 238, 250, 260, 245, 250, 240), before=236, past=300)


@dataclass
class Changing(Cluster):
    """A cluster in which all limits are changed at one moment, and ticks have no time from then on for a while."""

    patch: pytest.MonkeyPatch = field(default_factory=pytest.MonkeyPatch)
    turns: dict[str, int] = field(default_factory=dict)

    def _follow(self, name: str, service: Service) -> None:
        super()._follow(name, service)
        turn = self.turns[name] = self.turns.get(name, 0) + 1
        if turn == CHANGED:
            path = f"{GROUP}/namespaces/laws/gpuautoscalers/{name}"
            self._api.must(
                "PATCH", path, {"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": WINDOW_S}}}}
            )
            self.patch.setattr(tick, "REVIEW_S", 0.0)
        if turn == TIME_AGAIN:
            self.patch.setattr(tick, "REVIEW_S", float("inf"))

    def _is_in_step(self) -> bool:
        changed = {name for name, turn in self.turns.items() if turn >= CHANGED} & set(self._stories)
        known: dict[str, Any] = {
            o["metadata"]["name"]: o["spec"]["behavior"]["scaleDown"] for o in self.fleet.autoscalers()
        }
        return super()._is_in_step() and all(known[name]["stabilizationWindowSeconds"] == WINDOW_S for name in changed)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Changing]:
    monkeypatch.setattr(tick, "REVIEW_S", float("inf"))
    with Changing(tmp_path, patch=monkeypatch) as made:
        yield made


def past_of(told: Told) -> Replayed:
    memory = told.state.learned.memory
    assert isinstance(memory, Replayed)
    return memory


def test_limits_that_change_for_all_are_replayed_when_there_is_time(cluster: Changing) -> None:
    for told in cluster.tell([STORY] * SERVICES):
        before, owed, after = told[:CHANGED], told[CHANGED:TIME_AGAIN], told[TIME_AGAIN:]
        assert all(past_of(t).recalled for t in before)
        tally, limits = past_of(before[-1]).past.tally, past_of(before[-1]).past.limits
        assert tally.counted > 0
        for turn in owed:
            memory = past_of(turn)
            assert memory.owed
            assert memory.past.tally is tally, "nothing was replayed"
            assert memory.past.limits == limits
            assert YET_TO_REPLAY in turn.record.decision.why
            assert turn.record.decision.setting == before[-1].record.decision.setting
        for turn in after:
            memory = past_of(turn)
            assert not memory.owed
            assert memory.past.limits != limits
            assert memory.past.limits is not None
            assert memory.past.limits.scale_down.stabilization_window_s == WINDOW_S
            assert len(memory.past.history) == 300 + TIME_AGAIN + 1 + after.index(turn)
            assert YET_TO_REPLAY not in turn.record.decision.why
