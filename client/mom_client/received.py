"""Messages as a consumer gets them."""

from __future__ import annotations

from typing import Any

import msgspec

from mom_client.results import Fetched
from mom_core.batch import decode
from mom_core.ids import id_text
from mom_core.message import Message
from mom_core.receipts import encode_receipt
from mom_proto.v1 import broker_pb2


class Origin(msgspec.Struct, frozen=True):
    """Where messages came from; shared by those that came together."""

    topic: str
    topic_id: bytes
    partition: int
    append_time_ms: int
    subscription: str = ""
    deliveries: int = 0
    lease_id: int = 0
    lease_expires_at_ms: int = 0


class ReceivedMessage(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A message with its place."""

    message: Message
    offset: int
    """The offset in the partition."""
    origin: Origin

    @property
    def value(self) -> bytes:
        """The value's bytes."""
        return self.message.value

    @property
    def key(self) -> str | None:
        """The key as text, None without one. Bytes that are not UTF-8 show as U+FFFD."""
        key = self.message.key
        return None if key is None else key.decode(errors="replace")

    @property
    def key_bytes(self) -> bytes | None:
        """The key's bytes, None without one."""
        return self.message.key

    @property
    def headers(self) -> dict[str, str]:
        """The headers."""
        return self.message.headers or {}

    @property
    def content_type(self) -> str | None:
        """``text/plain``, ``application/json`` or what the producer said; None: plain bytes."""
        return self.message.content_type

    @property
    def timestamp_ms(self) -> int:
        """The producer's time, milliseconds since the Unix epoch."""
        return self.message.timestamp_ms or 0

    @property
    def append_time_ms(self) -> int:
        """When the cluster took it, milliseconds since the Unix epoch."""
        return self.origin.append_time_ms

    @property
    def id(self) -> str:
        """The message's id, a UUID."""
        return id_text(self.message.id) if self.message.id else ""

    @property
    def topic(self) -> str:
        """The topic or queue."""
        return self.origin.topic

    @property
    def partition(self) -> int:
        """The partition."""
        return self.origin.partition

    @property
    def deliveries(self) -> int:
        """How many times it was delivered, this time included; 0 for a read of a log."""
        return self.origin.deliveries

    @property
    def lease_expires_at_ms(self) -> int:
        """When the lease ends unless extended, by the cluster's clock; 0 without a lease."""
        return self.origin.lease_expires_at_ms

    @property
    def receipt(self) -> str:
        """The proof of the lease as REST takes it; empty without a lease."""
        origin = self.origin
        if not origin.subscription:
            return ""
        return encode_receipt(
            origin.topic_id, origin.subscription, origin.partition, self.offset, origin.lease_id
        )

    def text(self) -> str:
        """The value as text. Raises InvalidArgumentError when it is not UTF-8."""
        return self.message.text()

    def json(self) -> Any:
        """The value parsed as JSON. Raises InvalidArgumentError when it is not JSON."""
        return self.message.json()

    def __repr__(self) -> str:
        value = self.value if len(self.value) <= 40 else self.value[:37] + b"..."
        return f"<{self.topic} partition {self.partition} offset {self.offset}: {value!r}>"


def messages_of_fetch(
    topic: str, topic_id: bytes, partition: int, fetched: Fetched, end: int | None = None
) -> list[ReceivedMessage]:
    """The messages of a fetch from its start offset on, and below ``end``."""
    found: list[ReceivedMessage] = []
    first = fetched.start_offset
    for base_offset, append_time_ms, data in fetched.batches:
        origin = Origin(topic, topic_id, partition, append_time_ms)
        messages = decode(data)
        if base_offset < first:
            del messages[: first - base_offset]
            base_offset = first
        if end is not None and base_offset + len(messages) > end:
            del messages[max(0, end - base_offset) :]
        found += [
            ReceivedMessage(message, offset, origin)
            for offset, message in enumerate(messages, base_offset)
        ]
    return found


def messages_of_lease(
    topic: str, subscription: str, leased: broker_pb2.LeasedBatch
) -> list[ReceivedMessage]:
    """The messages that were leased together."""
    origin = Origin(
        topic,
        leased.partition.topic_id,
        leased.partition.index,
        leased.append_time_ms,
        subscription,
        leased.deliveries,
        leased.lease_id,
        leased.lease_expires_at_ms,
    )
    return [
        ReceivedMessage(message, offset, origin)
        for offset, message in enumerate(decode(leased.batch), leased.base_offset)
    ]
