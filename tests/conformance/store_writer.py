"""Commits to a store without a pause, to be killed: ``store_writer.py URL TOPIC_ID``.

Each commit has three batches and a journal entry that all name its number. It prints the number of
each acknowledged commit.
"""

from __future__ import annotations

import asyncio
import sys

from mom_broker.storage.open import store_from_url
from mom_core.names import PartitionId
from mom_core.ports import Commit, NewBatch
from mom_process.system import SystemClock


async def main(url: str, topic_id: str) -> None:
    store = store_from_url(url, SystemClock())
    await store.open()
    partition = PartitionId(topic_id, 0)
    await store.claim(partition, 1)
    number = 0
    while True:
        number += 1
        data = number.to_bytes(4, "big") * 5_000
        batches = [NewBatch(data, 10, number)] * 3
        await store.commit(Commit(partition, 1, number, batches, journal=data[:4]))
        print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
