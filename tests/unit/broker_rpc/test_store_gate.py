"""A store that is away at the start is waited for; one with unsafe settings is not."""

from __future__ import annotations

import pytest

from mom_broker.rpc.process import STORE_RETRY_MS, StoreGate
from mom_broker.storage.memory import MemoryStore
from mom_core.errors import ErrorCode, StoreError


class FakeClock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.ms = 0

    def now_ms(self) -> int:
        return self.ms

    def monotonic_ms(self) -> int:
        return self.ms

    async def sleep(self, delay_ms: int) -> None:
        self.ms += delay_ms


class AwayStore(MemoryStore):
    """Fails to open so many times."""

    def __init__(self, clock: FakeClock, failures: int, code: ErrorCode) -> None:
        super().__init__(clock)
        self.failures = failures
        self.code = code

    async def open(self) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreError("redis 10.0.0.1:6379 does not answer", code=self.code)
        await super().open()


def _gate(failures: int, code: ErrorCode = ErrorCode.STORE_UNAVAILABLE) -> StoreGate:
    clock = FakeClock()
    return StoreGate(AwayStore(clock, failures, code), lambda: (True, "ok"), clock)


async def test_a_store_that_comes_back_is_opened() -> None:
    gate = _gate(3)
    assert gate.ready() == (False, "opening the store")
    await gate.open(10 * STORE_RETRY_MS)
    assert gate.opened
    assert gate.ready() == (True, "ok")


async def test_while_it_waits_it_says_for_what() -> None:
    gate = _gate(3)
    with pytest.raises(StoreError):
        await gate.open(STORE_RETRY_MS)
    assert gate.ready() == (False, "redis 10.0.0.1:6379 does not answer")


async def test_unsafe_settings_end_the_process_at_once() -> None:
    gate = _gate(1, ErrorCode.STORE_MISCONFIGURED)
    with pytest.raises(StoreError):
        await gate.open(10 * STORE_RETRY_MS)
    assert not gate.opened
