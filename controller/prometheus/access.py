"""`Access`: how a Prometheus lets us in: headers, token, certificates, proxy; files are read again as they change."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path

from yarl import URL

from controller.prometheus.errors import PrometheusUnreachable
from forecasting.errors import UsageError

__all__ = ["Access"]

Pairs = Mapping[str, str] | Iterable[tuple[str, str]]

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OURS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection", "accept"})


class Access:
    """Headers and TLS of every request to one server.

    Args:
        token_file: file with a bearer token, read again for each request, so that a rotated token is picked up.
        headers: further headers; a value ``@FILE`` stands for what the file holds when the request is made.
        ca_file: PEM bundle that the server's certificate is checked against instead of the system's.
        cert_file, key_file: PEM files of the certificate that this client shows, and of its key (empty: in the same
            file); like the bundle they are read again once they change.
        proxy: address of an HTTP proxy that requests go through; empty for none.

    Raises `UsageError` for what cannot be used.
    """

    def __init__(
        self,
        token_file: str | Path | None = None,
        headers: Pairs = (),
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
        proxy: str = "",
    ) -> None:
        if key_file and not cert_file:
            raise UsageError(
                "a client key for Prometheus without a certificate; give both files, or one that holds both"
            )
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        for name, value in pairs:
            _check(name, value, bool(token_file))
        self.has_token = bool(token_file)
        self.proxy = _proxy(proxy)
        self._headers = pairs
        self._token_file = Path(token_file) if token_file else None
        self._ca_file = Path(ca_file) if ca_file else None
        self._cert_file = Path(cert_file) if cert_file else None
        self._key_file = Path(key_file) if key_file else None
        self._stamp = self._changed()
        self._tls = self._context()

    # ---- headers --------------------------------------------------------------------------------------------
    def headers(self) -> dict[str, str]:
        """The headers of the next request; raises `PrometheusUnreachable` where a file cannot be read."""
        out = {"Accept": "application/json", "User-Agent": "harmony-autoscaler"}
        for name, value in self._headers:
            out[name] = _read(Path(value[1:]), "header file", "value") if value.startswith("@") else value
        if self._token_file is not None:
            out["Authorization"] = f"Bearer {_read(self._token_file, 'token file', 'token')}"
        return out

    # ---- certificates ---------------------------------------------------------------------------------------
    def tls(self) -> ssl.SSLContext | bool:
        """What connections are made with; anew where a file has changed since (and can be used)."""
        stamp = self._changed()
        if stamp != self._stamp:
            try:
                self._tls, self._stamp = self._context(), stamp
            except UsageError:
                return self._tls  # half written: what was good stays until it is whole
        return self._tls

    def _changed(self) -> tuple[int, ...]:
        files = (self._ca_file, self._cert_file, self._key_file)
        return tuple(_modified(file) for file in files if file is not None)

    def _context(self) -> ssl.SSLContext | bool:
        if self._ca_file is None and self._cert_file is None:
            return True
        try:
            context = ssl.create_default_context(cafile=None if self._ca_file is None else str(self._ca_file))
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"CA file {self._ca_file}: cannot be used ({_why(error)}); expected certificates in PEM form"
            ) from error
        if self._cert_file is not None:
            try:
                context.load_cert_chain(self._cert_file, self._key_file)
            except (OSError, ssl.SSLError) as error:
                raise UsageError(
                    f"client certificate {self._cert_file}: cannot be used ({_why(error)}); expected a certificate and "
                    "its key without a password, in PEM form"
                ) from error
        return context


def _check(name: str, value: str, has_token: bool) -> None:
    if not _NAME.fullmatch(name) or name.lower() in _OURS:
        raise UsageError(f"{name!r} is no header for Prometheus; expected a name such as X-Scope-OrgID")
    if name.lower() == "authorization" and has_token:
        raise UsageError("give Prometheus a token file or an Authorization header, not both")
    if not value.strip() or not value.isascii() or not value.isprintable():
        raise UsageError(f"header {name}: expected one line of printable ASCII, or @FILE")


def _read(path: Path, what: str, holds: str) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no plain text"
        raise PrometheusUnreachable(f"{what} {path}: cannot be read ({why})") from error
    if not text or not text.isprintable():
        raise PrometheusUnreachable(f"{what} {path}: expected one line with a {holds}")
    return text


def _proxy(given: str) -> URL | None:
    if not given:
        return None
    try:
        url = URL(given)
        usable = url.scheme == "http" and bool(url.host)
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"{given!r} is no address of a proxy; expected one such as http://proxy:3128")
    return url


def _modified(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _why(error: OSError) -> str:
    return str(getattr(error, "strerror", None) or error)
