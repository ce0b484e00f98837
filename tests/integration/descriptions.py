"""What nodes tell of a topic's one subscription, by partition."""

from __future__ import annotations

import mom_client
from mom_proto.v1 import broker_pb2
from polling import until


async def subscriptions_of(
    client: mom_client.Client, topic: str
) -> list[broker_pb2.SubscriptionDescription]:
    """The one subscription of each partition, in their order, once the owners of all tell of it.

    On a machine that stands still for seconds, a node loses its partitions for a moment: they are
    described without a node and without subscriptions then.
    """

    async def told() -> list[broker_pb2.SubscriptionDescription] | None:
        described = await client.describe(topic)
        found = [each for one in described for each in one.subscriptions]
        return found if len(found) == len(described) else None

    return await until(told, f"all of {topic} is served")


async def left(client: mom_client.Client, queue: str) -> int:
    """Messages of a queue that are neither acknowledged nor dead."""
    counts = await subscriptions_of(client, queue)
    return sum(one.ready + one.leased + one.delayed for one in counts)


async def none_left(client: mom_client.Client, queue: str) -> None:
    """Wait until all of a queue is acknowledged or dead."""

    async def holds() -> bool:
        return await left(client, queue) == 0

    await until(holds, f"all of {queue} is acknowledged")
