"""Messages of a queue as its owners push them to a worker: a stream to each node that owns some.

The worker has room for so many messages, and gives it away as credit. To one node it gives all of
it, and the node keeps what it can't use yet. Of several nodes, it gives credit to one that said it
has messages, and what that one can't use comes back at once: so a worker with room for one leases
one, however many nodes there are. Credit is given for messages that were settled, not for those
that were begun, and in portions, since each costs a message to the node.

Streams follow the owners. One that broke is opened again, by the routing table as it is then, and
what came by it stays with the worker: leases outlive streams.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from mom_client.addresses import is_gateway
from mom_client.calls import Caller
from mom_client.lease_ages import LeaseAges
from mom_client.lease_room import LeaseRoom
from mom_client.routing import TopicRoute
from mom_client.wire import GrpcStream
from mom_core.errors import ErrorCode, InvalidArgumentError, MomError, UnavailableError
from mom_core.limits import STREAM_CREDIT_BYTES, WAIT_MS_MAX
from mom_core.topics import SubscriptionMode
from mom_proto.v1 import broker_pb2

_METHOD: Final = "/mom.v1.Broker/ReceiveStream"
# Of the room that a worker has, so much is gathered before it is given away: what is left to do
# covers the way to the node and back, and few portions cost the node few writes.
_PORTION: Final = 3 / 4
# Between two looks whether an owner that could not be reached can be.
POLL_MS: Final = 5_000
# For what a node has sent before it knows that the worker ends. Then the rest is cancelled, and its
# leases end by themselves.
_FINISH_MS_MAX: Final = 2_000


class ArrivedLease(NamedTuple):
    """Messages that were leased together, and when, by this loop's clock in milliseconds."""

    batch: broker_pb2.LeasedBatch
    leased_ms: int

    @property
    def messages(self) -> int:
        """Messages in it."""
        return int.from_bytes(self.batch.batch[12:16], "little")


class LeaseStreams:
    """All streams of one worker. Nothing happens before the first :meth:`wait`."""

    def __init__(
        self,
        caller: Caller,
        topic: str,
        subscription: str,
        *,
        room: LeaseRoom,
        lease_ms: int,
        accept: Callable[[ArrivedLease], None],
    ) -> None:
        """``accept`` is given what comes, also what was on its way when this was stopped."""
        self._caller = caller
        self._topic = topic
        self.subscription = subscription
        self.lease_ms = lease_ms
        self._room = room
        self._held = 0
        """Messages that came and are not settled."""
        self._giving = False
        self._accept = accept
        self._waiting_bytes = 0
        """Of what came and was not taken up."""
        self._streams: dict[str, _NodeStream] = {}
        self._ending: set[_NodeStream] = set()
        self._ages = LeaseAges()
        self._indirect = False
        self.poll_ms = POLL_MS
        """How long to wait for messages in another way before asking here again."""
        self._refused = False
        """A node does not know the method: it is of an older version."""
        self._error: MomError | None = None
        self._stream_errors: list[MomError] = []
        self._news = asyncio.Event()
        self._look = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    async def wait(self) -> bool:
        """Wait until something has come; False: not every owner can be reached directly now.

        Raises the MomError that another try would not mend.
        """
        self._raise_failure()
        if self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._follow())
            self._caller.routing.on_change.append(self._look.set)
        if self._indirect:
            self._look.set()  # It may have changed by the next time.
            return False
        self._news.clear()
        await self._news.wait()
        self._raise_failure()
        return not self._indirect

    def _raise_failure(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    @property
    def room(self) -> int:
        """Messages that the worker can take otherwise; one at the least."""
        return max(1, self._room.messages - self._held)

    def took_up(self) -> None:
        """All that came is in the worker's hands: there is room for more bytes."""
        self._waiting_bytes = 0
        self.give_credit()

    def hold(self, messages: int) -> None:
        """The worker leased messages in another way."""
        self._held += messages

    def settled(self, messages: int) -> None:
        """The worker has so many messages less."""
        self._held -= messages
        if not self._giving:
            self._giving = True
            asyncio.get_running_loop().call_soon(self._give_credit_soon)

    def _give_credit_soon(self) -> None:
        self._giving = False
        self.give_credit()

    def stop(self) -> None:
        """Want nothing more until the next :meth:`wait`. What is on its way still comes."""
        following, self._following = self._following, None
        if following is not None:
            self._caller.routing.on_change.remove(self._look.set)
            following.cancel()
            self._adjust(())

    async def ended(self) -> None:
        """After :meth:`stop`: wait until nothing more can come, for a bounded time."""
        await asyncio.gather(*(one.ended() for one in tuple(self._ending)))

    # Following the owners.

    async def _follow(self) -> None:
        backoff = self._caller.backoff()
        try:
            while True:
                self._look.clear()
                route = await self._caller.routing.topic(self._topic)
                self._check(route)
                revision = self._caller.routing.snapshot.revision
                addresses = self._addresses(route)
                self._indirect = self._refused or not self._reaches(route)
                self.poll_ms = POLL_MS
                if self._refused or any(map(is_gateway, addresses)):
                    self.poll_ms = WAIT_MS_MAX
                if self._indirect:
                    self._adjust(())
                    self._news.set()
                else:
                    self._adjust(addresses)
                await self._look.wait()
                errors, self._stream_errors = self._stream_errors, []
                for error in errors[:1]:
                    await self._caller.wait(error, revision, backoff)
                if not errors:
                    backoff.reset()
        except MomError as error:
            self._fail(error)

    def _fail(self, error: MomError) -> None:
        self.stop()
        self._error = error
        self._news.set()

    def _check(self, route: TopicRoute) -> None:
        if route.subscription(self.subscription).mode is not SubscriptionMode.QUEUE:
            raise InvalidArgumentError(
                f"subscription {self.subscription!r} of {self._topic!r} is a stream: read it with "
                "subscribe; consume is for queues",
                field="subscription",
            )

    def _addresses(self, route: TopicRoute) -> set[str]:
        return {self._caller.routing.address(owner) for owner in route.owners} - {""}

    def _reaches(self, route: TopicRoute) -> bool:
        """Whether calls go to all owners themselves, and not to a node that passes them on."""
        routing = self._caller.routing
        owners = [(routing.address(one), one.node_id) for one in route.owners if one.node_id]
        nodes = routing.snapshot.nodes
        return all(
            not address or (node_id in nodes and nodes[node_id].address == address)
            for address, node_id in owners
        )

    def _adjust(self, addresses: Iterable[str]) -> None:
        """Have a stream to each of these addresses, and to no other."""
        wanted = set(addresses)
        keep_credit = len(wanted) == 1
        for address, stream in list(self._streams.items()):
            if address not in wanted or stream.keeps_credit is not keep_credit:
                del self._streams[address]
                self._ending.add(stream)
                stream.finish()
        for address in wanted - self._streams.keys():
            self._streams[address] = _NodeStream(self, address, keeps_credit=keep_credit)
        self.give_credit()

    # What streams tell.

    async def open(self, address: str) -> GrpcStream:
        """Begin a stream."""
        return await self._caller.connections.open(address, _METHOD)

    async def start(self) -> broker_pb2.ReceiveStreamStart:
        """What a stream leases."""
        route = await self._caller.routing.topic(self._topic)
        return broker_pb2.ReceiveStreamStart(
            topic_id=route.topic_id,
            subscription=self.subscription,
            lease_ms=self.lease_ms,
            tells_begin=True,
        )

    def arrived(self, batches: Iterable[broker_pb2.LeasedBatch]) -> None:
        """Messages came. What lay around until its lease was over is another worker's by now."""
        now_ms = int(asyncio.get_running_loop().time() * 1000)
        for batch in batches:
            age_ms = self._ages.age_ms(batch.lease_expires_at_ms - batch.lease_ms, now_ms)
            if age_ms >= batch.lease_ms:
                continue
            one = ArrivedLease(batch, now_ms - age_ms)
            self._waiting_bytes += len(batch.batch)
            self._held += one.messages
            self._accept(one)
        self._news.set()

    def stream_ended(self, stream: _NodeStream, error: MomError | None) -> None:
        """A stream is over; None: as both sides wished, or the node stops."""
        self._ending.discard(stream)
        if self._streams.get(stream.address) is not stream:
            self.give_credit()
            return
        del self._streams[stream.address]
        if error is not None and error.code is ErrorCode.METHOD_NOT_ALLOWED:
            self._refused = True
        elif error is not None and not error.retriable:
            self._fail(error)
            return
        if isinstance(error, UnavailableError):
            self._caller.routing.mark_unreachable(stream.address)
        self._stream_errors.append(error or UnavailableError(f"{stream.address} ended the stream"))
        self._look.set()

    # Credit.

    def give_credit(self) -> None:
        """Give away the room that there is, when it is enough for a portion."""
        streams = list(self._streams.values())
        granted = sum(one.messages for one in (*streams, *self._ending))
        granted_bytes = sum(one.bytes for one in (*streams, *self._ending))
        messages = self._room.messages - self._held - granted
        room_bytes = STREAM_CREDIT_BYTES - self._waiting_bytes - granted_bytes
        if not streams or room_bytes <= 0 or self._following is None:
            return
        if len(streams) == 1 and streams[0].keeps_credit:
            dry = streams[0].messages > 0 and streams[0].bytes <= 0
            if dry or self._is_portion(messages):
                streams[0].give(max(0, messages), room_bytes)
            return
        takers = [one for one in streams if one.has_more and not one.messages]
        if not takers or not self._is_portion(messages):
            return
        share, share_bytes = max(1, messages // len(takers)), max(1, room_bytes // len(takers))
        for stream in takers[: messages // share]:
            # Whoever was given credit comes last next time.
            self._streams[stream.address] = self._streams.pop(stream.address)
            stream.give(share, share_bytes)

    def _is_portion(self, messages: int) -> bool:
        portion = max(1, int(self._room.messages * _PORTION))
        return messages >= portion or (messages > 0 and not self._held)


class _NodeStream:
    """The stream to one owner."""

    def __init__(self, streams: LeaseStreams, address: str, *, keeps_credit: bool) -> None:
        self.address = address
        self.keeps_credit = keeps_credit
        self.messages = 0
        """Credit that the node has."""
        self.bytes = 0
        self.has_more = False
        """The node said that it has messages."""
        self._streams = streams
        self._to_send = broker_pb2.ReceiveStreamRequest()
        self._wake = asyncio.Event()
        self._finishing = False
        self._task = asyncio.get_running_loop().create_task(self._run())

    def give(self, messages: int, size_bytes: int) -> None:
        """Give credit on top of what the node has."""
        self.messages += messages
        self.bytes += size_bytes
        self._to_send.credit_messages += messages
        self._to_send.credit_bytes += size_bytes
        self._wake.set()

    def finish(self) -> None:
        """Want nothing more. What the node has sent still comes."""
        self._finishing = True
        self._wake.set()

    async def ended(self) -> None:
        """Wait for the end after :meth:`finish`, for a bounded time."""
        _, late = await asyncio.wait((self._task,), timeout=_FINISH_MS_MAX / 1000)
        if late:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        error: MomError | None = None
        writing: asyncio.Task[None] | None = None
        try:
            self._to_send.start.CopyFrom(await self._streams.start())
            self._to_send.start.keep_credit = self.keeps_credit
            call = await self._streams.open(self.address)
            self._wake.set()
            writing = asyncio.get_running_loop().create_task(self._write(call))
            while (reply := await call.receive()) is not None:
                self._take(broker_pb2.ReceiveStreamResponse.FromString(reply))
        except MomError as failure:
            error = failure
        finally:
            if writing is not None:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
            self.messages = self.bytes = 0
            self._streams.stream_ended(self, error)

    async def _write(self, call: GrpcStream) -> None:
        with contextlib.suppress(MomError):  # It shows in what is received.
            while not self._finishing:
                await self._wake.wait()
                self._wake.clear()
                request, self._to_send = self._to_send, broker_pb2.ReceiveStreamRequest()
                await call.send(request.SerializeToString())
            await call.finish()

    def _take(self, response: broker_pb2.ReceiveStreamResponse) -> None:
        for batch in response.batches:
            self.messages -= int.from_bytes(batch.batch[12:16], "little")
            self.bytes -= len(batch.batch)
        if response.credit_lapsed:
            self.messages = self.bytes = 0
        self.has_more = response.more_ready
        self._streams.arrived(response.batches)
        self._streams.give_credit()
