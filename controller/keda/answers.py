"""What is answered to KEDA: a replica count from the board, or a sentence that says why there is none.

A refusal is an error on the wire, never a zero: KEDA's fallback acts on errors, and a zero would scale to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from controller.keda.board import Board, Name, Posting
from harmony.loop.ports import Clock
from harmony.model.authority import Mode

__all__ = ["DEFAULT_MAX_AGE_S", "METRIC", "TARGET", "Answers", "Asker", "Refusal", "names_of"]

METRIC = "harmony-replicas"
TARGET = 1  # replicas per replica: an HPA that averages our figure over its target asks for just that many
DEFAULT_MAX_AGE_S = 180.0
AUTHORITY = tuple(mode for mode in Mode if mode.acts)


class Asker(Protocol):
    """Who asks: the ScaledObject, with the metadata of its trigger."""

    @property
    def name(self) -> str:
        """Name of the ScaledObject."""
        ...

    @property
    def namespace(self) -> str:
        """Its namespace, the only one it may ask about."""
        ...

    @property
    def scalerMetadata(self) -> Mapping[str, str]:  # noqa: N802  (KEDA's spelling)
        """Metadata of the trigger; only `autoscaler` is read."""
        ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """No figure: the name of a gRPC status code, and what to do about it."""

    code: str
    text: str


def names_of(asker: Asker) -> tuple[Name, ...]:
    """Services that an asker may mean, best first: the one that its trigger names, else the one of its own name."""
    named = asker.scalerMetadata.get("autoscaler", "").strip()
    if named:
        return (("GPUAutoscaler", asker.namespace, named),)
    return (("GPUAutoscaler", asker.namespace, asker.name), ("ScaledObject", asker.namespace, asker.name))


@dataclass(frozen=True, slots=True)
class Answers:
    """Figures from the board; a posting older than ``max_age_s`` counts as none."""

    board: Board
    clock: Clock
    max_age_s: float = DEFAULT_MAX_AGE_S

    def replicas(self, asker: Asker) -> int | Refusal:
        """The desired count, 0 or more and at most the service's bound, or why there is none."""
        names = names_of(asker)
        if self.board.closed:
            return Refusal("UNAVAILABLE", f"no figure for {_said(names[0])}: {self.board.closed}")
        for name in names:
            posting = self.board.look(name)
            if posting is not None:
                return self._figure(name, posting)
        return Refusal(
            "UNAVAILABLE",
            f"nothing is known about {_said(names[0])} yet: check that it exists in this namespace and is Ready, or "
            "name another one as `autoscaler` in the metadata of the trigger",
        )

    def is_active(self, asker: Asker) -> bool | Refusal:
        """Whether there should be any replica, or why that is not known."""
        answer = self.replicas(asker)
        return answer if isinstance(answer, Refusal) else answer > 0

    def asked(self, asker: Asker) -> None:
        """Note on the board that KEDA listens to a service."""
        now = self.clock.now_s()
        for name in names_of(asker):
            if self.board.look(name) is not None:
                self.board.asked(name, now)
                return

    def _figure(self, name: Name, posting: Posting) -> int | Refusal:
        if posting.mode not in AUTHORITY:
            return Refusal(
                "FAILED_PRECONDITION",
                f"{_said(name)} is in mode {posting.mode}, which gives no authority to scale: set its mode to "
                f"{', '.join(AUTHORITY)}, or remove this trigger",
            )
        age = posting.age_s(self.clock.now_s())
        if not age <= self.max_age_s:
            return Refusal(
                "UNAVAILABLE",
                f"the last decision for {_said(name)} is {age:.0f} s old, at most {self.max_age_s:.0f} s are accepted: "
                "look at the controller's /healthz and log",
            )
        if posting.desired_replicas is None:
            why = posting.reason or "no reason given"
            return Refusal("UNAVAILABLE", f"no decision for {_said(name)}: {why}; its conditions say more")
        if posting.desired_replicas < 0:
            return Refusal("INTERNAL", f"{_said(name)}: {posting.desired_replicas} is no replica count")
        bound = posting.max_replicas
        return posting.desired_replicas if bound is None else min(posting.desired_replicas, bound)


def _said(name: Name) -> str:
    kind, namespace, plain = name
    return f"{kind} {namespace}/{plain}"
