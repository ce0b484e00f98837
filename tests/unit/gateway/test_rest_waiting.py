"""Calls that wait while their client may go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from rest_engine import Rest

from mom_gateway.http import ClientGoneError


async def test_a_stream_can_be_closed_when_its_client_has_gone() -> None:
    service = Rest().service
    closed = asyncio.Event()

    async def messages() -> AsyncGenerator[bytes, None]:
        try:
            await asyncio.Event().wait()
            yield b"never"
        finally:
            closed.set()

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    stream = messages()
    with pytest.raises(ClientGoneError):
        async with aclosing(stream):
            await service.wait(anext(stream), receive, b"")
    assert closed.is_set()
