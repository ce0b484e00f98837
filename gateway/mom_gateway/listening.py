"""The address a gateway listens on, and who has a port that is taken."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from pathlib import Path
from typing import Final, NamedTuple

from mom_core.errors import InvalidArgumentError

_LISTENING: Final = "0A"  # The state column of /proc/net/tcp.


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str, field: str = "listen") -> Address:
    """Read ``HOST:PORT``, ``:PORT`` (every interface) or ``[IPV6]:PORT``.

    Raises InvalidArgumentError.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    plain = bracketed or ":" not in host
    if not (colon and plain and port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise InvalidArgumentError(
            f"{field} {text!r} is no address: write HOST:PORT with a port from 0 to 65535, such as "
            "127.0.0.1:8080 or [::1]:8080",
            field=field,
        )
    return Address(host or "0.0.0.0", int(port))


def open_socket(address: Address) -> socket.socket:
    """A bound TCP socket.

    Raises InvalidArgumentError when the port is taken (naming the process that has it) or the
    address can't be used.
    """
    host = address.host
    if host == "::" and not has_ipv6():
        host = "0.0.0.0"  # "[::]" stands for both families, and IPv4 is all there is.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if host == "::":
            # Of both families, whatever the system's own default is.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # As servers do: connections of a former process in TIME_WAIT don't block the port.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, address.port))
        # Listening here finds a port that another process bound in the same way and listens on.
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise _refusal(address, error) from None
    bound.setblocking(False)
    return bound


_BACKLOG: Final = 2_048


def has_ipv6() -> bool:
    """Whether the kernel knows IPv6 at all."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _refusal(address: Address, error: OSError) -> InvalidArgumentError:
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(address.port) or "another process"
        return InvalidArgumentError(
            f"port {address.port} is taken by {holder}. Stop it, or choose another port",
            field="listen",
            details={"port": str(address.port), "holder": holder},
        )
    return InvalidArgumentError(
        f"listen: can't serve on {address}: {error.strerror or error}. Choose an address of this "
        "machine and a port that this user may bind",
        field="listen",
    )


def holder_of(port: int) -> str | None:
    """The process that listens on a TCP port, such as ``redis-server (pid 812)``.

    None where that can't be told: another user's process, or a system without /proc.
    """
    wanted = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not wanted:
        return None
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _holds_any(process / "fd", wanted):
            return f"{_name_of(process)} (pid {process.name})"
    return None


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for columns in map(str.split, lines):
            if columns[3] == _LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(columns[9])
    return inodes


def _holds_any(descriptors: Path, wanted: set[str]) -> bool:
    try:
        return any(os.readlink(one) in wanted for one in descriptors.iterdir())
    except OSError:
        return False  # Another user's, or gone meanwhile.


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip() or "a process"
    except OSError:
        return "a process"
