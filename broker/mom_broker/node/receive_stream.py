"""ReceiveStream: a worker says what it can take, and the node leases it that much as it comes.

A stream with credit stands in the same line as receives that wait, so that a message goes to
whoever waits longest. It leases when it is woken and not before: credit of one, over any number of
partitions, leases one. Where several streams wait, one takes no more than its share of what is
ready.

Credit that finds nothing waits (``keep_credit``), or lapses at once: that is for workers with
streams to several nodes, which give credit only to a node that says it has messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Final, NamedTuple

from mom_broker.node.placed import PlacedPartitions, Remote
from mom_broker.node.queue import LeasedSlice, Promise, QueueReader
from mom_broker.node.signal import Signal, WaitingRoom
from mom_broker.node.subscription_service import SubscriptionService, checked_lease_ms
from mom_core.access import Identity
from mom_core.errors import ErrorCode, InvalidArgumentError, MomError
from mom_core.limits import FETCH_BYTES_DEFAULT, RECEIVE_MESSAGES_MAX, WAIT_MS_MAX
from mom_core.topics import SubscriptionMode
from mom_proto.v1 import broker_pb2

CREDIT_BYTES_MAX: Final = 1 << 30
# Leases on their way to the store at a time, of one stream: enough to keep a worker busy meanwhile.
_LEASES_UNDER_WAY_MAX: Final = 4
_MOVED: Final = (ErrorCode.NOT_OWNER, ErrorCode.STALE_EPOCH)


class _Sending(NamedTuple):
    """What is to be sent."""

    response: broker_pb2.ReceiveStreamResponse
    slices: Sequence[LeasedSlice]


_Response = asyncio.Future[_Sending]


class _Credit:
    """What the worker can still take."""

    def __init__(self, first: broker_pb2.ReceiveStreamRequest) -> None:
        self.messages = 0
        self.bytes = 0
        self.changed = Signal()
        self.ended = False
        """The worker has said that it wants nothing more."""
        self._add(first)

    @property
    def some(self) -> bool:
        return self.messages > 0 and self.bytes > 0 and not self.ended

    async def follow(self, requests: AsyncIterator[broker_pb2.ReceiveStreamRequest]) -> None:
        try:
            async for request in requests:
                self._add(request)
                self.changed.wake_all()
        finally:
            self.ended = True
            self.changed.wake_all()

    def _add(self, request: broker_pb2.ReceiveStreamRequest) -> None:
        self.messages = min(self.messages + request.credit_messages, RECEIVE_MESSAGES_MAX)
        self.bytes = min(self.bytes + request.credit_bytes, CREDIT_BYTES_MAX)

    def spend(self, messages: int, size_bytes: int) -> None:
        """Less is left. The first message of an answer may be larger than what was."""
        self.messages -= messages
        self.bytes -= size_bytes

    def lapse(self) -> None:
        self.messages = self.bytes = 0


class ReceiveStreams:
    """Serves the streams of all workers."""

    def __init__(
        self,
        subscriptions: SubscriptionService,
        partitions: PlacedPartitions,
        room: WaitingRoom,
    ) -> None:
        self._subscriptions = subscriptions
        self._partitions = partitions
        self._room = room

    async def receive(
        self, identity: Identity, requests: AsyncIterator[broker_pb2.ReceiveStreamRequest]
    ) -> AsyncIterator[broker_pb2.ReceiveStreamResponse]:
        """Lease and send for as long as the worker stays and this node owns a partition.

        Raises RoutingError when it owns none (any more), NotFoundError, InvalidArgumentError.
        """
        first = await anext(aiter(requests), None)
        if first is None or not first.HasField("start"):
            raise InvalidArgumentError(
                "the first message of ReceiveStream must say what to receive", field="start"
            )
        stream = _Stream(self._subscriptions, self._partitions, self._room, identity, first)
        tasks = [
            asyncio.create_task(stream.credit.follow(requests), name="credit"),
            asyncio.create_task(stream.lease(), name="leases"),
        ]
        try:
            while (response := await stream.next()) is not None:
                yield response
        finally:
            for task in tasks:
                task.cancel()
            stream.leave()


class _Stream:
    """One worker's stream to this node."""

    def __init__(
        self,
        subscriptions: SubscriptionService,
        partitions: PlacedPartitions,
        room: WaitingRoom,
        identity: Identity,
        first: broker_pb2.ReceiveStreamRequest,
    ) -> None:
        self._subscriptions = subscriptions
        self._partitions = partitions
        self._room = room
        self._identity = identity
        self._start = first.start
        self.credit = _Credit(first)
        self._at: list[QueueReader] = []
        self._leased_at: list[QueueReader] = []
        self._unsent: set[_Response] = set()
        """Leases that were begun and not handed over to be sent."""
        self._turn: int | None = None
        self._told = False
        """The worker knows that something is ready."""
        self._promise: Promise | None = None
        self._responses: asyncio.Queue[_Response | None] = asyncio.Queue(_LEASES_UNDER_WAY_MAX)
        """In order; None is the end."""

    async def next(self) -> broker_pb2.ReceiveStreamResponse | None:
        """What to send next; None at the end. Raises what ended the stream."""
        while (response := await self._responses.get()) is not None:
            sending = await asyncio.shield(response)
            self._unsent.discard(response)
            if sending.slices or not self._start.keep_credit:
                return sending.response
        return None

    async def lease(self) -> None:
        """Lease for as long as the worker wants and has credit.

        The next lease is made while the one before is on its way to the store.
        """
        try:
            while not (self.credit.ended or self._room.closed):
                readers = await self._readers()
                response = await self._look(readers)
                if response is not None:
                    await self._responses.put(response)
                else:
                    await self._wait(readers)
            await self._responses.put(None)
        except Exception as error:  # Whatever it is ends the stream, and shows there.
            await self._responses.put(_failed(error))

    async def _readers(self) -> list[QueueReader]:
        topic, subscription = await self._subscriptions.subscription(
            self._identity, self._start.topic_id, self._start.subscription, SubscriptionMode.QUEUE
        )
        self._lease_ms = checked_lease_ms(self._start.lease_ms or subscription.queue.lease_ms)
        request = broker_pb2.ReceiveRequest(topic_id=self._start.topic_id, forwarded=True)
        readers = await self._subscriptions.readers(topic, subscription.name, request)
        assert not isinstance(readers, Remote), "a forwarded call is never placed elsewhere"
        self._move_to(readers)
        return readers

    async def _look(self, readers: Sequence[QueueReader]) -> _Response | None:
        """Lease what there is, or tell of it; None: there is nothing to say."""
        if self.credit.some:
            leasing = self._lease_some(readers)
            if self._start.keep_credit:
                return leasing
            if leasing is None:
                return self._lapsed()
            await asyncio.wait((leasing,))
            return leasing
        if self._start.keep_credit or self._told:
            return None
        ready = next((one for one in readers if one.has_more_ready()), None)
        if ready is None:
            return None
        self._told = True
        self._promise = ready.tell()
        for one in readers:  # It takes nothing yet, so whoever waits behind it must look too.
            one.wake()
        return _said(broker_pb2.ReceiveStreamResponse(more_ready=True))

    def _lease_some(self, readers: Sequence[QueueReader]) -> _Response | None:
        """Begin a lease; its credit is spent at once, and what it did not use is given back."""
        if self._turn is None and any(len(one.ready) for one in readers):
            return None  # Others wait: this one goes to the end of their line.
        self._end_promise()
        messages = min(self.credit.messages, _share(readers))
        bytes_max = min(self.credit.bytes, FETCH_BYTES_DEFAULT)
        try:
            leasing = self._subscriptions.lease(
                readers,
                messages,
                bytes_max,
                self._lease_ms,
                is_new=self._turn is None,
                tells_begin=self._start.tells_begin,
            )
        except MomError as error:
            if error.code in _MOVED:
                return _said(broker_pb2.ReceiveStreamResponse())  # Look what else is here.
            raise
        if leasing is None:
            return None
        self._turn = None
        self.credit.spend(messages, bytes_max)
        response = asyncio.create_task(
            self._leased(readers, leasing, messages, bytes_max), name="streamed lease"
        )
        self._unsent.add(response)
        return response

    async def _leased(
        self,
        readers: Sequence[QueueReader],
        leasing: Coroutine[Any, Any, list[LeasedSlice]],
        messages: int,
        bytes_max: int,
    ) -> _Sending:
        try:
            slices = await leasing
        except MomError as error:
            if error.code not in _MOVED:
                raise
            slices = []
        leased = self._subscriptions.leased(self._start.topic_id, slices, readers, self._lease_ms)
        response = broker_pb2.ReceiveStreamResponse(
            batches=leased.batches, more_ready=leased.more_ready
        )
        used = sum(int.from_bytes(one.data[12:16], "little") for one in slices)
        self.credit.spend(used - messages, sum(len(one.data) for one in slices) - bytes_max)
        self._told = leased.more_ready
        if not self._start.keep_credit:
            self.credit.lapse()
            response.credit_lapsed = True
        self.credit.changed.wake_all()
        return _Sending(response, slices)

    def _lapsed(self) -> _Response:
        self._told = False
        self.credit.lapse()
        return _said(broker_pb2.ReceiveStreamResponse(credit_lapsed=True))

    def _end_promise(self) -> None:
        if self._promise is not None:
            self._promise.end()
            self._promise = None

    async def _wait(self, readers: Sequence[QueueReader]) -> None:
        """Wait for messages, if any are wanted, for credit, and for partitions to come or go."""
        signals = [self.credit.changed, self._partitions.ownership.changed]
        if self.credit.some or not (self._start.keep_credit or self._told):
            signals += [one.ready for one in readers]
            for one in readers:
                one.wake()
            self._turn = self._turn or self._room.turn()
        await self._room.wait(signals, WAIT_MS_MAX, self._turn)

    def _move_to(self, readers: Sequence[QueueReader]) -> None:
        for one in self._at:
            one.streams -= 1
        self._at = list(readers)
        for one in self._at:
            one.streams += 1

    def leave(self) -> None:
        """The stream is over. What was sent stays leased until it is settled."""
        self._end_promise()
        readers = self._leased_at = self._at
        self._move_to(())
        for response in self._unsent:
            response.add_done_callback(self._take_back)
        for one in readers:  # It may have been woken for what others wait for.
            one.wake()

    def _take_back(self, response: _Response) -> None:
        """What was leased and not sent waits again."""
        if response.cancelled() or response.exception() is not None:
            return
        for one in response.result().slices:
            for reader in self._leased_at:
                if reader.partition_index == one.partition:
                    reader.take_back(one)


def _said(response: broker_pb2.ReceiveStreamResponse) -> _Response:
    future: _Response = asyncio.get_running_loop().create_future()
    future.set_result(_Sending(response, []))
    return future


def _failed(error: Exception) -> _Response:
    future: _Response = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


def _share(readers: Sequence[QueueReader]) -> int:
    """A fair part of what is ready for one of those who wait for it."""
    ready = sum(one.ready_at_most() for one in readers)
    waiting = max(len(one.ready) + one.ready.promised for one in readers)
    return max(1, -(-ready // (1 + waiting)))
