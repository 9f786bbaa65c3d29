"""Messages to KEDA's external scaler: bent, cut, foreign and huge ones.

Each is answered or refused by a code that says what is wrong; a right question in between gets its figure.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import grpc.aio
import numpy as np

from controller.keda import externalscaler_pb2 as pb
from controller.keda.board import Board, Posting
from controller.keda.server import KedaScaler
from tests.controller.keda.client import NOW, Clock, Key
from tests.fuzz.tally import Tally

METHODS = ("IsActive", "GetMetricSpec", "GetMetrics", "StreamIsActive", "StreamMetricSpec", "Nothing")
CODES = {
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED,
}  # fmt: skip
NAMES = ("chat", "", "serving", "x" * 1000, "../..", "é", "\u0000", "a/b", "chat ", "CHAT", "%s{}", "chat\n")
REPLICAS = 7
STREAM_S = 0.3


def run(cases: int, seed: int = 0) -> Tally:
    """So many messages to a server of its own."""
    tally = Tally()
    asyncio.run(_run(cases, np.random.default_rng([seed, 9]), tally))
    return tally


async def _run(cases: int, rng: np.random.Generator, tally: Tally) -> None:
    board = Board()
    scaler = KedaScaler(board, Clock())
    port = await scaler.start("127.0.0.1:0")
    board.post(Key(), Posting(REPLICAS, "Forecast", NOW, "Full"))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            for i in range(cases):
                method = METHODS[int(rng.integers(len(METHODS)))]
                sent = _message(method, rng)
                name = f"{method} {len(sent)} bytes {sent[:60]!r}"
                with tally.case(name):
                    await _ask(channel, method, sent, name, tally)
                if i % 50 == 0:
                    await _check_right(channel, tally)
            await _check_right(channel, tally)
            if scaler.problem():
                tally.fault("the end", str(scaler.problem()))
    finally:
        await scaler.stop(0.0)


async def _ask(channel: grpc.aio.Channel, method: str, sent: bytes, name: str, tally: Tally) -> None:
    place = f"/externalscaler.ExternalScaler/{method}"
    try:
        if method.startswith("Stream"):
            call = channel.unary_stream(place)(sent, timeout=30)
            with contextlib.suppress(asyncio.TimeoutError, StopAsyncIteration):
                await asyncio.wait_for(anext(aiter(call)), STREAM_S)  # one that waits for its service to appear is fine
            call.cancel()
        else:
            await channel.unary_unary(place)(sent, timeout=30)
    except grpc.aio.AioRpcError as error:
        tally.outcomes["refused"] += 1
        tally.outcomes["answered"] -= 1  # the case itself will count as answered
        if error.code() not in CODES:
            tally.fault(name, f"{error.code()} {error.details()}")
        if len(error.details() or "") > 4000:
            tally.fault(name, f"a refusal of {len(error.details() or '')} characters")


async def _check_right(channel: grpc.aio.Channel, tally: Tally) -> None:
    ref = pb.ScaledObjectRef(name="chat", namespace="serving")
    asked = pb.GetMetricsRequest(scaledObjectRef=ref, metricName="harmony-replicas").SerializeToString()
    answer = pb.GetMetricsResponse.FromString(
        await channel.unary_unary("/externalscaler.ExternalScaler/GetMetrics")(asked, timeout=30)
    )
    if [m.metricValueFloat for m in answer.metricValues] != [REPLICAS]:
        tally.fault("a right question", str(answer))


def _message(method: str, rng: np.random.Generator) -> bytes:
    def name() -> str:
        return NAMES[0] if rng.random() < 0.4 else NAMES[int(rng.integers(len(NAMES)))]

    metadata = {"autoscaler": name()} if rng.random() < 0.4 else {}
    for _ in range(int(rng.choice([0, 0, 1, 500]))):
        metadata[f"k{rng.integers(10_000)}"] = name()
    ref = pb.ScaledObjectRef(
        name=name(), namespace="serving" if rng.random() < 0.6 else name(), scalerMetadata=metadata
    )
    message: Any = ref
    if method == "GetMetrics":
        message = pb.GetMetricsRequest(
            scaledObjectRef=ref, metricName=str(rng.choice(["", "harmony-replicas", name()]))
        )
    sent = bytes(message.SerializeToString())
    what = rng.random()
    if what < 0.35:
        return sent
    if what < 0.6 and sent:
        data = bytearray(sent)
        for at in rng.integers(len(data), size=int(rng.integers(1, 5))):
            data[at] ^= 1 << int(rng.integers(8))
        return bytes(data)
    if what < 0.7:
        return sent[: int(rng.integers(len(sent) + 1))]
    if what < 0.8:
        return bytes(rng.integers(0, 256, size=int(rng.choice([1, 10, 1000]))).astype(np.uint8))
    if what < 0.85:
        return b"\x0b" * int(rng.choice([1, 99, 101, 60_000]))  # groups within groups
    if what < 0.9:
        return b"\x0a\xff\xff\xff\xff\x0f" + sent  # a length of 4 GiB
    if what < 0.95:
        return sent + b"\xfa\x01" + b"\x05hello" * int(rng.integers(1, 100))  # fields that a newer KEDA may send
    return b"\x0a\x00" * int(rng.choice([100_000, 3_000_000])) if rng.random() < 0.1 else sent * 20
