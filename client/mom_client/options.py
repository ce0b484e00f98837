"""What can be set on a client, with its defaults and bounds."""

from __future__ import annotations

from typing import Final

import msgspec

from mom_core import limits

# Waiting this long for a batch to fill, at the most, and only while another one is on its way.
LINGER_MS_DEFAULT: Final = 5
LINGER_MS_MAX: Final = 1_000
# How long a message is tried before its publish fails. Longer than any failover that is promised.
DELIVERY_TIMEOUT_MS_DEFAULT: Final = 30_000
# One call, beyond the time that it was asked to wait.
REQUEST_TIMEOUT_MS_DEFAULT: Final = 10_000
# Until a client that reaches no server says so.
CONNECT_TIMEOUT_MS_DEFAULT: Final = 5_000
# Messages that were handed over and are not yet acknowledged.
IN_FLIGHT_BYTES_MAX_DEFAULT: Final = 32 * limits.MIB
# Several partitions' batches share a call up to this size: gRPC has reached its full rate there.
PRODUCE_BYTES_TARGET: Final = 1 * limits.MIB
# Calls under way to one node at a time, so that a slow node gathers bigger calls instead.
PRODUCE_CALLS_PER_NODE_MAX: Final = 8
# Between tries: doubles from the first to the last, half of it random.
BACKOFF_MS_FIRST: Final = 20
BACKOFF_MS_MAX: Final = 1_000
# Bytes that a reader fetches ahead of the user, over all partitions it reads, and as many more
# on their way. The I/O thread may wait 5 ms for the interpreter's lock at each step while the
# user's thread computes, so fetches are large and several ahead: 1 MiB is 3 ms of decoding.
PREFETCH_BYTES_MAX: Final = 8 * limits.MIB
FETCH_BYTES_TARGET: Final = 1 * limits.MIB
# Futures of publishes beyond the bytes in flight that wait for room, before publish refuses.
PUBLISH_WAITING_BYTES_MAX: Final = 256 * limits.MIB


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of an engine."""

    auto_create: bool = False
    """Publishing to, and receiving from, a name that does not exist creates it. For development."""
    linger_ms: int = LINGER_MS_DEFAULT
    delivery_timeout_ms: int = DELIVERY_TIMEOUT_MS_DEFAULT
    """How long a message is tried."""
    refusal_timeout_ms: int = DELIVERY_TIMEOUT_MS_DEFAULT
    """How long of it, while the answer is that a limit is reached or a setting of the store is
    wrong. Less than the delivery timeout for those who pass the answer on to their own callers."""
    request_timeout_ms: int = REQUEST_TIMEOUT_MS_DEFAULT
    connect_timeout_ms: int = CONNECT_TIMEOUT_MS_DEFAULT
    in_flight_bytes_max: int = IN_FLIGHT_BYTES_MAX_DEFAULT
    batch_bytes_target: int = limits.BATCH_BYTES_TARGET
    direct: bool = True
    """Of a client that was given a gateway: call nodes that can be reached from here directly."""
    compress: bool = False
    """Compress batches with zlib."""
