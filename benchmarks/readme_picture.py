"""Draw the README's picture from the demo's replay: `python benchmarks/readme_picture.py`."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from simulator.replaying import ReplaySettings, replay
from simulator.report import save_overview_png

if __name__ == "__main__":
    target = Path(__file__).resolve().parent.parent / "docs" / "images" / "demo.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    save_overview_png(replay("synthetic", ["harmony", "hpa", "oracle"], ReplaySettings(tune=True)), target)
