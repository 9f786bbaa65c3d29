"""Making evidence for a scorecard, and the page of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from forecasting.errors import UsageError
from simulator.replaying import ReplayProgress, ReplaySettings, replay
from simulator.scorecard import render_page, write_evidence
from simulator.traces.trace import Trace

__all__ = ["RIVALS", "gather", "write_page"]

RIVALS = ("oracle", "harmony", "standin", "hpa", "keda", "reactive", "static")
COMMAND = "harmony scorecard"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def gather(
    trace: Trace,
    policies: Sequence[str],
    settings: ReplaySettings,
    evidence: Path,
    release: str,
    report: ReplayProgress,
) -> Path:
    """Replay a trace and write its evidence into ``evidence/RELEASE/TRACE``; that folder is returned."""
    if not _NAME.fullmatch(release):
        raise UsageError(f"--release {release!r}: expected letters, digits, dots and dashes, such as 1.2.0")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", trace.panel.name).strip("-.") or "trace"
    folder = evidence / release / name
    write_evidence(replay(trace, policies, settings, on_progress=report), folder)
    return folder


def write_page(evidence: Path, page: Path) -> None:
    """Write the page of all evidence; nothing is written where a figure cannot be recounted."""
    text = render_page(evidence, COMMAND)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--page {page}: cannot write there ({error.strerror})") from error
