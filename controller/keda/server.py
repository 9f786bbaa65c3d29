"""`KedaScaler`: the gRPC server, on a thread and an event loop of its own, so that a busy tick cannot delay it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from controller.keda import externalscaler_pb2 as pb
from controller.keda.answers import DEFAULT_MAX_AGE_S, METRIC, TARGET, Answers, Refusal, names_of
from controller.keda.board import Board, Name
from controller.keda.tls import Tls, credentials
from controller.process.listening import parse_address
from forecasting.errors import HarmonyError, UsageError
from harmony.loop.ports import Clock

__all__ = ["KedaScaler", "Tls"]

SERVICE = "externalscaler.ExternalScaler"
Observe = Callable[[str, str], None]
M = TypeVar("M", bound=Message)
# A thread that computes hands the interpreter over only this often (5 ms by default), and a call needs it several
# times: with the default, one busy thread lets through 250 calls a second, and the rest queue for seconds.
SWITCH_S = 0.0002
OPTIONS = (
    ("grpc.so_reuseport", 0),  # two processes on one port would each get half of the questions
    ("grpc.max_receive_message_length", 1 << 16),
    # KEDA keeps connections for long and pings them; without this they would be cut for pinging too often
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)


class KedaScaler:
    """Answers KEDA from the board.

    ``clock`` gives the time in which postings are dated; ``max_age_s`` is how old one may be (three intervals of the
    loop, 180 s by default); ``observe`` is called with method and gRPC code after each call, from the server's thread.
    """

    def __init__(
        self, board: Board, clock: Clock, *, max_age_s: float = DEFAULT_MAX_AGE_S, observe: Observe | None = None
    ) -> None:
        self._board = board
        self._answers = Answers(board, clock, max_age_s)
        self._observe = observe or _unobserved
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._grace_s = 5.0
        self._bells: dict[Name, set[asyncio.Event]] = {}
        self._switch_s = 0.0  # the interpreter's own switch interval, while ours is in force

    async def start(self, address: str, tls: Tls | None = None) -> int:
        """Listen at ``address`` (as ``:9090``); returns the port. UsageError when that is impossible.

        While it listens, the interpreter's thread switch interval is at most `SWITCH_S`.
        """
        if self._thread is not None:
            raise UsageError("the KEDA scaler has been started already")
        host, port = parse_address(address)
        started: Future[int] = Future()
        place = f"[{host or '::'}]:{port}" if ":" in host or not host else f"{host}:{port}"
        thread = threading.Thread(target=self._run, args=(place, tls, started), name="keda-scaler", daemon=True)
        self._thread = thread
        thread.start()
        try:
            listening = await asyncio.wrap_future(started)
        except HarmonyError:
            self._thread = None
            await asyncio.to_thread(thread.join)
            raise
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(min(SWITCH_S, self._switch_s))
        return listening

    async def stop(self, grace_s: float = 5.0) -> None:
        """Take no more calls, end streams, let calls under way finish for up to ``grace_s`` seconds."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None or self._stopping is None:
            return
        sys.setswitchinterval(self._switch_s or sys.getswitchinterval())
        self._grace_s = grace_s
        if thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        await asyncio.to_thread(thread.join)

    def problem(self) -> str | None:
        """None while the server listens, else what is wrong (for the readiness check)."""
        if self._thread is None:
            return "the KEDA scaler has not been started"
        return None if self._thread.is_alive() and self._loop is not None else "the KEDA scaler has ended"

    def _run(self, place: str, tls: Tls | None, started: Future[int]) -> None:
        """The thread; whoever waits for the start hears of its end, whatever ended it."""
        try:
            asyncio.run(self._serve(place, tls, started))
        finally:
            if not started.done():
                started.set_exception(HarmonyError("the KEDA scaler ended before it listened"))

    async def _serve(self, place: str, tls: Tls | None, started: Future[int]) -> None:
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._handlers()),))
        try:
            secure = None if tls is None else credentials(tls)
            port = server.add_insecure_port(place) if secure is None else server.add_secure_port(place, secure)
        except UsageError as e:
            started.set_exception(e)
            return
        except RuntimeError as e:  # what grpc raises for a place that is taken or does not exist
            started.set_exception(UsageError(f"cannot listen at {place} for KEDA: is it taken? ({e})"))
            return
        await server.start()
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        unwatch = self._board.watch(self._wake)
        started.set_result(port)
        await self._stopping.wait()
        unwatch()
        for bells in self._bells.values():
            for bell in bells:
                bell.set()
        await server.stop(self._grace_s)

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        def one(handler: Callable[..., object]) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(handler, None, lambda m: m.SerializeToString())

        def many(handler: Callable[..., object]) -> grpc.RpcMethodHandler:
            return grpc.unary_stream_rpc_method_handler(handler, None, lambda m: m.SerializeToString())

        # Requests come as bytes: what is no message is told so (see `_read`), which grpc itself calls UNKNOWN.
        # The spec depends on nothing that is asked, so its requests are not even decoded: it cannot fail.
        return {
            "IsActive": one(self._is_active),
            "StreamIsActive": many(self._stream_is_active),
            "GetMetricSpec": one(self._metric_spec),
            "GetMetrics": one(self._metrics),
            "StreamMetricSpec": many(self._stream_metric_spec),
        }

    async def _read(self, method: str, kind: type[M], sent: bytes, context: grpc.aio.ServicerContext) -> M:
        """The message that was sent; ends the call where the bytes are none."""
        try:
            read: M = kind.FromString(sent)
        except DecodeError:
            text = f"these {len(sent)} bytes are no {kind.__name__} of KEDA's external scaler protocol"
            await self._refuse(method, context, Refusal("INVALID_ARGUMENT", text))
            raise AssertionError("a refused call does not go on") from None
        return read

    # calls ----------------------------------------------------------------------------------------------------

    async def _metric_spec(self, _: bytes, context: grpc.aio.ServicerContext) -> pb.GetMetricSpecResponse:
        self._observe("GetMetricSpec", "OK")
        return _spec()

    async def _metrics(self, sent: bytes, context: grpc.aio.ServicerContext) -> pb.GetMetricsResponse:
        asked = await self._read("GetMetrics", pb.GetMetricsRequest, sent, context)
        name = asked.metricName
        if name and name != METRIC and not name.endswith(f"-{METRIC}"):  # older releases prefix the trigger's index
            await self._refuse("GetMetrics", context, _unknown(name))
        answer = self._answers.replicas(asked.scaledObjectRef)
        self._answers.asked(asked.scaledObjectRef)
        if isinstance(answer, Refusal):
            await self._refuse("GetMetrics", context, answer)
            raise AssertionError("a refused call does not go on")
        self._observe("GetMetrics", "OK")
        value = pb.MetricValue(metricName=name or METRIC, metricValue=answer, metricValueFloat=float(answer))
        return pb.GetMetricsResponse(metricValues=[value])

    async def _is_active(self, sent: bytes, context: grpc.aio.ServicerContext) -> pb.IsActiveResponse:
        asker = await self._read("IsActive", pb.ScaledObjectRef, sent, context)
        answer = self._answers.is_active(asker)
        self._answers.asked(asker)
        if isinstance(answer, Refusal):
            await self._refuse("IsActive", context, answer)
            raise AssertionError("a refused call does not go on")
        self._observe("IsActive", "OK")
        return pb.IsActiveResponse(result=answer)

    async def _stream_is_active(
        self, sent: bytes, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.IsActiveResponse]:
        """Push whenever the answer is known and another than the last; stay silent while it is not known."""
        asker = await self._read("StreamIsActive", pb.ScaledObjectRef, sent, context)
        self._observe("StreamIsActive", "OK")
        last: bool | None = None
        with self._bell(names_of(asker)) as bell:
            while not self._is_stopping:
                bell.clear()
                answer = self._answers.is_active(asker)
                if not isinstance(answer, Refusal) and answer != last:
                    last = answer
                    yield pb.IsActiveResponse(result=answer)
                await bell.wait()

    async def _stream_metric_spec(
        self, _: bytes, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GetMetricSpecResponse]:
        """Push the spec once and keep the stream open: the spec never changes while a release runs."""
        self._observe("StreamMetricSpec", "OK")
        with self._bell(()) as bell:
            yield _spec()
            if not self._is_stopping:
                await bell.wait()

    async def _refuse(self, method: str, context: grpc.aio.ServicerContext, refusal: Refusal) -> None:
        self._observe(method, refusal.code)
        refused: Awaitable[None] = context.abort(grpc.StatusCode[refusal.code], refusal.text)
        await refused

    # waking streams -------------------------------------------------------------------------------------------

    @property
    def _is_stopping(self) -> bool:
        return self._stopping is None or self._stopping.is_set()

    @contextlib.contextmanager
    def _bell(self, names: tuple[Name, ...]) -> Iterator[asyncio.Event]:
        """An event that is set when any of ``names`` is posted, or when the server stops."""
        bell = asyncio.Event()
        for name in names or _NOBODY:
            self._bells.setdefault(name, set()).add(bell)
        try:
            yield bell
        finally:
            for name in names or _NOBODY:
                self._bells[name].discard(bell)
                if not self._bells[name]:
                    del self._bells[name]

    def _wake(self, name: Name) -> None:
        """Called by the board, in the thread of the control loop."""
        if name in self._bells and self._loop is not None:
            self._loop.call_soon_threadsafe(self._ring, name)

    def _ring(self, name: Name) -> None:
        for bell in self._bells.get(name, ()):
            bell.set()


_NOBODY: tuple[Name, ...] = (("", "", ""),)  # streams that wait for the end only


def _spec() -> pb.GetMetricSpecResponse:
    spec = pb.MetricSpec(metricName=METRIC, targetSize=TARGET, targetSizeFloat=float(TARGET))
    return pb.GetMetricSpecResponse(metricSpecs=[spec])


def _unknown(name: str) -> Refusal:
    return Refusal("INVALID_ARGUMENT", f"metric {name!r}: this scaler offers {METRIC}")


def _unobserved(method: str, code: str) -> None:
    """Nobody counts."""
