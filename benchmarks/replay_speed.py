"""Seconds that a month at one-minute steps takes through a policy: `python benchmarks/replay_speed.py`."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from simulator.replaying import ReplaySettings, replay
from simulator.traces.generate import generate
from simulator.traces.trace import Trace


def main() -> None:
    """Print one line per policy."""
    panel = generate(profile="chat", days=31, step_s=60.0, seed=1)
    panel = panel.with_demand(panel.names[0])
    for policy, every in (("static", None), ("hpa", None), ("harmony", 300.0)):
        result = replay(Trace(panel, panel.names[0]), [policy], ReplaySettings(decide_every_s=every))
        run = result.policies[policy]
        pace = "each step" if every is None else f"each {every:g} s"
        print(f"{policy:8s} {len(panel):,} steps, deciding {pace}: {run.seconds:.2f} s")


if __name__ == "__main__":
    main()
