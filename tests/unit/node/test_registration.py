"""A node's registration ends when it is told to, whatever gRPC makes of that."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from mom_broker.node.registration import Registration
from mom_broker.node.settings import NodeSettings
from mom_broker.rpc.peers import GrpcTransport
from mom_broker.storage.catalog_view import CatalogView
from mom_broker.storage.memory import MemoryStore
from mom_process.system import SystemClock, SystemRandom


class SwallowingRegistration(Registration):
    """Its stream ends with a status, or in good order, where it should be cancelled."""

    def __init__(self, *arguments: Any, fails: bool, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.streaming = asyncio.Event()
        self._fails = fails

    async def _stay(self, address: str) -> None:
        self.streaming.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self._fails:
                raise grpc.aio.AioRpcError(
                    grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata()
                ) from None


@pytest.mark.parametrize("fails", [True, False])
async def test_a_cancellation_that_grpc_swallows_ends_it_all_the_same(fails: bool) -> None:
    clock = SystemClock()
    transport = GrpcTransport(None)
    registration = SwallowingRegistration(
        NodeSettings(node_id="a", masters=("127.0.0.1:1",)),
        "127.0.0.1:2",
        CatalogView(MemoryStore(clock), clock),
        transport,
        clock=clock,
        random=SystemRandom(),
        serving=lambda: 0,
        fails=fails,
    )
    task = asyncio.create_task(registration.run())
    await registration.streaming.wait()
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task
    await transport.close()
