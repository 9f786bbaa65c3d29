"""Acting on decisions: every output in its order, behind one fence; nothing in a dry run, nothing without the lead."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controller.keda.board import Board
from controller.kube.client import Kube
from controller.kube.errors import Conflict, KubeError
from controller.kube.fenced import Fenced, LeadershipLostError
from controller.outputs.base import Acted, Means, Neighbours, Order, Output, ReplicasMovedError, Standing
from controller.resource.outputs import OUTPUTS
from controller.resource.reasons import EventReason
from controller.resource.settings import ServiceKey
from forecasting.errors import HarmonyError
from harmony.metrics import Metrics
from harmony.model.record import Record

__all__ = ["Actuator", "GivenBack", "make_outputs"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class GivenBack:
    """One object that was given back: what to tell people, or what kept us from it, and whose work it was."""

    obj: Json
    output: str
    event: tuple[EventReason, str] | None = None
    error: HarmonyError | None = None


def make_outputs(means: Means) -> dict[str, Output]:
    """Every output of the registry, by name."""
    return {name: importlib.import_module(listed.home).OUTPUT(means) for name, listed in OUTPUTS.items()}


class Actuator:
    """Does what orders say, output by output. It alone asks whether anything may be done at all.

    ``may_act`` says at any moment whether this process leads; with ``dry_run`` only `tell` goes on.
    """

    def __init__(self, outputs: Mapping[str, Output], may_act: Callable[[], bool], *, dry_run: bool = False) -> None:
        self._outputs = dict(outputs)
        self._may_act = may_act
        self._dry_run = dry_run

    @classmethod
    def over(
        cls, kube: Kube, board: Board, metrics: Metrics, may_act: Callable[[], bool], *, dry_run: bool = False
    ) -> Actuator:
        """All outputs there are, writing to one cluster."""
        means = Means(Fenced(kube, lambda: not dry_run and may_act()), board, metrics)
        return cls(make_outputs(means), may_act, dry_run=dry_run)

    def reads_forecast(self, standing: Standing) -> bool:
        """Whether anything of what is done for this service is sized from its sample paths."""
        return any(output.reads_forecast and output.wants(standing) for output in self._outputs.values())

    def survey(self, standings: Sequence[Standing], neighbours: Neighbours) -> None:
        """Let every output look at all services, once a turn, before anything is done."""
        for output in self._outputs.values():
            output.survey(standings, neighbours)

    async def act(self, order: Order) -> Acted:
        """Do what ``order`` says; trouble with the cluster comes back as `Acted.error`, and is not raised.

        What fails ends the acting of this turn: what was done before stands, what comes after waits for the next one.
        """
        asked = None if order.settings.writes_count else order.desired
        acted = Acted(order.view.ordered, asked)
        if self._dry_run:
            return acted
        for output in self._outputs.values():
            try:
                if not self._may_act():
                    raise LeadershipLostError(f"{order.key}: another controller leads now")
                if output.wants(order):
                    acted = await output.apply(order, acted)
                else:
                    await output.release(order)
            except (ReplicasMovedError, Conflict) as error:
                return acted.failed(f"{output.about}{error}; decided again on the next tick")
            except LeadershipLostError as error:
                return acted.failed(str(error))
            except KubeError as error:
                return acted.failed(f"{output.about}{error}", EventReason.RESCALE_FAILED)
        return acted

    def tell(self, order: Order, acted: Acted, record: Record) -> None:
        """Show what came of a turn, whatever this process may do."""
        for output in self._outputs.values():
            if output.wants(order):
                output.tell(order, acted, record)

    def left(self) -> list[tuple[Json, str]]:
        """What still carries something of ours that nobody asks for, and what that is, as of the last survey."""
        return [(obj, output.describe(obj)) for output in self._outputs.values() for obj in output.left()]

    async def restore(self) -> list[GivenBack]:
        """Give back what nobody asks for any more; each for itself."""
        done: list[GivenBack] = []
        if self._dry_run or not self._may_act():
            return done
        for name, output in self._outputs.items():
            for obj in output.left():
                try:
                    done.append(GivenBack(obj, name, event=await output.restore(obj)))
                except HarmonyError as error:
                    done.append(GivenBack(obj, name, error=error))
        return done

    def forget(self, key: ServiceKey) -> None:
        """A service is gone."""
        for output in self._outputs.values():
            output.forget(key)
