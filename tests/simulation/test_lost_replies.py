"""A call that was carried out and whose reply was lost is made again, and nobody notices."""

from __future__ import annotations

import grpc
import pytest

import mom_client
from mom_broker.rpc.in_process import failure
from mom_core.errors import ErrorCode
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


class RefuseOneAndLoseOne:
    """Of the next calls to settle, refuses the one to a node, and loses the reply of another's."""

    def __init__(self, faults: CallFaults) -> None:
        self._pass_request, self._pass_reply = faults.request, faults.reply
        self.refused = ""
        self.lost = ""
        self.last_settled_at = ""

    async def request(self, address: str, method: str) -> None:
        await self._pass_request(address, method)
        if method.endswith("Settle"):
            self.last_settled_at = address
            if address == self.refused:
                self.refused = ""
                raise failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much at once")

    async def reply(self, address: str, method: str) -> None:
        await self._pass_reply(address, method)
        if method.endswith("Settle") and address == self.lost:
            self.lost = ""
            raise failure(grpc.StatusCode.UNAVAILABLE, "the reply was lost")


def test_only_what_an_earlier_try_may_have_settled_is_forgiven() -> None:
    """Of two messages in one call, one try's reply is lost, and the other's try is refused."""

    async def scenario(simulation: SimulatedCluster) -> list[mom_client.MomError | None]:
        client = simulation.client()
        await client.create_queue("emails", partitions=2)
        trouble = RefuseOneAndLoseOne(simulation.faults)
        simulation.faults.request = trouble.request  # type: ignore[method-assign]
        simulation.faults.reply = trouble.reply  # type: ignore[method-assign]
        messages = []
        for partition in (0, 1):
            await client.publish("emails", "hi", partition=partition)
            messages += await client.receive("emails", lease=60)
        new, settled_before = messages
        await client.extend(new, 60)
        lost = trouble.last_settled_at
        await client.ack(settled_before)
        refused = trouble.last_settled_at
        assert lost != refused, "both partitions are one node's"
        trouble.lost, trouble.refused = lost, refused
        results = await client.ack([new, settled_before])
        assert (trouble.lost, trouble.refused) == ("", ""), "nothing was lost or refused"
        await client.close()
        return results

    of_new, of_settled_before = simulated(1, 2, scenario)
    assert of_new is None
    assert of_settled_before is not None
    assert of_settled_before.code is ErrorCode.ALREADY_SETTLED


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
