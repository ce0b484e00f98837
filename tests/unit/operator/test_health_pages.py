"""The operator's pages on every interface."""

from __future__ import annotations

import asyncio

import httpx
from prometheus_client import CollectorRegistry

from mom_operator.health import Pages
from mom_process.addresses import has_ipv6
from redis_server import free_port


async def test_the_wildcard_serves_both_families() -> None:
    port = free_port()
    pages = Pages(
        "::",
        port,
        well=lambda: (True, "stands by"),
        ready=lambda: (False, "starting"),
        metrics=CollectorRegistry(),
    )
    await pages.start()
    try:
        async with asyncio.timeout(10), httpx.AsyncClient() as client:
            for host in ["127.0.0.1", "[::1]"] if has_ipv6() else ["127.0.0.1"]:
                well = await client.get(f"http://{host}:{port}/healthz")
                assert (well.status_code, well.text) == (200, "stands by\n")
                ready = await client.get(f"http://{host}:{port}/readyz")
                assert (ready.status_code, ready.text) == (503, "starting\n")
    finally:
        await pages.stop()
