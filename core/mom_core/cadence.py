"""How often the processes of a cluster look after each other while nothing happens.

One value for all processes of a cluster. Real ones have the limits; ``TestBroker``, where nobody
dies, makes these seldom, so that a day of its clock is no work.
"""

from __future__ import annotations

from typing import NamedTuple

from mom_core import limits


class Cadence(NamedTuple):
    """Intervals and what follows from them, milliseconds."""

    heartbeat_interval_ms: int = limits.HEARTBEAT_INTERVAL_MS
    heartbeat_timeout_ms: int = limits.HEARTBEAT_TIMEOUT_MS
    leader_renew_ms: int = limits.LEADER_RENEW_MS
    leader_lease_ms: int = limits.LEADER_LEASE_MS
    placement_debounce_ms: int = limits.PLACEMENT_DEBOUNCE_MS
    """Nodes that come within it cause one round of placing."""
    routing_beat_ms: int = limits.ROUTING_BEAT_MS
    """An unchanged routing table is confirmed this often."""
    retention_sweep_ms: int = limits.RETENTION_SWEEP_MS
    """Partitions are looked at for what can be removed."""


STANDARD = Cadence()
