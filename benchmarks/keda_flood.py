"""How long KEDA waits for answers while a thread computes: `python -m benchmarks.keda_flood [--rate 500] [--json]`.

A process asks the external scaler of this one over gRPC at a fixed rate, while a thread of this one counts without
pause, as forecasting does. Seconds from a question to its answer, of each try; others who use the machine can only
make it slower, so the best try counts. It should stay far below the three seconds after which KEDA gives up; without
the scaler's short switch interval (`controller.keda.server.SWITCH_S`) questions queue up and p99 is above a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import threading
import time
from dataclasses import dataclass

import grpc.aio

from controller.keda import externalscaler_pb2 as pb
from controller.keda.board import Board, Posting
from controller.keda.server import KedaScaler


@dataclass(frozen=True)
class Key:
    """Names a service as the controller does."""

    kind: str = "GPUAutoscaler"
    namespace: str = "serving"
    name: str = "chat"


class Clock:
    """The wall clock."""

    def now_s(self) -> float:
        return time.time()  # noqa: TID251


async def ask(port: int, rate: float, seconds: float) -> list[float]:
    """Questions at that rate, each sent when it is due; how long each took, sorted."""
    ref = pb.ScaledObjectRef(name="chat", namespace="serving")
    asked = pb.GetMetricsRequest(scaledObjectRef=ref, metricName="harmony-replicas").SerializeToString()
    took = []
    async with grpc.aio.insecure_channel(f"localhost:{port}") as channel:
        call = channel.unary_unary("/externalscaler.ExternalScaler/GetMetrics")
        await call(asked)

        async def one() -> None:
            began = time.perf_counter()
            await call(asked)
            took.append(time.perf_counter() - began)

        began, tasks = time.perf_counter(), []
        for i in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, began + i / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(one()))
        await asyncio.gather(*tasks)
    return sorted(took)


def client(port: int, rate: float, seconds: float, answers) -> None:
    answers.put(asyncio.run(ask(port, rate, seconds)))


async def measure(rate: float, seconds: float) -> list[float]:
    board, done = Board(), threading.Event()
    scaler = KedaScaler(board, Clock())
    port = await scaler.start("127.0.0.1:0")
    board.post(Key(), Posting(7, "Forecast", time.time(), "Full"))  # noqa: TID251

    def compute() -> None:
        x = 0
        while not done.is_set():
            x += 1

    loop = asyncio.get_running_loop()
    computing = loop.run_in_executor(None, compute)
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=client, args=(port, rate, seconds, answers))
    process.start()
    took = await loop.run_in_executor(None, answers.get)
    process.join()
    done.set()
    await computing
    await scaler.stop()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=500.0, help="questions per second")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--tries", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    tries = []
    for _ in range(args.tries):
        took = asyncio.run(measure(args.rate, args.seconds))
        tries.append({"answers": len(took)} | {f"p{q}": round(took[int(len(took) * q / 100)], 4) for q in (50, 99)})
    best = min(tries, key=lambda t: t["p99"])
    if args.json:
        print(json.dumps({"tries": tries, "best": best}))
    else:
        print(*tries, f"best: p50 {1e3 * best['p50']:.1f} ms, p99 {1e3 * best['p99']:.1f} ms", sep="\n")


if __name__ == "__main__":
    main()
