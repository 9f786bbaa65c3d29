"""Whether a snapshot came back as it went in."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from harmony.decision.rule import lead_window
from harmony.serving import Snapshot


def assert_same(got: Snapshot, want: Snapshot, *, history: bool = False) -> None:
    """Equal to the last bit, but for the forecast (the demand's paths in the window, perhaps rounded)."""
    skipped = {"record", "cache", "conditions"} | (set() if history else {"history", "history_s"})
    for f in fields(Snapshot):
        if f.name not in skipped:
            assert_equal(getattr(got, f.name), getattr(want, f.name), f.name)
    if history:
        assert got.conditions == want.conditions
    mine, new = want.record, got.record
    assert_equal(new.decision, mine.decision, "decision")
    assert_equal(new.outcome, mine.outcome, "outcome")
    assert_equal(new.before, mine.before, "before")
    assert new.applied == mine.applied
    for f in fields(type(mine.observation)):
        if f.name not in ("forecast", "memory"):
            assert_equal(getattr(new.observation, f.name), getattr(mine.observation, f.name), f.name)
    if history:
        return
    made, kept = mine.observation.forecast, new.observation.forecast
    assert (made is None) == (kept is None)
    if made is not None and kept is not None:
        name = mine.observation.objective.demand or made.names[0]
        paths = made.of(name)[:, : lead_window(mine.observation)]
        exact = np.array_equal(kept.paths[:, :, 0], paths, equal_nan=True)
        assert exact or np.array_equal(kept.paths[:, :, 0], paths.astype(np.float32), equal_nan=True)
        assert (kept.names, kept.origin_s, kept.step_s, kept.model) == ((name,), made.origin_s, 60.0, made.model)


def assert_equal(got: Any, want: Any, where: str) -> None:
    assert type(got) is type(want) or {type(got), type(want)} <= {int, float}, where
    if is_dataclass(want):
        for f in fields(want):
            assert_equal(getattr(got, f.name), getattr(want, f.name), f"{where}.{f.name}")
    elif isinstance(want, np.ndarray):
        np.testing.assert_array_equal(got, want, err_msg=where)
    elif isinstance(want, dict):
        assert set(got) == set(want), where
        for key in want:
            assert_equal(got[key], want[key], f"{where}.{key}")
    elif isinstance(want, tuple):
        assert len(got) == len(want), where
        for i, (a, b) in enumerate(zip(got, want, strict=True)):
            assert_equal(a, b, f"{where}[{i}]")
    else:
        assert got == want or (got != got and want != want), f"{where}: {got!r} is not {want!r}"
