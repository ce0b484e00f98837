"""Queue delivery: which message of a partition is whose, for one subscription. Pure.

Every offset is in one of these states::

    arrives ─▶ waiting ──lease──▶ leased ──ack───────────────────▶ settled
               ▲  │                │  │                              ▲
               │  │                │  ├─ nack, release, lease's end  │
               └──┼────────────────┘  │  (with a backoff)            │
                  │                   └─ too many deliveries ─▶ dead ┤
                  ├─ expiry ─────────────────────────────────▶ dead ─┤ sent to the dead letters
                  ├─ expiry, skip, purge ────────────────────────────┤
                  └─ redrive ─▶ leaving ──────── landed elsewhere ───┘

Waiting ones are ready, or delayed until a time. What is alike and consecutive is one range: the
state's size follows the disorder and the special wishes of messages, not the backlog.

Decide, then act: each public method that changes something returns the changes it made, as small
structs (:mod:`~mom_core.delivery.changes`). Applying the same changes to an equal state gives an
equal state; that is how a journal brings a partition back on another node. Nothing may leave the
node before its changes are durable. Arrivals are no changes: they follow from the log.

Times are milliseconds by the store's clock, and come in as arguments.
"""

from mom_core.delivery.arrivals import Run, runs_of_batch
from mom_core.delivery.changes import (
    Change,
    DeadReason,
    Leased,
    LeasedRange,
    SettleAction,
    SettleOutcome,
    decode_changes,
    encode_changes,
)
from mom_core.delivery.dying import DeadAddress, DeadMessage
from mom_core.delivery.policy import Backoff, Ordering, Policy
from mom_core.delivery.rescheduling import WaitingResult, Wanted
from mom_core.delivery.state import Delivery, DeliveryCounts, Outstanding
from mom_core.delivery.ttl import TtlFrom

__all__ = [
    "Backoff",
    "Change",
    "DeadAddress",
    "DeadMessage",
    "DeadReason",
    "Delivery",
    "DeliveryCounts",
    "Leased",
    "LeasedRange",
    "Ordering",
    "Outstanding",
    "Policy",
    "Run",
    "SettleAction",
    "SettleOutcome",
    "TtlFrom",
    "WaitingResult",
    "Wanted",
    "decode_changes",
    "encode_changes",
    "runs_of_batch",
]
