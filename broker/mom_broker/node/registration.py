"""The node's stream to the leading master: it registers, sends heartbeats, and says when it leaves.

Nothing a client does waits on it. Without a master the node serves on with the partitions it has,
and looks for one again and again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

import grpc

from mom_broker.node.settings import NodeSettings
from mom_broker.rpc.peers import GrpcTransport
from mom_broker.storage.catalog_view import CatalogView
from mom_core.errors import MomError
from mom_core.ports import Clock, Random
from mom_proto.v1 import broker_pb2, master_pb2, master_pb2_grpc

_log = logging.getLogger(__name__)

RETRY_MS: Final = 100
RETRY_MS_MAX: Final = 500


class Registration:
    """Keeps this node registered with whichever master leads."""

    def __init__(
        self,
        settings: NodeSettings,
        address: str,
        view: CatalogView,
        transport: GrpcTransport,
        *,
        clock: Clock,
        random: Random,
        serving: Callable[[], int],
    ) -> None:
        """``serving`` tells how many partitions are served now."""
        self._settings = settings
        self._address = address
        self._view = view
        self._transport = transport
        self._clock = clock
        self._serving = serving
        self._incarnation = int.from_bytes(random.bytes(7), "big")
        self._beat = asyncio.Event()
        self._drained = asyncio.Event()
        self._leaving = False
        self.registered = False

    async def run(self) -> None:
        """Stay registered for as long as the node lives."""
        retry_ms = RETRY_MS
        turn = 0
        while True:
            addresses = self._addresses()
            if addresses:
                address = addresses[turn % len(addresses)]
                turn += 1
                try:
                    await self._stay(address)
                    retry_ms = RETRY_MS
                except grpc.aio.AioRpcError as error:
                    self._note(address, self._transport.error_of(error, address))
                _raise_if_cancelled()
            was_registered, self.registered = self.registered, False
            if was_registered:
                turn, retry_ms = 0, RETRY_MS
            await self._clock.sleep(retry_ms)
            retry_ms = min(2 * retry_ms, RETRY_MS_MAX)

    async def leave(self, timeout_ms: int) -> bool:
        """Ask for the partitions to be placed elsewhere; whether that was done in time."""
        self._leaving = True
        self._beat.set()
        if not self.registered:
            return False
        try:
            await asyncio.wait_for(self._drained.wait(), timeout_ms / 1000)
        except TimeoutError:
            return False
        return True

    def _addresses(self) -> list[str]:
        """The leader that the store names, then the masters we were told of."""
        leader = [self._view.leader.address] if self._view.leader is not None else []
        return leader + [one for one in self._settings.masters if one not in leader]

    async def _stay(self, address: str) -> None:
        stub: master_pb2_grpc.MasterAsyncStub = master_pb2_grpc.MasterStub(
            self._transport.channel(address)
        )
        call = stub.RegisterNode(self._beats(), metadata=self._transport.metadata)
        async for beat in call:
            if not self.registered:
                _log.info("registered with the master at %s", address)
                self.registered = True
            if self._leaving and beat.partitions_placed == 0:
                self._drained.set()

    async def _beats(self) -> AsyncIterator[master_pb2.NodeBeat]:
        node = broker_pb2.NodeInfo(
            node_id=self._settings.node_id,
            address=self._address,
            rack=self._settings.rack,
            state="active",
        )
        yield self._beat_message(node)
        interval_s = self._settings.cadence.heartbeat_interval_ms / 1000
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._beat.wait(), interval_s)
            self._beat.clear()
            yield self._beat_message(None)

    def _beat_message(self, node: broker_pb2.NodeInfo | None) -> master_pb2.NodeBeat:
        return master_pb2.NodeBeat(
            node=node,
            incarnation=self._incarnation,
            leaving=self._leaving,
            partitions_serving=self._serving(),
        )

    def _note(self, address: str, error: MomError) -> None:
        level = logging.WARNING if self.registered else logging.DEBUG
        _log.log(level, "not registered with the master at %s: %s", address, error.message)


def _raise_if_cancelled() -> None:
    """gRPC may show the cancellation of the waiting task as the end of its call, and no more."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
