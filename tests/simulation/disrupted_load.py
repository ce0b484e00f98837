"""A load on a simulated cluster while its processes die, part and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import mom_client
from e2e.history import messengers
from e2e.history.load import Load, Plan
from e2e.history.recorder import Recorder
from simulation.simulated_cluster import SimulatedCluster, simulated

NODES = 3
CLIENTS = 3
PLAN = Plan(sends_per_s=10, lease_s=2, wait_s=1, deadline_s=20, drain_s=60, value_bytes=100)
BROKEN_SHARE = 0.02
# After every second disruption, so long that the order of what waited through it can be judged: see
# e2e.history.flow.
CALM_EACH = 2
CALM_S = 9
# This disruption is the loss of a queue's owner right after a purge: a second later its log is
# trimmed, and shows nothing that a purge forgot.
AFTER_PURGE = 1


def run_load(seed: int, path: Path, disruptions_count: int) -> list[str]:
    """Write the history of a run to ``path``; returns what was done to the cluster."""

    async def scenario(simulation: SimulatedCluster) -> list[str]:
        disrupted = DisruptedLoad(simulation)
        await disrupted.run(path, disruptions_count)
        return disrupted.done

    return simulated(seed, NODES, scenario)


class DisruptedLoad:
    """One run."""

    def __init__(self, simulation: SimulatedCluster) -> None:
        self.done: list[str] = []
        self._simulation = simulation
        self._cluster = simulation.cluster
        self._numbers = simulation.numbers

    async def run(self, path: Path, disruptions_count: int) -> None:
        """Load, disrupt, mend and drain."""
        kinds = [messengers.sdk(self._simulation.addresses) for _ in range(CLIENTS)]
        with Recorder(path, self._simulation.loop.time) as recorder:
            # Who asks for owners ends after the load: in what order its tasks end is by chance.
            async with self._simulation.client() as asks, Load(PLAN, kinds, recorder) as load:
                await load.every_client_sends()
                for number in range(1, disruptions_count + 1):
                    self._simulation.weather.broken_share = BROKEN_SHARE
                    if number == AFTER_PURGE:
                        await self.kill_after_purge(load, asks)
                    else:
                        await self.disrupt(load)
                    self._simulation.weather.broken_share = 0.0
                    if number % CALM_EACH == 0:
                        await asyncio.sleep(CALM_S)

    async def disrupt(self, load: Load) -> None:
        node_id = self._numbers.choice(sorted(self._cluster.nodes))
        what: Callable[[str], Awaitable[None]] = self._numbers.choice(
            [self._kill, self._restart, self._cut_off, self._shut_out]
        )
        name = f"{what.__name__.strip('_')} {node_id}"
        self.done.append(name)
        async with load.disruption(name):
            await what(node_id)

    async def kill_after_purge(self, load: Load, asks: mom_client.Client) -> None:
        """The owner of a queue is killed as soon as the queue is purged."""
        async with load.disruption("kill after a purge"):
            queue = await load.purge()
            node_id = (await asks.topic(queue)).owners[0].node_id
            self.done.append(f"purge and kill {node_id}")
            await self._kill(node_id)

    async def _while(self) -> None:
        await asyncio.sleep(self._numbers.random() * 5)

    async def _kill(self, node_id: str) -> None:
        """Nothing of it gets anywhere any more. Another process comes under its name."""
        node = self._cluster.nodes[node_id]
        self._simulation.doors[node_id].shut = True
        self._cluster.networks[node_id].cut()
        await node.stop(drain=False)
        await self._while()
        await self._cluster.start_node(node_id)

    async def _restart(self, node_id: str) -> None:
        """In good order."""
        await self._cluster.nodes[node_id].stop()
        await self._while()
        await self._cluster.start_node(node_id)

    async def _cut_off(self, node_id: str) -> None:
        """It reaches the store and nobody else, and believes that it still has its partitions."""
        network = self._cluster.networks[node_id]
        network.cut()
        await self._while()
        network.mend()

    async def _shut_out(self, node_id: str) -> None:
        """It reaches all but the store."""
        door = self._simulation.doors[node_id]
        door.shut = True
        await self._while()
        door.shut = False
