"""Work for the jobs of the tests, run in a process of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from forecasting.errors import DataError


def work(kind: str, request: Mapping[str, Any], report: Callable[[int, int, str], None]) -> Mapping[str, Any]:
    """What a job does depends on its seed."""
    seed = request["seed"]
    if seed == 1:
        raise DataError("too little demand")
    if seed == 2:
        raise RuntimeError("secret=hunter2")
    if seed == 3:
        os._exit(9)
    if seed == 4:
        report(1, 4, "a quarter")
        time.sleep(60)
    report(1, 2, "half")
    return {"kind": kind, "pid": os.getpid(), "rows": len(request["demand"])}
