"""`Study`: which policies are run over which traces, under which objectives, and how."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from forecasting.errors import UsageError, suggest
from harmony.policies.base import Policy
from harmony.policies.registry import create_policy
from simulator.replaying import ReplaySettings
from simulator.traces.operating import operate
from simulator.traces.registry import load_trace
from simulator.traces.trace import Trace

__all__ = ["SWEPT", "PolicyChoice", "Study", "TraceChoice"]

# What a sweep runs when nothing is named: everything that needs no extra.
SWEPT = (
    "harmony", "hpa", "keda", "kpa", "reactive", "percentile", "predictive-hpa", "mimir-like", "dynamo-like",
    "aws-predictive", "bacc", "static", "oracle", "oracle-free",
)  # fmt: skip
# Settings that something is divided by, or that time goes on by.
ABOVE_ZERO = frozenset({"target", "sync_s", "tick_s", "stable_s", "period_s", "polling_s", "adjust_s", "window_s"})


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """A policy by name, with settings that differ from its own (`changes`), as `label` in tables."""

    name: str
    label: str = ""
    changes: tuple[tuple[str, float | int | str], ...] = ()

    def __post_init__(self) -> None:
        policy = create_policy(self.name)
        known = [f.name for f in dataclasses.fields(policy) if f.name != "name"]  # type: ignore[arg-type]
        for key, value in self.changes:
            if key not in known:
                raise UsageError(f"policy {self.name}: no setting {key!r}; {suggest(key, known)}")
            expected = _expected(policy, key, value)
            if expected:
                raise UsageError(f"policy {self.name}: {key} {value!r}: expected {expected}")

    @property
    def title(self) -> str:
        """What tables call it: its label, or the name with its changes."""
        return self.label or " ".join([self.name, *(f"{k}={v}" for k, v in self.changes)])

    def made(self, forecaster: str) -> Policy:
        """The policy, called by its title."""
        policy: Any = create_policy(self.name, forecaster)
        return dataclasses.replace(policy, **dict(self.changes), name=self.title)  # type: ignore[no-any-return]


def _expected(policy: Policy, key: str, value: object) -> str:
    """What a setting of a policy takes, in words, where ``value`` is not that; empty where it is."""
    kind, usual = get_type_hints(type(policy))[key], getattr(policy, key)
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else " or ".join(str(one) for one in get_args(kind))
    if kind is str:
        return "" if isinstance(value, str) else "a text"
    if kind in (bool, bool | None):
        return "" if isinstance(value, bool) else "true or false"
    if kind not in (int, float):
        return "nothing: it cannot be set in a study"
    least = min(0, usual)  # some are negative where they follow the lead time
    number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if number and math.isfinite(value) and value >= least and (value != 0 or key not in ABOVE_ZERO):  # type: ignore[arg-type]
        return ""
    amount = "above 0" if key in ABOVE_ZERO else f"of {least:g} or more"
    return f"a {'whole ' if kind is int else ''}number {amount}"


@dataclass(frozen=True, slots=True)
class TraceChoice:
    """A trace (a path, a bundled name, a scenario, or one that is loaded), and how its world differs from the study's.

    `surgery` is done to it after loading, see `simulator.traces.surgery`; `reading` are more arguments of `load_trace`.
    """

    trace: str | Trace
    label: str = ""
    demand: str | None = None
    step_s: float | None = None
    surgery: tuple[str, ...] = ()
    changes: tuple[tuple[str, Any], ...] = ()
    reading: tuple[tuple[str, Any], ...] = ()

    @property
    def title(self) -> str:
        """What tables call it."""
        return self.label or (self.trace if isinstance(self.trace, str) else self.trace.name)

    def loaded(self) -> Trace:
        """The trace itself; raises as `load_trace` and `operate` do."""
        trace = self.trace
        if isinstance(trace, str):
            trace = load_trace(trace, demand=self.demand, step_s=self.step_s, **dict(self.reading))
        return operate(trace, self.surgery)

    def settings(self, study: ReplaySettings, epsilon: float) -> ReplaySettings:
        """The settings of a replay of it."""
        objective = dataclasses.replace(study.objective, epsilon=epsilon)
        return dataclasses.replace(study, objective=objective, **dict(self.changes))


@dataclass(frozen=True, slots=True)
class Study:
    """What a sweep runs: every policy over every trace at every epsilon.

    Attributes:
        epsilons: objectives; the points of a policy's frontier.
        settings: of every replay; the objective's epsilon is that of the point.
        rungs: so many settings of each of a policy's own ladders are run as well, for its frontier; 0 for none.
        resamples: bootstrap resamples of days for the intervals; 0 for none.
    """

    traces: tuple[TraceChoice, ...]
    policies: tuple[PolicyChoice, ...] = tuple(PolicyChoice(name) for name in SWEPT)
    epsilons: tuple[float, ...] = (0.01,)
    settings: ReplaySettings = field(default_factory=ReplaySettings)
    rungs: int = 0
    resamples: int = 200

    def __post_init__(self) -> None:
        for what, titles in (("trace", [t.title for t in self.traces]), ("policy", [p.title for p in self.policies])):
            if not titles:
                raise UsageError(f"a study needs at least one {what}")
            twice = [t for t in titles if titles.count(t) > 1]
            if twice:
                raise UsageError(f"two entries of the study are called {twice[0]!r}; give one of them a label")
        if not self.epsilons or not all(0.0 < e < 1.0 for e in self.epsilons):
            raise UsageError("a study needs epsilons between 0 and 1, such as 0.001, 0.01, 0.05")
        if self.rungs < 0 or self.resamples < 0:
            raise UsageError(f"rungs {self.rungs} and resamples {self.resamples}: expected 0 or more")

    def to_json(self) -> Mapping[str, Any]:
        """What was asked for, for people who look at the figures later."""
        s = self.settings
        return {
            "traces": [
                {
                    "trace": t.trace if isinstance(t.trace, str) else t.trace.name,
                    "label": t.title,
                    "surgery": [*t.surgery],
                }
                for t in self.traces
            ],
            "policies": [{"policy": p.name, "label": p.title, **dict(p.changes)} for p in self.policies],
            "epsilons": [*self.epsilons],
            "tune": s.tune,
            "test_fraction": s.test_fraction,
            "forecaster": s.forecaster,
            "samples": s.samples,
            "seed": s.seed,
            "rungs": self.rungs,
            "resamples": self.resamples,
        }
