"""A leader whose process has ended is replaced without waiting for its lease to run out.

The leases here last longer than a test may take, so none of them can have run out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mom_broker.master.app import Master
from mom_broker.master.settings import MasterSettings
from mom_broker.storage.memory import MemoryStore
from mom_core.catalog import LEADER_LEASE
from mom_core.limits import LEADER_RENEW_MS
from mom_process.process_identity import own_process
from mom_process.system import SystemClock, SystemRandom
from waiting_process import WaitingProcess

LEASE_MS = 3_600_000
WAIT_S_MAX = 15.0

pytestmark = pytest.mark.skipif(not own_process(), reason="this system does not tell")


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    one = MemoryStore(SystemClock())
    yield one
    await one.close()


@pytest.fixture
async def master(store: MemoryStore) -> AsyncIterator[Master]:
    settings = MasterSettings(master_id="one", listen="127.0.0.1:0", open_to_all=True)
    one = Master(settings, store, SystemClock(), SystemRandom())
    yield one
    await one.stop()


async def leads(master: Master) -> None:
    async with asyncio.timeout(WAIT_S_MAX):
        await master.until_leading()


async def test_the_lease_of_a_killed_process_is_taken_over_at_once(
    store: MemoryStore, master: Master
) -> None:
    former = WaitingProcess()
    grant = await store.acquire_lease(LEADER_LEASE, f"one/1@{former.word}", LEASE_MS)
    former.kill()
    await master.start()
    await leads(master)
    now = await store.acquire_lease(LEADER_LEASE, "asks", 1)
    assert now.holder.startswith("one/")
    assert now.token == grant.token + 1


async def test_a_living_leader_keeps_the_lead_until_it_is_killed(
    store: MemoryStore, master: Master
) -> None:
    leader = WaitingProcess()
    holder = f"one/1@{leader.word}"
    await store.acquire_lease(LEADER_LEASE, holder, LEASE_MS)
    await master.start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2 * LEADER_RENEW_MS / 1000):
            await master.until_leading()
    assert (await store.acquire_lease(LEADER_LEASE, "asks", 1)).holder == holder
    leader.kill()
    await leads(master)


@pytest.mark.parametrize("holder", ["one/1@", "one/1", "one/1@boot:1:2:3"])
async def test_a_leader_of_elsewhere_keeps_its_lease(
    store: MemoryStore, master: Master, holder: str
) -> None:
    await store.acquire_lease(LEADER_LEASE, holder, LEASE_MS)
    await master.start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2 * LEADER_RENEW_MS / 1000):
            await master.until_leading()
