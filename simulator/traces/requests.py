"""Request-level traces: one row a request, with its arrival and its tokens.

Azure LLM inference 2023 (CC-BY-4.0)   TIMESTAMP (date), ContextTokens, GeneratedTokens
BurstGPT (CC-BY-4.0)                   Timestamp (seconds), Request tokens, Response tokens
Mooncake FAST'25 (Apache-2.0)          JSON lines: timestamp (milliseconds), input_length, output_length
a file of one's own                    timestamp (seconds or date), prompt_tokens, output_tokens

Azure's prompts pile up at 7437 tokens (a cap cuts their tail); Mooncake's conversation arrivals are rounded to 3 s and
its synthetic ones are Poisson: use those for lengths, not for arrivals.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from forecasting.errors import DataError
from forecasting.panel import FloatArray
from simulator.traces.grid import refuse_absurd_gap
from simulator.traces.request_trace import RequestTrace
from simulator.traces.table import Located, ParsedTimes, Table, in_order
from simulator.traces.trace import Trace

__all__ = ["read_mooncake_lines", "read_requests", "request_columns"]

_NAMES: tuple[tuple[str, str, str], ...] = (
    ("timestamp", "prompt_tokens", "output_tokens"),
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    ("Timestamp", "Request tokens", "Response tokens"),
)

_STARTS: dict[str, float] = {"azure-code": 1_700_158_623.97996}
"""Start of files whose times count from their first request, by model label: 2023-11-16T18:17:03.979960Z, as given."""

_LICENCES: tuple[tuple[str, str], ...] = (("azure", "CC-BY-4.0"), ("kimi", "Apache-2.0"))


def request_columns(header: tuple[str, ...]) -> tuple[str, str, str] | None:
    """(time, prompt, output) columns if the header is that of a request-level trace, else None."""
    return next((names for names in _NAMES if set(names) <= set(header)), None)


def read_requests(table: Table, *, step_s: float | None = None, sort: bool = True) -> Trace:
    """Requests of a table with one row a request (Azure, BurstGPT, Mooncake or a file of one's own)."""
    names = request_columns(table.header)
    if names is None:
        raise DataError(f"{table.name}: no columns timestamp, prompt_tokens, output_tokens as in a request-level trace")
    done = ""
    if sort:
        table, done = in_order(table, names[0])
    times = table.times(names[0])
    tokens = table.numbers(names[1:])
    label = next((c for c in ("model", "Model") if c in table.header), None)
    models = tuple(table.texts(label)) if label else ()
    trace = _trace(table, times, tokens, models, step_s=step_s)
    return replace(trace, notes=(done, *trace.notes)) if done else trace


def read_mooncake_lines(name: str, text: str, *, step_s: float | None = None) -> Trace:
    """Requests of a Mooncake file as published: JSON lines with timestamp (ms), input_length, output_length."""
    rows: list[tuple[float, float, float]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            rows.append((entry["timestamp"] / 1e3, float(entry["input_length"]), float(entry["output_length"])))
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as exc:
            raise DataError(
                f"{name}, line {number}: expected a JSON object with timestamp, input_length, output_length ({exc})"
            ) from exc
    values = np.array(rows, dtype=np.float64).reshape(-1, 3)
    trace = _trace(_Lines(name), ParsedTimes(values[:, 0], calendar=False), values[:, 1:], (), step_s=step_s)
    return replace(trace, licence="Apache-2.0")


class _Lines:
    """Says which request is meant."""

    def __init__(self, name: str) -> None:
        self.name = name

    def where(self, row: int) -> str:
        return f"request {row + 1}"


def _trace(
    table: Located, times: ParsedTimes, tokens: FloatArray, models: tuple[str, ...], *, step_s: float | None
) -> Trace:
    """The trace of checked arrivals and tokens; `DataError` naming the first row that is not usable."""
    seconds = times.seconds
    if len(seconds) < 2:
        raise DataError(f"{table.name}: {len(seconds)} requests; expected at least 2")
    if not np.isfinite(seconds).all() or (np.diff(seconds) < 0).any():
        bad = ~np.isfinite(seconds)
        bad[1:] |= np.diff(seconds) < 0
        row = int(np.argmax(bad))
        raise DataError(
            f"{table.name}, {table.where(row)}: arrives before the request above it; expected ascending times"
        )
    if not (tokens >= 0).all():
        row, col = (int(i) for i in np.argwhere(~(tokens >= 0))[0])
        what = ("prompt", "output")[col]
        raise DataError(f"{table.name}, {table.where(row)}: the number of {what} tokens must be at least 0 and present")
    if not times.calendar and seconds[0] < 0:
        raise DataError(f"{table.name}, {table.where(0)}: arrives at {seconds[0]:g} s; expected seconds from 0 on")
    kinds = sorted(set(models))
    label = kinds[0] if len(kinds) == 1 else ""
    known_start = _STARTS.get(label)
    licence = next((licence for start, licence in _LICENCES if label.startswith(start)), "not stated")
    start = float(seconds[0]) if times.calendar else 0.0
    if known_start is not None and not times.calendar:
        start = known_start
    first = float(seconds[0]) if times.calendar else 0.0
    requests = RequestTrace(
        arrival_s=seconds - first,
        prompt_tokens=tokens[:, 0],
        output_tokens=tokens[:, 1],
        name=label or table.name.split(".")[0],
        start=start,
        calendar=times.calendar or known_start is not None,
        models=models,
    )
    step = 15.0 if step_s is None else step_s
    refuse_absurd_gap(times, table, step)
    notes = (f"{len(requests)} requests counted in steps of {step:g} s; the incomplete last step is left out",)
    panel = requests.to_panel(step)
    return Trace(panel, panel.names[0], requests, format="requests", licence=licence, notes=notes)
