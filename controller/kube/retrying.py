"""Which refused or failed requests may be sent once more, and when."""

from __future__ import annotations

from enum import Enum

import numpy as np

from controller.kube.errors import KubeError, TooManyRequests, Unauthorized, Unavailable

__all__ = ["ATTEMPTS", "BUDGET_S", "Repeat", "pause_s"]

ATTEMPTS = 4
BUDGET_S = 20.0
_FIRST_S, _LONGEST_S = 0.25, 4.0


class Repeat(Enum):
    """How often a request may take effect without harm."""

    READ = "read"  # changes nothing: repeat after any failure to answer
    GUARDED = "guarded"  # a second one finds another resource version, or nothing: repeat what was turned away
    ONCE = "once"  # a second one would act twice: repeat only what flow control kept out


def pause_s(
    error: KubeError, repeat: Repeat, attempt: int, spent_s: float, jitter: np.random.Generator
) -> float | None:
    """Seconds to wait before sending again after `attempt` (from 1) failed with `error`; None to give up.

    Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"): uniform between zero and a bound that
    doubles, so that many controllers do not come back together. A server's Retry-After is a lower bound.
    """
    if attempt >= ATTEMPTS or not _may_repeat(error, repeat):
        return None
    asked_s = error.retry_after_s if isinstance(error, TooManyRequests | Unavailable) else None
    spread_s = float(jitter.uniform(0.0, min(_LONGEST_S, _FIRST_S * 2 ** (attempt - 1))))
    wait_s = spread_s if asked_s is None else asked_s + spread_s
    return wait_s if spent_s + wait_s < BUDGET_S else None


def _may_repeat(error: KubeError, repeat: Repeat) -> bool:
    """Whether sending again can do no harm and some good."""
    if isinstance(error, TooManyRequests):
        return True
    if isinstance(error, Unauthorized) or not isinstance(error, Unavailable):
        return False
    return repeat is Repeat.READ or (repeat is Repeat.GUARDED and error.status == 503)
