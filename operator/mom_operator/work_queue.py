"""Which object is to be reconciled when: a keyed queue that forgets nothing and repeats nothing.

A key is waiting, running or absent. Adding a waiting key only moves it forward; adding a running
one runs it once more afterwards, since the run may have read what stood before. A failure comes
again after a backoff of its own key, doubled each time, and events of its surroundings don't
shorten the wait; a changed spec does (``fresh``). So one bad object costs the others nothing but
its turn, and a run that exceeds the deadline is cancelled and counts as a failure.

Kinds of work have lanes of their own: a thousand topics never keep a cluster waiting.

:class:`Schedule` decides and is pure; :class:`WorkQueue` runs.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from mom_core.errors import MomError
from mom_core.ports import Clock, Random

KeyT = TypeVar("KeyT", bound=Hashable)

# The first retry of a failed key, and the longest wait between two: below the resync's interval,
# so that a mended cause is noticed within a minute.
BACKOFF_MS_FIRST: Final = 200
BACKOFF_MS_MAX: Final = 30_000
# One run, of which every call has a shorter timeout.
RUN_MS_MAX: Final = 60_000
# A key that failed so many times in a row is stuck: a metric and the log say so.
STUCK_FAILURES: Final = 5
# Keys at a time over all lanes. A hundred times what is promised; above it the operator refuses.
KEYS_MAX: Final = 100_000

_log = logging.getLogger(__name__)


class Due(NamedTuple, Generic[KeyT]):
    """A key whose turn has come, and since when it was due."""

    key: KeyT
    due_ms: int


class Schedule(Generic[KeyT]):
    """Keys with the time at which each is due. All times are of one monotonic clock."""

    def __init__(self) -> None:
        self._due_ms: dict[KeyT, int] = {}
        self._heap: list[tuple[int, int, KeyT]] = []
        self._count = 0
        self._running: dict[KeyT, int | None] = {}
        self._fresh: set[KeyT] = set()
        self._failures: dict[KeyT, int] = {}

    def __len__(self) -> int:
        """Keys that wait, running ones not counted."""
        return len(self._due_ms)

    def add(self, key: KeyT, due_ms: int, *, fresh: bool = False) -> None:
        """Have ``key`` run at ``due_ms``, or earlier if it was to run earlier.

        ``fresh``: what is asked for changed, so earlier failures count no longer.
        """
        if fresh:
            self._failures.pop(key, None)
        if key in self._running:
            again_ms = self._running[key]
            self._running[key] = due_ms if again_ms is None else min(again_ms, due_ms)
            if fresh:
                self._fresh.add(key)
            return
        standing_ms = self._due_ms.get(key)
        if standing_ms is None or (due_ms < standing_ms and key not in self._failures):
            self._put(key, due_ms)

    def _put(self, key: KeyT, due_ms: int) -> None:
        self._due_ms[key] = due_ms
        self._count += 1
        heapq.heappush(self._heap, (due_ms, self._count, key))

    def take(self, now_ms: int) -> Due[KeyT] | None:
        """The key that has been due for longest; it counts as running until :meth:`done`."""
        self._drop_stale()
        if not self._heap or self._heap[0][0] > now_ms:
            return None
        due_ms, _, key = heapq.heappop(self._heap)
        del self._due_ms[key]
        self._running[key] = None
        return Due(key, due_ms)

    def next_ms(self) -> int | None:
        """When the next key is due; None when none waits."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def done(self, key: KeyT, now_ms: int, after_ms: int | None) -> None:
        """A run succeeded; it asks to run again ``after_ms`` from now, or only when added."""
        self._failures.pop(key, None)
        self._finish(key, None if after_ms is None else now_ms + after_ms)

    def failed(self, key: KeyT, now_ms: int, fraction: float) -> int:
        """A run failed; returns the wait until the next one, milliseconds.

        ``fraction``, 0 to 1, spreads the wait over its upper half. What was added meanwhile waits
        for the backoff too, unless it was fresh: a failing key that is touched all the time must
        not spin.
        """
        if key in self._fresh:
            self._finish(key, now_ms)
            return 0
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        ceiling_ms = min(BACKOFF_MS_FIRST << min(failures - 1, 16), BACKOFF_MS_MAX)
        wait_ms = int(ceiling_ms / 2 + ceiling_ms / 2 * fraction)
        self._running[key] = None
        self._finish(key, now_ms + wait_ms)
        return wait_ms

    def failures(self, key: KeyT) -> int:
        """How many runs of the key failed in a row."""
        return self._failures.get(key, 0)

    def stuck(self) -> int:
        """How many keys failed STUCK_FAILURES times or more in a row."""
        return sum(1 for count in self._failures.values() if count >= STUCK_FAILURES)

    def forget(self, key: KeyT) -> None:
        """Drop a key whose object is gone. A run under way ends as it will."""
        self._due_ms.pop(key, None)
        self._failures.pop(key, None)
        self._fresh.discard(key)
        if key in self._running:
            self._running[key] = None

    def _finish(self, key: KeyT, due_ms: int | None) -> None:
        again_ms = self._running.pop(key)
        self._fresh.discard(key)
        wanted = [one for one in (again_ms, due_ms) if one is not None]
        if wanted:
            self._put(key, min(wanted))

    def _drop_stale(self) -> None:
        # Keys that were moved forward, taken or forgotten leave their old entry until it surfaces.
        heap = self._heap
        while heap and self._due_ms.get(heap[0][2]) != heap[0][0]:
            heapq.heappop(heap)


class Observer(Protocol):
    """What is told of each run, for metrics."""

    def ran(self, lane: str, seconds: float, error: Exception | None) -> None:
        """A run ended."""


Reconcile = Callable[[KeyT], Awaitable[int | None]]
"""Reconciles one key. Returns after how many milliseconds to run again, or None."""


class WorkQueue(Generic[KeyT]):
    """Runs keys with a bounded number of workers for each lane, while it is not paused."""

    def __init__(
        self,
        lanes: Mapping[str, tuple[int, Reconcile[KeyT]]],
        lane_of: Callable[[KeyT], str],
        *,
        clock: Clock,
        random: Random,
        observer: Observer | None = None,
    ) -> None:
        """``lanes``: the number of workers and the work, by the lane's name."""
        self._lanes = lanes
        self._lane_of = lane_of
        self._clock = clock
        self._random = random
        self._observer = observer
        self._schedules: dict[str, Schedule[KeyT]] = {name: Schedule() for name in lanes}
        self._changed = {name: asyncio.Event() for name in lanes}
        self._workers: list[asyncio.Task[None]] = []

    def add(self, key: KeyT, after_ms: int = 0, *, fresh: bool = False) -> None:
        """Have a key reconciled soon, also while paused: then it waits. See :class:`Schedule`."""
        lane = self._lane_of(key)
        if self.depth() >= KEYS_MAX:
            _log.error("more than %d keys wait: %s is left for the next resync", KEYS_MAX, key)
            return
        self._schedules[lane].add(key, self._clock.monotonic_ms() + after_ms, fresh=fresh)
        self._changed[lane].set()

    def forget(self, key: KeyT) -> None:
        """Drop a key whose object is gone."""
        self._schedules[self._lane_of(key)].forget(key)

    def depth(self) -> int:
        """Keys that wait, also those that wait for their next resync."""
        return sum(len(schedule) for schedule in self._schedules.values())

    def due(self) -> int:
        """Lanes in which a key waits for a worker although it is due."""
        now_ms = self._clock.monotonic_ms()
        late = [schedule.next_ms() for schedule in self._schedules.values()]
        return sum(1 for one in late if one is not None and one < now_ms)

    def stuck(self) -> int:
        """Keys that fail again and again."""
        return sum(schedule.stuck() for schedule in self._schedules.values())

    @property
    def running(self) -> bool:
        """Whether workers work."""
        return bool(self._workers)

    def resume(self) -> None:
        """Start the workers."""
        assert not self._workers, "the queue runs already"
        for lane, (count, reconcile) in self._lanes.items():
            for number in range(count):
                task = asyncio.create_task(self._work(lane, reconcile), name=f"{lane} {number}")
                self._workers.append(task)

    async def pause(self) -> None:
        """Cancel what runs, at once. Keys keep waiting; a cancelled one waits again."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, lane: str, reconcile: Reconcile[KeyT]) -> None:
        schedule, changed = self._schedules[lane], self._changed[lane]
        while True:
            due = schedule.take(self._clock.monotonic_ms())
            if due is None:
                await self._until_due(schedule, changed)
            else:
                await self._run(lane, schedule, due.key, reconcile)

    async def _until_due(self, schedule: Schedule[KeyT], changed: asyncio.Event) -> None:
        changed.clear()
        next_ms = schedule.next_ms()
        timeout = None
        if next_ms is not None:
            timeout = max(0, next_ms - self._clock.monotonic_ms()) / 1000
        try:
            await asyncio.wait_for(changed.wait(), timeout)
        except TimeoutError:
            return

    async def _run(
        self, lane: str, schedule: Schedule[KeyT], key: KeyT, reconcile: Reconcile[KeyT]
    ) -> None:
        began_ms = self._clock.monotonic_ms()
        error: Exception | None = None
        after_ms: int | None = None
        try:
            async with asyncio.timeout(RUN_MS_MAX / 1000):
                after_ms = await reconcile(key)
        except asyncio.CancelledError:
            schedule.done(key, self._clock.monotonic_ms(), 0)
            raise
        except Exception as caught:  # One object's defect must not end the lane's worker.
            error = caught
        now_ms = self._clock.monotonic_ms()
        if error is None:
            schedule.done(key, now_ms, after_ms)
        else:
            self._report(key, schedule.failed(key, now_ms, self._random.fraction()), error)
        self._changed[lane].set()
        if self._observer is not None:
            self._observer.ran(lane, (now_ms - began_ms) / 1000, error)

    def _report(self, key: KeyT, wait_ms: int, error: Exception) -> None:
        expected = isinstance(error, MomError | TimeoutError)
        said = f"took longer than {RUN_MS_MAX} ms" if isinstance(error, TimeoutError) else error
        _log.log(
            logging.WARNING if expected else logging.ERROR,
            "reconciling %s failed, again in %d ms: %s",
            key,
            wait_ms,
            said,
            exc_info=None if expected else error,
        )
