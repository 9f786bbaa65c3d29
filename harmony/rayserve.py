"""`HarmonyPolicy`: an autoscaling policy of Ray Serve that sets what HARMONY recommends.

Ray Serve keeps a policy by value and runs it in its own controller, so this file needs nothing but Python: HARMONY is
not installed in Ray's image. The controller's loop never waits for an answer; a thread asks the API.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
import urllib.request
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote

__all__ = ["Advice", "HarmonyPolicy", "advice_of", "replicas"]


class Advice(NamedTuple):
    """What the API says of a service: the count that it recommends, when (seconds since the epoch), and pauses."""

    replicas: int
    at_s: float
    is_paused: bool = False


def advice_of(answer: object) -> Advice:
    """The advice in what ``GET /api/v1/services/NAMESPACE/NAME`` answered; `ValueError` for anything else."""
    try:
        summary = answer["summary"]  # type: ignore[index]
        count, at, held_by = summary["recommended"], summary["at"], summary["held_by"]
        at_s = datetime.fromisoformat(at).timestamp()
        is_count = isinstance(count, int) and not isinstance(count, bool) and count >= 0
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"no service of HARMONY's API: {type(error).__name__} {error}") from error
    if not is_count:
        raise ValueError(f"no service of HARMONY's API: recommended is {count!r}, expected a count")
    return Advice(count, at_s, "paused" in str(held_by))


def replicas(
    advice: Advice | None,
    now_s: float,
    stale_s: float,
    current: int,
    requests: float,
    per_replica: float | None,
    least: int,
    most: int,
) -> tuple[int, str]:
    """The count to set within ``least``..``most``, and why.

    Never fewer than the present ``requests`` need at ``per_replica`` each (None: unknown). Absent or older advice than
    ``stale_s``, and a pause, never lower the ``current`` count.
    """
    floor = math.ceil(requests / per_replica - 1e-9) if per_replica and math.isfinite(requests) and requests > 0 else 0
    if advice is None:
        wanted, why = max(current, floor), "no advice yet: held"
    elif now_s - advice.at_s > stale_s:
        wanted, why = max(current, floor), "advice is old: held"
    elif advice.is_paused:
        wanted, why = max(current, floor), "paused: held"
    elif floor > advice.replicas:
        wanted, why = floor, "requests at present need more"
    else:
        wanted, why = advice.replicas, "as recommended"
    return max(least, min(most, wanted)), why


class HarmonyPolicy:
    """For `AutoscalingPolicy(policy_function="harmony.rayserve:HarmonyPolicy", policy_kwargs={...})`.

    Args:
        url: address of `harmony serve`, such as ``http://harmony.harmony-system:8000``.
        service: "namespace/name" there.
        key_variable: environment variable of Serve's controller that holds an API key, if the server asks for one.
        every_s: seconds between two questions.
        stale_s: age from which a recommendation is not followed any more.
        timeout_s: how long an answer may take.
    """

    def __init__(
        self,
        url: str,
        service: str,
        key_variable: str = "HARMONY_API_KEY",
        every_s: float = 10.0,
        stale_s: float = 180.0,
        timeout_s: float = 5.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url {url!r}: expected one such as http://harmony:8000")
        namespace, _, name = service.partition("/")
        if not (namespace and name and "/" not in name):
            raise ValueError(f"service {service!r}: expected NAMESPACE/NAME")
        self._address = f"{url.rstrip('/')}/api/v1/services/{quote(namespace, safe='')}/{quote(name, safe='')}"
        self._key_variable, self._every_s, self._stale_s, self._timeout_s = key_variable, every_s, stale_s, timeout_s
        self._advice: Advice | None = None
        self._asking: threading.Thread | None = None
        self._trouble = ""

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - Ray's AutoscalingContext
        """The count for a deployment, and what to remember of it (why)."""
        if self._asking is None:
            self._asking = threading.Thread(target=self._ask_on, name="harmony-policy", daemon=True)
            self._asking.start()
        return self.decide(ctx, time.time())  # noqa: TID251 - Serve is a live world

    def decide(self, ctx: Any, now_s: float) -> tuple[int, dict[str, Any]]:  # noqa: ANN401
        """The same at a given time, from what is known already."""
        count, why = replicas(
            self._advice,
            now_s,
            self._stale_s,
            ctx.target_num_replicas,
            ctx.total_num_requests,
            getattr(ctx.config, "target_ongoing_requests", None),
            ctx.capacity_adjusted_min_replicas,
            ctx.capacity_adjusted_max_replicas,
        )
        return count, {"harmony": why}

    def ask(self) -> None:
        """Ask the API once; what cannot be read leaves the advice as it was, and is logged when it begins and ends."""
        request = urllib.request.Request(self._address, headers={"accept": "application/json"})
        if key := os.environ.get(self._key_variable, ""):
            request.add_header("authorization", f"Bearer {key}")
        log = logging.getLogger("harmony.rayserve")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                self._advice = advice_of(json.load(answer))
        except (OSError, ValueError) as error:
            if not self._trouble:
                log.warning("%s: %s; the count is not lowered meanwhile", self._address, error)
            self._trouble = str(error) or type(error).__name__
            return
        if self._trouble:
            log.warning("%s answers again", self._address)
            self._trouble = ""

    def _ask_on(self) -> None:
        while True:
            self.ask()
            time.sleep(self._every_s)
