"""Where subscriptions begin: what a master looks up in the store when it makes one."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from integration.test_master import Cluster, failure, topic
from mom_broker.storage.memory import MemoryStore
from mom_core.errors import ConflictError, NotFoundError
from mom_core.names import PartitionId
from mom_core.ports import Commit, NewBatch, Store
from mom_process.system import SystemClock
from mom_proto.v1 import master_pb2, types_pb2


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(MemoryStore(SystemClock())) as one:
        yield one


def starting(start: str, **settings: object) -> master_pb2.CreateSubscriptionRequest:
    return master_pb2.CreateSubscriptionRequest(
        subscription=types_pb2.Subscription(
            topic="orders",
            name="s",
            start=start,
            **settings,  # type: ignore[arg-type]
        )
    )


async def begins_at(cluster: Cluster, topic_id: str, offsets: tuple[int, ...]) -> None:
    """Wait until the subscription stands, with these places."""

    def is_so() -> bool:
        found = cluster.view.subscriptions.get(topic_id, {}).get("s")
        return found is not None and found.start_offsets == offsets

    await cluster.until(is_so)


async def write_to(store: Store, partition: PartitionId, counts: Sequence[int]) -> None:
    """Batches of so many records, appended at 10, 20, ... ms."""
    await store.claim(partition, 1)
    batches = [NewBatch(b"x", count, 10 * turn) for turn, count in enumerate(counts, 1)]
    await store.commit(Commit(partition, 1, 1, batches))


@pytest.mark.parametrize(
    ("start", "offsets"),
    [
        ("earliest", (0, 0, 0)),
        ("latest", (5, 0, 2)),
        ("offset:3", (3, 0, 2)),
        ("timestamp:20", (3, 0, 2)),
    ],
)
@pytest.mark.parametrize(
    "mode", [types_pb2.SUBSCRIPTION_MODE_STREAM, types_pb2.SUBSCRIPTION_MODE_QUEUE]
)
async def test_a_subscription_knows_its_places_when_it_is_made(
    cluster: Cluster, mode: types_pb2.SubscriptionMode.ValueType, start: str, offsets: tuple[int]
) -> None:
    """Of partitions that nobody owns; one of them was never written to."""
    stub = cluster.stub((await cluster.leader()).address)
    topic_id = (await stub.CreateTopic(topic("orders", partitions=3))).topic.topic_id.hex()
    await write_to(cluster.store, PartitionId(topic_id, 0), (3, 2))
    await write_to(cluster.store, PartitionId(topic_id, 2), (2,))
    assert (await stub.CreateSubscription(starting(start, mode=mode))).created
    await begins_at(cluster, topic_id, offsets)


async def test_the_places_of_a_subscription_stay(cluster: Cluster) -> None:
    """When it is made again, and when it is altered."""
    stub = cluster.stub((await cluster.leader()).address)
    topic_id = (await stub.CreateTopic(topic("orders"))).topic.topic_id.hex()
    partition = PartitionId(topic_id, 0)
    await write_to(cluster.store, partition, (3,))
    await stub.CreateSubscription(starting("latest"))
    await cluster.store.commit(Commit(partition, 1, 2, [NewBatch(b"x", 4, 20)]))
    assert not (await stub.CreateSubscription(starting("latest"))).created
    patch = b'{"session_ms": 20000}'
    alter = master_pb2.AlterSubscriptionRequest(topic="orders", name="s", merge_patch=patch)
    await stub.AlterSubscription(alter)
    await cluster.until(lambda: cluster.view.subscriptions[topic_id]["s"].session_ms == 20_000)
    assert cluster.view.subscriptions[topic_id]["s"].start_offsets == (3,)
    await stub.DeleteSubscription(master_pb2.DeleteSubscriptionRequest(topic="orders", name="s"))
    await stub.CreateSubscription(starting("latest"))
    await begins_at(cluster, topic_id, (7,))


class ChangingStore(MemoryStore):
    """Lets something happen while a place is looked up."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.changes: list[Callable[[], Awaitable[object]]] = []
        self.lookups = 0

    async def offset_at(self, partition: PartitionId, timestamp_ms: int) -> int:
        self.lookups += 1
        found = await super().offset_at(partition, timestamp_ms)
        if self.changes:
            await self.changes.pop()()
        return found


async def test_places_are_looked_up_anew_when_the_topic_has_grown_meanwhile() -> None:
    store = ChangingStore()
    async with Cluster(store) as cluster:
        stub = cluster.stub((await cluster.leader()).address)
        topic_id = (await stub.CreateTopic(topic("orders"))).topic.topic_id.hex()

        async def grow() -> None:
            wider = master_pb2.AlterTopicRequest(name="orders", merge_patch=b'{"partitions": 2}')
            await stub.AlterTopic(wider)
            await write_to(store, PartitionId(topic_id, 1), (3,))

        store.changes = [grow]
        await stub.CreateSubscription(starting("latest"))
        await begins_at(cluster, topic_id, (0, 3))


async def test_places_are_looked_up_anew_when_the_topic_was_made_again_meanwhile() -> None:
    store = ChangingStore()
    async with Cluster(store) as cluster:
        stub = cluster.stub((await cluster.leader()).address)
        await stub.CreateTopic(topic("orders", partitions=2))

        async def make_again() -> None:
            await stub.DeleteTopic(master_pb2.DeleteTopicRequest(name="orders"))
            again = await stub.CreateTopic(topic("orders", partitions=2))
            await write_to(store, PartitionId(again.topic.topic_id.hex(), 1), (4,))

        store.changes = [make_again]
        await stub.CreateSubscription(starting("latest"))
        shown = await stub.GetTopic(master_pb2.GetTopicRequest(name="orders"))
        await begins_at(cluster, shown.topic.topic_id.hex(), (0, 4))


async def test_nothing_is_looked_up_for_a_subscription_that_stands_or_is_refused() -> None:
    store = ChangingStore()
    async with Cluster(store) as cluster:
        stub = cluster.stub((await cluster.leader()).address)
        absent = await failure(stub.CreateSubscription(starting("latest")))
        assert isinstance(absent, NotFoundError)
        await stub.CreateTopic(topic("orders", partitions=2))
        assert store.lookups == 0
        await stub.CreateSubscription(starting("latest"))
        assert store.lookups == 2
        assert not (await stub.CreateSubscription(starting("latest"))).created
        other = await failure(stub.CreateSubscription(starting("earliest")))
        assert isinstance(other, ConflictError)
        assert store.lookups == 2


async def test_a_topic_that_keeps_changing_ends_the_lookups() -> None:
    store = ChangingStore()
    async with Cluster(store) as cluster:
        stub = cluster.stub((await cluster.leader()).address)
        await stub.CreateTopic(topic("orders"))
        sizes = itertools.count(2)

        async def grow() -> None:
            patch = b'{"partitions": %d}' % next(sizes)
            await stub.AlterTopic(master_pb2.AlterTopicRequest(name="orders", merge_patch=patch))
            store.changes.append(grow)

        store.changes = [grow]
        error = await failure(stub.CreateSubscription(starting("latest")))
        assert isinstance(error, ConflictError)
        assert "kept changing" in error.message
