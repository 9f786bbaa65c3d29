"""Where something listens: an address as people write it, and the socket there."""

from __future__ import annotations

import socket

from forecasting.errors import UsageError

__all__ = ["bind", "parse_address"]


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of ``:8080``, ``0.0.0.0:8080`` or ``[::]:8080``; an empty host is every address of the machine.

    Port 0 takes any free one. UsageError for anything else.
    """
    host, colon, port = address.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
    if not colon or not 0 <= number <= 65_535 or (":" in host and not bracketed):
        raise UsageError(f"address {address!r}: expected host:port, such as :8080, 127.0.0.1:8080 or [::]:8080")
    return host[1:-1] if bracketed else host, number


def bind(address: str) -> socket.socket:
    """A listening socket; on every address it serves IPv4 and IPv6 alike where the machine has both.

    UsageError where the address is none, or taken.
    """
    host, port = parse_address(address)
    try:
        if host in ("", "::") and socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as e:  # UnicodeError: a host name that no name server could be asked for
        why = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise UsageError(f"cannot listen at {address}: {why}; free it or choose another address") from e
