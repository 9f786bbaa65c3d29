"""What a service has learned as small JSON, and back: damaged or unknown parts fall back to the defaults."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from forecasting.errors import UsageError
from harmony.decision.feedback import RiskFeedback
from harmony.decision.guards import GuardMemory, Marks
from harmony.decision.trust import Trust
from harmony.loop.lead_times import LeadTimes
from harmony.loop.saved import number_or
from harmony.loop.scoring import ForecastScores
from harmony.loop.shadow import Regret, Shadow
from harmony.loop.state import Learned, State, Terms
from harmony.loop.violations import ViolationCounts
from harmony.model.capacity import Capacity
from harmony.model.lead_time import LeadTime

__all__ = ["Restored", "learned_from_json", "learned_to_json", "state_from_json", "state_to_json"]

VERSION = 1
MAX_MARKS = 12  # marks kept per list of guards
LOG_FLOOR = -25.0  # log-probability, relative to the likeliest, below which grid points are all alike
LATEST_S = 1e11  # the year 5138: no time that is later was ever written by a sane clock


class Restored(NamedTuple):
    """What was restored, and for every part that was not, a sentence why."""

    learned: Learned
    notes: tuple[str, ...]


def learned_to_json(learned: Learned) -> dict[str, Any]:
    """Plain values, about 1 kB: floats to 6 significant digits, times to whole seconds; `memory` is left out.

    What is known by the settings rather than learned is left out too.
    """
    out: dict[str, Any] = {
        "version": VERSION,
        "feedback": {"epsilon": _six(learned.feedback.epsilon), "level": _six(learned.feedback.level)},
        "absentTurns": learned.absent_turns,
        "forecastSeen": learned.forecast_seen,
        "served": learned.served,
    }
    if not learned.capacity.is_known:
        out["capacity"] = _capacity_json(learned.capacity)
    if not learned.lead_time.is_known:
        lead = learned.lead_time
        out["leadTime"] = {n: _six(getattr(lead, n)) for n in ("mu", "kappa", "alpha", "beta")}
    if learned.trust is not None:
        names = ("epsilon", "evidence", "missed", "steps", "violated", "stated_steps", "stated_sum", "stated_violated")
        out["trust"] = {n: _six(getattr(learned.trust, n)) for n in names} | {
            "step": learned.trust.step,
            "block_steps": learned.trust.block_steps,
        }
    guards = _guards_json(learned.guards)
    if guards:
        out["guards"] = guards
    if learned.learned_s is not None:
        out["learnedS"] = round(learned.learned_s)
    return out


def learned_from_json(data: Any, defaults: Learned) -> Restored:  # noqa: ANN401 (any JSON at all)
    """What `learned_to_json` wrote, on top of ``defaults`` (made of the present settings); never raises on any JSON.

    Settings win over memories: a lead time or capacity that is known now stays known, a risk level is carried over
    as a multiple of epsilon, and trust earned under another epsilon is not carried over.
    """
    if not isinstance(data, dict) or not data:
        return Restored(defaults, () if data in (None, {}) else ("learned: expected an object, starting anew",))
    version = data.get("version")
    if version != VERSION or isinstance(version, bool):
        return Restored(defaults, (f"learned: version {_short(version)} is unknown, starting anew",))
    notes: list[str] = []

    def part(key: str, read: Callable[[Any], Any], default: Any) -> Any:  # noqa: ANN401
        if key not in data:
            return default
        try:
            return read(data[key])
        except (_DamagedError, UsageError) as error:
            notes.append(f"learned.{key}: {error}; starting anew")
            return default

    trust = defaults.trust
    learned = replace(
        defaults,
        capacity=part("capacity", lambda v: _capacity(v, defaults.capacity), defaults.capacity),
        lead_time=part("leadTime", lambda v: _lead_time(v, defaults.lead_time), defaults.lead_time),
        feedback=part("feedback", lambda v: _feedback(v, defaults.feedback), defaults.feedback),
        trust=trust if trust is None else part("trust", lambda v: _trust(v, trust), trust),
        guards=part("guards", _guards, defaults.guards),
        absent_turns=part("absentTurns", lambda v: _whole(v, 0, 10**9), defaults.absent_turns),
        forecast_seen=part("forecastSeen", _flag, defaults.forecast_seen),
        served=part("served", _flag, True),  # before this was kept, whoever had learned something had served
        learned_s=part("learnedS", lambda v: _number(v, -LATEST_S, LATEST_S), defaults.learned_s),
    )
    return Restored(learned, tuple(notes))


def state_to_json(terms: Terms, state: State) -> dict[str, Any]:
    """All of a service that must survive a restart, some kB; forecasts and notes that wait are made anew."""
    out: dict[str, Any] = {
        "demand": terms.measures,
        "loop": learned_to_json(state.learned),
        "scores": state.scores.to_json(),
        "regret": state.regret.to_json(),
        "violations": list(state.violations),
        "starts": state.finished_starts,
        "failed": state.failed_starts,
    }
    if (kept := terms.policy.saved(state.learned.memory)) is not None:
        out["policy"] = kept
    if state.gpu_type:
        out["gpu"] = state.gpu_type
    if leads := state.lead_times.to_json():
        out["leads"] = leads
    if math.isfinite(state.starts_since_s):
        out["starts_since"] = int(state.starts_since_s)
    if math.isfinite(state.shadow_since_s):
        out["shadow_since"] = int(state.shadow_since_s)
    if state.shadow is not None:
        out["shadow"] = state.shadow.replicas.ordered
    return out


def state_from_json(data: object, terms: Terms) -> tuple[State, tuple[str, ...]]:
    """What `state_to_json` wrote, under the present terms, and for every part that was lost a sentence why.

    Never raises, whatever stands there. What was learned of another quantity means nothing; starts are starts.
    """
    saved: dict[Any, Any] = data if isinstance(data, dict) else {}
    if saved and saved.get("demand") != terms.measures:
        saved = {name: saved[name] for name in ("starts", "failed", "starts_since", "gpu", "leads") if name in saved}
    learned, notes = learned_from_json(saved.get("loop"), Learned.fresh(terms))
    if not isinstance(data, dict | None) and data != "":
        notes = (f"learned: expected an object, got {_short(data)}; starting anew",)
    learned = replace(learned, memory=terms.policy.restored(saved.get("policy")))
    shadow = number_or(saved.get("shadow"), -1.0)  # negative: begin with the current replicas
    known = 0 <= shadow <= terms.objective.max_replicas
    state = State(
        learned=learned,
        shadow=Shadow(int(shadow)) if known else None,
        shadow_since_s=number_or(saved.get("shadow_since"), math.nan),
        scores=ForecastScores.from_json(saved.get("scores")),
        regret=Regret.from_json(saved.get("regret")),
        lead_times=LeadTimes.from_json(terms.lead_time, saved.get("leads")),
        gpu_type=str(saved.get("gpu") or terms.gpu_type),
        finished_starts=int(number_or(saved.get("starts"), 0)),
        failed_starts=int(number_or(saved.get("failed"), 0)),
        starts_since_s=number_or(saved.get("starts_since"), -math.inf),
        violations=ViolationCounts.from_json(saved.get("violations")),
    )
    return state, notes


class _DamagedError(Exception):
    """A part that cannot be read; its text says what is wrong."""


# ---- parts, out and back -------------------------------------------------------------------------------------
def _capacity_json(capacity: Capacity) -> dict[str, Any]:
    out: dict[str, Any] = {"median": _six(capacity.median), "sigma": _six(capacity.sigma)}
    if capacity.prior_sigma > 0.0:
        out["prior"] = [_six(capacity.prior_median), _six(capacity.prior_sigma)]
    if capacity.weights:
        most = math.log(max(capacity.weights))
        logs = [max(LOG_FLOOR, math.log(w) - most) if w > 0.0 else LOG_FLOOR for w in capacity.weights]
        out["logWeights"] = [round(x, 1) if x > LOG_FLOOR else round(LOG_FLOOR) for x in logs]
    return out


def _capacity(value: Any, default: Capacity) -> Capacity:  # noqa: ANN401
    if default.is_known:
        return default
    fields = _object(value)
    median, sigma = _number(fields.get("median"), 1e-300, 1e300), _number(fields.get("sigma"), 1e-6, 20.0)
    if default.prior_sigma == 0.0:
        return Capacity(median, sigma)
    prior = _list(fields.get("prior"), 2)
    stored = tuple(_number(p, 1e-300, 1e300) for p in prior)
    present = (default.prior_median, default.prior_sigma)
    if len(stored) != 2 or any(abs(a / b - 1) > 1e-4 for a, b in zip(stored, present, strict=True)):
        raise _DamagedError("the first guess in the settings has changed")
    restored = replace(default, median=median, sigma=sigma, weights=())
    if "logWeights" not in fields:
        return restored
    logs = [_number(x, -1e3, 0.0) for x in _list(fields["logWeights"], default.log_grid().size)]
    weights = [math.exp(x) if x > LOG_FLOOR else 0.0 for x in logs]
    total = sum(weights)
    if total <= 0.0:
        raise _DamagedError("all weights are 0")
    return replace(restored, weights=tuple(w / total for w in weights))


def _lead_time(value: Any, default: LeadTime) -> LeadTime:  # noqa: ANN401
    if default.is_known:
        return default
    fields = _object(value)
    return replace(
        default,
        mu=_number(fields.get("mu"), -10.0, 20.0),
        kappa=_number(fields.get("kappa"), 1e-3, 1e9),
        alpha=_number(fields.get("alpha"), 1e-3, 1e9),
        beta=_number(fields.get("beta"), 0.0, 1e9),
    )


def _feedback(value: Any, default: RiskFeedback) -> RiskFeedback:  # noqa: ANN401
    fields = _object(value)
    if default.epsilon == 0.0:
        return default
    ratio = _number(fields.get("level"), 1e-12, 1.0) / _number(fields.get("epsilon"), 1e-12, 1.0)
    span = RiskFeedback.SPAN
    level = default.epsilon * min(max(ratio, 1.0 / span), span)
    return replace(default, level=min(level, 0.5))


def _trust(value: Any, default: Trust) -> Trust:  # noqa: ANN401
    fields = _object(value)
    if abs(_number(fields.get("epsilon"), 0.0, 1.0) - default.epsilon) > 1e-4 * default.epsilon:
        raise _DamagedError("the objective (epsilon) has changed")
    names = ("evidence", "missed", "steps", "violated", "stated_steps", "stated_sum")
    counts = {n: _number(fields.get(n), 0.0, 1e12) for n in names}
    # Before this was kept apart, nearly all steps had a stated probability.
    counts["stated_violated"] = _number(fields.get("stated_violated", counts["violated"]), 0.0, 1e12)
    if counts["missed"] > counts["evidence"] or counts["violated"] > counts["steps"]:
        raise _DamagedError("more violations than steps")
    step = _whole(fields.get("step"), 0, len(Trust.LEVELS) - 1)
    return replace(default, step=step, block_steps=_whole(fields.get("block_steps"), 1, 10**6), **counts)


def _guards_json(guards: GuardMemory) -> dict[str, Any]:
    """Marks, thinned so that they hold no shorter and limit no less than all of them would."""
    lists = {
        "highs": _thinned(guards.highs, lambda old, new: (new[0], old[1])),
        "lows": _thinned(guards.lows, lambda old, new: old),
        "ups": _thinned(guards.ups, lambda old, new: (new[0], old[1] + new[1])),
        "downs": _thinned(guards.downs, lambda old, new: (new[0], old[1] + new[1])),
    }
    out: dict[str, Any] = {name: [[round(at), n] for at, n in marks] for name, marks in lists.items() if marks}
    if guards.stage is not None:
        out["stage"] = [round(guards.stage[0]), guards.stage[1]]
    return out


def _thinned(marks: Marks, join: Callable[[tuple[float, int], tuple[float, int]], tuple[float, int]]) -> Marks:
    """At most `MAX_MARKS` marks: neighbours that are nearest in time become one."""
    kept = list(marks)
    while len(kept) > MAX_MARKS:
        i = min(range(len(kept) - 1), key=lambda j: kept[j + 1][0] - kept[j][0])
        kept[i : i + 2] = [join(kept[i], kept[i + 1])]
    return tuple(kept)


def _guards(value: Any) -> GuardMemory:  # noqa: ANN401
    fields = _object(value)
    lists = [tuple(_mark(m) for m in _list(fields.get(name, []))) for name in ("highs", "lows", "ups", "downs")]
    for marks, sign in zip(lists, (-1, 1, 0, 0), strict=True):
        steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(marks)]
        if any(dt < 0 or sign * dn < 0 for dt, dn in steps):
            raise _DamagedError("marks are out of order")
    stage = None if fields.get("stage") is None else _mark(fields["stage"])
    highs, lows, ups, downs = lists
    return GuardMemory(highs, lows, ups, downs, stage)


def _mark(value: Any) -> tuple[float, int]:  # noqa: ANN401
    at, n = _list(value, 2)
    return _number(at, -LATEST_S, LATEST_S), _whole(n, 0, 10**9)


# ---- values --------------------------------------------------------------------------------------------------
def _six(x: float) -> float:
    return float(f"{x:.6g}")


def _short(value: Any) -> str:  # noqa: ANN401
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return type(value).__name__
    if isinstance(value, int) and abs(value) > 10**30:
        return "a huge number"  # the interpreter refuses to print integers of some thousand digits
    return repr(value)[:40]


def _object(value: Any) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(value, dict):
        raise _DamagedError(f"expected an object, got {_short(value)}")
    return value


def _list(value: Any, size: int | None = None) -> list[Any]:  # noqa: ANN401
    if not isinstance(value, list) or len(value) > 10_000 or (size is not None and len(value) != size):
        raise _DamagedError(f"expected a list{'' if size is None else f' of {size}'}, got {_short(value)}")
    return value


def _number(value: Any, low: float, high: float) -> float:  # noqa: ANN401
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _DamagedError(f"expected a number in {low:g}..{high:g}, got {_short(value)}")
    return float(value)


def _whole(value: Any, low: int, high: int) -> int:  # noqa: ANN401
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or value % 1:
        raise _DamagedError(f"expected a whole number in {low}..{high}, got {_short(value)}")
    return int(value)


def _flag(value: Any) -> bool:  # noqa: ANN401
    if not isinstance(value, bool):
        raise _DamagedError(f"expected true or false, got {_short(value)}")
    return value
