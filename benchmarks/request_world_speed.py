"""Requests per second that the request-level world simulates on one core: compiled (extra `fast`) and as plain Python.

    python benchmarks/request_world_speed.py [--requests 1000000]

Single requests (Poisson arrivals, lognormal prompts and answers) at 80 % of what 40 replicas sustain, advanced minute
by minute; once without limits, once with a bounded key-value cache, and clients who time out and come back. Times are
CPU seconds of this process. Written for `docs/simulator.md`.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time

import numpy as np

from simulator import engine
from simulator.requests import Clients, RequestWorld, ServiceModel
from simulator.traces.request_trace import RequestTrace

REPLICAS = 40


def trace(n: int) -> RequestTrace:
    rng = np.random.default_rng(1)
    prompt = np.ceil(np.exp(rng.normal(5.5, 1.0, n)))
    output = np.ceil(np.exp(rng.normal(5.0, 0.9, n)))
    rate = 0.8 * REPLICAS * ServiceModel().requests_per_s(RequestTrace(np.zeros(n), prompt, output))
    return RequestTrace(np.cumsum(rng.exponential(1 / rate, n)), prompt, output)


def simulate(requests: RequestTrace, model: ServiceModel, clients: Clients) -> float:
    world = RequestWorld(requests, model, 0.0, clients=clients)
    minutes = math.ceil(requests.arrival_s[-1] / 60) + 1
    began = time.process_time()
    for minute in range(minutes):
        world.advance(60.0 * (minute + 1), REPLICAS if minute % 60 < 50 else REPLICAS - 6)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--plain", action="store_true", help="only the uncompiled loops")
    options = parser.parse_args()
    if options.plain:
        sys.modules["numba"] = None  # type: ignore[assignment]
        for name in [m for m in sys.modules if m.startswith("simulator")]:
            del sys.modules[name]
        from simulator import engine as plain
        from simulator import requests as world

        assert not plain.COMPILED
        globals().update(RequestWorld=world.RequestWorld, ServiceModel=world.ServiceModel, Clients=world.Clients)
    requests = trace(options.requests)
    simulate(trace(1_000), ServiceModel(), Clients())  # compiles
    cases = {
        "no limits": (ServiceModel(), Clients()),
        "cache of 12,000 tokens, time-out 20 s": (ServiceModel(kv_tokens=12_000), Clients(20.0, 2, 2.0)),
    }
    for name, (model, clients) in cases.items():
        took = simulate(requests, model, clients)
        kind = "plain Python" if options.plain else "compiled" if engine.COMPILED else "plain Python"
        print(
            f"{kind}, {name}: {len(requests) / took:,.0f} requests/s ({took:.2f} s for {len(requests):,})", flush=True
        )
    if engine.COMPILED and not options.plain:
        subprocess.run([sys.executable, __file__, "--plain", "--requests", str(options.requests // 20)], check=True)


if __name__ == "__main__":
    main()
