"""What a master is told at its start."""

from __future__ import annotations

import msgspec

from mom_core.cadence import STANDARD, Cadence


class MasterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a master."""

    master_id: str = ""
    """For people and logs; empty: a random one."""
    listen: str = "127.0.0.1:7070"
    """``host:port`` to serve gRPC on; port 0 chooses a free one."""
    advertise: str = ""
    """``host:port`` that nodes and clients reach it by; port 0: the one it listens on; empty: where
    it listens."""
    cluster_token: str | None = None
    """The secret that the processes of the cluster share."""
    open_to_all: bool = False
    """Serve without tokens."""
    cadence: Cadence = STANDARD
