"""A cluster and its clients in one virtual time, all of whose chances come from a seed.

Real masters, nodes and clients; only network, store, time and chance are of the simulation. A run
takes as long as its computing, and the same seed makes the same run.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import mom_client
from mom_broker.in_memory import InMemoryCluster
from mom_client import in_memory
from mom_client.connections import Connections
from mom_client.engine import Engine
from mom_client.options import EngineOptions
from mom_core.ports import Store
from mom_process.virtual_time import VirtualClock, VirtualLoop
from simulation.faults import CallFaults, Door, SeededRandom, Weather

ResultT = TypeVar("ResultT")

START_MS = 1_700_000_000_000


class SimulatedCluster:
    """The home of its clients: see :class:`mom_client.in_memory.Home`."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.loop = loop
        self.numbers = random.Random(seed)
        self.weather = Weather(self._fork())
        self.faults = CallFaults(self.weather)
        self.doors: dict[str, Door] = {}
        """To the store, of each process."""
        self.clock = VirtualClock(loop, START_MS)
        self.cluster = InMemoryCluster(
            "simulated",
            self.clock,
            SeededRandom(self._fork()),
            faults=self.faults,
            door=self._door,
        )
        self.addresses: list[str] = []
        """Of the nodes that it began with."""

    def _fork(self) -> random.Random:
        return random.Random(self.numbers.random())

    def _door(self, process: str, store: Store) -> Store:
        door = self.doors[process] = Door(store, self.weather)
        return door  # type: ignore[return-value]

    async def start(self, nodes_count: int) -> None:
        """Bring it up, and let clients find it."""
        await self.cluster.start(nodes_count)
        self.addresses = list(self.cluster.addresses)
        for address in self.addresses:
            in_memory.announce(address, self)

    async def stop(self) -> None:
        """End it."""
        for address in self.addresses:
            in_memory.withdraw(address)
        await self.cluster.stop()

    def client(self) -> mom_client.Client:
        """A client of all nodes."""
        return mom_client.connect(self.addresses)

    # For clients.

    def make_engine(
        self, addresses: Sequence[str], token: str | None, options: EngineOptions
    ) -> Engine:
        return Engine(
            addresses,
            options=options,
            clock=self.clock,
            random=SeededRandom(self._fork()),
            connections=Connections(token, self.cluster.open_channel),
        )

    def now_ms(self) -> int:
        return self.clock.now_ms()

    def note_message(self) -> None:
        """Nobody counts."""

    def note_call(self) -> None:
        """Nobody counts."""

    def note_answer(self) -> None:
        """Nobody counts."""


def simulated(
    seed: int, nodes_count: int, scenario: Callable[[SimulatedCluster], Awaitable[ResultT]]
) -> ResultT:
    """Let a scenario play on a new cluster; returns what it returns."""
    loop = VirtualLoop(runs_free=True)

    async def play() -> ResultT:
        simulation = SimulatedCluster(loop, seed)
        await simulation.start(nodes_count)
        result = await scenario(simulation)
        await simulation.stop()
        return result

    try:
        return loop.run_until_complete(play())
    finally:
        loop.finish()
