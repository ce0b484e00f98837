"""What the async and the sync client share: how they are set up and how they end."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mom_client import arguments
from mom_client.in_memory import io_in_memory
from mom_client.iothread import IoThread
from mom_client.options import EngineOptions

if TYPE_CHECKING:
    from mom_client.engine import Engine

ADDRESS_DEFAULT = "127.0.0.1:7071"


def split_addresses(addresses: str | Sequence[str]) -> tuple[str, ...]:
    """``"a:1,b:2"`` or a sequence of ``host:port``."""
    parts = addresses.split(",") if isinstance(addresses, str) else addresses
    return tuple(part.strip() for part in parts if part.strip())


def io_thread(addresses: Sequence[str], token: str | None, options: EngineOptions) -> IoThread:
    """The thread of one client; it starts with the first use."""

    def make_engine() -> Engine:
        # Here and not above: importing the client loads no gRPC.
        from mom_client.engine import Engine

        return Engine(addresses, token=token, options=options)

    return io_in_memory(addresses, token, options) or IoThread(make_engine)


def member_id(name: str | None) -> str:
    """A member's id: the one given, else one of this process that no other has."""
    if name is not None:
        return arguments.text(name, "member")
    return f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
