"""Which condition follows from which: the one table that statuses are made by, and that the reference page shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CONSEQUENCES", "Consequence", "Truth"]

Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Consequence:
    """Where condition ``of`` is ``status`` (with reason ``only``, if one is named), ``then`` is False, for its reason.

    It is not where the reason is ``unless``. What is False already keeps its own reason: the first that applies tells.
    """

    of: str
    status: Truth
    then: str
    why: str
    only: str = ""
    unless: str = ""

    def applies(self, status: str, reason: str) -> bool:
        """Whether it follows from ``of`` standing like this."""
        return status == self.status and self.only in ("", reason) and reason != self.unless


CONSEQUENCES: tuple[Consequence, ...] = (
    Consequence("Fallback", "True", "ScalingActive", "the fallback decides, not demand"),
    Consequence(
        "AbleToScale", "False", "ScalingActive", "nothing is decided about what cannot be read", only="FailedGetScale"
    ),
    Consequence("TargetConflict", "True", "ScalingActive", "nothing is written beside another writer"),
    Consequence(
        "ScalingActive",
        "False",
        "MetricsAvailable",
        "demand that cannot be decided from is not available",
        only="MetricsAbsent",
    ),
    Consequence("TargetConflict", "True", "Ready", "one of the two writers must go"),
    Consequence("AbleToScale", "False", "Ready", "what is decided cannot take effect"),
    Consequence("MetricsAvailable", "False", "Ready", "decisions rest on present and complete demand"),
    Consequence(
        "ScalingActive",
        "False",
        "Ready",
        "the count is held, and nobody wanted that",
        unless="ScalingDisabled",
    ),
)
