"""`Mode` and `Pause`: how much the user lets us do to a service, and when not at all."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from forecasting.errors import UsageError

__all__ = ["Mode", "Pause"]


class Mode(StrEnum):
    """How much authority a service was given, from none to all (a closed set; users write these names)."""

    OBSERVE = "Observe"  # read and learn only
    RECOMMEND = "Recommend"  # also say which count it would set
    FLOOR = "Floor"  # another autoscaler keeps the count; ours is its minimum
    UP_ONLY = "UpOnly"  # raise the count, never lower it
    FULL = "Full"  # raise and lower the count

    @property
    def rank(self) -> int:
        """0 for the least authority, 4 for all of it."""
        return _RANKS[self]

    @property
    def acts(self) -> bool:
        """Whether anything of a decision takes effect."""
        return self.rank >= Mode.FLOOR.rank

    @property
    def moves_count(self) -> bool:
        """Whether it is ours to move the count of replicas; `FLOOR` moves another autoscaler's minimum only."""
        return self.rank > Mode.FLOOR.rank

    def capped(self, most: Mode) -> Mode:
        """This mode, or ``most`` if that is less authority."""
        return self if self.rank <= most.rank else most


_RANKS = {mode: rank for rank, mode in enumerate(Mode)}


@dataclass(frozen=True, slots=True)
class Pause:
    """What the user has stopped for now; everything off by default.

    Attributes:
        paused: the count stays as it is.
        replicas: the count is put to this and stays there; None for "not asked".
        scale_in, scale_out: the count is not lowered (not raised).
    """

    paused: bool = False
    replicas: int | None = None
    scale_in: bool = False
    scale_out: bool = False

    def __post_init__(self) -> None:
        if self.replicas is not None and self.replicas < 0:
            raise UsageError(f"paused replicas {self.replicas}: expected 0 or more")

    @property
    def is_active(self) -> bool:
        """True when anything is stopped."""
        return self.paused or self.replicas is not None or self.scale_in or self.scale_out
