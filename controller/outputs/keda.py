"""What KEDA is told when it asks: the figure on the board that the external scaler reads."""

from __future__ import annotations

from controller.keda.board import Posting
from controller.outputs.base import Acted, Means, Order, Output, Standing
from controller.resource.settings import ServiceKey

__all__ = ["OUTPUT", "Keda"]


class Keda(Output):
    """Posts every service's figure; whether KEDA may have it is answered by mode and age when it asks."""

    def __init__(self, means: Means) -> None:
        self._board = means.board

    def wants(self, standing: Standing) -> bool:
        """Every service: whoever names it in a trigger gets an answer, or why there is none."""
        return True

    async def apply(self, order: Order, acted: Acted) -> Acted:
        """Replace the posting; without demand there is no figure, never a zero."""
        posting = Posting(
            desired_replicas=None if order.is_absent else order.desired,
            reason=str(order.decision.reason),
            at_s=order.now_s,
            mode=str(order.mode),
            max_replicas=order.settings.objective.max_replicas,
        )
        self._board.post(order.key, posting)
        return acted

    def forget(self, key: ServiceKey) -> None:
        """Who is gone has no figure."""
        self._board.forget(key)


OUTPUT = Keda
