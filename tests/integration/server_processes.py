"""A cluster of real processes over a store: a master, nodes and a gateway, each to be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from types import TracebackType

from redis_server import free_port

START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 30.0
MODULES = {
    "master": "mom_broker.master.main",
    "node": "mom_broker.node.main",
    "gateway": "mom_gateway.main",
}


class ServerProcess:
    """One server. Its log is kept for whoever looks into a failure."""

    def __init__(self, program: str, *flags: str) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("MOM_")
        }
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-c", f"from {MODULES[program]} import main; main()"),
                *("--listen", self.address, *flags),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.log: list[str] = []
        self._serving = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)
            if "serves" in line or "serving REST" in line:
                self._serving.set()
        self._serving.set()  # It ended; nobody needs to wait for it.

    async def serves(self) -> None:
        """Wait until it has said that it serves."""
        assert await asyncio.to_thread(self._serving.wait, START_SECONDS_MAX), "".join(self.log)
        assert self._process.poll() is None, "".join(self.log)

    def kill(self) -> None:
        """As a crash does."""
        self._process.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """As Kubernetes does."""
        self._process.send_signal(signal.SIGTERM)

    def suspend(self) -> None:
        """As a machine that hangs: its connections stand, and it says nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It wakes, and knows nothing of the time between."""
        self._process.send_signal(signal.SIGCONT)

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        return await asyncio.to_thread(self._process.wait, STOP_SECONDS_MAX)

    def close(self) -> None:
        """End it, whatever state it is in."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


class ServerProcesses:
    """A master, nodes and a gateway; an async context manager."""

    def __init__(self, store_url: str, nodes: int) -> None:
        self._store = ("--store", store_url, "--http-port", "-1")
        self._nodes = nodes
        self.master: ServerProcess
        self.nodes: list[ServerProcess] = []
        self.gateway: ServerProcess
        self._all: list[ServerProcess] = []

    async def __aenter__(self) -> ServerProcesses:
        self.master = self._start("master", *self._store)
        starting = [self.start_node() for _ in range(self._nodes)]
        addresses = ",".join(node.address for node in starting)
        self.gateway = self._start("gateway", "--nodes", addresses)
        await asyncio.gather(*(one.serves() for one in self._all))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._all:
            process.close()

    def _start(self, program: str, *flags: str) -> ServerProcess:
        process = ServerProcess(program, *flags)
        self._all.append(process)
        return process

    def start_node(self) -> ServerProcess:
        """Start one more node."""
        node = self._start("node", *self._store, "--masters", self.master.address)
        self.nodes.append(node)
        return node

    @property
    def node_addresses(self) -> list[str]:
        """Where all nodes serve, also those that are gone."""
        return [node.address for node in self.nodes]

    @property
    def url(self) -> str:
        """Where REST is served."""
        return f"http://{self.gateway.address}"

    def logs(self) -> str:
        """What all of them have said."""
        return "".join(line for process in self._all for line in process.log)
