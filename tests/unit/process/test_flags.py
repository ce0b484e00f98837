"""Who is let in."""

from __future__ import annotations

from pathlib import Path

import pytest

from mom_core.errors import InvalidArgumentError
from mom_process.addresses import Address
from mom_process.flags import Access, access_of, open_notice

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
