"""`JobState`: a job as it stands, whoever works on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["JobState", "JobStatus"]

JobStatus = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as it stands; times are seconds since the epoch."""

    id: str
    kind: str
    by: str
    created_s: float
    state: JobStatus = "queued"
    started_s: float | None = None
    ended_s: float | None = None
    progress: float = 0.0
    note: str = ""
    error: str = ""
    result: Mapping[str, Any] | None = None
