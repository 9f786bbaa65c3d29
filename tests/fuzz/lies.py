"""Stories of 60 turns in which Prometheus lies: partial, stale, doubled, renamed, warned, infinite, back in time.

Each is lived by the loop's own world, and one in fifteen by the controller over HTTP. A count below what the last whole
reading justified is a fault, and so is a lie that no condition names.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from tests.controller.lying import KINDS
from tests.controller.test_lying_prometheus import TURNS, InTheLoop, LyingCluster
from tests.fuzz.tally import Tally

EACH = 15  # stories in the loop for one in the cluster
TOGETHER = 20  # stories in one cluster


def run(cases: int, seed: int = 0) -> Tally:
    """So many stories."""
    tally = Tally()
    rng = random.Random(seed)
    for i in range(cases):
        with tally.case(f"story {i} in the loop"):
            _in_the_loop(rng)
    left = cases // EACH
    while left > 0:
        runs = min(left, TOGETHER)
        left -= runs
        name = f"{runs} stories in the cluster, {left} left"
        with tempfile.TemporaryDirectory() as folder, tally.case(name), LyingCluster(Path(folder)) as cluster:
            cluster.lie(runs, rng)
        tally.cases += runs - 1
        tally.outcomes["answered"] += runs - 1
    return tally


def _in_the_loop(rng: random.Random) -> None:
    """As often as not one kind of lie goes on for a while."""
    lived = InTheLoop()
    try:
        kind = "right"
        for _ in range(TURNS):
            kind = kind if rng.random() < 0.5 else rng.choice(KINDS)
            lived.turn(kind, rng.randint(1, 900), rng.uniform(0.0, 0.95))
    finally:
        lived.teardown()
