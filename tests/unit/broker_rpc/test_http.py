"""The health pages."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Gauge

from mom_broker.rpc.http import HealthServer


async def _get(port: int, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
    reply = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = reply.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def test_health_readiness_and_metrics() -> None:
    registry = CollectorRegistry()
    Gauge("mom_test", "A test.", registry=registry).set(7)
    state = (False, "starting")
    server = HealthServer("127.0.0.1", 0, ready=lambda: state, registry=registry)
    await server.start()
    assert await _get(server.port, "/healthz") == (200, "ok\n")
    assert await _get(server.port, "/readyz") == (503, "starting\n")
    state = (True, "serving")
    assert await _get(server.port, "/readyz") == (200, "serving\n")
    status, body = await _get(server.port, "/metrics")
    assert status == 200
    assert "mom_test 7.0" in body
    assert (await _get(server.port, "/other"))[0] == 404
    await server.stop()
