"""The scorecard of public traces: `python -m benchmarks.public_scorecard --data FOLDER [TRACE ...]`.

Replays three traces whose licences let derived figures be passed on, under HARMONY and every rival, with the settings
of each chosen on the part before the scored one, keeps the steps in `evidence/RELEASE/TRACE`, and writes
`docs/scorecard.md`. Demand is kept in replicas (over what one carries), with four digits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import harmony
from benchmarks.savings import MEAN_REPLICAS, TEST, demand_of
from forecasting.panel import Indicator, Panel
from harmony.app.scorecard import RIVALS, gather, write_page
from simulator.pool import StartUp
from simulator.replaying import ReplaySettings
from simulator.traces.trace import Trace

ROOT = Path(__file__).resolve().parents[1]
TRACES = ("helios_vc8Sj", "google2019", "burstgpt_conv")
MORE = ("kpa", "percentile", "predictive-hpa", "mimir-like", "dynamo-like", "aws-predictive", "bacc", "quantile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", nargs="*", default=list(TRACES), help=f"some of {', '.join(TRACES)}")
    parser.add_argument("--data", type=Path, required=True, help="folder of the traces")
    asked = parser.parse_args()
    for name in asked.traces:
        demand, step_s, lead_s = demand_of(asked.data, name)
        load = np.array([float(f"{d:.4g}") for d in demand / demand.mean() * MEAN_REPLICAS])
        panel = Panel(load[:, None], (Indicator("demand", unit="replicas"),), start_s=1.6e9, step_s=step_s, name=name)
        settings = ReplaySettings(replica_capacity=1.0, start_up=StartUp(lead_s), test_fraction=TEST, tune=True)
        folder = gather(
            Trace(panel, "demand"), (*RIVALS, *MORE), settings, ROOT / "evidence", harmony.__version__,
            lambda what, done, total: None,
        )  # fmt: skip
        print(f"evidence: {folder}", flush=True)
        write_page(ROOT / "evidence", ROOT / "docs" / "scorecard.md")


if __name__ == "__main__":
    main()
