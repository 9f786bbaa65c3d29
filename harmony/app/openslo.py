"""OpenSLO documents read as objectives: target and rolling window in, epsilon, measure and error budget out.

Source: the OpenSLO specification, version v1, kind SLO.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from forecasting.errors import UsageError
from harmony.app.written import Fields, loader

__all__ = ["ServiceLevelObjective", "read_objectives"]

VERSION = "openslo/v1"
DAY_S = 86_400.0
# Months, quarters and years as rolling windows: so many days.
_UNITS_S = {"m": 60.0, "h": 3600.0, "d": DAY_S, "w": 7 * DAY_S, "M": 30 * DAY_S, "Q": 90 * DAY_S, "Y": 365 * DAY_S}
_SHORTHAND = re.compile(r"([1-9][0-9]*)([mhdwMQY])")
USUAL_WINDOW_S = 30 * DAY_S
LARGEST_EPSILON = 0.5  # what the custom resource takes
# What the budget is a share of, in our words.
_MEASURES: dict[str, Literal["Time", "Requests"]] = {"Timeslices": "Time", "Occurrences": "Requests"}


@dataclass(frozen=True, slots=True)
class ServiceLevelObjective:
    """What one objective of an SLO says.

    Attributes:
        name: the SLO's name, with the objective's display name where there are several.
        service: the service it names; empty for none.
        target: share that must be good, 0..1.
        measure: `Time` for time slices, `Requests` for occurrences.
        window_s: the rolling window, seconds.
    """

    name: str
    service: str
    target: float
    measure: Literal["Time", "Requests"]
    window_s: float

    @property
    def epsilon(self) -> float:
        """The share that may be violated, 0..1; without the rounding errors of 1 - 0.999."""
        return round(1.0 - self.target, 12)

    @property
    def budget_s(self) -> float:
        """The violated time that a whole window allows, seconds; of requests: as if demand were even."""
        return self.epsilon * self.window_s

    def to_json(self) -> dict[str, Any]:
        """Plain values, by the names that they have elsewhere."""
        return {
            "name": self.name,
            "service": self.service,
            "target": self.target,
            "epsilon": self.epsilon,
            "measure": self.measure,
            "window_s": self.window_s,
            "error_budget_s": round(self.budget_s, 6),
        }


def read_objectives(path: Path) -> list[ServiceLevelObjective]:
    """Every objective of the SLOs in a file of OpenSLO documents; other kinds are passed over.

    Raises:
        UsageError: one line for the first mistake: file, document, field, and what would be accepted.
    """
    import yaml

    try:
        documents = [one for one in yaml.load_all(path.read_text(encoding="utf-8"), loader()) if one is not None]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())[:200]})") from error
    found: list[ServiceLevelObjective] = []
    kinds: list[str] = []
    for i, one in enumerate(documents):
        fields = Fields(one, f"{path}" if len(documents) == 1 else f"{path}: document {i + 1}")
        version, kind = fields.text("apiVersion"), fields.text("kind")
        if version != VERSION:
            raise UsageError(f"{fields.where}: apiVersion {version!r}: expected {VERSION}")
        kinds.append(kind)
        if kind == "SLO":
            found += _slo(fields)
    if not found:
        got = f"only {', '.join(sorted(set(kinds)))}" if kinds else "nothing"
        raise UsageError(f"{path}: expected a document of kind SLO, got {got}")
    return found


def _slo(fields: Fields) -> list[ServiceLevelObjective]:
    metadata, spec = fields.part("metadata"), fields.part("spec")
    fields.done()
    if metadata is None or spec is None:
        raise UsageError(f"{fields.where}: {'spec' if metadata else 'metadata'} is missing")
    name = metadata.text("name")
    method = spec.text("budgetingMethod")
    if method not in _MEASURES:
        raise UsageError(f"{spec.where}: budgetingMethod {method!r}: expected {' or '.join(_MEASURES)}")
    window_s = _window(spec)
    objectives = spec.parts("objectives")
    if not objectives:
        raise UsageError(f"{spec.where}: objectives is missing: expected a list with a target, such as 0.99")
    service = spec.text("service", " ").strip()
    for free in ("description", "indicator", "indicatorRef", "alertPolicies"):
        spec.ignore(free)
    spec.done()
    found = []
    for i, one in enumerate(objectives):
        shown = one.text("displayName", f"{i + 1}")
        target = _target(one)
        for told in ("op", "value", "timeSliceTarget", "timeSliceWindow", "indicator", "indicatorRef"):
            one.ignore(told)
        one.done()
        whole = name if len(objectives) == 1 else f"{name}: {shown}"
        found.append(ServiceLevelObjective(whole, service, target, _MEASURES[method], window_s))
    return found


def _target(fields: Fields) -> float:
    """The share that must be good."""
    if fields.has("target") == fields.has("targetPercent"):
        raise UsageError(f"{fields.where}: expected either target (such as 0.99) or targetPercent (such as 99)")
    in_percent = fields.has("targetPercent")
    field, whole = ("targetPercent", 100.0) if in_percent else ("target", 1.0)
    share = fields.number(field, most=whole) / whole
    if not 1.0 - LARGEST_EPSILON <= share < 1.0:
        least = (1.0 - LARGEST_EPSILON) * whole
        raise UsageError(f"{fields.where}: {field} {share * whole:g}: expected {least:g} or more, and below {whole:g}")
    return share


def _window(spec: Fields) -> float:
    """Seconds of the rolling window; 30 days where none is given."""
    windows = spec.parts("timeWindow")
    if not windows:
        return USUAL_WINDOW_S
    if len(windows) > 1:
        raise UsageError(f"{spec.where}: timeWindow: expected one entry, got {len(windows)}")
    window = windows[0]
    duration = window.text("duration")
    calendar = window.has("calendar")
    window.ignore("calendar")
    if not window.flag("isRolling", not calendar) or calendar:
        raise UsageError(f"{window.where}: aligned with the calendar: expected isRolling: true, such as duration: 30d")
    window.done()
    match = _SHORTHAND.fullmatch(duration)
    if match is None:
        raise UsageError(f"{window.where}: duration {duration!r}: expected a number and one of m h d w M Q Y, as 28d")
    return int(match[1]) * _UNITS_S[match[2]]
