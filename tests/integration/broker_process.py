"""A master and nodes in a process of their own, for tests of clients that fork, block or die.

``python -m integration.broker_process NODES [DIRECTORY]`` serves until its standard input
ends and prints the nodes' addresses as one line of JSON. Without a directory the store is in
memory.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType

from mom_broker.master.app import Master
from mom_broker.master.settings import MasterSettings
from mom_broker.node.app import Node
from mom_broker.node.settings import NodeSettings
from mom_broker.storage.memory import MemoryStore
from mom_broker.storage.sqlite import SqliteStore
from mom_process.system import SystemClock, SystemRandom

TESTS = Path(__file__).parents[1]


async def serve(nodes: int, directory: str | None) -> None:
    """Serve until standard input ends."""
    clock, random = SystemClock(), SystemRandom()
    store = SqliteStore(Path(directory), clock) if directory else MemoryStore(clock)
    async with AsyncExitStack() as stack:
        await store.open()
        stack.push_async_callback(store.close)
        master = Master(
            MasterSettings(listen="127.0.0.1:0", open_to_all=True), store, clock, random
        )
        await master.start()
        stack.push_async_callback(master.stop)
        running = []
        for number in range(nodes):
            settings = NodeSettings(
                node_id=f"n{number}",
                listen="127.0.0.1:0",
                open_to_all=True,
                masters=(master.address,),
            )
            node = Node(settings, store, clock, random)
            await node.start()
            stack.push_async_callback(node.stop, drain=False)
            running.append(node)
        print(json.dumps([node.address for node in running]), flush=True)
        await asyncio.to_thread(sys.stdin.read)


class BrokerProcess:
    """The process; a context manager. ``addresses`` are its nodes."""

    def __init__(self, nodes: int = 2, directory: Path | None = None) -> None:
        self._command = [sys.executable, "-m", "integration.broker_process", str(nodes)]
        if directory is not None:
            self._command.append(str(directory))
        self.addresses: list[str] = []

    def __enter__(self) -> BrokerProcess:
        self._process = subprocess.Popen(
            self._command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.addresses = json.loads(self._process.stdout.readline())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate(timeout=30)

    def signal(self, number: int) -> None:
        """Send it a signal, such as SIGSTOP."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """As a crash."""
        self._process.kill()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
