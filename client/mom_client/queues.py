"""Receiving and settling over all owners of a queue.

A receive wakes first and leases second. It asks owner after owner to lease what is ready now; when
none has anything, it waits at all of them at once without leasing (``max_messages`` 0), and leases
at the first that wakes. So a request for one message leases one, however many nodes there are, and
a caller that goes away while it waits leaves nothing leased behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from mom_client.calls import Caller
from mom_client.causes import REFUSALS, telling
from mom_client.routing import TopicRoute
from mom_core.errors import ErrorCode, InvalidArgumentError, MomError, UnavailableError
from mom_core.limits import (
    FETCH_BYTES_MAX,
    LEASE_MS_MAX,
    LEASE_MS_MIN,
    RECEIVE_MESSAGES_MAX,
    WAIT_MS_MAX,
)
from mom_core.topics import SubscriptionMode
from mom_process.wire_errors import from_proto, to_proto
from mom_proto.v1 import broker_pb2

_RECEIVE: Final = "/mom.v1.Broker/Receive"
_SETTLE: Final = "/mom.v1.Broker/Settle"

_DONE_BEFORE: Final[dict[int, tuple[str, ...]]] = {
    broker_pb2.SETTLE_ACTION_ACK: (ErrorCode.ALREADY_SETTLED.value,),
    # After its last delivery, giving it back settles it.
    broker_pb2.SETTLE_ACTION_NACK: (ErrorCode.ALREADY_SETTLED.value, ErrorCode.LEASE_LOST.value),
    broker_pb2.SETTLE_ACTION_RELEASE: (ErrorCode.ALREADY_SETTLED.value, ErrorCode.LEASE_LOST.value),
}
# Errors after which it is certain that the try settled nothing. Any other one leaves that open.
_NOT_DONE: Final = REFUSALS | {ErrorCode.NOT_OWNER}


class Leased(list[broker_pb2.LeasedBatch]):
    """What one call leased."""

    since_ms: int = 0
    """When the call was sent, by the monotonic clock: no lease in it began earlier."""


class _Settling:
    """One call's ranges, which are tried until each has a result. Their places name them."""

    def __init__(
        self, subscription: str, ranges: Sequence[broker_pb2.SettleRange], deadline_ms: int
    ) -> None:
        self.subscription = subscription
        self.ranges = ranges
        self.deadline_ms = deadline_ms
        self.results: list[broker_pb2.SettleResult | None] = [None] * len(ranges)
        self._maybe_done: set[int] = set()

    @property
    def left(self) -> list[int]:
        """Those without a result."""
        return [place for place, result in enumerate(self.results) if result is None]

    def fail(self, places: Sequence[int], error: MomError) -> None:
        """None of them was settled."""
        for place in places:
            self.results[place] = _all_failed(self.ranges[place], error)

    def note_open(self, place: int, error: MomError) -> None:
        """A try ended with an error that is worth another one."""
        if error.code not in _NOT_DONE:
            self._maybe_done.add(place)

    def finish(self, place: int, result: broker_pb2.SettleResult) -> None:
        """Its owner answered. What an earlier try may have done, and is done, that one did."""
        if place in self._maybe_done:
            _forgive_settled_before(self.ranges[place].action, result)
        self.results[place] = result


class Queues:
    """Leases and settles at owners."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._turn = 0
        self._background: set[asyncio.Task[None]] = set()

    # Receiving.

    async def receive(
        self,
        topic: str,
        subscription: str,
        *,
        max_messages: int,
        max_bytes: int,
        wait_ms: int,
        lease_ms: int,
        tells_begin: bool,
    ) -> Leased:
        """See :meth:`mom_client.engine.Engine.receive`."""
        _check_range("max_messages", max_messages, 1, RECEIVE_MESSAGES_MAX)
        _check_range("max_bytes", max_bytes, 0, FETCH_BYTES_MAX)
        _check_range("wait_ms", wait_ms, 0, WAIT_MS_MAX)
        if lease_ms:
            _check_range("lease_ms", lease_ms, LEASE_MS_MIN, LEASE_MS_MAX)
        request = broker_pb2.ReceiveRequest(
            subscription=subscription,
            max_messages=max_messages,
            max_bytes=max_bytes,
            lease_ms=lease_ms,
            tells_begin=tells_begin,
        )
        return await self._receive(topic, request, wait_ms)

    async def _receive(
        self, topic: str, request: broker_pb2.ReceiveRequest, wait_ms: int
    ) -> Leased:
        clock = self._caller.clock
        until_ms = clock.monotonic_ms() + wait_ms
        give_up_ms = self._caller.deadline_ms(wait_ms)
        backoff = self._caller.backoff()
        cause: MomError | None = None
        first = ""
        while True:
            route = await self._caller.routing.topic(topic)
            if route.subscription(request.subscription).mode is not SubscriptionMode.QUEUE:
                raise InvalidArgumentError(
                    f"subscription {request.subscription!r} of {topic!r} is a stream: read it with "
                    "subscribe; receive is for queues",
                    field="subscription",
                )
            revision = self._caller.routing.snapshot.revision
            request.topic_id = route.topic_id
            addresses = self._addresses(route, first)
            batches, error, answered = await self._lease(addresses, request, give_up_ms)
            left_ms = until_ms - clock.monotonic_ms()
            if batches or (answered and left_ms <= 0):
                return batches
            if not answered:
                error = error or _no_owner(topic)
                cause = telling(cause, error)
                if clock.monotonic_ms() >= give_up_ms:
                    raise cause
                await self._caller.wait(error, revision, backoff)
                continue
            first = await self._await_any(answered, route, request.subscription, left_ms)

    def _addresses(self, route: TopicRoute, first: str) -> list[str]:
        """Owners in turn, so that each is the first to be asked equally often."""
        found = {self._caller.routing.address(owner) for owner in route.owners} - {""}
        addresses = sorted(found)
        if addresses:
            self._turn += 1
            turn = self._turn % len(addresses)
            addresses = addresses[turn:] + addresses[:turn]
        if first in found:
            addresses.remove(first)
            addresses.insert(0, first)
        return addresses

    async def _lease(
        self, addresses: Sequence[str], request: broker_pb2.ReceiveRequest, deadline_ms: int
    ) -> tuple[Leased, MomError | None, list[str]]:
        """Ask one after the other until one has something; and who answered."""
        last_error: MomError | None = None
        answered: list[str] = []
        leased = Leased()
        for address in addresses:
            leased.since_ms = self._caller.clock.monotonic_ms()
            try:
                response = await self._lease_at(address, request, deadline_ms)
            except MomError as error:
                if not error.retriable:
                    raise
                last_error = error
                continue
            if response.batches:
                leased.extend(response.batches)
                return leased, None, answered
            answered.append(address)
        return leased, last_error, answered

    async def _lease_at(
        self, address: str, request: broker_pb2.ReceiveRequest, deadline_ms: int
    ) -> broker_pb2.ReceiveResponse:
        """Lease what is ready now. A caller that is cancelled meanwhile gives it back."""
        call = asyncio.get_running_loop().create_task(
            self._caller.call_address(address, _RECEIVE, request.SerializeToString(), deadline_ms)
        )
        try:
            return broker_pb2.ReceiveResponse.FromString(await asyncio.shield(call))
        except asyncio.CancelledError:
            release = asyncio.get_running_loop().create_task(
                self._give_back(call, address, request.topic_id, request.subscription)
            )
            self._background.add(release)
            release.add_done_callback(self._background.discard)
            raise

    async def _give_back(
        self, call: asyncio.Task[bytes], address: str, topic_id: bytes, subscription: str
    ) -> None:
        try:
            response = broker_pb2.ReceiveResponse.FromString(await call)
            if not response.batches:
                return
            ranges = [
                broker_pb2.SettleRange(
                    partition=one.partition.index,
                    first_offset=one.base_offset,
                    count=int.from_bytes(one.batch[12:16], "little"),
                    lease_id=one.lease_id,
                    action=broker_pb2.SETTLE_ACTION_RELEASE,
                )
                for one in response.batches
            ]
            request = broker_pb2.SettleRequest(
                topic_id=topic_id, subscription=subscription, ranges=ranges
            )
            await self._caller.call_address(
                address, _SETTLE, request.SerializeToString(), self._caller.deadline_ms()
            )
        except MomError:
            return  # The leases then end by themselves.

    async def _await_any(
        self, addresses: Sequence[str], route: TopicRoute, subscription: str, wait_ms: int
    ) -> str:
        """Wait until one of the owners has something; which one, empty for none."""
        request = broker_pb2.ReceiveRequest(
            topic_id=route.topic_id, subscription=subscription, max_messages=0, wait_ms=wait_ms
        ).SerializeToString()
        deadline_ms = self._caller.deadline_ms(wait_ms)
        loop = asyncio.get_running_loop()
        calls = {
            loop.create_task(
                self._caller.call_address(address, _RECEIVE, request, deadline_ms)
            ): address
            for address in addresses
        }
        # Partitions may move while this waits, and a lost owner must not hold the others up.
        news = loop.create_task(self._caller.routing.changed(wait_ms))
        try:
            done, _ = await asyncio.wait({*calls, news}, return_when=asyncio.FIRST_COMPLETED)
            return next((calls[one] for one in calls if one in done and _woke(one)), "")
        finally:
            for task in (*calls, news):
                task.cancel()
            await asyncio.gather(*calls, news, return_exceptions=True)

    # Settling.

    async def settle(
        self, topic: str, subscription: str, ranges: Sequence[broker_pb2.SettleRange]
    ) -> list[broker_pb2.SettleResult]:
        """See :meth:`mom_client.engine.Engine.settle`."""
        settling = _Settling(subscription, ranges, self._caller.deadline_ms())
        backoff = self._caller.backoff()
        cause: MomError | None = None
        while settling.left:
            route = await self._caller.routing.topic(topic)
            revision = self._caller.routing.snapshot.revision
            error = await self._settle_once(route, settling)
            if not settling.left or error is None:
                break
            cause = telling(cause, error)
            if self._caller.clock.monotonic_ms() >= settling.deadline_ms:
                settling.fail(settling.left, cause)
                break
            await self._caller.wait(error, revision, backoff)
        return [one for one in settling.results if one is not None]

    async def _settle_once(self, route: TopicRoute, settling: _Settling) -> MomError | None:
        """One try of all that is left; the last error that is worth another one."""
        places: dict[str, list[int]] = {}
        last_error: MomError | None = None
        for place in settling.left:
            try:
                owner = route.owners[route.check_partition(settling.ranges[place].partition)]
            except InvalidArgumentError as error:
                settling.fail((place,), error)
                continue
            address = self._caller.routing.address(owner)
            if address:
                places.setdefault(address, []).append(place)
            else:
                last_error = _no_owner(route.name)
        errors = await asyncio.gather(
            *(self._settle_at(address, route, settling, here) for address, here in places.items())
        )
        return next((error for error in errors if error is not None), last_error)

    async def _settle_at(
        self, address: str, route: TopicRoute, settling: _Settling, places: Sequence[int]
    ) -> MomError | None:
        request = broker_pb2.SettleRequest(
            topic_id=route.topic_id,
            subscription=settling.subscription,
            ranges=[settling.ranges[place] for place in places],
        )
        try:
            reply = await self._caller.call_address(
                address, _SETTLE, request.SerializeToString(), settling.deadline_ms
            )
        except MomError as error:
            if not error.retriable:
                settling.fail(places, error)
                return None
            for place in places:
                settling.note_open(place, error)
            return error
        last_error: MomError | None = None
        settled = broker_pb2.SettleResponse.FromString(reply).results
        for place, result in zip(places, settled, strict=True):
            retriable = _worth_another_try(result)
            if retriable is None:
                settling.finish(place, result)
            else:
                settling.note_open(place, retriable)
                last_error = retriable
        return last_error

    # Looking.

    async def browse(
        self, topic: str, subscription: str, partition: int, *, offset: int, max_messages: int
    ) -> broker_pb2.BrowseResponse:
        """See :meth:`mom_client.engine.Engine.browse`."""

        def request(route: TopicRoute) -> bytes:
            return broker_pb2.BrowseRequest(
                topic_id=route.topic_id,
                subscription=subscription,
                partition=partition,
                offset=offset,
                max_messages=max_messages,
            ).SerializeToString()

        return await self._caller.at_owner(
            topic, partition, "Browse", request, broker_pb2.BrowseResponse.FromString
        )


def _check_range(field: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise InvalidArgumentError(
            f"{field} is {value}; {lowest} to {highest} is allowed", field=field
        )


def _no_owner(topic: str) -> MomError:
    return UnavailableError(
        f"{topic!r} has no owner that can be reached now: no node is up, or its partitions are "
        "just being moved"
    )


def _woke(call: asyncio.Task[bytes]) -> bool:
    return not call.cancelled() and call.exception() is None


def _all_failed(one: broker_pb2.SettleRange, error: MomError) -> broker_pb2.SettleResult:
    failure = broker_pb2.SettleFailure(
        first_offset=one.first_offset, count=one.count, error=to_proto(error)
    )
    return broker_pb2.SettleResult(failures=[failure])


def _worth_another_try(result: broker_pb2.SettleResult) -> MomError | None:
    for failure in result.failures:
        error = from_proto(failure.error)
        if error.retriable:
            return error
    return None


def _forgive_settled_before(action: int, result: broker_pb2.SettleResult) -> None:
    """What may have been done by an earlier try and is done was done by it.

    Where a message was to be given back, that its lease is gone is what was asked for, too.
    """
    forgiven = _DONE_BEFORE.get(action, ())
    kept = [one for one in result.failures if one.error.code not in forgiven]
    del result.failures[:]
    result.failures.extend(kept)
