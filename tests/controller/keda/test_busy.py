"""Answers come from memory and do not wait for a thread that computes."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path

import pytest

from controller.keda.server import SWITCH_S
from tests.controller.keda.client import world

RATE, SECONDS = 500, 2
CLIENT = f"""
import asyncio, json, sys, time
import grpc.aio
from controller.keda import externalscaler_pb2 as pb

async def main():
    ref = pb.ScaledObjectRef(name="chat", namespace="serving")
    asked = pb.GetMetricsRequest(scaledObjectRef=ref, metricName="harmony-replicas").SerializeToString()
    took = []
    async with grpc.aio.insecure_channel("localhost:" + sys.argv[1]) as channel:
        call = channel.unary_unary("/externalscaler.ExternalScaler/GetMetrics")
        await call(asked)
        async def one():
            began = time.perf_counter()
            await call(asked)
            took.append(time.perf_counter() - began)
        began, tasks = time.perf_counter(), []
        for i in range({RATE * SECONDS}):
            await asyncio.sleep(max(0.0, began + i / {RATE} - time.perf_counter()))
            tasks.append(asyncio.create_task(one()))
        await asyncio.gather(*tasks)
    took.sort()
    print(json.dumps({{"p50": took[len(took) // 2], "p99": took[int(len(took) * 0.99)]}}))

asyncio.run(main())
"""


def asked_while_a_thread_computes() -> dict[str, float]:
    """Quantiles of the time that the answers took, in seconds."""
    done = threading.Event()

    def compute() -> None:
        x = 0
        while not done.is_set():
            x += 1

    async def main() -> dict[str, float]:
        async with world() as w:
            w.post(7)
            computing = asyncio.get_running_loop().run_in_executor(None, compute)
            client = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CLIENT, str(w.port), cwd=Path(__file__).parents[3], stdout=asyncio.subprocess.PIPE
            )
            said, _ = await client.communicate()
            done.set()
            await computing
        return dict(json.loads(said))

    return asyncio.run(main())


@pytest.mark.slow
def test_500_questions_a_second_are_answered_while_a_thread_computes() -> None:
    """Others who use the machine can only make it slower, so the best of a few tries counts.

    Without the shorter switch interval, questions queue up and p99 is above a second in every try.
    """
    tries: list[dict[str, float]] = []
    while len(tries) < 4 and not any(t["p99"] < 0.5 for t in tries):
        tries.append(asked_while_a_thread_computes())
    assert min(t["p99"] for t in tries) < 0.5, tries


def test_threads_are_switched_often_while_it_listens_and_as_before_afterwards() -> None:
    before = sys.getswitchinterval()

    async def main() -> float:
        async with world():
            return sys.getswitchinterval()

    assert asyncio.run(main()) <= SWITCH_S + 1e-9
    assert sys.getswitchinterval() == before
