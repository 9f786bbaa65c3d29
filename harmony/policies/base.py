"""`Policy`: what HARMONY and every rival are to the loop, and how a policy offers settings to be tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from forecasting.panel import FloatArray
from harmony.model.decision import Decision
from harmony.model.objective import Behavior
from harmony.model.observation import Observation

__all__ = ["Past", "Policy", "Unforecast", "WithoutPast"]

SettingValue = float | int | str


@dataclass(frozen=True, slots=True)
class Past:
    """What a policy may know before it starts: the learning part of the trace, never the scored one.

    `need` (steps,) replicas that demand needed, NaN where demand was absent; `step_s`, `lead_s` in seconds;
    `epsilon` the violation rate allowed.
    """

    need: FloatArray
    step_s: float
    lead_s: float
    epsilon: float


class WithoutPast:
    """What policies that learn nothing from their own past have in common."""

    __slots__ = ()

    @property
    def cap(self) -> float:
        """No decision may take more than the objective allows."""
        return 1.0

    def wants_past(self, memory: Any) -> bool:  # noqa: ANN401 (each policy's own)
        """Never."""
        return False

    def is_due(self, memory: Any) -> bool:  # noqa: ANN401
        """Never."""
        return False

    def saved(self, memory: Any) -> Any:  # noqa: ANN401
        """Nothing."""
        return None

    def restored(self, saved: object) -> Any:  # noqa: ANN401
        """Nothing."""
        return None


class Unforecast(WithoutPast):
    """What policies without forecasts, guards or anything to fill in have in common."""

    __slots__ = ()

    @property
    def behavior(self) -> Behavior | None:
        """No guards by the loop."""
        return None

    @property
    def forecaster(self) -> str:
        """None."""
        return ""

    @property
    def risk_scale(self) -> float:
        """Means nothing here."""
        return 1.0

    def fitted(self, past: Past) -> Self:
        """Nothing to fill in."""
        return self


class Policy(Protocol):
    """A pure function from an `Observation` to a `Decision`: reads no clock, file, network or global.

    Instances are immutable settings; whatever a policy must remember goes through `Decision.memory` into the next
    `Observation.memory`.
    """

    @property
    def name(self) -> str:
        """Name in tables and on the command line."""
        ...

    @property
    def behavior(self) -> Behavior | None:
        """Guards that the loop applies to its decisions; None for a policy that needs none (or has its own)."""
        ...

    @property
    def forecaster(self) -> str:
        """Name of the forecaster it wants forecasts from; empty for none."""
        ...

    @property
    def risk_scale(self) -> float:
        """Model probability to start with, as a multiple of epsilon (see `RiskFeedback`); 1 where it means nothing."""
        ...

    @property
    def cap(self) -> float:
        """Most risk of one decision, as a multiple of epsilon."""
        ...

    @property
    def settings(self) -> dict[str, SettingValue]:
        """Its settings, for reports."""
        ...

    def decide(self, observation: Observation) -> Decision:
        """The replica count for this moment."""
        ...

    def wants_past(self, memory: Any) -> bool:  # noqa: ANN401 (each policy's own)
        """Whether it would make something of the demand before its first turn (`Observation.past`)."""
        ...

    def is_due(self, memory: Any) -> bool:  # noqa: ANN401
        """Whether its next decision brings long work that may be put off (`Observation.may_review`)."""
        ...

    def saved(self, memory: Any) -> Any:  # noqa: ANN401
        """What of its memory must survive a restart, as small JSON; None for nothing."""
        ...

    def restored(self, saved: object) -> Any:  # noqa: ANN401
        """The memory to begin with, of what `saved` gave (anything at all may stand there); None for nothing."""
        ...

    def fitted(self, past: Past) -> Self:
        """Itself with settings that need the past (a static count, say) filled in; itself if there are none."""
        ...

    def ladders(self, past: Past) -> Sequence[Sequence[Self]]:
        """Settings worth trying when tuning: each ladder goes from the cheapest (most violations) to the safest."""
        ...
