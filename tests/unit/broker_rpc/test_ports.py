"""Listening on every interface, of both families of addresses or of the one that there is."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing

import pytest

from mom_broker.rpc import ports
from mom_gateway import listening


def _bind_broker(host: str) -> socket.socket:
    bound = ports.bind(ports.Address(host, 0))
    bound.listen()
    return bound


def _bind_gateway(host: str) -> socket.socket:
    return listening.open_socket(listening.Address(host, 0))


both = pytest.mark.parametrize("bind", [_bind_broker, _bind_gateway], ids=["broker", "gateway"])


@both
def test_the_ipv6_wildcard_serves_both_families(bind: Callable[[str], socket.socket]) -> None:
    with closing(bind("::")) as bound:
        port = bound.getsockname()[1]
        hosts = ["127.0.0.1", "::1"] if ports.has_ipv6() else ["127.0.0.1"]
        for host in hosts:
            socket.create_connection((host, port), timeout=5).close()


@both
def test_without_ipv6_the_wildcard_serves_ipv4(
    bind: Callable[[str], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "has_ipv6", lambda: False)
    monkeypatch.setattr(listening, "has_ipv6", lambda: False)
    with closing(bind("::")) as bound:
        assert bound.family == socket.AF_INET
        socket.create_connection(("127.0.0.1", bound.getsockname()[1]), timeout=5).close()


def test_brackets_are_right_for_either_family() -> None:
    """A pod's own address goes into ``[$(POD_IP)]:7070``, whichever it is."""
    assert ports.advertised(ports.Address("::", 7070), "[10.0.0.1]:7070") == "10.0.0.1:7070"
    assert ports.advertised(ports.Address("::", 7070), "[fd00::1]:7070") == "[fd00::1]:7070"
