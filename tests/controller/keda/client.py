"""A KEDA client for tests: the stub is generated from the proto file at test time, the server is the real one."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio

from controller.keda.board import Board, Posting
from controller.keda.server import KedaScaler, Tls

ROOT = Path(__file__).parents[3]
NOW = 1_000_000.0


@dataclass(frozen=True)
class Key:
    """Names a service as the controller does."""

    kind: str = "GPUAutoscaler"
    namespace: str = "serving"
    name: str = "chat"


@dataclass
class Clock:
    """A clock that the test moves."""

    time_s: float = NOW

    def now_s(self) -> float:
        return self.time_s


@dataclass
class World:
    """A running scaler and a client of it."""

    board: Board
    clock: Clock
    scaler: KedaScaler
    port: int
    stub: Any
    channel: grpc.aio.Channel
    counted: list[tuple[str, str]] = field(default_factory=list)

    def post(
        self, replicas: int | None, mode: str = "Full", *, key: Key | None = None, reason: str = "Forecast"
    ) -> None:
        self.board.post(key or Key(), Posting(replicas, reason, self.clock.now_s(), mode))


@cache
def stubs() -> ModuleType:
    """Service stubs compiled from the committed proto file."""
    with tempfile.TemporaryDirectory() as out:
        source = "controller/keda/externalscaler.proto"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"--grpc_python_out={out}", source]
        subprocess.run(command, check=True, cwd=ROOT)
        path = next(Path(out).rglob("*_pb2_grpc.py"))
        spec = importlib.util.spec_from_file_location("keda_stubs", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


@contextlib.asynccontextmanager
async def world(*, tls: Tls | None = None, credentials: Any = None, **options: Any) -> AsyncIterator[World]:
    """Start a scaler on a free port of the loopback and connect to it."""
    board, clock, counted = Board(), Clock(), []
    scaler = KedaScaler(board, clock, observe=lambda method, code: counted.append((method, code)), **options)
    port = await scaler.start("127.0.0.1:0", tls)
    place = f"localhost:{port}"
    secure = credentials is not None
    channel = grpc.aio.secure_channel(place, credentials) if secure else grpc.aio.insecure_channel(place)
    try:
        yield World(board, clock, scaler, port, stubs().ExternalScalerStub(channel), channel, counted)
    finally:
        await channel.close()
        await scaler.stop()
