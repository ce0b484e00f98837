"""The kinds of clients: what a load needs of each, over its own way to the cluster.

A kind is a name, its promises and a way to connect; a load takes any mixture of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import httpx

import mom_client
from e2e.history.events import Action, Outcome
from e2e.history.recorder import CallError, ClientRecorder
from e2e.history.wishes import NO_WISH, TENANT_HEADER, Wish
from mom_client import ErrorCode, MomError, ReceivedMessage
from mom_client.administration import DEAD_PARTITION
from mom_core.dead_letters import REDRIVES_HEADER, DeathFacts, facts_of
from mom_proto.v1 import broker_pb2


class Landed(NamedTuple):
    """Where a send landed."""

    partition: int
    offset: int
    durability: str


class Record(NamedTuple):
    """A message of a topic."""

    partition: int
    offset: int
    body: str


class Held(NamedTuple):
    """A message under lease. ``handle`` is what its client settles it with."""

    partition: int
    offset: int
    body: str
    deliveries: int
    handle: Any
    headers: Mapping[str, str] = {}

    @property
    def redrives(self) -> int:
        """How often its headers say that it was sent back from the dead letters."""
        told = self.headers.get(REDRIVES_HEADER, "0")
        return int(told) if told.isdigit() else -1

    @property
    def facts(self) -> DeathFacts | None:
        """What its headers tell of its death; None: it is no dead letter."""
        return facts_of(self.headers)


class Dead(NamedTuple):
    """A dead letter, as it is looked at."""

    partition: int
    offset: int
    body: str
    facts: DeathFacts


class Work(NamedTuple):
    """How far a redrive is."""

    state: str
    done: int


class QueueToMake(NamedTuple):
    """A queue with its settings, in the shown form."""

    name: str
    settings: dict[str, Any]


class Messenger(Protocol):
    """A connected client. Every method raises CallError, and leaves deadlines to its caller."""

    async def prepare(
        self, topic: str, subscription: str, partitions: int, queues: Sequence[QueueToMake]
    ) -> None:
        """Create what a load uses; no error when it stands already."""

    async def send(
        self, target: str, body: str, key: str | None, wish: Wish, *, queue: bool
    ) -> Landed:
        """Send one message. What orders it is the moment of this call."""

    async def cancel(self, queue: str, partition: int, offset: int) -> str | None:
        """Cancel a message that waits; an error's code when it may not be done."""

    async def reschedule(
        self, queue: str, partition: int, offset: int, delay_s: float
    ) -> str | None:
        """Move a message that waits; an error's code when it may not be done."""

    async def purge(self, queue: str) -> None:
        """Take away all that waits in a queue and all that is leased."""

    async def create_topic(self, name: str, settings: Mapping[str, Any]) -> None:
        """Create a topic with settings of the shown form; no error when it stands already."""

    async def create_queue(self, name: str, settings: Mapping[str, Any]) -> None:
        """Create a queue, as :meth:`create_topic`."""

    async def offer(self, queue: str, body: str) -> Landed:
        """Send one message to a queue that may be full, and hear soon when it is."""

    async def set_paused(self, queue: str, paused: bool) -> None:
        """Pause a queue, or let it go on."""

    async def dead_letters(self, queue: str) -> list[Dead]:
        """Look at the dead letters that a queue holds."""

    async def redrive(self, queue: str, rate_per_s: float) -> str:
        """Begin to send them back to where they died; the operation's id."""

    async def operation(self, operation_id: str) -> Work:
        """How far it is."""

    def read(
        self, topic: str, partition: int, offset: int, *, follow: bool
    ) -> AsyncIterator[Record]:
        """Read a partition from an offset to its end, or for ever."""

    def join(self, topic: str, subscription: str, member: str) -> AsyncIterator[Record]:
        """Read as a member of a subscription, for ever."""

    async def receive(
        self, queue: str, max_messages: int, *, wait_s: float, lease_s: float
    ) -> list[Held]:
        """Lease messages."""

    async def settle(
        self, queue: str, held: Sequence[Held], action: Action, *, lease_s: float = 0.0
    ) -> list[str | None]:
        """Settle or extend; an error's code for each message that it failed for."""

    async def is_stalled(self, queue: str) -> bool:
        """Whether a queue is told as stalled."""

    async def backlog(self, queue: str) -> int:
        """How many messages a queue holds: ready, delayed, leased, or on their way to the dead."""


# Of a partition: more than a load writes, and so little that a small store may promise it to all
# loads of a run.
RETENTION_BYTES: Final = 4 << 20

Connect = Callable[[ClientRecorder], AbstractAsyncContextManager[Messenger]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of client."""

    name: str
    connect: Connect
    idempotent: bool
    ordered_by_call: bool
    """Its sends need not wait for each other to stay in order; see events.Client."""
    joins: bool
    """It can be a member of a subscription."""
    resends: int
    """How often the application sends a message again whose send failed."""


def sdk(addresses: str | Sequence[str], token: str | None = None, name: str = "sdk") -> Kind:
    """The SDK at nodes (``host:port``), or through a gateway (``http://…``)."""

    @asynccontextmanager
    async def connect(recorder: ClientRecorder) -> AsyncIterator[Messenger]:
        wanted = addresses if isinstance(addresses, str) else list(addresses)
        async with (
            mom_client.connect(wanted, token=token) as client,
            mom_client.connect(
                wanted, token=token, refusal_timeout_ms=REFUSAL_TIMEOUT_MS
            ) as impatient,
        ):
            yield SdkMessenger(client, impatient, recorder)

    # The SDK itself tries again, under the producer's sequence.
    return Kind(name, connect, idempotent=True, ordered_by_call=True, joins=True, resends=0)


def http(url: str, token: str | None = None, name: str = "http", deadline_s: float = 10.0) -> Kind:
    """Plain HTTP at a gateway or an Ingress. ``deadline_s`` is of one poll, beyond its wait."""

    @asynccontextmanager
    async def connect(recorder: ClientRecorder) -> AsyncIterator[Messenger]:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        # The load has deadlines of its own.
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=None) as client:
            yield HttpMessenger(client, recorder, deadline_s)

    return Kind(name, connect, idempotent=False, ordered_by_call=False, joins=False, resends=2)


# A send that failed with one of these was refused before it could land.
REFUSALS: Final = frozenset(
    {
        ErrorCode.INVALID_ARGUMENT.value,
        ErrorCode.TOO_LARGE.value,
        ErrorCode.UNAUTHENTICATED.value,
        ErrorCode.FORBIDDEN.value,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE.value,
    }
)


# How long the SDK tries a message that is offered to a full queue.
REFUSAL_TIMEOUT_MS: Final = 300
# What the error of a send says of itself.
_DID_NOT_LAND: Final = (False, "false")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except MomError as error:
        did_not_land = error.details.get("may_have_landed") in _DID_NOT_LAND
        refused = did_not_land or error.code.value in REFUSALS
        raise CallError(error.code.value, not refused) from error


class SdkMessenger:
    """The SDK."""

    def __init__(
        self, client: mom_client.Client, impatient: mom_client.Client, recorder: ClientRecorder
    ) -> None:
        self._client = client
        self._impatient = impatient
        self._recorder = recorder

    async def prepare(
        self, topic: str, subscription: str, partitions: int, queues: Sequence[QueueToMake]
    ) -> None:
        """See :class:`Messenger`."""
        with _translated():
            await self._client.create_topic(
                topic, partitions=partitions, retention_bytes=RETENTION_BYTES
            )
            await self._client.create_subscription(topic, subscription, mode="stream")
            for one in queues:
                await self._client.create_queue(one.name, **one.settings)

    async def send(
        self, target: str, body: str, key: str | None, wish: Wish, *, queue: bool
    ) -> Landed:
        """See :class:`Messenger`."""
        with _translated():
            published = await self._client.publish(
                target,
                body,
                key=key,
                headers={} if wish.group is None else {TENANT_HEADER: wish.group},
                delay=wish.delay_s,
                ttl=wish.ttl_s,
                dedup_id=wish.dedup_id,
                priority=wish.priority,
            )
        return Landed(published.partition, published.offset, published.durability)

    async def cancel(self, queue: str, partition: int, offset: int) -> str | None:
        """See :class:`Messenger`."""
        with _translated():
            (error,) = await self._client.cancel(queue, [f"{partition}:{offset}"])
        return None if error is None else error.code.value

    async def reschedule(
        self, queue: str, partition: int, offset: int, delay_s: float
    ) -> str | None:
        """See :class:`Messenger`."""
        places = [f"{partition}:{offset}"]
        with _translated():
            (error,) = await self._client.reschedule(queue, places, delay=delay_s)
        return None if error is None else error.code.value

    async def purge(self, queue: str) -> None:
        """See :class:`Messenger`."""
        with _translated():
            await self._client.purge(queue, leased=True)

    async def create_topic(self, name: str, settings: Mapping[str, Any]) -> None:
        """See :class:`Messenger`."""
        with _translated():
            await self._client.create_topic(name, **settings)

    async def create_queue(self, name: str, settings: Mapping[str, Any]) -> None:
        """See :class:`Messenger`."""
        with _translated():
            await self._client.create_queue(name, **settings)

    async def offer(self, queue: str, body: str) -> Landed:
        """See :class:`Messenger`."""
        with _translated():
            published = await self._impatient.publish(queue, body)
        return Landed(published.partition, published.offset, published.durability)

    async def set_paused(self, queue: str, paused: bool) -> None:
        """See :class:`Messenger`."""
        with _translated():
            await (self._client.pause if paused else self._client.resume)(queue)

    async def dead_letters(self, queue: str) -> list[Dead]:
        """See :class:`Messenger`."""
        with _translated():
            found = await self._client.dead_letters(queue)
        return [Dead(DEAD_PARTITION, one.offset, one.message.text(), one.facts) for one in found]

    async def redrive(self, queue: str, rate_per_s: float) -> str:
        """See :class:`Messenger`."""
        with _translated():
            return (await self._client.redrive(queue, rate=rate_per_s)).operation_id

    async def operation(self, operation_id: str) -> Work:
        """See :class:`Messenger`."""
        with _translated():
            found = await self._client.operation(operation_id)
        return Work(found.state, found.done)

    async def read(
        self, topic: str, partition: int, offset: int, *, follow: bool
    ) -> AsyncIterator[Record]:
        """See :class:`Messenger`."""
        start = f"offset:{offset}" if offset else "earliest"
        with self._recorder.iteration("read"), _translated():
            async for one in self._client.read(
                topic, partition=partition, start=start, follow=follow
            ):
                yield Record(one.partition, one.offset, one.text())

    async def join(self, topic: str, subscription: str, member: str) -> AsyncIterator[Record]:
        """See :class:`Messenger`."""
        with self._recorder.iteration("subscribe"), _translated():
            async with self._client.subscribe(topic, subscription, member=member) as messages:
                async for one in messages:
                    yield Record(one.partition, one.offset, one.text())

    async def receive(
        self, queue: str, max_messages: int, *, wait_s: float, lease_s: float
    ) -> list[Held]:
        """See :class:`Messenger`."""
        with _translated():
            messages = await self._client.receive(queue, max_messages, wait=wait_s, lease=lease_s)
        return [
            Held(one.partition, one.offset, one.text(), one.deliveries, one, one.headers)
            for one in messages
        ]

    async def settle(
        self, queue: str, held: Sequence[Held], action: Action, *, lease_s: float = 0.0
    ) -> list[str | None]:
        """See :class:`Messenger`."""
        messages: list[ReceivedMessage] = [one.handle for one in held]
        with _translated():
            match action:
                case Action.ACK:
                    results = await self._client.ack(messages)
                case Action.NACK:
                    results = await self._client.nack(messages)
                case Action.EXTEND:
                    results = await self._client.extend(messages, lease_s)
        return [None if one is None else one.code.value for one in results]

    async def is_stalled(self, queue: str) -> bool:
        """See :class:`Messenger`."""
        return any(
            one.stalled_since_ms
            for partition in await self._describe(queue)
            for one in partition.subscriptions
        )

    async def backlog(self, queue: str) -> int:
        """See :class:`Messenger`."""
        return sum(
            one.ready + one.delayed + one.leased + one.dead
            for partition in await self._describe(queue)
            for one in partition.subscriptions
        )

    async def _describe(self, queue: str) -> list[broker_pb2.PartitionDescription]:
        with _translated():
            described = await self._client.describe(queue)
        if not all(partition.node_id for partition in described):
            raise CallError(ErrorCode.UNAVAILABLE.value)  # What nobody counted is not empty.
        return described


class HttpMessenger:
    """Plain HTTP, as any language speaks it."""

    READ_WAIT_S: Final = 5.0
    """A poll's wait: short, so that a silent connection is soon left."""

    def __init__(
        self, client: httpx.AsyncClient, recorder: ClientRecorder, deadline_s: float
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._deadline_s = deadline_s

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = await self._client.request(method, path, **options)
        except httpx.ConnectError as error:
            raise CallError("ConnectError", may_have_landed=False) from error
        except httpx.HTTPError as error:
            raise CallError(type(error).__name__) from error
        if response.is_error:
            raise _error_of(response)
        return response.json()

    async def prepare(
        self, topic: str, subscription: str, partitions: int, queues: Sequence[QueueToMake]
    ) -> None:
        """See :class:`Messenger`."""
        size = {"partitions": partitions, "retention_bytes": RETENTION_BYTES}
        await self._call("PUT", f"/v1/topics/{topic}", json=size)
        await self._call("PUT", f"/v1/topics/{topic}/subscriptions/{subscription}", json={})
        for one in queues:
            await self._call("PUT", f"/v1/queues/{one.name}", json=one.settings)

    async def send(
        self, target: str, body: str, key: str | None, wish: Wish, *, queue: bool
    ) -> Landed:
        """See :class:`Messenger`."""
        path = f"/v1/queues/{target}/messages" if queue else f"/v1/topics/{target}/records"
        message: dict[str, Any] = {"value": body, "key": key}
        if wish.delay_s:
            message["delay_ms"] = int(wish.delay_s * 1000)
        if wish.ttl_s:
            message["ttl_ms"] = int(wish.ttl_s * 1000)
        if wish.dedup_id is not None:
            message["dedup_id"] = wish.dedup_id
        if wish.priority:
            message["priority"] = wish.priority
        if wish.group is not None:
            message["headers"] = {TENANT_HEADER: wish.group}
        reply = await self._call("POST", path, json=message)
        result = reply["results"][0]
        return Landed(result["partition"], result["offset"], result["durability"])

    async def read(
        self, topic: str, partition: int, offset: int, *, follow: bool
    ) -> AsyncIterator[Record]:
        """See :class:`Messenger`."""
        path = f"/v1/topics/{topic}/partitions/{partition}/records"
        wait_s = self.READ_WAIT_S if follow else 0.0
        while True:
            query = {"offset": offset or "earliest", "wait_ms": int(wait_s * 1000)}
            with self._recorder.call("read", wait_s):
                async with asyncio.timeout(self._deadline_s + wait_s):
                    reply = await self._call("GET", path, params=query)
            for one in reply["records"]:
                yield Record(partition, one["offset"], one["value"])
            offset = reply["next_offset"]
            if not follow and offset >= reply["high_watermark"]:
                return

    async def join(self, topic: str, subscription: str, member: str) -> AsyncIterator[Record]:
        """Not here: over HTTP a member is several calls, which the SDK makes."""
        raise NotImplementedError
        yield  # type: ignore[unreachable]  # what makes it an iteration

    async def receive(
        self, queue: str, max_messages: int, *, wait_s: float, lease_s: float
    ) -> list[Held]:
        """See :class:`Messenger`."""
        wanted = {
            "max": max_messages,
            "wait_ms": int(wait_s * 1000),
            "lease_ms": int(lease_s * 1000),
        }
        reply = await self._call("POST", f"/v1/queues/{queue}/messages:receive", json=wanted)
        return [
            Held(
                one["partition"],
                one["offset"],
                one["value"],
                one["deliveries"],
                one["receipt"],
                one.get("headers") or {},
            )
            for one in reply["messages"]
        ]

    async def settle(
        self, queue: str, held: Sequence[Held], action: Action, *, lease_s: float = 0.0
    ) -> list[str | None]:
        """See :class:`Messenger`."""
        body: dict[str, Any] = {"receipts": [one.handle for one in held]}
        if action is Action.EXTEND:
            body["lease_ms"] = int(lease_s * 1000)
        path = f"/v1/queues/{queue}/messages:{action.value}"
        try:
            reply = await self._call("POST", path, json=body)
        except CallError as error:
            if error.code in _SETTLE_ANSWERS:  # Of all of them, for this one reason.
                return [error.code] * len(held)
            raise
        return [None if one["status"] == "ok" else one["code"] for one in reply["results"]]

    async def cancel(self, queue: str, partition: int, offset: int) -> str | None:
        """See :class:`Messenger`."""
        positions = [f"{partition}:{offset}"]
        return await self._change(queue, "cancel", {"positions": positions})

    async def reschedule(
        self, queue: str, partition: int, offset: int, delay_s: float
    ) -> str | None:
        """See :class:`Messenger`."""
        wanted = {"positions": [f"{partition}:{offset}"], "delay_ms": int(delay_s * 1000)}
        return await self._change(queue, "reschedule", wanted)

    async def purge(self, queue: str) -> None:
        """See :class:`Messenger`."""
        await self._call("POST", f"/v1/queues/{queue}/messages:purge", json={"leased": True})

    async def create_topic(self, name: str, settings: Mapping[str, Any]) -> None:
        """See :class:`Messenger`."""
        await self._call("PUT", f"/v1/topics/{name}", json=dict(settings))

    async def create_queue(self, name: str, settings: Mapping[str, Any]) -> None:
        """See :class:`Messenger`."""
        await self._call("PUT", f"/v1/queues/{name}", json=dict(settings))

    async def offer(self, queue: str, body: str) -> Landed:
        """See :class:`Messenger`."""
        return await self.send(queue, body, None, NO_WISH, queue=True)

    async def set_paused(self, queue: str, paused: bool) -> None:
        """See :class:`Messenger`."""
        await self._call("PATCH", f"/v1/queues/{queue}", json={"paused": paused})

    async def dead_letters(self, queue: str) -> list[Dead]:
        """See :class:`Messenger`."""
        found: list[Dead] = []
        page_token = ""
        while True:
            query = {"page_token": page_token} if page_token else {}
            path = f"/v1/queues/{queue}/dead-letters"
            reply = await self._call("GET", path, params=query)
            found += [
                Dead(DEAD_PARTITION, one["offset"], one["value"], _facts(one))
                for one in reply["dead_letters"]
            ]
            page_token = reply["next_page_token"]
            if not page_token:
                return found

    async def redrive(self, queue: str, rate_per_s: float) -> str:
        """See :class:`Messenger`."""
        path = f"/v1/queues/{queue}/dead-letters:redrive"
        reply = await self._call("POST", path, json={"rate": rate_per_s})
        return str(reply["operation_id"])

    async def operation(self, operation_id: str) -> Work:
        """See :class:`Messenger`."""
        reply = await self._call("GET", f"/v1/operations/{operation_id}")
        return Work(reply["state"], reply["done"])

    async def _change(self, queue: str, how: str, wanted: dict[str, Any]) -> str | None:
        """Change one message that waits; an error's code when it may not be done."""
        try:
            reply = await self._call("POST", f"/v1/queues/{queue}/messages:{how}", json=wanted)
        except CallError as error:
            return error.code
        (result,) = reply["results"]
        return None if result["status"] == "ok" else str(result["code"])

    async def is_stalled(self, queue: str) -> bool:
        """See :class:`Messenger`."""
        described = await self._call("GET", f"/v1/queues/{queue}")
        return bool(described["messages"]["stalled_since_ms"])

    async def backlog(self, queue: str) -> int:
        """See :class:`Messenger`."""
        counts = (await self._call("GET", f"/v1/queues/{queue}"))["messages"]
        return int(counts["ready"] + counts["delayed"] + counts["leased"] + counts["dead"])


def _facts(shown: dict[str, Any]) -> DeathFacts:
    """What REST shows of a dead letter."""
    return DeathFacts(
        reason=shown["reason"],
        deliveries=shown["deliveries"],
        first_delivered_at_ms=shown.get("first_delivered_at_ms", 0),
        died_at_ms=shown["died_at_ms"],
        topic=shown["topic"],
        subscription=shown["subscription"],
        partition=shown["origin_partition"],
        offset=shown["origin_offset"],
        redrives=shown["redrives"],
    )


# Reasons for which a message was certainly not settled by this call.
SETTLE_REFUSALS: Final = frozenset(
    {
        ErrorCode.INVALID_RECEIPT.value,
        ErrorCode.LEASE_LOST.value,
        ErrorCode.ALREADY_SETTLED.value,
    }
)
# Answers that tell what an administrator did. A purge ends a lease that its worker counts on, so
# they are no refusals by which the length of a lease could be judged.
_SETTLE_ANSWERS: Final = SETTLE_REFUSALS | {ErrorCode.PURGED.value, ErrorCode.REDRIVEN.value}


def outcome_of(code: str | None) -> Outcome:
    """What became of a settling whose result is this error's code, or none."""
    if code is None:
        return Outcome.OK
    return Outcome.REFUSED if code in SETTLE_REFUSALS else Outcome.UNKNOWN


def _error_of(response: httpx.Response) -> CallError:
    """The error of an answer: MOM's own code, or the bare status of a proxy."""
    code = f"HTTP {response.status_code}"
    did_not_land = False
    if "json" in response.headers.get("content-type", ""):
        problem = response.json()
        code = problem.get("code", code)
        did_not_land = problem.get("may_have_landed") in _DID_NOT_LAND
    refused = code in REFUSALS or response.status_code in (401, 403, 404, 405, 413, 415)
    return CallError(code, may_have_landed=not (refused or did_not_land))
