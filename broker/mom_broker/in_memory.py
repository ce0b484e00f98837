"""A whole cluster in memory, on one event loop: a master and nodes over the memory store.

Master and nodes are the real ones; only what they stand on is in memory. ``TestBroker`` and the
simulation are built of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import grpc

from mom_broker.master.app import Master
from mom_broker.master.settings import MasterSettings
from mom_broker.node.app import Node
from mom_broker.node.settings import NodeSettings
from mom_broker.rpc.in_process import Faults, InProcessNetwork
from mom_broker.storage.memory import MemoryStore
from mom_core.cadence import STANDARD, Cadence
from mom_core.ports import Clock, Random, Store
from mom_process.addresses import Address

_READY_POLL_MS: Final = 1


class InMemoryCluster:
    """Belongs to the event loop on which it is started, and so does what calls it."""

    def __init__(
        self,
        host: str,
        clock: Clock,
        random: Random,
        *,
        cadence: Cadence = STANDARD,
        faults: Faults | None = None,
        door: Callable[[str, Store], Store] = lambda _, store: store,
    ) -> None:
        """``host`` is a name for the addresses. ``door`` makes the store as a process has it."""
        self._host = host
        self._clock = clock
        self._random = random
        self._cadence = cadence
        self._door = door
        self.network = InProcessNetwork(faults)
        """As clients have it."""
        self.networks: dict[str, InProcessNetwork] = {}
        """As each node has it."""
        self.store = MemoryStore(clock)
        self.nodes: dict[str, Node] = {}
        self._master: Master | None = None

    @property
    def addresses(self) -> Sequence[str]:
        """Of the nodes."""
        return [node.address for node in self.nodes.values()]

    @property
    def master_address(self) -> str:
        """Where the master listens, once it was started."""
        assert self._master is not None, "not started"
        return self._master.address

    def open_channel(self, address: str) -> grpc.aio.Channel:
        """A channel for clients."""
        return self.network.channel(address, ())

    async def start(self, nodes_count: int) -> None:
        """Bring up a master and nodes; they serve when this returns."""
        settings = MasterSettings(
            master_id="memory",
            listen=self._listen(),
            open_to_all=True,
            cadence=self._cadence,
        )
        self._master = Master(
            settings,
            self._door("master", self.store),
            self._clock,
            self._random,
            network=self.network.beside(),
        )
        await self._master.start()
        await self._master.until_leading()
        for index in range(nodes_count):
            await self.start_node(f"node-{index}")
        while not all(node.ready()[0] for node in self.nodes.values()):
            await self._clock.sleep(_READY_POLL_MS)

    async def start_node(self, node_id: str) -> Node:
        """Add a node, or another process of one that ended. It registers by itself."""
        settings = NodeSettings(
            node_id=node_id,
            listen=self._listen(),
            masters=(self.master_address,),
            open_to_all=True,
            cadence=self._cadence,
        )
        store = self._door(node_id, self.store)
        network = self.networks[node_id] = self.network.beside()
        node = Node(settings, store, self._clock, self._random, network=network)
        self.nodes[node_id] = node
        await node.start()
        return node

    async def stop(self) -> None:
        """End all of it. Nothing is handed over: there is nobody left."""
        for node in self.nodes.values():
            await node.stop(drain=False)
        self.nodes.clear()
        if self._master is not None:
            await self._master.stop()
        await self.store.close()

    def _listen(self) -> str:
        return str(Address(self._host, 0))
