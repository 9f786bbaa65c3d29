"""`Turns`: requests begin a few at a time, so that whoever needs no turn is never behind hundreds that do."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Turns"]

EACH_ROUND = 2


class Turns:
    """Lets ``each_round`` requests begin in a round of the event loop, in their order; the others wait for later ones.

    A loop serves all that is ready before it looks for what is new. When hundreds of requests are ready at once, health
    that comes just after them would wait until each of them has done its part; so it waits for a few. Nobody holds a
    turn: a request that waits for a database keeps no other from beginning.
    """

    def __init__(self, each_round: int = EACH_ROUND) -> None:
        self._each_round = each_round
        self._left = each_round
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_round = False

    async def mine(self) -> None:
        """Wait for one's turn; at once where few want one."""
        loop = asyncio.get_running_loop()
        if not self._is_round:
            self._is_round = True
            loop.call_soon(self._next, loop)
        if self._left > 0 and not self._waiting:
            self._left -= 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """A new round."""
        self._left = self._each_round
        while self._left > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # one that was cancelled meanwhile took no turn
                turn.set_result(None)
                self._left -= 1
        self._is_round = bool(self._waiting) or self._left < self._each_round
        if self._is_round:
            loop.call_soon(self._next, loop)
