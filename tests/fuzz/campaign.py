"""`python -m tests.fuzz [--seed 0] [--scale 1.0] [--only NAME]`: hostile input by the thousands, and what came of it.

Each kind runs in a process of its own, whose peak memory is told. Exit code 1 for any fault, or for a gigabyte or more.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from importlib import import_module
from typing import Any

KINDS = {  # cases, besides 30 bombs among the traces
    "traces": ("trace files", 5_000),
    "requests": ("requests to the API", 3_000),
    "models": ("model folders", 200),
    "keda": ("messages to KEDA's scaler", 1_500),
    "journals": ("damaged journals", 300),
    "lies": ("stories of a lying source", 300),
}
MOST_MB = 1_000


def run_kind(name: str, cases: int, seed: int, answers: Any) -> None:
    """One kind, in a process of its own; puts what came of it into ``answers``."""
    began = time.process_time()
    tally = import_module(f"tests.fuzz.{name}").run(cases, seed)
    answers.put(
        {
            "cases": tally.cases,
            "outcomes": dict(tally.outcomes),
            "faults": tally.faults,
            "cpu_seconds": round(time.process_time() - began, 1),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
    )


def main() -> int:
    """Run what was asked for, print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the usual number of cases")
    parser.add_argument("--only", choices=list(KINDS), action="append", help="these kinds; all by default")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found = {}
    for name in args.only or KINDS:
        title, cases = KINDS[name]
        answers = context.Queue()
        process = context.Process(target=run_kind, args=(name, round(cases * args.scale), args.seed, answers))
        process.start()
        found[name] = _answer(process, answers)
        if not args.json:
            print(_line(title, found[name]), flush=True)
            for fault in found[name]["faults"]:
                print(f"    {fault[:1000]}", flush=True)
    if args.json:
        print(json.dumps(found, indent=2))
    good = all(not kind["faults"] and kind["peak_mb"] < MOST_MB for kind in found.values())
    return 0 if good else 1


def _answer(process: Any, answers: Any) -> dict[str, Any]:
    """What the process told; a fault where it ended without a word (killed, out of memory)."""
    while True:
        if not answers.empty() or not process.is_alive():
            break
        process.join(0.2)
    told: dict[str, Any] = (
        {"cases": 0, "outcomes": {}, "faults": [f"it ended with {process.exitcode}"], "cpu_seconds": 0.0, "peak_mb": 0}
        if answers.empty()
        else answers.get()
    )
    process.join()
    return told


def _line(title: str, told: dict[str, Any]) -> str:
    outcomes = told["outcomes"]
    return (
        f"{title:<26} {told['cases']:>6} cases: {outcomes.get('answered', 0):>5} answered, "
        f"{outcomes.get('refused', 0):>5} refused, {outcomes.get('faults', 0) or len(told['faults'])} faults; "
        f"{told['cpu_seconds']:.0f} s of CPU, {told['peak_mb']} MB"
    )
