"""Channels to addresses that can't be reached."""

from __future__ import annotations

import asyncio

import pytest

from mom_client.wire import _FAILING_CHANNEL_S_MAX, GrpcChannels
from mom_core.errors import UnavailableError
from redis_server import free_port


async def test_a_channel_that_cannot_connect_is_made_anew() -> None:
    """A pod that returns has another address under its name, which a fresh channel asks for."""
    channels = GrpcChannels()
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(UnavailableError):
        await channels.call(address, "/mom.v1.Broker/Fetch", b"", 5_000)
    first = channels._channels[address]  # A young one is kept: gRPC itself tries again.
    channels._made_s[address] = asyncio.get_running_loop().time() - 2 * _FAILING_CHANNEL_S_MAX
    with pytest.raises(UnavailableError):
        await channels.call(address, "/mom.v1.Broker/Fetch", b"", 5_000)
    assert channels._channels.get(address) is not first
    await channels.close()
