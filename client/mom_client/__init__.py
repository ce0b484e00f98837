"""The MOM client.

::

    import mom_client

    async with mom_client.connect("127.0.0.1:7071") as client:
        await client.publish("orders", {"id": 1}, key="customer-7")

:mod:`mom_client.sync` is the same without asyncio. Importing does no I/O and starts nothing.
"""

from mom_client import sync, tracing
from mom_client.app import MomApp, PayloadError, Retry
from mom_client.browsing import BrowsedMessage
from mom_client.client import Client, connect
from mom_client.consumption import Consumption, Subscription
from mom_client.options import EngineOptions
from mom_client.received import ReceivedMessage
from mom_client.results import DeadLetter, Operation, Published, Sought
from mom_core.errors import (
    ConflictError,
    ErrorCode,
    FencedError,
    ForbiddenError,
    InternalError,
    InvalidArgumentError,
    MomError,
    NotFoundError,
    OffsetError,
    OverloadedError,
    ProducerError,
    SettleError,
    StoreError,
    TimedOutError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
)
from mom_core.message import Message
from mom_core.positions import Position
from mom_core.topics import SubscriptionConfig, TopicConfig

__all__ = [
    "Client",
    "connect",
    "sync",
    "tracing",
    "MomApp",
    "Retry",
    "PayloadError",
    "Message",
    "Position",
    "Published",
    "DeadLetter",
    "Operation",
    "Sought",
    "ReceivedMessage",
    "BrowsedMessage",
    "Subscription",
    "Consumption",
    "EngineOptions",
    "TopicConfig",
    "SubscriptionConfig",
    "ErrorCode",
    "MomError",
    "ConflictError",
    "FencedError",
    "ForbiddenError",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "OffsetError",
    "OverloadedError",
    "ProducerError",
    "SettleError",
    "StoreError",
    "TimedOutError",
    "TooLargeError",
    "UnauthenticatedError",
    "UnavailableError",
]
