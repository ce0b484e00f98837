"""Addresses that clients are given."""

from __future__ import annotations

import pytest

from mom_client import addresses
from mom_core.errors import InvalidArgumentError


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("127.0.0.1:7071", "127.0.0.1:7071"),
        ("[::1]:7071", "[::1]:7071"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://localhost:8080/", "http://localhost:8080"),
        ("https://mom.example.com/under/a/path/", "https://mom.example.com/under/a/path"),
    ],
)
def test_an_address_is_host_and_port_or_a_gateways_url(given: str, used: str) -> None:
    assert addresses.check_address(given) == used


@pytest.mark.parametrize(
    "given",
    [
        "", "localhost", "localhost:", ":7071", "localhost:0", "localhost:65536", "a/b:1",
        "localhost:٣", "http://", "http://host:0", "http://host:99999", "http://host?x=1",
        "http://host#node:1", "http://user:secret@host", "ftp://host", "http://[::1",
    ],
)  # fmt: skip
def test_all_else_is_refused(given: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        addresses.check_address(given)
    assert caught.value.field == "addresses"


def test_a_process_behind_a_gateway_is_one_address() -> None:
    address = addresses.through("http://localhost:8080", "10.0.0.1:7071")
    assert addresses.is_gateway(address)
    assert addresses.split(address) == ("http://localhost:8080", "10.0.0.1:7071")
    assert addresses.split("http://localhost:8080") == ("http://localhost:8080", "")
