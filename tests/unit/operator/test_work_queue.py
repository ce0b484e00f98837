"""The schedule: nothing is forgotten, nothing runs twice at a time, failures wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mom_operator.work_queue import (
    BACKOFF_MS_FIRST,
    BACKOFF_MS_MAX,
    STUCK_FAILURES,
    Schedule,
    WorkQueue,
)
from mom_process.system import SystemClock, SystemRandom

KEYS = st.sampled_from("abcd")
DELAYS = st.integers(0, 500)


class ScheduleMachine(RuleBasedStateMachine):
    """Against a model: what is wanted by when, and what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule: Schedule[str] = Schedule()
        self.now_ms = 0
        self.running: set[str] = set()
        self.wanted: set[str] = set()
        """Keys that were added and have not begun to run since."""

    @rule(key=KEYS, delay_ms=DELAYS, fresh=st.booleans())
    def add(self, key: str, delay_ms: int, fresh: bool) -> None:
        self.schedule.add(key, self.now_ms + delay_ms, fresh=fresh)
        self.wanted.add(key)

    @rule(passed_ms=st.integers(0, 1_000))
    def wait(self, passed_ms: int) -> None:
        self.now_ms += passed_ms

    @rule()
    def take(self) -> None:
        due = self.schedule.take(self.now_ms)
        if due is None:
            next_ms = self.schedule.next_ms()
            assert next_ms is None or next_ms > self.now_ms
            return
        assert due.due_ms <= self.now_ms
        assert due.key not in self.running
        self.running.add(due.key)
        self.wanted.discard(due.key)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), after_ms=st.none() | DELAYS)
    def done(self, data: st.DataObject, after_ms: int | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(key)
        self.schedule.done(key, self.now_ms, after_ms)
        assert self.schedule.failures(key) == 0
        if after_ms is not None:
            self.wanted.add(key)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fraction=st.floats(0, 1, exclude_max=True))
    def failed(self, data: st.DataObject, fraction: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(key)
        wait_ms = self.schedule.failed(key, self.now_ms, fraction)
        assert 0 <= wait_ms <= BACKOFF_MS_MAX
        self.wanted.add(key)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.schedule.forget(key)
        self.wanted.discard(key)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        waiting = self.wanted - self.running
        assert len(self.schedule) == len(waiting)

    def teardown(self) -> None:
        """Everything that is wanted runs in the end."""
        self.now_ms += 10 * BACKOFF_MS_MAX
        for key in tuple(self.running):
            self.schedule.done(key, self.now_ms, None)
        left = set()
        while (due := self.schedule.take(self.now_ms)) is not None:
            left.add(due.key)
            self.schedule.done(due.key, self.now_ms, None)
        assert left == self.wanted
        assert len(self.schedule) == 0


TestSchedule = ScheduleMachine.TestCase
TestSchedule.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


@given(st.integers(1, 30), st.floats(0, 1, exclude_max=True))
def test_the_wait_of_a_failing_key_grows_to_its_bound(failures: int, fraction: float) -> None:
    schedule: Schedule[str] = Schedule()
    now_ms, waits = 0, []
    schedule.add("a", 0)
    for _ in range(failures):
        due = schedule.take(now_ms)
        assert due is not None
        waits.append(schedule.failed("a", now_ms, fraction))
        now_ms += waits[-1]
    assert waits == sorted(waits)
    assert BACKOFF_MS_FIRST // 2 <= waits[0] <= BACKOFF_MS_FIRST
    assert waits[-1] <= BACKOFF_MS_MAX
    assert (schedule.stuck() == 1) == (failures >= STUCK_FAILURES)


def test_events_do_not_shorten_the_wait_of_a_failing_key_but_a_new_spec_does() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0)
    assert schedule.take(0) is not None
    wait_ms = schedule.failed("a", 0, 0.5)
    schedule.add("a", 1)
    assert schedule.next_ms() == wait_ms
    schedule.add("a", 1, fresh=True)
    assert schedule.next_ms() == 1


def test_a_spec_that_changed_while_it_failed_runs_at_once() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", 0)
    assert schedule.take(0) is not None
    schedule.add("a", 5, fresh=True)
    assert schedule.failed("a", 10, 0.5) == 0
    assert schedule.next_ms() == 5


def _queue(reconcile: Callable[[str], Awaitable[int | None]], workers: int = 2) -> WorkQueue[str]:
    lanes = {"slow": (1, reconcile), "quick": (workers, reconcile)}
    return WorkQueue(
        lanes,
        lambda key: "slow" if key.startswith("slow") else "quick",
        clock=SystemClock(),
        random=SystemRandom(),
    )


async def test_one_that_hangs_and_one_that_fails_block_no_other() -> None:
    done: list[str] = []
    all_done = asyncio.Event()

    async def reconcile(key: str) -> int | None:
        if key.startswith("slow"):
            await asyncio.Event().wait()
        if key == "bad":
            raise RuntimeError("a defect")
        done.append(key)
        if len(done) == 50:
            all_done.set()
        return None

    queue = _queue(reconcile)
    for key in ("slow", "bad", *(f"good-{number}" for number in range(50))):
        queue.add(key)
    queue.resume()
    async with asyncio.timeout(5):
        await all_done.wait()
    await queue.pause()
    assert len(set(done)) == 50


async def test_a_paused_queue_runs_nothing_and_loses_nothing() -> None:
    began, ran = asyncio.Event(), asyncio.Event()
    runs: list[str] = []

    async def reconcile(key: str) -> int | None:
        runs.append(key)
        began.set()
        if len(runs) == 1:
            await asyncio.Event().wait()
        ran.set()
        return None

    queue = _queue(reconcile)
    queue.add("a")
    assert not queue.running
    assert queue.depth() == 1
    queue.resume()
    await began.wait()
    await queue.pause()
    assert not queue.running
    assert queue.depth() == 1
    queue.resume()
    async with asyncio.timeout(5):
        await ran.wait()
    await queue.pause()
    assert runs == ["a", "a"]


async def test_a_key_is_never_run_twice_at_a_time() -> None:
    at_once, most, runs = 0, 0, 0
    finished = asyncio.Event()
    queue: WorkQueue[str]

    async def reconcile(key: str) -> int | None:
        nonlocal at_once, most, runs
        at_once += 1
        most = max(most, at_once)
        runs += 1
        queue.add(key)
        await asyncio.sleep(0)
        at_once -= 1
        if runs >= 20:
            finished.set()
        return None

    queue = _queue(reconcile, workers=4)
    queue.add("a")
    queue.resume()
    async with asyncio.timeout(5):
        await finished.wait()
    await queue.pause()
    assert most == 1
