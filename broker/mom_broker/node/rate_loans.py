"""Nodes lend one another what they do not use of a queue's rate.

:mod:`mom_core.delivery.rate` has the rule. There is no coordinator: whoever is held back by a rate
asks the owners of the other partitions, and each decides for its own. Without answers a node has
its own share.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from mom_broker.node.ownership import OwnedPartition
from mom_broker.node.placed import PlacedPartitions
from mom_broker.node.rates import QueueRate, RateKey
from mom_core.delivery.rate import Loan
from mom_core.errors import MomError, RoutingError
from mom_core.limits import RATE_LOAN_MS
from mom_core.names import PartitionId
from mom_proto.v1 import broker_pb2

_log = logging.getLogger(__name__)


class RateLoans:
    """Asks other nodes for loans, and answers them."""

    def __init__(self, node_id: str, partitions: PlacedPartitions) -> None:
        self._node_id = node_id
        self._partitions = partitions
        self._closed = False
        # One call at a time for each queue and node: a node that does not answer holds up no other.
        self._asking: dict[tuple[RateKey, str], asyncio.Task[None]] = {}

    def ask(self, rate: QueueRate) -> None:
        """Ask the owners of a subscription's other partitions for what they do not use."""
        if self._closed:
            return
        for address, indexes in self._others(rate.key.topic_id).items():
            place = (rate.key, address)
            if place not in self._asking:
                task = asyncio.create_task(
                    self._ask(rate, address, indexes), name=f"borrow from {address}"
                )
                self._asking[place] = task
                task.add_done_callback(partial(self._asked, place))

    def _asked(self, place: tuple[RateKey, str], _task: asyncio.Task[None]) -> None:
        del self._asking[place]

    async def close(self) -> None:
        """End the calls under way."""
        self._closed = True
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def lend(self, request: broker_pb2.LendRateRequest) -> broker_pb2.LendRateResponse:
        """What the partitions here lend, durably."""
        topic_id = request.topic_id.hex()
        owned = self._partitions.ownership.owned
        here = {
            index: owned[PartitionId(topic_id, index)]
            for index in request.partitions
            if PartitionId(topic_id, index) in owned
        }
        loans = await asyncio.gather(*(self._lend(one, request) for one in here.values()))
        return broker_pb2.LendRateResponse(
            loans=[
                broker_pb2.RateLoan(partition=index, parts=loan.parts, until_ms=loan.until_ms)
                for index, loan in zip(here, loans, strict=True)
                if loan is not None
            ]
        )

    async def _lend(
        self, owned: OwnedPartition, request: broker_pb2.LendRateRequest
    ) -> Loan | None:
        try:
            return await owned.subscriptions.lend_rate(
                request.subscription, request.created_at_ms, request.borrower
            )
        except MomError as error:
            # It may have been journalled or not: then nobody has this share until its time is over.
            _log.debug("no loan from partition %s: %s", owned.log.id, error.message)
            return None

    def _others(self, topic_id: str) -> dict[str, list[int]]:
        """Partitions of other nodes, by their addresses."""
        found = self._partitions.view.assignments.get(topic_id)
        others: dict[str, list[int]] = {}
        for index, owner in enumerate(found.assignment.owners if found is not None else ()):
            if owner.node_id == self._node_id:
                continue
            try:
                address = self._partitions.owner_address([PartitionId(topic_id, index)])
            except RoutingError:
                continue
            others.setdefault(address, []).append(index)
        return others

    async def _ask(self, rate: QueueRate, address: str, indexes: list[int]) -> None:
        request = broker_pb2.LendRateRequest(
            topic_id=bytes.fromhex(rate.key.topic_id),
            subscription=rate.key.subscription,
            created_at_ms=rate.key.created_at_ms,
            partitions=indexes,
            borrower=self._node_id,
        )
        try:
            async with asyncio.timeout(RATE_LOAN_MS / 1000):
                response = await self._partitions.forward(
                    address, "LendRate", request, broker_pb2.LendRateResponse
                )
        except (MomError, TimeoutError) as error:
            _log.debug("%s lends nothing: %s", address, error)
            return
        for one in response.loans:
            rate.borrow(one.partition, Loan(self._node_id, one.parts, one.until_ms))
