"""TLS and mTLS over real handshakes, with certificates made for the test, and their renewal while the server runs."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import grpc
import grpc.aio
import pytest

from controller.keda.board import Board
from controller.keda.server import KedaScaler, Tls
from forecasting.errors import UsageError
from tests.controller.keda.client import Clock, world


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def make_authority(folder: Path, name: str) -> None:
    subject = ["-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl("req", "-x509", *curve, *subject, "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")


def make_certificate(folder: Path, name: str, authority: str) -> None:
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    signer = ["-CA", folder / f"{authority}.pem", "-CAkey", folder / f"{authority}.key"]
    names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
    openssl("req", "-x509", *curve, *names, *signer, "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("openssl is not installed")
        pytest.skip("certificates are made with openssl, which is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    for authority in ("ca", "other-ca"):
        make_authority(folder, authority)
    for name, authority in (("server", "ca"), ("client", "ca"), ("renewed", "other-ca"), ("stranger", "other-ca")):
        make_certificate(folder, name, authority)
    return folder


def pem(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


async def spec(channel: grpc.aio.Channel) -> bytes:
    call = channel.unary_unary("/externalscaler.ExternalScaler/GetMetricSpec")
    return bytes(await call(b"", timeout=60.0))


async def asks(port: int, credentials: grpc.ChannelCredentials) -> bool:
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        try:
            return b"harmony-replicas" in await spec(channel)
        except grpc.aio.AioRpcError as e:
            if e.code() is grpc.StatusCode.UNAVAILABLE:  # what a failed handshake looks like
                return False
            raise


def test_only_encrypted_and_only_with_the_right_authority(certificates: Path) -> None:
    tls = Tls(str(certificates / "server.pem"), str(certificates / "server.key"))

    async def main() -> None:
        async with world(tls=tls, credentials=grpc.ssl_channel_credentials(pem(certificates, "ca.pem"))) as w:
            assert b"harmony-replicas" in await spec(w.channel)
            assert not await asks(w.port, grpc.ssl_channel_credentials(pem(certificates, "other-ca.pem")))
            async with grpc.aio.insecure_channel(f"localhost:{w.port}") as plain:
                with pytest.raises(grpc.aio.AioRpcError):
                    await spec(plain)

    asyncio.run(main())


def test_mutual_tls_asks_for_a_client_certificate(certificates: Path) -> None:
    tls = Tls(*(str(certificates / n) for n in ("server.pem", "server.key", "ca.pem")))
    ca = pem(certificates, "ca.pem")

    def as_client(name: str) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(ca, pem(certificates, f"{name}.key"), pem(certificates, f"{name}.pem"))

    async def main() -> None:
        async with world(tls=tls, credentials=as_client("client")) as w:
            assert b"harmony-replicas" in await spec(w.channel)
            assert not await asks(w.port, as_client("stranger"))
            assert not await asks(w.port, grpc.ssl_channel_credentials(ca))

    asyncio.run(main())


def test_renewed_certificates_serve_new_connections_and_bad_ones_are_not_taken(
    certificates: Path, tmp_path: Path
) -> None:
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def put(name: str) -> None:
        cert.write_bytes(pem(certificates, f"{name}.pem"))
        key.write_bytes(pem(certificates, f"{name}.key"))

    put("server")
    old, new = (grpc.ssl_channel_credentials(pem(certificates, f"{n}.pem")) for n in ("ca", "other-ca"))

    async def main() -> None:
        async with world(tls=Tls(str(cert), str(key)), credentials=old) as w:
            assert await asks(w.port, old)
            put("renewed")
            assert await asks(w.port, new)
            assert not await asks(w.port, old)
            key.write_text("not a key")
            assert await asks(w.port, new)
            key.unlink()
            assert await asks(w.port, new)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("server.pem", "", "a key file is missing"),
        ("", "server.key", "a certificate file is missing"),
        ("server.pem", "client.key", "fit together"),
        ("server.pem", "absent.key", "cannot read .*absent.key"),
    ],
)
def test_files_that_do_not_fit_are_named(certificates: Path, cert: str, key: str, words: str) -> None:
    tls = Tls(*(str(certificates / n) if n else "" for n in (cert, key)))

    async def main() -> None:
        with pytest.raises(UsageError, match=words):
            await KedaScaler(Board(), Clock()).start("127.0.0.1:0", tls)

    asyncio.run(main())
