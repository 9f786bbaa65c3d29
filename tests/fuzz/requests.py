"""Requests to everything that is posted, with values at their limits, of other kinds, and bytes that are no JSON.

An answer is right, or a problem that says what is wrong: never a fault of the server, and never the value of a key.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx2 as httpx
import numpy as np

from harmony.api.app import create_app
from harmony.api.jobs import Jobs
from harmony.api.state import ApiSettings, ApiState
from harmony.app.answering import PostedHistories
from harmony.dashboard import Dashboard, add_dashboard, dashboard_settings
from harmony.metrics import Metrics
from harmony.serving import Hub
from tests.api.memory import MemoryJournal
from tests.api.serving import key_for, serving
from tests.fuzz.tally import Tally
from tests.journal.builders import fleet

GENEROUS = ApiSettings(rate=1e9, burst=1e9, failed_rate=1e9, failed_burst=1e9)
DATES = (
    "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "0001-01-02T00:00:00Z", "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-23:59", "9999-12-30T00:00:00Z", "9999-12-29T23:59:00Z", "1969-12-31T23:59:59.999999Z",
    "2026-02-30T00:00:00Z", "2026-06-30T23:59:60Z", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00.1234567Z",
    "10000-01-01T00:00:00Z", "-0001-01-01T00:00:00Z", "2026-10-25T02:30:00[Europe/Berlin]", "now", "", "0", 0, 1e300,
    -1e18, 1767225600, "1767225600", "2026-W01-1", "20260101T000000Z",
)  # fmt: skip
NUMBERS = (
    0, -0.0, 1, -1, 2, 0.5, 1e-300, 5e-324, 1e15, -1e15, 1.0000001e15, 1e308, 86_400, 86_400.000001, 3600, 0.9999999,
    2**31, 2**31 - 1, 2**53 + 1, 2**63, 10**30, 1.5, 12.0, 1000, 1001, 4096, 96, 97, 100_000, 100_001,
)  # fmt: skip
OTHERS = (
    None,
    True,
    False,
    "",
    "1",
    "x" * 300,
    "\u0000",
    "\ud800",
    "\u202e",
    "é",
    [],
    {},
    [[]],
    [None],
    {"a": {}},
    [[[1]]],
)
TOKENS = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-",
    b"9" * 400,
    b"'x'",
    b"undefined",
    b"\xff",
    b"\xef\xbb\xbf{}",
)

Make = Callable[[np.random.Generator], dict[str, Any]]


def _forecast(rng: np.random.Generator) -> dict[str, Any]:
    width, rows = int(rng.integers(1, 4)), int(rng.choice([1, 2, 3, 30]))
    scale = float(rng.choice([0.0, 1e-12, 1.0, 1e6, 1e15]))
    values = [[_reading(rng, scale) for _ in range(width)] for _ in range(rows)]
    kinds = ("gauge", "counter", "rate")
    return {
        "indicators": [
            {"name": f"i{k}", "level": int(rng.integers(1, 4)), "kind": kinds[int(rng.integers(3))]}
            for k in range(width)
        ],
        "step_seconds": float(rng.choice([1, 60, 300.5, 86_400])),
        "start": DATES[int(rng.integers(len(DATES)))] if rng.random() < 0.5 else None,
        "values": values,
        "horizon": int(rng.choice([1, 2, 24, 96])),
        "samples": int(rng.choice([10, 11, 100])),
        "quantiles": [float(q) for q in rng.choice([1e-9, 0.01, 0.5, 0.5, 0.9999999, 0.99999999], size=3)],
        "paths": int(rng.choice([0, 1, 50])),
    }


def _reading(rng: np.random.Generator, scale: float) -> float | None:
    return None if rng.random() < 0.2 else min(1e15, float(np.round(scale * rng.random(), 6)))


def _backtest(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "demand": [_reading(rng, 100.0) for _ in range(int(rng.choice([1, 287, 288, 300])))],
        "step_seconds": 60, "lead_time_s": float(rng.choice([1e-9, 60, 86_400])), "epsilon": 0.05,
        "per_replica": float(rng.choice([1e-300, 1.0, 1e15])), "min_replicas": int(rng.choice([0, 1, 100_000])),
        "max_replicas": int(rng.choice([1, 10, 100_000])), "policies": ["hpa"], "seed": 4,
    }  # fmt: skip


def _what_if(rng: np.random.Generator) -> dict[str, Any]:
    whole = {
        "epsilon": 0.05, "price_per_gpu_hour": 2.0, "miss_price_per_replica_hour": 1.0, "min_replicas": 1,
        "max_replicas": 10, "ordered": 3, "measure": "time", "guards": True,
    }  # fmt: skip
    return {name: value for name, value in whole.items() if rng.random() < 0.6}


def _key(rng: np.random.Generator) -> dict[str, Any]:
    return {"name": "grafana", "role": "read", "expires_in_s": float(rng.choice([1e-9, 60.0, 3e8]))}


POSTS: tuple[tuple[str, Make], ...] = (
    ("/api/v1/forecast", _forecast),
    ("/api/v1/forecast", _forecast),
    ("/api/v1/jobs/backtests", _backtest),
    ("/api/v1/services/serving/s0/what-if", _what_if),
    ("/api/v1/services/serving/s1/what-if", _what_if),
    ("/api/v1/keys", _key),
)


def run(cases: int, seed: int = 0) -> Tally:
    """So many requests to a server of its own."""
    for name in ("harmony.api", "uvicorn"):  # what it says of refused requests
        logging.getLogger(name).setLevel(logging.CRITICAL)
    rng = np.random.default_rng([seed, 21])
    tally = Tally()
    journal, hub = MemoryJournal(), Hub()
    hub.publish([w.snapshot(f"serving/s{i}") for i, w in enumerate(fleet(2, seed=3)) for _ in range(2)])
    key = key_for(journal, "admin")
    state = ApiState(
        hub, journal, journal.explain, PostedHistories("base").forecast, Jobs("tests.api.work:work"), list,
        Metrics(process=False), settings=dashboard_settings(GENEROUS),
    )  # fmt: skip
    app = create_app(state)
    add_dashboard(app, Dashboard(state))
    with serving(app) as url, httpx.Client(base_url=url, timeout=120) as client:
        for _ in range(cases):
            path, make = POSTS[int(rng.integers(len(POSTS)))]
            with tally.case(path):
                if rng.random() < 0.05:
                    _log_in(client, rng, tally)
                else:
                    _post(client, path, make(rng), key, rng, tally)
    return tally


def _post(
    client: httpx.Client, path: str, body: dict[str, Any], key: str, rng: np.random.Generator, tally: Tally
) -> None:
    is_changed = rng.random() < 0.75
    for _ in range(int(rng.integers(1, 3)) if is_changed else 0):
        _change(body, rng)
    sent = json.dumps(body).encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        sent = _broken(sent, rng)
    if rng.random() < 0.05:
        place = (rng.choice(["serving", "..", "x" * 64, "%00", "A"]), rng.choice(["s0", "%2e", ""]))
        path = f"/api/v1/services/{place[0]}/{place[1]}/what-if"
    kinds = (
        "application/json",
        "application/json; charset=utf-16",
        "application/problem+json",
        "text/plain",
        "",
        "a/b;" * 50,
    )
    kind = kinds[0] if rng.random() < 0.9 else kinds[int(rng.integers(len(kinds)))]
    answer = client.post(path, content=sent, headers={"content-type": kind, "x-api-key": key})
    _check(answer, key, f"{path} {sent[:300]!r}", tally)
    if answer.status_code == 200 and path.endswith("/forecast"):
        _check_forecast(answer.json(), json.loads(sent), tally)
    elif answer.status_code == 202 and rng.random() < 0.9:
        client.delete(f"/api/v1/jobs/{answer.json()['id']}", headers={"x-api-key": key})


def _check(answer: httpx.Response, key: str, what: str, tally: Tally) -> None:
    status = answer.status_code
    if status in (503, 504) and "retry-after" not in answer.headers:
        tally.fault(what, f"{status} that does not say when to come again")
    if status >= 500 and status not in (503, 504):
        tally.fault(what, f"{status} {answer.text[:200]}")
    elif status >= 400:
        tally.outcomes["refused"] += 1
        tally.outcomes["answered"] -= 1  # the case itself will count as answered
        if not answer.json()["type"].startswith("urn:harmony:problem:"):
            tally.fault(what, f"{status} without a problem: {answer.text[:200]}")
    if key in answer.text:
        tally.fault(what, "an answer repeats the key")


def _check_forecast(told: dict[str, Any], asked: dict[str, Any], tally: Tally) -> None:
    """What was asked for is there, in order, and in this calendar."""
    levels = {str(float(q)) for q in asked.get("quantiles", [0.05, 0.25, 0.5, 0.75, 0.95, 0.99])}
    for indicator in told["indicators"]:
        rows = [indicator["quantiles"][q] for q in sorted(indicator["quantiles"], key=float)]
        whole = set(indicator["quantiles"]) == levels and all(len(row) == told["horizon"] for row in rows)
        numbers = [v for row in rows for v in row if v is not None]
        rising = all(
            a is None or b is None or a <= b
            for low, high in itertools.pairwise(rows)
            for a, b in zip(low, high, strict=True)
        )
        if not (whole and rising and all(map(math.isfinite, numbers))):
            tally.fault(str(asked)[:300], f"a forecast of {indicator['name']} that is none")
    if told["origin"] is not None and not 1 <= datetime.fromisoformat(told["origin"]).year <= 9999:
        tally.fault(str(asked)[:300], f"origin {told['origin']}")


def _change(holder: Any, rng: np.random.Generator) -> None:
    """Another value in one place, or a field more or less."""
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = keys[int(rng.integers(len(keys)))]
        if isinstance(holder[key], (dict, list)) and holder[key] and rng.random() < 0.6:
            holder = holder[key]
            continue
        break
    what = rng.random()
    if what < 0.1 and isinstance(holder, dict):
        del holder[key]
    elif what < 0.15 and isinstance(holder, dict):
        holder[str(rng.choice(["surprise", "__proto__", "x" * 500, "", "\u0000"]))] = 1
    elif what < 0.25 and isinstance(holder, list):
        holder.extend([holder[key]] * int(rng.choice([1, 20, 5000])))
    elif what < 0.75:
        holder[key] = NUMBERS[int(rng.integers(len(NUMBERS)))]
    elif what < 0.85:
        holder[key] = DATES[int(rng.integers(len(DATES)))]
    else:
        holder[key] = OTHERS[int(rng.integers(len(OTHERS)))]


def _broken(sent: bytes, rng: np.random.Generator) -> bytes:
    """Bytes that are no JSON, or JSON of a kind that only some parsers take."""
    what = int(rng.integers(6))
    if what == 0:
        return sent[: int(rng.integers(len(sent)))]
    if what == 1:
        at, token = int(rng.integers(len(sent))), TOKENS[int(rng.integers(len(TOKENS)))]
        return sent[:at] + token + sent[at + 1 :]
    if what == 2:
        depth = int(rng.choice([15, 16, 17, 1000, 100_000]))
        return b"[" * depth + b"]" * depth
    if what == 3:
        return sent[:-1] + b',"epsilon":0.1,"epsilon":0.2}'
    if what == 4:
        return bytes(rng.integers(0, 256, size=int(rng.choice([0, 1, 1000, 100_000]))).astype(np.uint8))
    data = bytearray(sent)
    for at in rng.integers(len(data), size=3):
        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _log_in(client: httpx.Client, rng: np.random.Generator, tally: Tally) -> None:
    fields = [
        b"key=hk_0", b"key=" + b"%ff" * 50, b"key=" + b"x" * 5000, b"&" * 2000, b"key=%00&next=//evil", b"=", b"",
        b"key=1&" * 20, bytes(rng.integers(0, 256, size=200).astype(np.uint8)),
    ]  # fmt: skip
    sent = fields[int(rng.integers(len(fields)))]
    answer = client.post("/login", content=sent, headers={"content-type": "application/x-www-form-urlencoded"})
    if answer.status_code not in (400, 401, 422, 429):
        tally.fault(f"/login {sent[:60]!r}", f"{answer.status_code} {answer.text[:100]}")
