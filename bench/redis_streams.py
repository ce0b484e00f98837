"""The neighbour: Redis Streams by redis-py, over the same server with the same fsync."""

from __future__ import annotations

import time

import redis

VALUE = b"x" * 1024
PIPELINE = 256
GROUP = "g"


def measure(url: str, scale: float) -> dict[str, float]:
    """The rates of what a user of redis-py would write for the same jobs."""
    client = redis.Redis.from_url(url)
    count = max(1_000, int(50_000 * scale))
    rates: dict[str, float] = {}
    begun = time.perf_counter()
    for _ in range(count // PIPELINE):
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(PIPELINE):
                pipeline.xadd("bench", {"v": VALUE})
            pipeline.execute()
    sent = count // PIPELINE * PIPELINE
    rates["SDK publish_many"] = sent / (time.perf_counter() - begun)
    begun = time.perf_counter()
    last, seen = b"0", 0
    while entries := client.xread({"bench": last}, count=1_000):
        last = entries[0][1][-1][0]
        seen += len(entries[0][1])
    rates["SDK stream read"] = seen / (time.perf_counter() - begun)
    rates["SDK receive+ack"] = _receive_and_ack(client)
    times = []
    for _ in range(max(100, int(500 * scale))):
        begun = time.perf_counter()
        client.xadd("bench", {"v": VALUE})
        times.append(time.perf_counter() - begun)
    rates["SDK publish p50 at depth one"] = sorted(times)[len(times) // 2] * 1000
    client.delete("bench")
    client.close()
    return rates


def _receive_and_ack(client: redis.Redis) -> float:
    client.xgroup_create("bench", GROUP, id="0")
    begun = time.perf_counter()
    handled = 0
    while entries := client.xreadgroup(GROUP, "worker", {"bench": ">"}, count=1_000):
        ids = [entry_id for entry_id, _ in entries[0][1]]
        client.xack("bench", GROUP, *ids)
        handled += len(ids)
    return handled / (time.perf_counter() - begun)
