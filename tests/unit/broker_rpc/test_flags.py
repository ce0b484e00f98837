"""Who is let in, where a server listens, and what its log says."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from mom_broker.rpc.flags import Access, access_of, open_notice
from mom_broker.rpc.logging import configure_logging, redact
from mom_broker.rpc.ports import Address, advertised, parse_address
from mom_core.errors import InvalidArgumentError

LOOPBACK = Address("127.0.0.1", 7070)
NETWORK = Address("0.0.0.0", 7070)
SECRET = "a-secret-long-enough"


def _access(
    listen: Address,
    auth: str = "auto",
    *,
    allow: bool = False,
    token: str | None = None,
    file: Path | None = None,
) -> Access:
    return access_of(
        listen,
        auth=auth,
        allow_unauthenticated=allow,
        cluster_token=token,
        cluster_token_file=file,
    )


@pytest.mark.parametrize(
    ("listen", "auth", "allow", "open_to_all"),
    [
        (LOOPBACK, "auto", False, True),
        (LOOPBACK, "disabled", False, True),
        (LOOPBACK, "required", False, False),
        (NETWORK, "auto", False, False),
        (NETWORK, "required", False, False),
        (NETWORK, "auto", True, True),
        (NETWORK, "disabled", True, True),
    ],
)
def test_who_needs_a_token(listen: Address, auth: str, allow: bool, open_to_all: bool) -> None:
    assert _access(listen, auth, allow=allow, token=SECRET) == Access(open_to_all, SECRET)


def test_a_server_is_never_open_to_the_network_by_accident() -> None:
    with pytest.raises(InvalidArgumentError, match="--allow-unauthenticated-network-access"):
        _access(NETWORK, "disabled")


@pytest.mark.parametrize("token", [None, "", "short"])
def test_authentication_needs_a_cluster_token(token: str | None) -> None:
    with pytest.raises(InvalidArgumentError, match="MOM_CLUSTER_TOKEN"):
        _access(NETWORK, token=token)


def test_the_cluster_token_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    assert _access(NETWORK, file=file) == Access(False, SECRET)


def test_an_open_server_says_so() -> None:
    assert "EVERYONE" in open_notice(NETWORK)
    assert "EVERYONE" not in open_notice(LOOPBACK)


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:hunter2@host:1/0", "redis://:***@host:1/0"),
        ("redis://user:hunter2@host:1/0", "redis://user:***@host:1/0"),
        ("Authorization: Bearer hunter2, x", "Authorization: Bearer ***, x"),
        (f"got mom_{'0' * 16}_{'f' * 64}", f"got mom_{'0' * 16}_***"),
    ],
)
def test_no_secret_in_a_log(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_lines(root_logger: logging.Logger) -> None:
    stream = io.StringIO()
    configure_logging("json", "info", stream)
    logging.getLogger("mom_broker.test").info("node %s", "registered", extra={"node_id": "a"})
    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "mom_broker.test",
        "message": "node registered",
        "node_id": "a",
    }


def test_human_lines(root_logger: logging.Logger) -> None:
    stream = io.StringIO()
    configure_logging("human", "warning", stream)
    logger = logging.getLogger("mom_broker.test")
    logger.info("not shown")
    logger.warning("lost", extra={"node_id": "a"})
    assert stream.getvalue().endswith("WARNING broker.test: lost node_id=a\n")
    assert stream.getvalue().count("\n") == 1
