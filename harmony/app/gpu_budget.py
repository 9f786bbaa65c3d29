"""Which budget of GPUs is in force: what was set last through the API, else what the process was started with."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from forecasting.errors import HarmonyError
from harmony.journal.stored import GPU_BUDGET_SET, gpus_of

if TYPE_CHECKING:
    from harmony.journal import JournalStore

__all__ = ["GpuBudget"]

log = logging.getLogger(__name__)


class GpuBudget:
    """Asked before every tick. While the journal cannot be read the last known budget stays in force.

    ``given`` is what the process was started with; 0 switches budgets off.
    """

    def __init__(self, given: int, store: JournalStore | None) -> None:
        self._given, self._store = given, store
        self._known = given
        self._failing = False

    def __call__(self) -> int | None:
        """GPUs that all services share; None for no budget."""
        if self._given <= 0:
            return None
        if self._store is None:
            return self._given
        try:
            found = self._store.audits(limit=1, action=GPU_BUDGET_SET)
        except HarmonyError as error:
            if not self._failing:
                log.warning("%s; the budget of %d GPUs stays in force", error, self._known)
            self._failing = True
            return self._known
        self._failing = False
        gpus = gpus_of(found[0]) if found else self._given
        if gpus is not None:
            self._known = gpus
        return self._known
