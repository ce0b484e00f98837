"""What a gateway is told when it starts."""

from __future__ import annotations

import msgspec

from mom_core import limits
from mom_core.errors import InvalidArgumentError
from mom_process.addresses import Address

DEFAULT_LISTEN = Address("127.0.0.1", 8080)
DEFAULT_NODE = "127.0.0.1:7071"


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one gateway process."""

    listen: Address = DEFAULT_LISTEN
    """Where HTTP is served. Port 0: any free one."""
    nodes: tuple[str, ...] = (DEFAULT_NODE,)
    """Some addresses of nodes or masters; the rest is learnt from them."""
    cluster_token: str | None = None
    """The secret that MOM's own processes show one another."""
    auth_disabled: bool = False
    """Let every caller do everything. Refused beyond loopback without the next setting."""
    allow_unauthenticated_network_access: bool = False
    auto_create: bool = False
    """Make an unknown topic or queue on its first use. For development."""
    body_bytes_max: int = limits.GATEWAY_BODY_BYTES_MAX_DEFAULT
    """The largest body that is held whole. Streamed bodies have no limit."""
    try_ms: int = 10_000
    """How long a request is tried, beyond the wait that it asks for, while nodes or the store are
    in trouble. Longer than a takeover and the nodes' own tries; under what clients wait."""
    requests_max: int = limits.GATEWAY_REQUESTS_MAX
    drain_ms: int = 1_000
    """After a stop is asked for, how long new requests are still served, with Connection: close."""
    stop_ms: int = 10_000
    """How long requests under way may take to end at a stop."""

    def check(self) -> None:
        """Raise InvalidArgumentError when these settings may not be used together."""
        if (
            self.auth_disabled
            and not self.listen.is_loopback
            and not self.allow_unauthenticated_network_access
        ):
            raise InvalidArgumentError(
                f"with auth disabled anyone who reaches {self.listen} could read, write and delete "
                "everything. Listen on 127.0.0.1, turn auth on, or say "
                "--allow-unauthenticated-network-access",
                field="auth_disabled",
            )
