import asyncio
import time

import grpc
import pytest

from mom_broker.node.app import Node
from mom_broker.node.settings import NodeSettings
from mom_broker.rpc.system import SystemClock, SystemRandom
from mom_broker.storage.memory import MemoryStore
from mom_core import batch, catalog, topics
from mom_core.message import Message
from mom_core.ports import KeyWrite
from mom_proto.v1 import broker_pb2, broker_pb2_grpc, types_pb2


async def test_smoke():
    clock = SystemClock()
    store = MemoryStore(clock)
    await store.open()
    tid = "ab" * 16
    config = topics.new_topic("q", topics.TopicKind.QUEUE, {"partitions": 2}, topic_id=tid, created_at_ms=5)
    sub = topics.queue_subscription(config, bytes(32))
    await store.write([
        KeyWrite("topics/q", topics.encode_topic(config)),
        KeyWrite(catalog.subscription_key(tid, "q"), topics.encode_subscription(sub)),
        KeyWrite(catalog.assignment_key(tid), catalog.encode(catalog.Assignment(topic_id=tid, owners=(catalog.Owner("n1", 1), catalog.Owner("n2", 1))))),
    ])
    nodes = []
    for name in ("n1", "n2"):
        n = Node(NodeSettings(node_id=name, listen="127.0.0.1:0", open_to_all=True), store, clock, SystemRandom())
        await n.start()
        nodes.append(n)
        await store.write([KeyWrite(catalog.node_key(name), catalog.encode(catalog.NodeRecord(node_id=name, address=n.address)))])
    ch = grpc.aio.insecure_channel(nodes[0].address)
    stub = broker_pb2_grpc.BrokerStub(ch)
    async for u in stub.WatchRouting(broker_pb2.WatchRoutingRequest()):
        print(u)
        break
    def mk(n):
        b = batch.BatchBuilder()
        for i in range(n):
            b.add(Message(b"v%d" % i), None)
        return b.build(base_id=bytes(16), timestamp_ms=3)
    r = await stub.Produce(broker_pb2.ProduceRequest(batches=[
        broker_pb2.ProduceBatch(partition=types_pb2.Partition(topic_id=bytes.fromhex(tid), index=i), batch=mk(10)) for i in (0, 1, 0)]))
    print(r)
    f = await stub.Fetch(broker_pb2.FetchRequest(partitions=[broker_pb2.FetchPartition(partition=types_pb2.Partition(topic_id=bytes.fromhex(tid), index=i), offset=3) for i in (0, 1)]))
    print([(len(x.batches), x.next_offset, x.high_watermark) for x in f.results])
    got = await stub.Receive(broker_pb2.ReceiveRequest(topic_id=bytes.fromhex(tid), subscription="q", max_messages=15))
    for b in got.batches:
        print(b.partition.index, b.base_offset, [m.value for m in batch.decode(b.batch)], b.deliveries)
    b = got.batches[0]
    s = await stub.Settle(broker_pb2.SettleRequest(topic_id=bytes.fromhex(tid), subscription="q", ranges=[
        broker_pb2.SettleRange(partition=b.partition.index, first_offset=b.base_offset, count=7, lease_id=b.lease_id, action=1),
        broker_pb2.SettleRange(partition=b.partition.index, first_offset=b.base_offset, count=7, lease_id=b.lease_id, action=1),
        broker_pb2.SettleRange(partition=b.partition.index, first_offset=b.base_offset+7, count=1, lease_id=b.lease_id, action=2),
        broker_pb2.SettleRange(partition=1, first_offset=b.base_offset+7, count=1, lease_id=b.lease_id, action=2),
    ]))
    print(s)
    d = await stub.DescribePartitions(broker_pb2.DescribePartitionsRequest(topic_id=bytes.fromhex(tid)))
    print(d)
    t = time.perf_counter()
    async def later():
        await asyncio.sleep(0.2)
        await stub.Produce(broker_pb2.ProduceRequest(batches=[broker_pb2.ProduceBatch(partition=types_pb2.Partition(topic_id=bytes.fromhex(tid), index=0), batch=mk(1))]))
    task = asyncio.create_task(later())
    await stub.Receive(broker_pb2.ReceiveRequest(topic_id=bytes.fromhex(tid), subscription="q", max_messages=15))
    got = await stub.Receive(broker_pb2.ReceiveRequest(topic_id=bytes.fromhex(tid), subscription="q", max_messages=15, wait_ms=3000))
    print("waited", time.perf_counter() - t, len(got.batches))
    await task
    await ch.close()
    for n in nodes:
        await n.stop(drain=False)
    await store.close()
