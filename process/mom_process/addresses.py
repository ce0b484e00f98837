"""Addresses that processes listen on, and who has a port that is taken."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from pathlib import Path
from typing import Final, NamedTuple

from mom_core.errors import InvalidArgumentError

_LISTENING: Final = "0A"  # The state column of /proc/net/tcp.
# Connections that wait to be accepted; the kernel has a limit of its own (net.core.somaxconn).
_BACKLOG: Final = 2_048


class Address(NamedTuple):
    """Where a server listens or is reached."""

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

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every interface, and so is no address to be reached at."""
        return self.host in ("", "0.0.0.0", "::")

    @property
    def local(self) -> Address:
        """Where processes of this machine reach what listens here."""
        if not self.is_wildcard:
            return self
        return Address("::1" if ":" in self.host else "127.0.0.1", self.port)


def parse_address(text: str, field: str = "listen") -> Address:
    """Read ``host:port``, ``:port`` (every interface) or ``[ipv6]:port``.

    Raises InvalidArgumentError.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise InvalidArgumentError(
            f"{field} {text!r} is no address: write HOST:PORT with a port from 0 to 65535, "
            "such as 127.0.0.1:7070 or [::1]:7070",
            field=field,
        )
    return Address(host or "0.0.0.0", int(port))


def advertised(listen: Address, advertise: str) -> str:
    """The address to tell others, empty for the bound one.

    Raises InvalidArgumentError where the address listened on is none that others could use.
    """
    if advertise:
        return str(parse_address(advertise, "advertise"))
    if listen.is_wildcard:
        raise InvalidArgumentError(
            f"{listen} listens on every interface, which is no address that others could reach: "
            "say --advertise HOST:PORT",
            field="advertise",
        )
    return ""


def own_host() -> str:
    """The address that this machine has towards the network; empty when it has none."""
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        # Addresses for documentation. Connecting a datagram socket sends nothing: it looks up the
        # way.
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((elsewhere, 9))
                host: str = probe.getsockname()[0]
                return host
        except OSError:
            continue
    return ""


def is_free(address: Address) -> bool:
    """Whether a port can be listened on now."""
    try:
        check_free(address)
    except InvalidArgumentError:
        return False
    return True


def check_free(address: Address, field: str = "listen") -> None:
    """Raise InvalidArgumentError that names the port and its process when it is taken."""
    if address.port:
        open_socket(address, field).close()


def open_socket(address: Address, field: str = "listen") -> socket.socket:
    """A TCP socket that listens, for a server that takes one.

    Raises InvalidArgumentError when the port is taken (naming the process that has it), is not
    permitted, or the host is none of this machine's.
    """
    family, kind, protocol, _, where = _resolve(_every_interface(address), field)
    opened = socket.socket(family, kind, protocol)
    try:
        if family == socket.AF_INET6 and address.is_wildcard:
            # Of both families, whatever the system's own default is.
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # As servers do: connections of a former process in TIME_WAIT don't block the port.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(where)
        # Listening here finds a port that another process bound in the same way and listens on.
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise _refusal(address, error, field) from None
    opened.setblocking(False)
    return opened


def _every_interface(address: Address) -> Address:
    """``[::]`` stands for both families; on a kernel without IPv6, IPv4 is all there is. gRPC does
    the same."""
    if address.host == "::" and not has_ipv6():
        return Address("0.0.0.0", address.port)
    return address


def has_ipv6() -> bool:
    """Whether the kernel knows IPv6 at all."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _resolve(address: Address, field: str) -> tuple[int, int, int, str, tuple[object, ...]]:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise InvalidArgumentError(
            f"{field}: the host {address.host!r} can't be resolved ({error.strerror}). "
            "Use an address of this machine",
            field=field,
        ) from None
    return found[0]


def taken(address: Address, field: str = "listen") -> InvalidArgumentError:
    """The error of a port that another process has, naming that process where it can be seen."""
    holder = holder_of(address.port)
    who = f"by {holder}" if holder else "by a process that can't be seen from here"
    return InvalidArgumentError(
        f"port {address.port} on {address.host} is taken {who}. Stop it, or choose another port",
        field=field,
        details={"port": str(address.port)} | ({"holder": holder} if holder else {}),
    )


def _refusal(address: Address, error: OSError, field: str) -> InvalidArgumentError:
    if error.errno == errno.EADDRINUSE:
        return taken(address, field)
    return InvalidArgumentError(
        f"{field}: can't listen on {address}: {error.strerror}. Choose an address of this machine "
        "and a port that this user may bind",
        field=field,
    )


def holder_of(port: int) -> str | None:
    """The process that listens on a TCP port, such as ``redis-server (pid 812)``.

    None where it can't be told: another user's process, or no /proc on this system.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not sockets:
        return None
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _has_any(process / "fd", sockets):
            return f"{_name_of(process)} (pid {process.name})"
    return None


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == _LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(columns[9])
    return inodes


def _has_any(descriptors: Path, sockets: set[str]) -> bool:
    try:
        return any(os.readlink(one) in sockets for one in descriptors.iterdir())
    except OSError:
        return False  # Not ours to look into, or gone meanwhile.


def _name_of(process: Path) -> str:
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
        name = os.path.basename(arguments[0].decode(errors="replace"))
        # "python" says little: the script says which program it is.
        if name.startswith("python") and len(arguments) > 2:
            script = os.path.basename(arguments[1].decode(errors="replace"))
            return f"{name} {script}"
        return name or (process / "comm").read_text().strip()
    except OSError:
        return "a process"
