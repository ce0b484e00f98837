"""A call that was carried out and whose reply was lost is made again, and nobody notices."""

from __future__ import annotations

import grpc
import pytest

import mom_client
from mom_broker.rpc.in_process import failure
from simulation.faults import CallFaults
from simulation.simulated_cluster import SimulatedCluster, simulated


class LoseReply:
    """Loses the next reply of a method."""

    def __init__(self, faults: CallFaults) -> None:
        self._pass_on = faults.reply
        self.method = ""

    async def __call__(self, address: str, method: str) -> None:
        await self._pass_on(address, method)
        if self.method and method.endswith(self.method):
            self.method = ""
            raise failure(grpc.StatusCode.UNAVAILABLE, "the reply was lost")


async def leased(
    simulation: SimulatedCluster, **settings: object
) -> tuple[mom_client.Client, mom_client.ReceivedMessage]:
    client = simulation.client()
    await client.create_queue("emails", retry_backoff_ms=0, **settings)
    await client.publish("emails", "hi")
    [message] = await client.receive("emails", lease=10)
    return client, message


@pytest.mark.parametrize("max_deliveries", [1, 3])
def test_a_nack_succeeds(max_deliveries: int) -> None:
    async def scenario(simulation: SimulatedCluster) -> int:
        client, message = await leased(
            simulation, max_deliveries=max_deliveries, dead_letter="emails.dlq"
        )
        lose = LoseReply(simulation.faults)
        simulation.faults.reply = lose  # type: ignore[method-assign]
        lose.method = "Settle"
        await client.nack(message)
        assert not lose.method, "nothing was lost"
        left = await client.receive("emails", wait=1) or await client.receive("emails.dlq", wait=1)
        await client.close()
        return len(left)

    assert simulated(1, 1, scenario) == 1


def test_an_ack_succeeds() -> None:
    async def scenario(simulation: SimulatedCluster) -> int:
        client, message = await leased(simulation)
        lose = LoseReply(simulation.faults)
        simulation.faults.reply = lose  # type: ignore[method-assign]
        lose.method = "Settle"
        await client.ack(message)
        assert not lose.method, "nothing was lost"
        left = await client.receive("emails", wait=20)
        await client.close()
        return len(left)

    assert simulated(1, 1, scenario) == 0


def test_a_publish_lands_once() -> None:
    async def scenario(simulation: SimulatedCluster) -> list[str]:
        client = simulation.client()
        await client.create_topic("orders")
        lose = LoseReply(simulation.faults)
        simulation.faults.reply = lose  # type: ignore[method-assign]
        lose.method = "Produce"
        await client.publish("orders", "hi")
        assert not lose.method, "nothing was lost"
        found = [one.text() async for one in client.read("orders")]
        await client.close()
        return found

    assert simulated(1, 1, scenario) == ["hi"]
