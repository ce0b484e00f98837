"""Dead letters, redrives, purging, pausing, bounds and ages, through the SDK over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import mom_client
from integration.broker_process import BrokerProcess
from integration.descriptions import subscriptions_of
from mom_broker.master.app import Master
from mom_broker.master.settings import MasterSettings
from mom_broker.node.app import Node
from mom_broker.node.dead_letters import Target
from mom_broker.node.settings import NodeSettings
from mom_broker.storage.memory import MemoryStore
from mom_core.dead_letters import REASONS
from mom_core.errors import MomError, RoutingError
from mom_core.message import Message
from mom_core.names import PartitionId
from mom_core.topics import TopicConfig
from mom_operator.admin import Admin
from mom_operator.topics import Backlog, with_backlogs
from mom_process.system import SystemClock, SystemRandom
from mom_proto.v1 import broker_pb2
from polling import until


@pytest.fixture
async def client(broker: BrokerProcess) -> AsyncIterator[mom_client.Client]:
    async with mom_client.connect(broker.addresses[0], refusal_timeout_ms=400) as client:
        yield client


async def counts_of(client: mom_client.Client, queue: str) -> broker_pb2.SubscriptionDescription:
    """The counts of a queue of one partition, once it is served."""
    (counts,) = await subscriptions_of(client, queue)
    return counts


async def drain(client: mom_client.Client, queue: str, count: int) -> list[str]:
    """The texts of exactly so many messages, acknowledged, and no more."""
    found: list[str] = []
    while len(found) < count:
        messages = await client.receive(queue, 500, wait=20)
        assert messages, f"{len(found)} of {count} came"
        await client.ack(messages)
        found += [one.text() for one in messages]
    assert await client.receive(queue, 10) == []
    return found


async def kill_all(client: mom_client.Client, queue: str, count: int) -> None:
    """Let so many messages fail until they are among the dead letters."""
    failed = 0
    while failed < count:
        messages = await client.receive(queue, 500, wait=20)
        assert [one for one in await client.nack(messages) if one] == []
        failed += len(messages)


async def dead_queue(client: mom_client.Client, name: str, count: int) -> str:
    """A queue whose messages all died; the queue that holds them."""
    dead = f"{name}.dlq"
    await client.create_queue(name, dead_letter=dead, max_deliveries=1)
    messages = [Message(b"%d" % one, key=b"k%d" % (one % 3)) for one in range(count)]
    assert not [
        one for one in await client.publish_many(name, messages)
        if isinstance(one, mom_client.MomError)
    ]  # fmt: skip
    await kill_all(client, name, count)

    async def all_there() -> bool:
        return len(await client.dead_letters(dead)) == count

    await until(all_there, "the dead letters arrived")
    return dead


# Dead letters.


async def test_dead_letters_are_shown_and_chosen(client: mom_client.Client, name: str) -> None:
    dead = await dead_queue(client, name, 5)
    await client.publish(dead, "no dead letter")
    found = await client.dead_letters(dead)
    assert [one.message.text() for one in found] == ["0", "1", "2", "3", "4"]
    facts = found[0].facts
    assert (facts.reason, facts.deliveries, facts.redrives) == ("max_deliveries", 1, 0)
    assert (facts.topic, facts.subscription, facts.offset) == (name, name, 0)
    assert 0 < facts.first_delivered_at_ms <= facts.died_at_ms
    assert await client.dead_letters(dead, reason="expired") == []
    assert await client.dead_letters(dead, topic="other") == []
    some = await client.dead_letters(dead, offsets=[found[1].offset, found[3].offset], topic=name)
    assert [one.offset for one in some] == [found[1].offset, found[3].offset]
    (one,) = await client.dead_letters(dead, ids=[found[2].id])
    assert one.offset == found[2].offset
    # Nobody was disturbed.
    assert len(await client.receive(dead, 10)) == 6


async def test_dead_letters_of_every_reason_are_chosen(
    client: mom_client.Client, name: str
) -> None:
    await client.create_queue(name)
    for reason in REASONS:
        headers = {"mom-dead-reason": reason, "mom-dead-topic": name}
        await client.publish(name, reason, headers=headers)
    await client.create_queue(f"{name}.again")
    for reason in REASONS:
        (found,) = await client.dead_letters(name, reason=reason)
        assert found.message.text() == reason
        done = await client.redrive(name, reason=reason, to=f"{name}.again", wait=True)
        assert (done.state, done.done) == ("done", 1)
    assert await drain(client, f"{name}.again", len(REASONS)) == list(REASONS)


async def test_large_dead_letters_come_in_pages(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name, message_bytes_max="8Mi")
    headers = {"mom-dead-reason": "expired", "mom-dead-topic": "elsewhere"}
    for _ in range(6):  # Together more than one gRPC message holds.
        await client.publish(name, bytes(7 << 20), headers=headers)
    assert len(await client.dead_letters(name)) == 6
    assert await client.purge(name) == 6


@pytest.mark.parametrize(
    ("chosen", "field"),
    [
        ({"reason": "boredom"}, "reason"),
        ({"topic": "not a name"}, "topic"),
        ({"offsets": list(range(1_001))}, "offsets"),
        ({"ids": ["nonsense"]}, "id"),
        ({"rate": "fast"}, "rate"),
        ({"rate": 1e-9}, "rate"),
        ({"to": "SELF"}, "to"),
    ],
)
async def test_a_redrive_that_makes_no_sense_is_refused(
    client: mom_client.Client, name: str, chosen: dict[str, object], field: str
) -> None:
    await client.create_queue(name)
    wanted = {key: name if value == "SELF" else value for key, value in chosen.items()}
    with pytest.raises(mom_client.InvalidArgumentError) as caught:
        await client.redrive(name, **wanted)
    assert caught.value.field == field


async def test_a_redrive_sends_dead_letters_back(client: mom_client.Client, name: str) -> None:
    dead = await dead_queue(client, name, 5)
    ids = [one.id for one in await client.dead_letters(dead)]
    (held,) = await client.receive(dead, 1, lease=60)
    operation = await client.redrive(dead, wait=True)
    assert (operation.state, operation.total, operation.done) == ("done", 4, 4)
    assert (operation.left, operation.queue) == (0, dead)  # A worker has the fifth.
    messages = await client.receive(name, 10, wait=20)
    assert [one.text() for one in messages] == ["1", "2", "3", "4"]
    assert [one.id for one in messages] == ids[1:]  # It is the same message.
    assert messages[0].headers == {"mom-redrives": "1"}
    assert messages[0].key == "k1"
    await client.ack(held)
    assert await client.receive(dead, 10) == []
    # It dies again, and tells how often it was sent back.
    await client.nack(messages)

    async def all_there() -> list[mom_client.DeadLetter]:
        found = await client.dead_letters(dead)
        return found if len(found) == 4 else []

    again = await until(all_there, "they died again")
    assert {one.facts.redrives for one in again} == {1}
    assert [one.operation_id for one in await client.operations(dead)] == [operation.operation_id]
    with pytest.raises(mom_client.NotFoundError):
        await client.operation("0" * 32)


async def test_a_redrive_of_some_to_another_queue(client: mom_client.Client, name: str) -> None:
    dead = await dead_queue(client, name, 6)
    await client.create_queue(f"{name}.fixed", partitions=3)
    offsets = [one.offset for one in await client.dead_letters(dead)]
    chosen = [offsets[0], offsets[2], offsets[5]]
    operation = await client.redrive(dead, to=f"{name}.fixed", offsets=chosen, wait=True)
    assert (operation.total, operation.done, operation.left) == (3, 3, 0)
    assert sorted(await drain(client, f"{name}.fixed", 3)) == ["0", "2", "5"]
    assert [one.message.text() for one in await client.dead_letters(dead)] == ["1", "3", "4"]


async def test_a_receipt_after_a_redrive_says_so(client: mom_client.Client, name: str) -> None:
    dead = await dead_queue(client, name, 2)
    messages = await client.receive(dead, 2)
    await client.nack(messages, delay=0)
    await client.redrive(dead, wait=True)
    for error in await client.ack(messages):
        assert error is not None
        assert error.code is mom_client.ErrorCode.REDRIVEN
        assert "redriven" in error.message


async def test_the_rate_of_a_redrive_and_its_end(client: mom_client.Client, name: str) -> None:
    dead = await dead_queue(client, name, 30)
    begun = time.monotonic()
    operation = await client.redrive(dead, rate="20/s")

    async def some_came() -> int:
        return (await client.operation(operation.operation_id)).done

    await until(some_came, "it goes on")
    cancelled = await client.cancel_operation(operation.operation_id)
    assert cancelled.state == "cancelling"
    ended = await client.operation(operation.operation_id, wait=True)
    elapsed = time.monotonic() - begun
    assert ended.state == "cancelled"
    assert ended.done <= 20 * elapsed + 2
    assert ended.done + ended.left == 30
    assert len(await drain(client, name, ended.done)) == ended.done
    assert len(await client.dead_letters(dead)) == ended.left
    # To cancel what has ended is no error.
    assert (await client.cancel_operation(operation.operation_id)).state == "cancelled"


async def test_dead_letters_without_a_place_stay(client: mom_client.Client, name: str) -> None:
    topic = f"{name}.topic"
    await client.create_topic(topic)
    settings = {"mode": "queue", "dead_letter": f"{name}.dlq", "max_deliveries": 1}
    await client.create_subscription(topic, "mail", **settings)
    await client.create_subscription(topic, "other", mode="queue")
    await client.publish(topic, "x")
    (message,) = await client.receive(topic, 1, wait=20, subscription="mail")
    await client.nack(message)

    async def there() -> bool:
        return bool(await client.dead_letters(f"{name}.dlq"))

    await until(there, "it died")
    operation = await client.redrive(f"{name}.dlq", wait=True)
    assert (operation.state, operation.total, operation.done) == ("done", 1, 0)
    assert "has others" in operation.error
    operation = await client.redrive(f"{name}.dlq", to=topic, wait=True)
    assert (operation.done, operation.error) == (1, "")
    got = await client.receive(topic, 9, wait=20, subscription="mail")
    assert [one.text() for one in got] == ["x"]


async def test_a_redrive_waits_for_a_full_queue(client: mom_client.Client, name: str) -> None:
    dead = await dead_queue(client, name, 3)
    await client.alter(name, messages_max=1)
    await client.publish(name, "first")
    operation = await client.redrive(dead)

    async def waits() -> bool:
        return "is full" in (await client.operation(operation.operation_id)).error

    await until(waits, "it tells what it waits for")
    assert await drain(client, name, 1) == ["first"]
    ended = await client.operation(operation.operation_id, wait=True)
    assert (ended.state, ended.done, ended.error) == ("done", 3, "")
    assert sorted(await drain(client, name, 3)) == ["0", "1", "2"]


async def test_a_redrive_is_exactly_once_whatever_crashes(tmp_path: Path, name: str) -> None:
    count, kills = 400, 0
    with BrokerProcess(2, tmp_path / "data") as broker:
        async with mom_client.connect(broker.addresses[0]) as client:
            dead = await dead_queue(client, name, count)
            operation_id = (await client.redrive(dead, rate=200)).operation_id
            done = 0
            ended = False
    while not ended:
        broker = BrokerProcess(2, tmp_path / "data")
        with broker:
            async with mom_client.connect(broker.addresses[0]) as client:
                before = done

                async def moved() -> mom_client.Operation | None:
                    found = await client.operation(operation_id)
                    return found if found.done > before or not found.goes_on else None  # noqa: B023

                operation = await until(moved, "it goes on after a crash")
                done, ended = operation.done, not operation.goes_on
                if ended:
                    assert (operation.state, operation.done, operation.left) == ("done", count, 0)
                    texts = await drain(client, name, count)
                    assert sorted(map(int, texts)) == list(range(count))
                    assert await client.dead_letters(dead) == []
                else:
                    kills += 1
                    broker.kill()
    assert kills >= 1


class OwnCluster(NamedTuple):
    master: Master
    nodes: list[Node]


@asynccontextmanager
async def own_cluster(count: int, secret: str | None = None) -> AsyncIterator[OwnCluster]:
    """A master and nodes in this process, over a store in memory."""
    clock, random = SystemClock(), SystemRandom()
    async with AsyncExitStack() as stack:
        store = MemoryStore(clock)
        await store.open()
        stack.push_async_callback(store.close)
        master = Master(
            MasterSettings(listen="127.0.0.1:0", cluster_token=secret, open_to_all=secret is None),
            store,
            clock,
            random,
        )
        await master.start()
        stack.push_async_callback(master.stop)
        nodes = []
        for number in range(count):
            settings = NodeSettings(
                node_id=f"n{number}",
                listen="127.0.0.1:0",
                cluster_token=secret,
                open_to_all=secret is None,
                masters=(master.address,),
            )
            node = Node(settings, store, clock, random)
            await node.start()
            stack.push_async_callback(node.stop, drain=False)
            nodes.append(node)
        yield OwnCluster(master, nodes)


class LandsAndIsLost:
    """A target where batches land, after which their sender loses its queue, again and again."""

    def __init__(self, node: Node, target: Target, losses: int) -> None:
        self._node = node
        self._target = target
        self.losses = losses
        self.sent: list[bytes] = []

    def topic(self, name: str) -> TopicConfig | None:
        return self._target.topic(name)

    def fair_header(self, topic_id: str) -> str:
        return self._target.fair_header(topic_id)

    async def append(
        self, partition: PartitionId, batches: Sequence[bytes]
    ) -> list[MomError | None]:
        results = await self._target.append(partition, batches)
        self.sent += batches
        if self.losses:
            self.losses -= 1
            for owned in list(self._node.ownership.owned.values()):
                if owned.log.config.name.endswith(".dlq"):
                    owned.log.lose(RoutingError("lost for the test"))
        return results


async def test_a_batch_that_landed_before_its_owner_was_lost_lands_once(name: str) -> None:
    async with own_cluster(1) as cluster:
        (node,) = cluster.nodes
        target = LandsAndIsLost(node, node.operations.target, losses=4)
        node.operations.target = target
        async with mom_client.connect(node.address) as client:
            dead = await dead_queue(client, name, 30)
            operation = await client.redrive(dead, rate=100, wait=True)
            assert (operation.state, operation.done, operation.left) == ("done", 30, 0)
            assert target.losses == 0
            assert len(target.sent) > len(set(target.sent)), "no batch was sent again"
            assert sorted(map(int, await drain(client, name, 30))) == list(range(30))


# Purging.


async def test_a_purge_takes_what_waits(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name, partitions=3)
    now_ms = int(time.time() * 1000)
    await client.publish_many(
        name,
        [
            *(Message(b"%d" % one, priority=one % 10) for one in range(50)),
            Message(b"later", deliver_at_ms=now_ms + 60_000),
        ],
    )
    held = await client.receive(name, 5, wait=20, lease=60)
    assert await client.purge(name) == 51 - len(held)
    assert await client.receive(name, 10) == []
    assert [one for one in await client.ack(held) if one] == []
    await client.publish(name, "after")
    assert await drain(client, name, 1) == ["after"]


async def test_a_purge_of_what_is_leased_tells_its_worker(
    client: mom_client.Client, name: str
) -> None:
    await client.create_queue(name)
    await client.publish_many(name, ["a", "b", "c"])
    held = await client.receive(name, 2, wait=20, lease=60)
    assert await client.purge(name, leased=True) == 3
    for error in await client.ack(held):
        assert error is not None
        assert error.code is mom_client.ErrorCode.PURGED
    counts = await counts_of(client, name)
    assert (counts.ready, counts.leased) == (0, 0)


async def test_a_stream_has_nothing_to_purge(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name)
    await client.create_subscription(name, "reader")
    with pytest.raises(mom_client.InvalidArgumentError, match="seek it to latest"):
        await client.purge(name, subscription="reader")


async def test_a_purge_outlives_a_restart(tmp_path: Path, name: str) -> None:
    with BrokerProcess(1, tmp_path / "data") as broker:
        async with mom_client.connect(broker.addresses[0]) as client:
            await client.create_queue(name)
            await client.publish_many(name, [str(one) for one in range(20)])
            held = await client.receive(name, 2, wait=20, lease=60)
            assert await client.purge(name) == 18
            broker.kill()
    with BrokerProcess(1, tmp_path / "data") as broker:
        async with mom_client.connect(broker.addresses[0]) as client:
            assert await client.receive(name, 10) == []
            assert [one for one in await client.ack(held) if one] == []


# Pausing.


async def test_a_paused_queue_delivers_nothing_and_its_receivers_wait(
    client: mom_client.Client, name: str
) -> None:
    await client.create_queue(name)
    await client.publish(name, "held")
    (held,) = await client.receive(name, 1, wait=20)
    await client.pause(name)
    assert (await counts_of(client, name)).paused
    assert [one.queue.paused for one in await client.queues() if one.name == name] == [True]
    await client.publish(name, "waits")
    assert await client.receive(name, 1, wait=0.2) == []
    receiving = asyncio.create_task(client.receive(name, 1, wait=50))
    await client.ack(held)
    assert not receiving.done()
    await client.resume(name)
    # Woken, and not only asked again: the wait is longer than any test.
    (message,) = await asyncio.wait_for(receiving, 30)
    assert message.text() == "waits"


async def test_a_paused_subscription_leaves_the_others_alone(
    client: mom_client.Client, name: str
) -> None:
    await client.create_topic(name)
    for subscription in ("one", "two"):
        await client.create_subscription(name, subscription, mode="queue")
    await client.pause(name, subscription="one")
    await client.publish(name, "x")
    assert len(await client.receive(name, 1, wait=20, subscription="two")) == 1
    assert await client.receive(name, 1, subscription="one") == []
    altered = await client.alter_subscription(name, "one", paused=False)
    assert not altered.queue.paused
    assert len(await client.receive(name, 1, wait=20, subscription="one")) == 1


# Bounds.


async def test_a_full_queue_refuses_and_takes_again(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name, messages_max=3)
    for one in range(3):
        await client.publish(name, str(one))
    with pytest.raises(mom_client.OverloadedError) as caught:
        await client.publish(name, "refused")
    message = caught.value.message
    assert caught.value.retriable
    assert name in message
    assert "3 messages" in message
    assert "messages_max" in message
    (first,) = await client.receive(name, 1)
    with pytest.raises(mom_client.OverloadedError):
        await client.publish(name, "a lease does not make room")
    await client.ack(first)
    await client.publish(name, "3")
    assert await drain(client, name, 3) == ["1", "2", "3"]


async def test_many_at_once_fill_a_queue_to_its_bound_and_no_further(
    broker: BrokerProcess, name: str
) -> None:
    async with mom_client.connect(broker.addresses[0], delivery_timeout_ms=2_000) as client:
        await client.create_queue(name, messages_max=10)
        results = await client.publish_many(name, range(100))
        assert sum(isinstance(one, mom_client.Published) for one in results) == 10
        assert (await counts_of(client, name)).ready == 10
        refused = [one for one in results if isinstance(one, MomError)]
        assert any("messages_max" in one.message for one in refused), refused[0]


# Ages and lags.


async def test_how_old_and_how_far_behind(client: mom_client.Client, name: str) -> None:
    await client.create_queue(name)
    counts = await counts_of(client, name)
    assert not counts.HasField("oldest_ready_ms")
    assert not counts.HasField("oldest_unacked_ms")
    begun = time.monotonic()
    await client.publish(name, "old")
    published = time.monotonic()
    await client.receive(name, 1, wait=20)
    await client.publish(name, "new")
    asked = time.monotonic()
    counts = await counts_of(client, name)
    now = time.monotonic()
    assert (asked - published) * 1000 - 20 <= counts.oldest_unacked_ms
    assert counts.oldest_ready_ms <= counts.oldest_unacked_ms <= (now - begun) * 1000 + 20


async def test_a_seek_tells_the_lag_before_it_is_done(client: mom_client.Client, name: str) -> None:
    await client.create_topic(name, partitions=2)
    await client.create_subscription(name, "reader", start="latest")
    for partition in (0, 1):
        await client.publish_many(name, ["a", "b", "c"], partition=partition)
    lags = [one.lag for one in await subscriptions_of(client, name)]
    assert [one.messages for one in lags] == [3, 3]
    assert all(one.behind_ms < 60_000 for one in lags)
    sought = await client.seek(name, "reader", "offset:1", dry_run=True)
    assert [(one.partition, one.offset, one.lag) for one in sought] == [(0, 1, 2), (1, 1, 2)]
    sought = await client.seek(name, "reader", "latest", dry_run=True)
    assert [(one.offset, one.lag, one.lag_ms) for one in sought] == [(3, 0, 0), (3, 0, 0)]
    await client.seek(name, "reader", "latest", partitions=[1])
    assert [one.lag.messages for one in await subscriptions_of(client, name)] == [3, 0]


async def test_the_operator_learns_what_waits_from_all_nodes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mom_broker.node.stalls.STALLED_AFTER_MS", 200)
    monkeypatch.setattr("mom_broker.node.stalls.STALL_LOOK_MS", 50)
    secret = "s" * 40
    async with own_cluster(2, secret) as cluster:
        admin = Admin(cluster.master.address, secret, SystemClock())
        async with mom_client.connect(cluster.nodes[0].address, token=secret) as client:

            async def both_registered() -> bool:
                return len((await client.cluster()).nodes) == 2

            await until(both_registered, "both nodes get partitions")
            await client.create_topic(name, partitions=4)
            await client.create_subscription(
                name, "mail", mode="queue", dead_letter=f"{name}.dlq", lease_ms=1_000
            )
            await client.create_subscription(name, "reader")
            for partition in range(4):
                await client.publish_many(name, ["a", "b", "c"], partition=partition)
            assert {one.node_id for one in await client.describe(name)} == {"n0", "n1"}
            await client.ack(await client.receive(name, 1, wait=20, subscription="mail"))
            await client.receive(name, 1, wait=20, subscription="mail", lease=60)  # And no ack.
            await client.seek(name, "reader", "offset:1")
            found = await admin.backlogs()
            assert found[name]["mail"].messages == 11
            assert found[name]["reader"].messages == 8
            assert found[f"{name}.dlq"][f"{name}.dlq"] == Backlog(messages=0, oldest_ms=0)
            assert 0 <= found[name]["mail"].oldest_ms < 60_000
            shown = with_backlogs((await admin.topics())[name], found)
            assert shown.backlogs is not None
            assert shown.backlogs["mail"].dead_letters == 0

            async def stalled() -> set[str]:
                counts = (await admin.backlogs()).values()
                return {name for each in counts for name, one in each.items() if one.stalled}

            async def mail_stalled() -> bool:
                return await stalled() == {"mail"}

            await until(mail_stalled, "only mail has a worker that does nothing")
        await admin.close()


async def test_readers_look_and_administrators_act(name: str) -> None:
    secret = "s" * 40
    async with own_cluster(1, secret) as cluster:
        address = cluster.nodes[0].address
        async with mom_client.connect(address, token=secret) as admin:
            dead = await dead_queue(admin, name, 1)
            operation = await admin.redrive(dead, rate="1/h")
            _, token = await admin._run(lambda engine: engine.create_token("r", ["read:*"]))
            async with mom_client.connect(address, token=token) as reader:
                assert len(await reader.operations()) == 1
                assert (await reader.operation(operation.operation_id)).queue == dead
                await reader.dead_letters(dead)
                for refused in (
                    reader.purge(dead),
                    reader.redrive(dead),
                    reader.cancel_operation(operation.operation_id),
                    reader.pause(dead),
                ):
                    with pytest.raises(mom_client.ForbiddenError):
                        await refused


# Retention.


async def test_a_topic_is_kept_until_all_subscriptions_have_acked(
    client: mom_client.Client, name: str
) -> None:
    await client.create_topic(
        name, partitions=4, retain_until_acked=True, retention_bytes=1 << 20, retention_ms=0
    )
    await client.create_subscription(name, "work", mode="queue")
    await client.create_subscription(name, "reader")
    value = b"x" * 300_000
    for partition in range(4):
        for _ in range(3):
            await client.publish(name, value, partition=partition)
        with pytest.raises(mom_client.OverloadedError, match="retention_bytes"):
            await client.publish(name, value, partition=partition)
    for _ in range(12):
        await client.ack(await client.receive(name, 1, wait=20, subscription="work"))
    described = await client.describe(name)
    assert {one.node_id for one in described} == {"n0", "n1"}, "one asks the other"
    assert [one.log_start for one in described] == [0, 0, 0, 0]
    await client.seek(name, "reader", "offset:2")

    async def trimmed() -> bool:
        return all(one.log_start == 2 for one in await client.describe(name))

    await until(trimmed, "what all have handled is removed")
    for partition in range(4):
        await client.publish(name, value, partition=partition)


async def test_ten_subscriptions_share_the_stored_bodies(
    client: mom_client.Client, name: str
) -> None:
    grew: dict[str, int] = {}
    for topic, subscriptions in ((f"{name}-alone", 0), (f"{name}-shared", 10)):
        await client.create_topic(topic)
        for number in range(subscriptions):
            await client.create_subscription(topic, f"reader-{number}", mode="queue")
        before = (await client.cluster()).store_used_bytes
        await client.publish_many(topic, [b"x" * 10_000] * 500)
        for number in range(subscriptions):
            assert len(await client.receive(topic, 10, subscription=f"reader-{number}", wait=20))
        grew[topic] = (await client.cluster()).store_used_bytes - before
    alone, shared = grew.values()
    assert alone >= 500 * 10_000
    assert shared < 1.5 * alone, "each body is stored once"
