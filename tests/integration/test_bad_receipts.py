"""Receipts used twice, late, forged, or for another queue: each has its own error, and no other
item of the call suffers. By REST, by the SDK, and by gRPC as it is."""

from __future__ import annotations

import grpc
import httpx
import msgspec

import mom_client
from integration.broker_process import BrokerProcess
from mom_core.receipts import decode_receipt, encode_receipt
from mom_proto.v1 import broker_pb2, broker_pb2_grpc

FAR_OFFSET = (1 << 64) - 1


async def leased(
    client: mom_client.Client, queue: str, count: int
) -> list[mom_client.ReceivedMessage]:
    """A new queue of two partitions, and so many of its messages under lease."""
    await client.create_queue(queue, partitions=2)
    for one in range(count):
        await client.publish(queue, str(one))
    got: list[mom_client.ReceivedMessage] = []
    while len(got) < count:
        got += await client.receive(queue, count, wait=20)
    return got


async def acked(rest: httpx.AsyncClient, queue: str, receipts: list[str]) -> list[str]:
    """What each receipt is answered with: ok, or the code of its own error."""
    path = f"/v1/queues/{queue}/messages:ack"
    response = await rest.post(path, json={"receipts": receipts})
    assert response.status_code in (200, 207, 409), response.text
    results = response.json()["results"]
    assert all(one["status"] == "ok" or one["detail"] for one in results)
    return ["ok" if one["status"] == "ok" else one["code"] for one in results]


def forged(receipt: str, topic_id: bytes, queue: str, **wrong: int) -> str:
    """A receipt whose check is right and whose words are not."""
    held = decode_receipt(receipt, topic_id, queue)._replace(**wrong)
    return encode_receipt(topic_id, queue, held.partition, held.offset, held.lease_id)


async def test_each_bad_receipt_has_its_own_error(
    client: mom_client.Client, rest: httpx.AsyncClient, name: str
) -> None:
    good, twice, late, other = await leased(client, name, 4)
    await client.create_queue(f"{name}.other")
    await client.publish(f"{name}.other", "x")
    (elsewhere,) = await client.receive(f"{name}.other", wait=20)
    await client.ack(twice)
    await client.nack(late, delay=60)
    topic_id = good.origin.topic_id
    wrong_lease = forged(other.receipt, topic_id, name, lease_id=7)
    wrong_place = forged(other.receipt, topic_id, name, partition=9)
    wrong_offset = forged(other.receipt, topic_id, name, offset=FAR_OFFSET)
    damaged = other.receipt[:-1] + ("A" if other.receipt[-1] != "A" else "B")
    asked = {
        "nonsense": "invalid_receipt",
        damaged: "invalid_receipt",
        elsewhere.receipt: "invalid_receipt",
        wrong_place: "invalid_argument",
        wrong_offset: "invalid_receipt",
        wrong_lease: "lease_lost",
        twice.receipt: "already_settled",
        late.receipt: "lease_lost",
        good.receipt: "ok",
    }
    assert dict(zip(asked, await acked(rest, name, list(asked)), strict=True)) == asked
    # What was forged for has its lease still, and the other queue's message, too.
    assert await client.ack([other, elsewhere]) == [None, None]


async def test_the_same_receipt_twice_in_one_call_is_one_ack(
    client: mom_client.Client, rest: httpx.AsyncClient, name: str
) -> None:
    first, second = await leased(client, name, 2)
    receipts = [first.receipt, first.receipt, second.receipt]
    assert await acked(rest, name, receipts) == ["ok", "ok", "ok"]
    assert await acked(rest, name, receipts) == ["already_settled"] * 3


async def test_the_sdk_tells_of_each_message(client: mom_client.Client, name: str) -> None:
    first, second, third = await leased(client, name, 3)
    await client.ack(second)
    forged_origin = msgspec.structs.replace(third.origin, lease_id=7)
    forged_third = msgspec.structs.replace(third, origin=forged_origin)
    errors = await client.ack([second, first, forged_third])
    codes = [None if error is None else error.code for error in errors]
    assert codes == [mom_client.ErrorCode.ALREADY_SETTLED, None, mom_client.ErrorCode.LEASE_LOST]
    await client.ack(third)


async def test_ranges_that_are_wrong_leave_the_others_alone(
    broker: BrokerProcess, client: mom_client.Client, name: str
) -> None:
    (message,) = await leased(client, name, 1)
    origin = message.origin
    here = {"partition": origin.partition, "lease_id": origin.lease_id}
    ack = broker_pb2.SETTLE_ACTION_ACK
    ranges = [
        broker_pb2.SettleRange(**here, first_offset=FAR_OFFSET, count=1, action=ack),
        broker_pb2.SettleRange(**here, first_offset=1, count=(1 << 32) - 1, action=ack),
        broker_pb2.SettleRange(partition=9, lease_id=1, first_offset=0, count=1, action=ack),
        broker_pb2.SettleRange(**here, first_offset=0, count=1, action=77),
        broker_pb2.SettleRange(**here, first_offset=message.offset, count=1, action=ack),
    ]
    request = broker_pb2.SettleRequest(topic_id=origin.topic_id, subscription=name, ranges=ranges)
    for address in broker.addresses:  # One of them has to ask the other.
        async with grpc.aio.insecure_channel(address) as channel:
            reply = await broker_pb2_grpc.BrokerStub(channel).Settle(request)
        codes = [[failure.error.code for failure in one.failures] for one in reply.results]
        last = [] if address == broker.addresses[0] else ["already_settled"]
        bad = ["invalid_receipt"] * 2 + ["invalid_argument"] * 2
        assert codes == [*([code] for code in bad), last]
