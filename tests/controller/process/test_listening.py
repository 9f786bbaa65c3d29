"""Addresses, and the sockets there."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.process.listening import bind, parse_address
from forecasting.errors import UsageError


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (":8080", ("", 8080)),
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),
        ("[::]:8080", ("::", 8080)),
        ("localhost:0", ("localhost", 0)),
        ("[fe80::1]:65535", ("fe80::1", 65535)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert parse_address(address) == expected


@pytest.mark.parametrize("address", ["", "8080", ":", ":x", ":65536", ":-1", "::1:80", "host", ":٣", "[::]", ":8 0"])
def test_other_addresses_are_refused_with_examples(address: str) -> None:
    with pytest.raises(UsageError, match=r"expected host:port, such as :8080"):
        parse_address(address)


@given(st.text(max_size=20))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        host, port = parse_address(text)
    except UsageError:
        return
    assert text.strip() in (f"{host}:{text.strip().rpartition(':')[2]}", f"[{host}]:{text.strip().rpartition(':')[2]}")
    assert port == int(text.strip().rpartition(":")[2])
    assert 0 <= port <= 65_535


def test_every_address_serves_both_families_and_the_port_is_freed() -> None:
    families = ["127.0.0.1", "::1"] if socket.has_dualstack_ipv6() else ["127.0.0.1"]
    with bind(":0") as listening:
        port = listening.getsockname()[1]
        for host in families:
            with socket.create_connection((host, port), timeout=60.0):
                pass
    with bind(f":{port}") as again:
        assert again.getsockname()[1] == port


@pytest.mark.parametrize("address", ["127.0.0.1:{}", ":{}", "[::]:{}"])
def test_a_taken_port_is_said_in_a_sentence(address: str) -> None:
    with bind(address.format(0)) as taken:
        wanted = address.format(taken.getsockname()[1])
        with pytest.raises(UsageError, match=r"cannot listen at .*in use.*; free it or choose another address"):
            bind(wanted)


def test_an_address_of_another_machine_is_said_in_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"cannot listen at 192\.0\.2\.1:8080"):
        bind("192.0.2.1:8080")
