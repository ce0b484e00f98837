"""Where a server listens, and who has a port that is taken."""

from __future__ import annotations

import pytest

from mom_core.errors import InvalidArgumentError
from mom_process.addresses import Address, advertised, open_socket, parse_address

NETWORK = Address("0.0.0.0", 7070)
LOOPBACK = Address("127.0.0.1", 7070)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        (":7070", Address("0.0.0.0", 7070)),
        ("[::1]:7070", Address("::1", 7070)),
        ("node-0.mom:65535", Address("node-0.mom", 65_535)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", ["", "7070", "a:b", "a:65536", "::1:7070", "a:-1", "a:²"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="no address"):
        parse_address(text)


def test_every_interface_is_no_address_to_be_reached_at() -> None:
    with pytest.raises(InvalidArgumentError, match="--advertise"):
        advertised(NETWORK, "")
    assert advertised(NETWORK, "node-0:7071") == "node-0:7071"
    assert advertised(LOOPBACK, "") == ""


def test_a_taken_port_is_named_with_its_process() -> None:
    with open_socket(Address("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = rf"port {port} on 127.0.0.1 is taken by .* \(pid \d+\)"
        with pytest.raises(InvalidArgumentError, match=said):
            open_socket(Address("127.0.0.1", port))
