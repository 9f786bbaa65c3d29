"""`RequestTrace`: single requests with their arrivals and tokens, and their rates on a uniform grid."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from forecasting.errors import DataError
from forecasting.panel import FloatArray, Indicator, Panel
from simulator.traces.limits import check_size

__all__ = ["RequestTrace"]

_INDICATORS: tuple[Indicator, ...] = (
    Indicator("requests_per_second", "requests/s", 1, "rate"),
    Indicator("prompt_tokens_per_second", "tokens/s", 1, "rate"),
    Indicator("output_tokens_per_second", "tokens/s", 1, "rate"),
    Indicator("mean_prompt_tokens", "tokens", 1),
    Indicator("mean_output_tokens", "tokens", 1),
)


@dataclass(frozen=True, eq=False)
class RequestTrace:
    """Single requests in order of arrival.

    Attributes:
        arrival_s: (requests,) seconds since ``start``, not falling, the first at least 0.
        prompt_tokens, output_tokens: (requests,) tokens of each request.
        name: what the trace is called.
        start: time of ``arrival_s = 0``, seconds since the Unix epoch; 0 where the source gives no date.
        calendar: False when the source gives no date.
        models: (requests,) model or service of each request, empty where the source has none.

    Raises:
        DataError: unequal lengths, falling or not finite arrivals, negative tokens.
    """

    arrival_s: FloatArray
    prompt_tokens: FloatArray
    output_tokens: FloatArray
    name: str = "requests"
    start: float = 0.0
    calendar: bool = False
    models: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        size = len(self.arrival_s)
        if len(self.prompt_tokens) != size or len(self.output_tokens) != size:
            raise DataError(f"{self.name}: {size} arrivals but {len(self.prompt_tokens)} prompts")
        if size and not (np.isfinite(self.arrival_s).all() and (np.diff(self.arrival_s) >= 0).all()):
            raise DataError(f"{self.name}: arrivals must be finite and ascending")
        for what in (self.prompt_tokens, self.output_tokens):
            if size and not (what >= 0).all():
                raise DataError(f"{self.name}: token counts must be numbers of at least 0")

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.arrival_s)

    def to_panel(self, step_s: float = 15.0) -> Panel:
        """Requests/s, prompt and output tokens/s, and mean tokens a request, per step of ``step_s`` seconds.

        A step without requests has rate 0 and no mean (absent). The last step, which the trace covers in part only,
        is left out. `DataError` for a step that is not positive or a trace shorter than two steps.
        """
        if not (math.isfinite(step_s) and step_s > 0):
            raise DataError(f"{self.name}: step {step_s} s is not a positive number of seconds")
        span = float(self.arrival_s[-1]) if len(self) else 0.0
        rows = int(span / step_s + 1e-9)
        if rows < 2:
            raise DataError(
                f"{self.name}: {span:.6g} s of requests give {rows} steps of {step_s:g} s; expected 2 or more"
            )
        check_size(self.name, rows, len(_INDICATORS), step_s)
        row = np.minimum(self.arrival_s / step_s + 1e-9, float(rows)).astype(np.int64)
        count, prompt, output = (
            np.bincount(row, weights=weights, minlength=rows + 1)[:rows]
            for weights in (None, self.prompt_tokens, self.output_tokens)
        )
        seen = np.maximum(count, 1)
        means = [np.where(count > 0, total / seen, np.nan) for total in (prompt, output)]
        values = np.column_stack([count / step_s, prompt / step_s, output / step_s, *means])
        return Panel(values, _INDICATORS, self.start, step_s, name=self.name, calendar=self.calendar)
