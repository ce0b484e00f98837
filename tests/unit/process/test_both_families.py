"""Listening on every interface, of both families of addresses or of the one that there is."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from mom_process import addresses
from mom_process.addresses import Address, open_socket


def test_the_ipv6_wildcard_serves_both_families() -> None:
    with closing(open_socket(Address("::", 0))) as bound:
        port = bound.getsockname()[1]
        hosts = ["127.0.0.1", "::1"] if addresses.has_ipv6() else ["127.0.0.1"]
        for host in hosts:
            socket.create_connection((host, port), timeout=5).close()


def test_without_ipv6_the_wildcard_serves_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "has_ipv6", lambda: False)
    with closing(open_socket(Address("::", 0))) as bound:
        assert bound.family == socket.AF_INET
        socket.create_connection(("127.0.0.1", bound.getsockname()[1]), timeout=5).close()


def test_brackets_are_right_for_either_family() -> None:
    """A pod's own address goes into ``[$(POD_IP)]:7070``, whichever it is."""
    assert addresses.advertised(Address("::", 7070), "[10.0.0.1]:7070") == "10.0.0.1:7070"
    assert addresses.advertised(Address("::", 7070), "[fd00::1]:7070") == "[fd00::1]:7070"
