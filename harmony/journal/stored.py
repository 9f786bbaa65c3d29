"""What the journal hands out besides snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harmony.serving.snapshot import Snapshot

__all__ = ["GPU_BUDGET_SET", "ApiKey", "AuditEntry", "Info", "StoredDecision", "StoredJob", "gpus_of"]

GPU_BUDGET_SET = "gpu-budget.set"  # the audit's newest entry of this is the budget in force


@dataclass(frozen=True, slots=True, eq=False)
class StoredDecision:
    """A decision of the journal.

    Attributes:
        id: sorts by time.
        snapshot: that turn; its history is empty, and its forecast is the demand's over the decision's window
            (`JournalStore.decision`) or None (`JournalStore.decisions`).
        has_inputs: True where the decision can be recomputed; None where that was not looked up.
        rounded: True where the forecast's paths are kept in single precision.
    """

    id: str
    snapshot: Snapshot
    has_inputs: bool | None = None
    rounded: bool = False


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what, when (seconds since the epoch); `id` grows."""

    id: str
    at_s: float
    actor: str
    action: str
    detail: Mapping[str, Any]


def gpus_of(entry: AuditEntry) -> int | None:
    """The GPUs that an entry "gpu-budget.set" names; None for anything else."""
    gpus = entry.detail.get("gpus")
    if not isinstance(gpus, int) or isinstance(gpus, bool) or gpus < 0 or entry.action != GPU_BUDGET_SET:
        return None
    return gpus


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as it is kept: its hash only. Times are seconds since the epoch, None: never."""

    id: str
    name: str
    role: str
    secret_hash: str
    created_s: float
    expires_s: float | None = None
    revoked_s: float | None = None


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A piece of work that outlives a request; `request`, `progress` and `result` are plain values."""

    id: str
    kind: str
    state: str
    created_s: float
    updated_s: float
    request: Mapping[str, Any] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Info:
    """What is in a journal: rows per table, bytes on disk, times of the oldest and newest decision (None: none)."""

    where: str
    version: str
    rows: dict[str, int]
    bytes: int
    oldest_s: float | None
    newest_s: float | None
