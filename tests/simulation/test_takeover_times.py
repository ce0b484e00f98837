"""How long a loss costs, in virtual time: exact on any machine, however busy it is.

The bounds are the promised ones: a killed process costs a second at most, a silent one four, one
that leaves nothing, and another master leads after three seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from mom_broker.master.app import Master
from mom_broker.master.settings import MasterSettings
from mom_broker.storage.catalog_view import CatalogView
from mom_proto.v1 import broker_pb2, master_pb2, master_pb2_grpc
from simulation.faults import SeededRandom
from simulation.simulated_cluster import SimulatedCluster, simulated

KILLED_MS_MAX = 1_000
SILENT_MS_MAX = 4_000
LEADERLESS_MS_MAX = 3_000
# Of a call that meets a handover; without one, calls take up to 80 ms in this network.
HANDOVER_MS_MAX = 200
PARTITIONS = 6
SEEDS = range(1, 4)


async def _view(simulation: SimulatedCluster) -> CatalogView:
    view = CatalogView(simulation.cluster.store, simulation.clock)
    await view.start()
    return view


async def _until(view: CatalogView, holds: Callable[[], bool]) -> None:
    while not holds():
        await view.changed()


def _owners(view: CatalogView, topic: str) -> set[str]:
    found = view.assignments[view.topics[topic].topic_id]
    return {owner.node_id for owner in found.assignment.owners}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_node_costs_a_second(seed: int) -> None:
    """From its death to the acknowledgement of a message in each partition that it had."""

    async def scenario(simulation: SimulatedCluster) -> float:
        async with simulation.client() as client:
            await client.create_topic("orders", partitions=PARTITIONS)
            for partition in range(PARTITIONS):
                await client.publish("orders", "before", partition=partition)
            simulation.doors["node-0"].shut = True
            began_s = simulation.loop.time()
            simulation.cluster.networks["node-0"].cut()
            await asyncio.gather(
                *(client.publish("orders", "after", partition=one) for one in range(PARTITIONS))
            )
            return (simulation.loop.time() - began_s) * 1000

    cost_ms = simulated(seed, 3, scenario)
    assert 0 < cost_ms <= KILLED_MS_MAX


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_leaves_costs_nothing(seed: int) -> None:
    """Every call of a client that sends one after the other to each partition meanwhile."""

    async def scenario(simulation: SimulatedCluster) -> list[float]:
        took_ms: list[float] = []
        left = asyncio.Event()

        async def send(partition: int) -> None:
            while not left.is_set():
                began_s = simulation.loop.time()
                await client.publish("orders", "one", partition=partition)
                took_ms.append((simulation.loop.time() - began_s) * 1000)

        async with simulation.client() as client:
            await client.create_topic("orders", partitions=PARTITIONS)
            sending = [asyncio.create_task(send(one)) for one in range(PARTITIONS)]
            await simulation.cluster.nodes.pop("node-0").stop()
            left.set()
            await asyncio.gather(*sending)
        return took_ms

    took_ms = simulated(seed, 3, scenario)
    assert max(took_ms) <= HANDOVER_MS_MAX


@pytest.mark.parametrize("seed", SEEDS)
def test_a_silent_node_costs_four_seconds(seed: int) -> None:
    """One whose connection stands and says nothing, as of a machine without power."""

    async def falls_silent() -> AsyncIterator[master_pb2.NodeBeat]:
        node = broker_pb2.NodeInfo(node_id="silent", address="simulated:99")
        yield master_pb2.NodeBeat(node=node, incarnation=1)
        await asyncio.Event().wait()

    async def scenario(simulation: SimulatedCluster) -> float:
        view = await _view(simulation)
        master = simulation.cluster.master_address
        channel = simulation.cluster.open_channel(master)
        call = master_pb2_grpc.MasterStub(channel).RegisterNode(falls_silent())
        began_s = simulation.loop.time()
        await _until(view, lambda: "silent" in view.nodes)
        async with simulation.client() as client:
            await client.create_topic("orders", partitions=PARTITIONS)
            await _until(view, lambda: "silent" in _owners(view, "orders"))
            await _until(view, lambda: "silent" not in _owners(view, "orders"))
            cost_ms = (simulation.loop.time() - began_s) * 1000
        call.cancel()
        await channel.close()
        await view.close()
        return cost_ms

    cost_ms = simulated(seed, 2, scenario)
    assert KILLED_MS_MAX < cost_ms <= SILENT_MS_MAX


@pytest.mark.parametrize("seed", SEEDS)
def test_a_master_that_is_cut_off_is_replaced(seed: int) -> None:
    async def scenario(simulation: SimulatedCluster) -> float:
        view = await _view(simulation)
        settings = MasterSettings(master_id="second", listen="simulated:0", open_to_all=True)
        second = Master(
            settings,
            simulation.cluster.store,
            simulation.clock,
            SeededRandom(simulation.numbers),
            network=simulation.cluster.network.beside(),
        )
        await second.start()
        began_s = simulation.loop.time()
        simulation.doors["master"].shut = True
        await second.until_leading()
        cost_ms = (simulation.loop.time() - began_s) * 1000
        await second.stop()
        await view.close()
        return cost_ms

    cost_ms = simulated(seed, 1, scenario)
    assert 0 < cost_ms <= LEADERLESS_MS_MAX
