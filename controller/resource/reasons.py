"""Reasons of events: a closed set in one place, because people filter and alert on these names."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["EventReason"]


class EventReason(StrEnum):
    """Why an event was written about an object."""

    RESCALED = "SuccessfulRescale"
    RESCALE_FAILED = "FailedRescale"
    FLOOR_SET = "FloorSet"
    FLOOR_RESTORED = "FloorRestored"
    TARGET_MISSING = "FailedGetScale"
    PODS_NOT_READY = "PodsNotReady"
    TARGET_CONFLICT = "TargetConflict"
    METRICS_UNAVAILABLE = "MetricsUnavailable"
    METRICS_AVAILABLE = "MetricsAvailable"
    FORECAST_UNAVAILABLE = "ForecastUnavailable"
    FALLBACK_ON = "FallbackActivated"
    FALLBACK_OFF = "FallbackDeactivated"
    PAUSED = "Paused"
    UNPAUSED = "Unpaused"
    AUTHORITY_REDUCED = "AuthorityReduced"
    AUTHORITY_RESTORED = "AuthorityRestored"
    INVALID_SPEC = "InvalidSpec"
    NOT_RESTORED = "LearnedStateNotRestored"
