"""The external scaler over real gRPC: what KEDA gets to hear, and when it gets an error instead of a zero."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.keda import externalscaler_pb2 as pb
from controller.keda.answers import Answers, Refusal
from controller.keda.board import Board, Posting
from controller.keda.server import KedaScaler
from forecasting.errors import HarmonyError, UsageError
from tests.controller.keda.client import NOW, Clock, Key, World, world

CHAT = pb.ScaledObjectRef(name="chat", namespace="serving")


async def value(w: World, ref: Any = CHAT, metric: str = "harmony-replicas") -> float:
    reply = await w.stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=ref, metricName=metric))
    (only,) = reply.metricValues
    assert only.metricName == metric
    assert only.metricValue == only.metricValueFloat
    return float(only.metricValueFloat)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as e:
        await call
    return e.value.code(), e.value.details() or ""


def test_metric_spec_is_answered_before_anything_is_known_and_for_any_request() -> None:
    async def main() -> None:
        async with world() as w:
            raw = w.channel.unary_unary("/externalscaler.ExternalScaler/GetMetricSpec")
            for request in (b"", b"\xff\xff\xff", b"\x0a\x02\xc3\x28", b"\x08" * 100, CHAT.SerializeToString()):
                reply = pb.GetMetricSpecResponse.FromString(await raw(request))
                (spec,) = reply.metricSpecs
                assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("harmony-replicas", 1, 1.0)

    asyncio.run(main())


def test_every_answer_is_what_the_board_shows_at_that_moment() -> None:
    """None is remembered from before; how long they take is measured by benchmarks/keda_flood.py."""

    async def main() -> list[float]:
        found = []
        async with world() as w:
            for replicas in range(1, 102):
                w.post(replicas)
                found.append(await value(w))
        return found

    assert asyncio.run(main()) == list(range(1, 102))


def test_bytes_on_the_wire_are_those_that_keda_reads() -> None:
    """Field numbers by hand: KEDA's client was compiled from KEDA's file, not from ours."""

    def text(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    metadata = text(3, text(1, b"autoscaler") + text(2, b"other"))
    ref = text(1, b"chat") + text(2, b"serving") + metadata
    number = b"\x10\x07" + bytes([3 << 3 | 1]) + struct.pack("<d", 7.0)

    async def main() -> None:
        async with world() as w:
            w.post(7, key=Key(name="other"))
            call = "/externalscaler.ExternalScaler/"
            got = await w.channel.unary_unary(call + "GetMetrics")(text(1, ref) + text(2, b"harmony-replicas"))
            assert got == text(1, text(1, b"harmony-replicas") + number)
            assert await w.channel.unary_unary(call + "IsActive")(ref) == b"\x08\x01"
            spec = text(1, b"harmony-replicas") + b"\x10\x01" + bytes([3 << 3 | 1]) + struct.pack("<d", 1.0)
            assert await w.channel.unary_unary(call + "GetMetricSpec")(ref) == text(1, spec)

    asyncio.run(main())


def test_bytes_that_are_no_message_are_told_so() -> None:
    async def main() -> None:
        async with world() as w:
            w.post(3)
            for method, open_ in (
                ("GetMetrics", "unary_unary"),
                ("IsActive", "unary_unary"),
                ("StreamIsActive", "unary_stream"),
            ):
                call = getattr(w.channel, open_)(f"/externalscaler.ExternalScaler/{method}")
                for sent in (b"\xff\xff\xff", b"\x0a\x02\xc3\x28", b"\x0a\x7f", b"\x08" * 99, b"\x0b" * 500):
                    answer = call(sent)
                    got, details = await refused(answer if open_ == "unary_unary" else anext(aiter(answer)))
                    assert got is grpc.StatusCode.INVALID_ARGUMENT, (method, sent, got, details)
                    assert details.startswith(f"these {len(sent)} bytes are no ")
            assert await value(w) == 3
            assert ("GetMetrics", "INVALID_ARGUMENT") in w.counted

    asyncio.run(main())


def test_value_is_what_was_decided_and_active_follows_it() -> None:
    async def main() -> None:
        async with world() as w:
            w.post(11)
            assert await value(w) == 11
            assert await value(w, metric="s0-harmony-replicas") == 11
            assert (await w.stub.IsActive(CHAT)).result is True
            w.post(0)
            assert await value(w) == 0
            assert (await w.stub.IsActive(CHAT)).result is False
            w.board.post(Key(), Posting(50, "Forecast", NOW, "Full", max_replicas=20))
            assert await value(w) == 20
            assert await refused(value(w, metric="cpu")) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "metric 'cpu': this scaler offers harmony-replicas",
            )

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["Floor", "UpOnly", "Full"])
def test_modes_with_authority_are_answered(mode: str) -> None:
    async def main() -> None:
        async with world() as w:
            w.post(3, mode)
            assert await value(w) == 3

    asyncio.run(main())


def test_without_a_figure_there_is_an_error_and_never_a_zero() -> None:
    async def both(w: World, code: grpc.StatusCode, *words: str) -> None:
        for call in (value(w), w.stub.IsActive(CHAT)):
            got, details = await refused(call)
            assert got is code
            assert all(word in details for word in words), details

    async def main() -> None:
        async with world() as w:
            await both(w, grpc.StatusCode.UNAVAILABLE, "GPUAutoscaler serving/chat", "check that it exists")
            w.post(None, reason="demand is absent")
            await both(w, grpc.StatusCode.UNAVAILABLE, "demand is absent")
            for mode in ("Observe", "Recommend", "", "full"):
                w.post(4, mode)
                await both(w, grpc.StatusCode.FAILED_PRECONDITION, "set its mode to Floor, UpOnly, Full")
            w.post(4)
            w.clock.time_s += 181.0
            await both(w, grpc.StatusCode.UNAVAILABLE, "181 s old", "/healthz")
            w.board.post(Key(), Posting(4, "Forecast", math.nan, "Full"))
            await both(w, grpc.StatusCode.UNAVAILABLE)
            w.post(-1)
            await both(w, grpc.StatusCode.INTERNAL, "no replica count")
            w.post(5)
            w.board.forget(Key())
            await both(w, grpc.StatusCode.UNAVAILABLE, "check that it exists")

    asyncio.run(main())


def test_a_board_that_is_closed_gives_no_figure_and_says_why() -> None:
    board = Board(closed="this controller is in a dry run")
    board.post(Key(), Posting(7, "Forecast", NOW, "Full"))
    refusal = Refusal("UNAVAILABLE", "no figure for GPUAutoscaler serving/chat: this controller is in a dry run")
    assert Answers(board, Clock()).replicas(CHAT) == refusal
    assert Answers(board, Clock()).is_active(CHAT) == refusal


counts = st.none() | st.integers(-5, 10**9)
modes = st.sampled_from(["Observe", "Recommend", "Floor", "UpOnly", "Full", "nonsense", ""])


@given(counts, modes, st.floats(allow_nan=True), st.none() | st.integers(1, 100))
def test_whatever_is_posted_the_answer_is_a_count_or_a_refusal(
    desired: int | None, mode: str, at_s: float, most: int | None
) -> None:
    board, clock = Board(), Clock()
    board.post(Key(), Posting(desired, "", at_s, mode, most))
    answers = Answers(board, clock)
    got = answers.replicas(CHAT)
    trusted = (
        desired is not None and desired >= 0 and mode in ("Floor", "UpOnly", "Full") and NOW - 180 <= at_s < math.inf
    )
    if trusted:
        assert desired is not None
        assert got == (desired if most is None else min(desired, most))
    else:
        assert isinstance(got, Refusal)
        assert len(got.text) > 20
        assert isinstance(answers.is_active(CHAT), Refusal)


def test_only_its_own_namespace_and_the_named_autoscaler() -> None:
    async def main() -> None:
        async with world() as w:
            w.post(3, key=Key(name="chat"))
            w.post(5, key=Key(name="other"))
            w.post(7, key=Key(kind="ScaledObject", name="annotated"))
            w.post(9, key=Key(namespace="secret", name="chat"))
            assert await value(w) == 3
            named = pb.ScaledObjectRef(name="chat", namespace="serving", scalerMetadata={"autoscaler": "other"})
            assert await value(w, named) == 5
            assert await value(w, pb.ScaledObjectRef(name="annotated", namespace="serving")) == 7
            for tried in ("secret/chat", "../secret/chat", "missing"):
                ref = pb.ScaledObjectRef(
                    name="chat", namespace="serving", scalerMetadata={"autoscaler": tried, "namespace": "secret"}
                )
                code, _ = await refused(value(w, ref))
                assert code is grpc.StatusCode.UNAVAILABLE
            assert (await refused(value(w, pb.ScaledObjectRef(name="chat"))))[0] is grpc.StatusCode.UNAVAILABLE

    asyncio.run(main())


def test_the_board_says_whether_keda_listens_and_calls_are_counted() -> None:
    async def main() -> None:
        async with world() as w:
            await refused(value(w))
            assert w.board.asked_s(Key()) is None  # names that nobody serves are not kept
            w.post(3)
            await value(w)
            assert w.board.asked_s(Key()) == NOW
            w.board.forget(Key())
            assert w.board.asked_s(Key()) is None
            await w.stub.GetMetricSpec(CHAT)
            assert w.counted == [("GetMetrics", "UNAVAILABLE"), ("GetMetrics", "OK"), ("GetMetricSpec", "OK")]

    asyncio.run(main())


async def soon(stream: AsyncIterator[Any]) -> Any:
    return await asyncio.wait_for(anext(stream), 30.0)


async def silent(stream: AsyncIterator[Any]) -> None:
    """Nothing more comes; ends the stream, since waiting was given up."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.2)


def test_activity_is_pushed_on_change_only_and_never_while_unknown() -> None:
    async def main() -> None:
        async with world() as w:
            stream = aiter(w.stub.StreamIsActive(CHAT))
            other = aiter(w.stub.StreamIsActive(pb.ScaledObjectRef(name="other", namespace="serving")))
            w.post(2)
            assert (await soon(stream)).result is True
            for replicas, mode in ((5, "Full"), (None, "Full"), (0, "Recommend"), (9, "Full"), (0, "Full")):
                await asyncio.to_thread(w.post, replicas, mode)
            assert (await soon(stream)).result is False
            w.post(1)
            assert (await soon(stream)).result is True
            await silent(stream)
            await silent(other)

    asyncio.run(main())


def test_spec_is_streamed_once_and_equals_the_one_that_is_asked() -> None:
    async def main() -> None:
        async with world() as w:
            stream = aiter(w.stub.StreamMetricSpec(CHAT))
            assert await soon(stream) == await w.stub.GetMetricSpec(CHAT)
            w.post(5)
            await silent(stream)

    asyncio.run(main())


def test_stopping_ends_streams_cleanly_and_frees_the_port() -> None:
    async def main() -> None:
        async with world() as w:
            w.post(2)
            active, spec = aiter(w.stub.StreamIsActive(CHAT)), aiter(w.stub.StreamMetricSpec(CHAT))
            await soon(active)
            await soon(spec)
            assert w.scaler.problem() is None
            async with asyncio.timeout(60.0):
                await w.scaler.stop(grace_s=600.0)
            assert w.scaler.problem() is not None
            for stream in (active, spec):
                with pytest.raises(StopAsyncIteration):
                    await soon(stream)
            w.post(3)  # nobody listens any more, and that is fine
            again = KedaScaler(w.board, w.clock)
            assert await again.start(f"127.0.0.1:{w.port}") == w.port
            await again.stop()

    asyncio.run(main())


def test_a_taken_port_is_said_in_a_sentence() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            scaler = KedaScaler(Board(), Clock())
            with pytest.raises(UsageError, match=f"cannot listen at 127.0.0.1:{port}"):
                await scaler.start(f"127.0.0.1:{port}")
            assert scaler.problem() is not None
            await scaler.stop()
        with pytest.raises(UsageError, match="expected host:port"):
            await KedaScaler(Board(), Clock()).start("9090")

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failure_before_it_listens_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise MemoryError("no room")

    async def main() -> None:
        scaler = KedaScaler(Board(), Clock())
        monkeypatch.setattr(grpc.aio, "server", fail)
        async with asyncio.timeout(60.0):
            with pytest.raises(HarmonyError, match="ended before it listened"):
                await scaler.start("127.0.0.1:0")
        monkeypatch.undo()
        assert await scaler.start("127.0.0.1:0") > 0
        await scaler.stop()

    asyncio.run(main())


def test_every_address_of_the_machine_is_served() -> None:
    async def main() -> None:
        scaler = KedaScaler(Board(), Clock())
        port = await scaler.start(":0")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            reply = await channel.unary_unary("/externalscaler.ExternalScaler/GetMetricSpec")(b"")
        assert b"harmony-replicas" in reply
        await scaler.stop()

    asyncio.run(main())


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["post", "forget", "ask"]), st.integers(0, 3), st.integers(0, 9))))
def test_board_gives_back_the_last_posting(steps: list[tuple[str, int, int]]) -> None:
    board = Board()
    last: dict[int, Posting] = {}
    asked: dict[int, float] = {}
    for at, (what, which, replicas) in enumerate(steps):
        key = Key(name=f"s{which}")
        if what == "post":
            last[which] = Posting(replicas, "Forecast", float(at), "Full")
            board.post(key, last[which])
        elif what == "forget":
            last.pop(which, None)
            asked.pop(which, None)
            board.forget(key)
        else:
            board.asked((key.kind, key.namespace, key.name), float(at))
            if which in last:
                asked[which] = float(at)
    for which in range(4):
        key = Key(name=f"s{which}")
        assert board.read(key) == last.get(which)
        assert board.asked_s(key) == asked.get(which)
        expected = 100.0 - last[which].at_s if which in last else math.inf
        assert board.age_s(key, 100.0) == expected
    assert len(board) == len(last)
