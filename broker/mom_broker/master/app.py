"""A master: its parts put together, and what a term consists of."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from mom_broker.master.cluster import Cluster
from mom_broker.master.deletions import Deletions
from mom_broker.master.leadership import Leadership
from mom_broker.master.placer import Placer
from mom_broker.master.registry import Registry
from mom_broker.master.service import MasterService
from mom_broker.master.settings import MasterSettings
from mom_broker.master.tokens import TokenAdmin
from mom_broker.master.topics import TopicAdmin
from mom_broker.master.writer import ControlWriter
from mom_broker.rpc.auth import Authenticator
from mom_broker.rpc.ports import parse_address
from mom_broker.rpc.server import RpcServer
from mom_broker.storage.catalog_view import CatalogView
from mom_core.ports import Clock, Random, Store
from mom_proto.v1 import master_pb2_grpc

SERVICE: Final = "mom.v1.Master"
# Calls under way may finish for this long; node streams end at once, with the term.
STOP_GRACE_MS: Final = 1_000
# Tells apart the processes that lead under one id, one after the other.
HOLDER_BYTES: Final = 8

_log = logging.getLogger(__name__)


class Master:
    """One master process. The store is open before :meth:`start` and closed by who opened it."""

    def __init__(
        self,
        settings: MasterSettings,
        store: Store,
        clock: Clock,
        random: Random,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.settings = settings
        self.registry = registry if registry is not None else CollectorRegistry()
        """Where this master's metrics are."""
        self._store = store
        self._clock = clock
        self._random = random
        self._view = CatalogView(store, clock)
        self._authenticator = Authenticator(
            store, clock, settings.open_to_all, settings.cluster_token
        )
        self._server = RpcServer(parse_address(settings.listen), self._authenticator, (SERVICE,))
        self._leadership: Leadership | None = None
        self._leading_task: asyncio.Task[None] | None = None
        self._term_tasks: list[asyncio.Task[None]] = []
        self.address = settings.advertise or settings.listen
        """Where it is reached, after :meth:`start`."""

    @property
    def leading(self) -> bool:
        """Whether this master leads."""
        return self._leadership is not None and self._leadership.leading

    def ready(self) -> tuple[bool, str]:
        """Whether it serves or stands by; a master that does not lead is ready, too."""
        if self._leadership is None:
            return False, "starting"
        return True, "leads" if self.leading else "stands by"

    async def start(self) -> None:
        """Listen, and lead when possible. Raises InvalidArgumentError when the port is taken."""
        await self._view.start()
        await self._authenticator.start()
        # The address is part of what the leader signs, so the port has to be known first. Calls that
        # come in the moment between are answered once the parts are in place.
        service = _Late()
        master_pb2_grpc.add_MasterServicer_to_server(service, self._server.grpc)
        await self._server.start()
        self.address = self.settings.advertise or str(self._server.address)
        service.inner = self._build()
        assert self._leadership is not None, "built above"
        self._leading_task = asyncio.create_task(self._leadership.run(), name="leadership")
        _log.info("master serves", extra={"address": self.address})

    async def stop(self) -> None:
        """Hand over the lead, end the calls, and stop."""
        if self._leading_task is not None:
            self._leading_task.cancel()
            with suppress(asyncio.CancelledError):
                await self._leading_task
        await self._server.stop(STOP_GRACE_MS)
        await self._authenticator.close()
        await self._view.close()
