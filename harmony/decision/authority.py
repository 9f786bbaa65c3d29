"""What may be done of what was decided: the granted mode and the user's pauses."""

from __future__ import annotations

from dataclasses import dataclass

from harmony.model.authority import Mode, Pause
from harmony.model.decision import Reason

__all__ = ["Permitted", "permitted"]


@dataclass(frozen=True, slots=True)
class Permitted:
    """The count that may be set, and the limit that kept it from the one wanted ("" for none)."""

    replicas: int
    bound_by: str = ""

    @property
    def reason(self) -> Reason | None:
        """The limit as a reason of the closed set; None where nothing bound."""
        if not self.bound_by:
            return None
        return Reason.MODE_LIMITED if self.bound_by.startswith("mode ") else Reason.PAUSED


def permitted(mode: Mode, pause: Pause, current: int, wanted: int) -> Permitted:
    """Of ``wanted`` replicas, what ``mode`` and ``pause`` let us set while there are ``current``.

    Modes up to `Mode.FLOOR` never move the count, whatever else is said. In the others a pause at a number wins (in
    `Mode.UP_ONLY` also downwards: the user asked for that number), then a pause holds, then the mode, then pauses of
    one direction. But for a pause at a number the result lies between ``current`` and ``wanted``.
    """
    if pause.replicas is not None and mode.rank > Mode.FLOOR.rank:
        return Permitted(pause.replicas, "" if pause.replicas == wanted else "paused-replicas")
    if wanted == current:
        return Permitted(current)
    if pause.paused:
        return Permitted(current, "paused")
    if mode.rank <= Mode.FLOOR.rank or (mode is Mode.UP_ONLY and wanted < current):
        return Permitted(current, f"mode {mode}")
    if pause.scale_in and wanted < current:
        return Permitted(current, "paused-scale-in")
    if pause.scale_out and wanted > current:
        return Permitted(current, "paused-scale-out")
    return Permitted(wanted)
