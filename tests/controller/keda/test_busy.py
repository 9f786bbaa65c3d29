"""Answers come from memory, and come while a thread computes; how soon is measured by benchmarks/keda_flood.py."""

from __future__ import annotations

import asyncio
import sys
import threading

from controller.keda import externalscaler_pb2 as pb
from controller.keda.server import SWITCH_S
from tests.controller.keda.client import world

REF = pb.ScaledObjectRef(name="chat", namespace="serving")
ASKED = pb.GetMetricsRequest(scaledObjectRef=REF, metricName="harmony-replicas")
NEVER_S = 60.0
FLOOD = 500


def test_every_question_of_a_flood_is_answered_while_a_thread_computes() -> None:
    """None is lost, and whoever asks in turn sees what was decided in turn; the thread goes on until the last."""
    done, rounds = threading.Event(), [0]

    def compute() -> None:
        while not done.is_set():
            rounds[0] += 1

    async def main() -> tuple[list[float], list[float], int]:
        async with world() as w:

            async def one() -> float:
                answer = await w.stub.GetMetrics(ASKED, timeout=NEVER_S)
                return float(answer.metricValues[0].metricValueFloat)

            w.post(1)
            computing = asyncio.get_running_loop().run_in_executor(None, compute)
            try:
                flood = await asyncio.gather(*(one() for _ in range(FLOOD)))
                before, in_turn = rounds[0], []
                for replicas in range(2, 52):
                    w.post(replicas)
                    in_turn.append(await one())
                computed = rounds[0] - before
            finally:
                done.set()
                await computing
        return flood, in_turn, computed

    flood, in_turn, computed = asyncio.run(main())
    assert flood == [1.0] * FLOOD
    assert in_turn == list(range(2, 52))
    assert computed > 0, "it computed meanwhile"


def test_threads_are_switched_often_while_it_listens_and_as_before_afterwards() -> None:
    before = sys.getswitchinterval()

    async def main() -> float:
        async with world():
            return sys.getswitchinterval()

    assert asyncio.run(main()) <= SWITCH_S + 1e-9
    assert sys.getswitchinterval() == before
