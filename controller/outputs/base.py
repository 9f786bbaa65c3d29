"""`Output`: one way for a decision to take effect, and the plain values that it is given: never a service."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from controller.keda.board import Board
from controller.kube.fenced import Fenced
from controller.observing.targets import TargetView
from controller.resource.group import (
    API_VERSION,
    HPA_API_VERSION,
    HPA_KIND,
    KIND,
    SCALED_OBJECT_API_VERSION,
    SCALED_OBJECT_KIND,
)
from controller.resource.reasons import EventReason
from controller.resource.settings import ServiceKey, ServiceSettings
from forecasting.distribution import ForecastDistribution
from forecasting.errors import HarmonyError
from harmony.metrics import Metrics
from harmony.model.authority import Mode
from harmony.model.capacity import Capacity
from harmony.model.decision import Decision, Reason
from harmony.model.record import Record

__all__ = [
    "ABSENT",
    "Acted",
    "Means",
    "Neighbours",
    "Order",
    "Output",
    "ReplicasMovedError",
    "Standing",
    "owner_reference",
]

Json = dict[str, Any]
ABSENT = (Reason.ABSENT_DATA, Reason.FALLBACK)  # demand or forecast were not there to decide from


# ---- what an output is given --------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False, slots=True)
class Standing:
    """How a service stands, whether or not it has had its turn.

    Attributes:
        settings: what a person said: object, target, bounds, pause, actuation.
        since: when its object was made (RFC 3339): of equals the oldest comes first.
        mode: the authority in force, which may be less than was granted.
        view: its target as it was last read.
        rival: who else moves the target's count; empty for nobody.
        owner: the HorizontalPodAutoscaler or ScaledObject that scales the same target, or that it is itself.
    """

    settings: ServiceSettings
    since: str
    mode: Mode
    view: TargetView
    rival: str = ""
    owner: Json | None = None

    @property
    def key(self) -> ServiceKey:
        """Who speaks for the service."""
        return self.settings.key

    @property
    def is_idle(self) -> bool:
        """True while the user has stopped it: it is watched, but nobody acts on what would be decided."""
        pause = self.settings.pause
        return pause.paused or pause.replicas is not None


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Order(Standing):
    """What one turn wants done for a service.

    Attributes:
        now_s: the moment of the turn, seconds since the Unix epoch.
        wanted, desired: replicas with full authority, and with what is granted.
        held_by: what kept ``desired`` from ``wanted``; empty for nothing.
        decision: what was decided, with its risk.
        demand: newest reading; NaN when it is absent.
        capacity: what one replica is known to carry.
        forecast: the sample paths; None without a forecast, and where no output reads them.
        realized: share of the steps so far that were violated; NaN before any was judged.
    """

    now_s: float
    wanted: int
    desired: int
    held_by: str
    decision: Decision
    demand: float
    capacity: Capacity
    forecast: ForecastDistribution | None = None
    realized: float = float("nan")

    @property
    def is_absent(self) -> bool:
        """True when there was no demand to decide from: a count is held then, and none is known."""
        return self.decision.reason in ABSENT and self.demand != self.demand


@dataclass(frozen=True, eq=False, slots=True)
class Neighbours:
    """What others have in the cluster.

    Attributes:
        autoscalers: all HorizontalPodAutoscalers and ScaledObjects, but for those that KEDA makes itself.
        foreign: objects that a controller with another selector may serve.
    """

    autoscalers: Sequence[Json] = ()
    foreign: Mapping[ServiceKey, Json] = field(default_factory=dict)


# ---- what comes of it ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Acted:
    """What came of acting on one service.

    Attributes:
        applied: the count that stands now.
        asked: the count that we ask others to bring about; None where we write it ourselves.
        changed: whether we changed something.
        floor: the minimum that we hold of another autoscaler; None for none.
        error: what went wrong, for the status; empty for nothing.
        event: what to tell people.
    """

    applied: int
    asked: int | None = None
    changed: bool = False
    floor: int | None = None
    error: str = ""
    event: tuple[EventReason, str] | None = None

    @property
    def desired(self) -> int:
        """The count that the target is to have."""
        return self.applied if self.asked is None else self.asked

    def failed(self, error: str, event: EventReason | None = None) -> Acted:
        """The same with this gone wrong; what went wrong before it is told first."""
        return replace(
            self,
            error=self.error or error,
            event=self.event or (None if event is None else (event, error)),
        )


@dataclass(frozen=True, slots=True)
class Means:
    """What outputs are made of: the API server behind its fence, what KEDA is told, what Prometheus is shown."""

    kube: Fenced
    board: Board
    metrics: Metrics


class ReplicasMovedError(HarmonyError):
    """Somebody else changed the replica count since the decision was made; decide again on what is there now."""

    def __init__(self, where: str, expected: int, found: int) -> None:
        super().__init__(
            f"{where}: replicas were {expected} when this was decided and are {found} now; not overwritten"
        )


def owner_reference(settings: ServiceSettings) -> Json:
    """What makes an object of ours belong to a service's own, so that it goes with it."""
    key = settings.key
    api_version = {KIND: API_VERSION, HPA_KIND: HPA_API_VERSION, SCALED_OBJECT_KIND: SCALED_OBJECT_API_VERSION}[
        key.kind
    ]
    return {"apiVersion": api_version, "kind": key.kind, "name": key.name, "uid": settings.uid, "controller": True}


# ---- the contract -------------------------------------------------------------------------------------------
class Output(Protocol):
    """One way for a decision to take effect; `docs/outputs.md` makes one from scratch.

    It is made once, for all services; what it must remember of one it keeps by key until `forget`. Whether anything
    may be done at all (dry run, leadership) is asked by who calls it, and once more by `Means.kube` at each write.
    """

    reads_forecast: ClassVar[bool] = False
    """Whether `apply` reads `Order.forecast`: sample paths are kept for those that do."""
    about: ClassVar[str] = ""
    """Put before what the API server had against it, where that does not say what it is about."""

    @abstractmethod
    def wants(self, standing: Standing) -> bool:
        """Whether this service is for this output: by its mode, actuation or a field of its own."""

    async def apply(self, order: Order, acted: Acted) -> Acted:
        """Do what ``order`` says; returns what came of it on top of ``acted``, which came of the outputs before.

        Must do nothing where the cluster already stands so. Raises `KubeError`, `ReplicasMovedError`,
        `LeadershipLostError`; then the outputs after it wait for the next turn.
        """
        return acted

    async def release(self, order: Order) -> None:
        """Take back what was done for a service that this output no longer wants; raises as `apply`."""

    def tell(self, order: Order, acted: Acted, record: Record) -> None:
        """Show what was decided and done, in this process alone: also in a dry run."""

    def survey(self, standings: Sequence[Standing], neighbours: Neighbours) -> None:
        """Look at all services at once, before anything is done for one."""

    def left(self) -> Sequence[Json]:
        """Objects that carry something of ours that no service asks for any more, as of the last `survey`."""
        return ()

    def describe(self, left: Json) -> str:
        """What is left on such an object, as a clause that goes on from its name."""
        return ""

    async def restore(self, left: Json) -> tuple[EventReason, str]:
        """Give such an object back; returns what to tell people. Raises `KubeError`, `LeadershipLostError`."""
        raise NotImplementedError

    def forget(self, key: ServiceKey) -> None:
        """A service is gone, and so is all that is known of it."""
