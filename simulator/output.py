"""Files of a replay, written so that an interruption leaves nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from forecasting.errors import UsageError
from simulator.result import ReplayResult

__all__ = ["staged", "write_outputs"]


@contextmanager
def staged(out: Path | None) -> Iterator[Path | None]:
    """A hidden folder beside ``out`` to write into; its files move to ``out`` only when the block ends well.

    Yields None without ``out``. Raises `UsageError` if ``out`` cannot be a folder.
    """
    if out is None:
        yield None
        return
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: that is a file; name a folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UsageError(f"--out {out}: cannot write there ({error.strerror})") from error
    try:
        yield stage
        out.mkdir(exist_ok=True)
        for file in sorted(stage.iterdir()):
            os.replace(file, out / file.name)  # noqa: PTH105 - one atomic rename per file
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def write_outputs(result: ReplayResult, folder: Path) -> None:
    """Write `replay.json`, `replicas.csv` and `report.html` of ``result`` into ``folder``."""
    from simulator.report import write_report  # draws, so it takes a moment to import

    text = json.dumps(result.to_json(), sort_keys=True, indent=2, allow_nan=False)
    (folder / "replay.json").write_text(text + "\n", encoding="utf-8")
    write_replicas(result, folder / "replicas.csv")
    write_report(result, folder / "report.html")


def write_replicas(result: ReplayResult, path: Path) -> None:
    """Every step's demand and replicas, so that anyone can recount every figure; absent demand is an empty field.

    Columns: timestamp (UTC, or seconds where the trace has no calendar), demand, NAME_ordered and NAME_ready per
    policy, scored (1 in the scored part).
    """
    runs = list(result.policies.values())
    header = ["timestamp", "demand", *(f"{r.name}_{kind}" for r in runs for kind in ("ordered", "ready")), "scored"]
    columns = [c.tolist() for r in runs for c in (r.ordered, r.ready)]
    lines = [",".join(header)]
    for row, demand in enumerate(result.demand.tolist()):
        at = result.start_s + row * result.step_s
        stamp = _stamp(at) if result.calendar else f"{at:.15g}"
        seen = "" if demand != demand else repr(demand)
        counts = (str(column[row]) for column in columns)
        lines.append(",".join([stamp, seen, *counts, "1" if row >= result.scored_from else "0"]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat().replace("+00:00", "Z")
