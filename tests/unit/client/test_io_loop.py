"""The loop of a client's own thread."""

from __future__ import annotations

import pytest

from mom_client.iothread import _IoLoop


def test_what_comes_for_a_client_that_was_closed_disturbs_nobody() -> None:
    """gRPC hands ends of calls to loops that are gone, in the thread of another client."""
    loop = _IoLoop()
    ran: list[int] = []
    loop.call_soon_threadsafe(ran.append, 1)
    loop.call_soon_threadsafe(loop.stop)
    loop.run_forever()
    loop.close()
    handle = loop.call_soon_threadsafe(ran.append, 2)
    assert handle.cancelled()
    assert ran == [1]
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(ran.append, 3)
