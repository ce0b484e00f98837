"""What a node is told at its start."""

from __future__ import annotations

import msgspec

from mom_core import limits
from mom_core.cadence import STANDARD, Cadence


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a node."""

    node_id: str
    """Unique and stable: a node that comes back under its name gets its partitions back."""
    listen: str = "127.0.0.1:7071"
    """``host:port`` to serve gRPC on; port 0 chooses a free one."""
    advertise: str = ""
    """``host:port`` that clients and peers reach it by; port 0: the one it listens on; empty: where
    it listens."""
    rack: str = ""
    masters: tuple[str, ...] = ()
    """Addresses of masters to register with, beside the leader that the store names."""
    cluster_token: str | None = None
    """The secret that the processes of the cluster share."""
    open_to_all: bool = False
    """Serve without tokens."""
    cache_bytes_max: int = limits.NODE_CACHE_BYTES_MAX_DEFAULT
    drain_timeout_ms: int = 10_000
    """How long a stopping node waits for its partitions to be placed elsewhere."""
    cadence: Cadence = STANDARD
