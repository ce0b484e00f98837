"""Addresses of processes: ``host:port`` of nodes and masters, and URLs of gateways.

A call that goes to a process by way of a gateway has both in one address, the process behind a
``#``: ``http://localhost:8080#10.0.3.7:7071``. That is what a routing table without reachable nodes
hands out, so that whoever calls need not know of gateways.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from mom_core.errors import InvalidArgumentError

_SCHEMES: Final = ("http://", "https://")


def is_gateway(address: str) -> bool:
    """Whether an address is a gateway's, or leads through one."""
    return address.startswith(_SCHEMES)


def through(gateway: str, address: str) -> str:
    """The address of a process by way of a gateway."""
    return f"{gateway}#{address}"


def split(address: str) -> tuple[str, str]:
    """A gateway's URL and the process behind it, which is empty for the gateway's own choice."""
    gateway, _, target = address.partition("#")
    return gateway, target


def check_address(address: str) -> str:
    """Return an address in the form in which it is used, else raise InvalidArgumentError."""
    if is_gateway(address):
        return _check_url(address)
    host, _, port = address.rpartition(":")
    if not host or not _is_port(port) or "/" in address:
        raise InvalidArgumentError(
            f"address {address!r} is neither the host:port of a node or master, such as "
            "127.0.0.1:7071, nor the URL of a gateway, such as http://127.0.0.1:8080",
            field="addresses",
        )
    return address


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        allowed = bool(parts.hostname) and parts.port != 0
    except ValueError:
        allowed = False
    if not allowed or parts.query or parts.fragment or parts.username is not None:
        raise InvalidArgumentError(
            f"address {url!r} is not the URL of a gateway, such as http://127.0.0.1:8080 or "
            "https://mom.example.com; a token is given beside it",
            field="addresses",
        )
    return url.rstrip("/")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 65_536
