"""What the families of settings came to on the own past, as a table for people, and why one of them is in force."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from harmony.decision.past.selection import HANDICAP, HYSTERESIS, Verdict
from harmony.model.decision import Tried

__all__ = ["YET_TO_REPLAY", "tried_of", "why_not"]

YET_TO_REPLAY = "lead time, measure or limits have changed, and the past is yet to be replayed under them"
"""Said while what is told of the past is of other terms than those in force."""


@lru_cache(maxsize=4096)
def tried_of(told: tuple[Verdict, ...], allowed: float) -> Tried | None:
    """The table of what a review ``told``, one for all turns until the next; None before there was one."""
    if not told:
        return None
    return Tried(
        family=np.array([v.setting.family for v in told]),
        setting=np.array([v.setting.label for v in told]),
        replicas=np.array([v.replicas for v in told]),
        violated=np.array([v.share for v in told]),
        allowed=allowed,
    )


def why_not(tried: Tried, row: int) -> str:
    """Why the best of a family is in force (row 0), or is not."""
    own, replicas = float(tried.replicas[0]), float(tried.replicas[row])
    keeps = tried.violated <= tried.allowed
    if row == 0:
        return "in force" if keeps[0] else "in force: nothing that was tried keeps the budget, and this breaks it least"
    if not keeps[row]:
        return "breaks the budget"
    if replicas > own:
        more = 100 * (replicas / own - 1)
        return f"needs {more:.2g} % more" if more < 99.5 else f"needs {more:.0f} % more"
    saves = 1 - replicas / own
    if saves == 0 and tried.violated[row] == tried.violated[0]:
        return "the same so far"
    if " on " not in str(tried.family[row]) and saves < HANDICAP:
        return f"saves too little: a rule of thumb must save {100 * HANDICAP:.0f} %"
    if saves <= HYSTERESIS:
        return f"saves less than {100 * HYSTERESIS:.1f} %, which is no reason to change"
    return "cheaper since the last choice"
