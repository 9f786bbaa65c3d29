"""How policies do in the ten scenarios: `python benchmarks/scenarios.py`, a table for docs/scenarios.md.

Every scenario is replayed with nothing tuned, at 1 %, every policy deciding every minute; starts take 5 minutes, in
`cold-start-doubling` about that (5m*1.2, so that it is learned). Finished replays are kept in `--cache`: an interrupted
table goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from simulator.traces.scenarios import SCENARIOS

POLICIES = ("harmony", "hpa", "reactive", "oracle")


def found(name: str, cache: Path) -> dict:
    kept = cache / f"{name}.json"
    if not kept.exists():
        lead = "5m*1.2" if name == "cold-start-doubling" else "5m"
        asked = [a for p in POLICIES for a in ("--policy", p)]
        command = [sys.executable, "-m", "harmony.cli", "replay", f"scenario:{name}", *asked]
        command += ["--lead-time", lead, "--json"]
        kept.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return json.loads(kept.read_text())["policies"]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--cache", type=Path, default=Path("out/scenarios"))
    args = ap.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    print("| scenario | " + " | ".join(POLICIES) + " |\n|---|" + "---:|" * len(POLICIES))
    for name in SCENARIOS:
        runs = found(name, args.cache)
        cells = [f"{runs[p]['gpu_hours']:,.0f} ({100 * runs[p]['violation_rate']:.2f} %)" for p in POLICIES]
        print(f"| `{name}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
