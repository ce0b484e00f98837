"""Parking messages that a subscriber gave up on, in a topic or queue for dead letters.

A copy keeps value, key, id and headers, and says in the headers that the broker's own dead letters
have (``mom-dead-…``) where it is from and why. It is durable before the subscriber goes on. A crash
in between has it published again; its ``dedup_id`` names the place that it is from, so that within
the dedup window of where it goes it is there once.
"""

from __future__ import annotations

import hashlib
import time

from mom_client.app.handling import Calls
from mom_client.app.payload import PayloadError
from mom_client.received import ReceivedMessage
from mom_client.results import Published
from mom_core.dead_letters import HANDLER_FAILED, HEADER_PREFIX, PAYLOAD
from mom_core.errors import TooLargeError
from mom_core.limits import PARKED_ERROR_CHARACTERS_MAX
from mom_core.message import Message


class Parking:
    """Where messages of one subscriber are parked."""

    def __init__(self, calls: Calls, dead_letter: str, subscription: str) -> None:
        self._calls = calls
        self._dead_letter = dead_letter
        self._subscription = subscription

    async def check(self) -> None:
        """Raise NotFoundError when dead letters have nowhere to go."""
        if self._dead_letter:
            await self._calls.run(lambda engine: engine.topic(self._dead_letter))

    async def park(self, message: ReceivedMessage, error: Exception, tries: int) -> Published:
        """Publish a copy; where it landed. Raises MomError when it did not."""
        facts = self._facts(message, error, tries)
        try:
            return await self._publish(message, facts)
        except TooLargeError:
            # Headers have a limit: the origin tells more than the error, which is logged as well.
            del facts["error"]
            return await self._publish(message, facts)

    def _facts(self, message: ReceivedMessage, error: Exception, tries: int) -> dict[str, str]:
        # Text of a file's name, say, may have characters without a UTF-8 form.
        said = f"{type(error).__name__}: {error}".encode(errors="replace").decode()
        return {
            "reason": PAYLOAD if isinstance(error, PayloadError) else HANDLER_FAILED,
            "error": said[:PARKED_ERROR_CHARACTERS_MAX],
            "deliveries": str(tries),
            "at-ms": str(time.time_ns() // 1_000_000),
            "topic": message.topic,
            "subscription": self._subscription,
            "partition": str(message.partition),
            "offset": str(message.offset),
        }

    async def _publish(self, message: ReceivedMessage, facts: dict[str, str]) -> Published:
        headers = dict(message.headers)
        headers.update({HEADER_PREFIX + name: value for name, value in facts.items()})
        whole = message.message
        copy = Message(
            whole.value,
            whole.key,
            headers,
            whole.content_type,
            whole.timestamp_ms,
            whole.id,
            dedup_id=_dedup_id(message, self._subscription),
        )
        return await self._calls.run(lambda engine: engine.publish(self._dead_letter, copy))


def _dedup_id(message: ReceivedMessage, subscription: str) -> str:
    """The same for each copy that a subscription parks of a message, and for no other copy."""
    origin = message.origin
    # Hashed, as the name of a subscription may be almost as long as an id. No name has a slash.
    place = f"{origin.topic_id.hex()}/{subscription}/{origin.partition}/{message.offset}"
    return HEADER_PREFIX + hashlib.blake2b(place.encode(), digest_size=16).hexdigest()
