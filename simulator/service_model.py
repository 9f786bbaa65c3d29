"""`ServiceModel`: how fast one replica of an inference service is, and what rate of requests it therefore sustains.

One step of a replica is what a continuous-batching inference engine does:

- It has `max_concurrency` slots. A request holds one from the moment it leaves the queue until its last token.
- Prompts are processed one after another at `prefill_tokens_per_s`; decoding pauses meanwhile. The end of a prompt
  is the request's first token.
- ``n`` requests decode together, one token each per step; a step takes ``a + b n`` seconds, where a lone request
  decodes `decode_tokens_per_s` and the replica as a whole never more than `decode_limit_tokens_per_s`.
- Its key-value cache holds `kv_tokens`. A request reserves prompt and answer while it holds a slot, and waits in the
  queue until they fit (an empty replica takes any request).

`Clients` says what those do who wait for a first token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from forecasting.errors import DataError, UsageError
from forecasting.panel import FloatArray

__all__ = ["Clients", "RequestLog", "ServiceModel", "default_ttft_slo_s", "work"]


class RequestLog(Protocol):
    """What is needed of a trace of requests: arrays of equal length, ascending arrival times."""

    @property
    def arrival_s(self) -> FloatArray:
        """(requests,) seconds on the clock of the world that they are sent to."""
        ...

    @property
    def prompt_tokens(self) -> npt.NDArray[Any]:
        """(requests,) tokens to read."""
        ...

    @property
    def output_tokens(self) -> npt.NDArray[Any]:
        """(requests,) tokens to write."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceModel:
    """How fast one replica is; see the module's text for what the numbers mean.

    The defaults have the proportions of a public vLLM run (a 1B model on one 24 GiB GPU: step time 7 ms + 0.38 ms per
    running request, prompts at about 30,000 tokens/s); `for_capacity` keeps the proportions and sets the speed.

    Raises `UsageError` for a speed that is not positive, or a lone request faster than the whole replica.
    """

    prefill_tokens_per_s: float = 30_000.0
    decode_tokens_per_s: float = 135.0
    decode_limit_tokens_per_s: float = 2_600.0
    max_concurrency: int = 32
    kv_tokens: float = math.inf

    def __post_init__(self) -> None:
        for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "decode_limit_tokens_per_s", "kv_tokens"):
            if not getattr(self, name) > 0:
                raise UsageError(f"service model: {name} = {getattr(self, name)}, expected a positive number")
        if not math.isfinite(self.decode_tokens_per_s):
            raise UsageError("service model: decode_tokens_per_s must be finite")
        if self.decode_limit_tokens_per_s < self.decode_tokens_per_s:
            raise UsageError(
                f"service model: decode_limit_tokens_per_s = {self.decode_limit_tokens_per_s} is below what one "
                f"request alone decodes ({self.decode_tokens_per_s})"
            )
        if self.max_concurrency < 1:
            raise UsageError(f"service model: max_concurrency = {self.max_concurrency}, expected 1 or more")

    def token_s(self, running: float) -> float:
        """Seconds per token of each of ``running`` requests that decode together."""
        slope = 1.0 / self.decode_limit_tokens_per_s
        return 1.0 / self.decode_tokens_per_s + (running - 1) * slope

    def concurrency(self, requests: RequestLog) -> float:
        """Requests of this mix that a full replica works on: its slots, or as many as its cache holds on average."""
        prompt, decode = work(requests)
        held = float((prompt + decode + 1.0).mean())
        return max(1.0, min(float(self.max_concurrency), self.kv_tokens / held))

    def requests_per_s(self, requests: RequestLog) -> float:
        """The mean rate of this mix of requests that one replica sustains when it is full."""
        prompt, decode = work(requests)
        running = self.concurrency(requests)
        full = self.token_s(running) / running
        busy_s = float(prompt.mean()) / self.prefill_tokens_per_s + float(decode.mean()) * full
        if not busy_s > 0:
            raise DataError("requests without any tokens put no load on a replica, so it has no capacity for them")
        return 1.0 / busy_s

    def scaled(self, factor: float) -> ServiceModel:
        """The same replica, ``factor`` times as fast in everything."""
        return replace(
            self,
            prefill_tokens_per_s=self.prefill_tokens_per_s * factor,
            decode_tokens_per_s=self.decode_tokens_per_s * factor,
            decode_limit_tokens_per_s=self.decode_limit_tokens_per_s * factor,
        )

    @classmethod
    def for_capacity(
        cls, requests: RequestLog, requests_per_s_per_replica: float, *, base: ServiceModel | None = None
    ) -> ServiceModel:
        """The model whose replica sustains exactly this mean rate of the trace's own mix.

        So a capacity in requests/s means the same here and in a rate-level replay: fed faster, the queue grows.
        ``base`` gives the proportions. `UsageError` unless the rate is positive.
        """
        if not (math.isfinite(requests_per_s_per_replica) and requests_per_s_per_replica > 0):
            raise UsageError(f"{requests_per_s_per_replica} requests/s per replica: expected a positive number")
        model = cls() if base is None else base
        return model.scaled(requests_per_s_per_replica / model.requests_per_s(requests))


@dataclass(frozen=True, slots=True)
class Clients:
    """What a client does who waits: after ``timeout_s`` without a first token it cancels and sends again.

    It does so at most ``retries`` times, ``backoff_s`` after the first time-out, twice as long after each further one;
    then it gives up. By default clients wait for ever. Raises `UsageError` for impossible values.
    """

    timeout_s: float = math.inf
    retries: int = 0
    backoff_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise UsageError(f"clients: timeout_s = {self.timeout_s}, expected a positive number of seconds")
        if not 0 <= self.retries <= 20:
            raise UsageError(f"clients: retries = {self.retries}, expected 0 to 20")
        if not (math.isfinite(self.backoff_s) and self.backoff_s >= 0):
            raise UsageError(f"clients: backoff_s = {self.backoff_s}, expected 0 or more seconds")


def default_ttft_slo_s(model: ServiceModel, requests: RequestLog) -> float:
    """A bound on the time to first token that an idle replica keeps with room to spare.

    2 s, or three times what the 95th percentile prompt takes on an idle replica where that is longer.
    """
    prompt, _ = work(requests)
    return max(2.0, 3.0 * float(np.quantile(prompt, 0.95)) / model.prefill_tokens_per_s)


def work(requests: RequestLog) -> tuple[FloatArray, FloatArray]:
    """(requests,) prompt tokens and tokens after the first one; `DataError` for none, negative or absent ones."""
    prompt = np.asarray(requests.prompt_tokens, dtype=np.float64)
    output = np.asarray(requests.output_tokens, dtype=np.float64)
    if prompt.ndim != 1 or prompt.shape != output.shape or prompt.shape != np.shape(requests.arrival_s):
        raise DataError(
            f"requests: arrival_s {np.shape(requests.arrival_s)}, prompt_tokens {prompt.shape} and output_tokens "
            f"{output.shape} must be flat and of equal length"
        )
    if prompt.size == 0:
        raise DataError("requests: the trace holds none")
    if not (np.isfinite(prompt).all() and np.isfinite(output).all() and prompt.min() >= 0 and output.min() >= 0):
        raise DataError("requests: token counts must be numbers, 0 or more")
    return prompt, np.maximum(output - 1.0, 0.0)
