"""`operate`: surgery as people write it, ``spike:at=9d14h,height=4,length=20m``, done to a trace."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from forecasting.errors import UsageError, suggest
from forecasting.panel import FloatArray
from harmony.durations import parse_duration
from simulator.traces import surgery
from simulator.traces.registry import load_trace
from simulator.traces.trace import Trace

__all__ = ["OPERATIONS", "operate"]

# Per operation what may be said, each a duration, number or trace, and whether it must be.
OPERATIONS: dict[str, dict[str, tuple[str, bool]]] = {
    "scale": {"by": ("number", True), "from": ("time", False), "to": ("time", False)},
    "spike": {
        "at": ("time", True), "height": ("number", True), "length": ("time", True), "ramp": ("time", False),
    },
    "dropout": {"from": ("time", True), "to": ("time", False)},
    "shift": {"by": ("time", True)},
    "mix": {"with": ("trace", True), "weight": ("number", False)},
    "splice": {"with": ("trace", True), "at": ("time", True)},
}  # fmt: skip


def operate(trace: Trace, operations: Sequence[str]) -> Trace:
    """The trace with surgery done to its demand, in the order given; the trace itself without any.

    Only the demand is left: other indicators and single requests would no longer belong to it. What a service would
    measure is operated on, and so is what is really asked for, but for `dropout`, which only hides it.
    Raises `UsageError` naming what would be accepted.
    """
    if not operations:
        return trace
    panel = trace.panel
    seen: FloatArray = panel.values[:, 0].copy()
    events = trace.events
    asked = seen.copy() if events is None or events.demand is None else events.demand.copy()
    for text in operations:
        name, values = _parsed(text)
        act = _operation(name, values, panel.step_s)
        with np.errstate(over="ignore"):
            seen = act(seen)
            if name != "dropout":
                asked = act(asked)
        if np.isinf(asked).any():
            raise UsageError(f"surgery {text!r}: that is more demand than a number holds")
    left_out = [n for n in panel.names if n != trace.demand]
    notes: tuple[str, ...] = (f"surgery: {'; '.join(operations)}",)
    if left_out:
        notes += ("after surgery only the demand is left of the indicators",)
    changed = dataclasses.replace(panel, values=seen[:, None], indicators=panel.indicators[:1], name=panel.name)
    kept = dataclasses.replace(events, demand=asked) if events is not None else None
    if kept is None and any(t.partition(":")[0].strip() == "dropout" for t in operations):
        from simulator.traces.trace import Events

        kept = Events(demand=asked)
    return dataclasses.replace(trace, panel=changed, requests=None, events=kept, notes=trace.notes + notes)


def _parsed(text: str) -> tuple[str, dict[str, float | str]]:
    """Name and values of one operation."""
    name, _, rest = text.partition(":")
    name = name.strip()
    if name not in OPERATIONS:
        raise UsageError(f"no surgery {name!r}; {suggest(name, list(OPERATIONS))}")
    allowed = OPERATIONS[name]
    values: dict[str, float | str] = {}
    for pair in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = (p.strip() for p in pair.partition("="))
        if not equals or key not in allowed:
            raise UsageError(f"surgery {text!r}: expected {written(name)}")
        values[key] = _value(text, key, value, allowed[key][0])
    missing = [key for key, (_, needed) in allowed.items() if needed and key not in values]
    if missing:
        raise UsageError(f"surgery {text!r}: no {' and no '.join(missing)}; expected {written(name)}")
    return name, values


def _value(text: str, key: str, value: str, kind: str) -> float | str:
    if kind == "trace":
        return value
    if kind == "time":
        sign = -1.0 if value.startswith("-") else 1.0
        plain = value.removeprefix("-")
        try:
            return 0.0 if plain in ("0", "0s") else sign * parse_duration(plain)
        except UsageError as error:
            raise UsageError(f"surgery {text!r}: {key}: {error}") from None
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"surgery {text!r}: {key}={value} is no number") from None


def _operation(name: str, values: dict[str, float | str], step_s: float) -> Callable[[FloatArray], FloatArray]:
    """The function that does it."""

    def number(key: str, default: float = math.nan) -> float:
        return float(values.get(key, default))

    def other() -> FloatArray:
        return load_trace(str(values["with"]), step_s=step_s).panel.values[:, 0]

    if name == "scale":
        return lambda d: surgery.scale(d, step_s, number("by"), number("from", 0.0), number("to", math.inf))
    if name == "spike":
        return lambda d: surgery.spike(d, step_s, number("at"), number("height"), number("length"), number("ramp", 0.0))
    if name == "dropout":
        return lambda d: surgery.dropout(d, step_s, number("from"), number("to", math.inf))
    if name == "shift":
        return lambda d: surgery.shift(d, step_s, number("by"))
    if name == "mix":
        return lambda d: surgery.mix(d, other(), number("weight", 0.5))
    return lambda d: surgery.splice(d, other(), step_s, number("at"))


def written(name: str) -> str:
    """How an operation is written."""
    examples = {"number": "2", "time": "2d6h", "trace": "FILE"}
    parts = [
        f"{k}={examples[kind]}" if needed else f"[{k}={examples[kind]}]"
        for k, (kind, needed) in OPERATIONS[name].items()
    ]
    return f"{name}:" + ",".join(parts)
