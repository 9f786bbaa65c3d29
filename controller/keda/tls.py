"""TLS of the external scaler: certificates from files that may be renewed while it runs."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from forecasting.errors import UsageError

__all__ = ["Tls", "credentials"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM form; with `client_ca_file` only clients with a certificate signed by it may ask (mTLS)."""

    cert_file: str
    key_file: str
    client_ca_file: str = ""

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """Key, certificate chain and client CA; UsageError for files that cannot be read or do not fit together."""
        for what, file in (("certificate", self.cert_file), ("key", self.key_file)):
            if not file:
                raise UsageError(f"TLS of the KEDA scaler: a {what} file is missing; certificate and key go together")
        files = [self.key_file, self.cert_file, *([self.client_ca_file] if self.client_ca_file else [])]
        try:
            texts = [Path(f).read_bytes() for f in files]
        except OSError as e:
            raise UsageError(f"TLS of the KEDA scaler: cannot read {e.filename}: {e.strerror}") from e
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.cert_file, self.key_file)
            if self.client_ca_file:
                context.load_verify_locations(self.client_ca_file)
        except ssl.SSLError as e:
            raise UsageError(
                f"TLS of the KEDA scaler: {', '.join(files)} are not a PEM key and certificate that fit together: {e}"
            ) from e
        return texts[0], texts[1], texts[2] if self.client_ca_file else None


def credentials(tls: Tls) -> grpc.ServerCredentials:
    """Server credentials that look at the files again for each connection; a bad renewal keeps the last good one."""
    held = tls.read()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal held
        try:
            found = tls.read()
        except UsageError as e:
            logger.warning("keeping the previous certificate: %s", e)
            return None
        if found == held:
            return None
        held = found
        return _configuration(held)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(held), renewed, require_client_authentication=bool(tls.client_ca_file)
    )


def _configuration(read: tuple[bytes, bytes, bytes | None]) -> grpc.ServerCertificateConfiguration:
    key, chain, client_ca = read
    return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=client_ca)
