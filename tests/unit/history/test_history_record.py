"""Histories are written as they happen, read again, and reported."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import dead_letter_histories
import history_model
import pytest

from e2e.history import events
from e2e.history.checker import check
from e2e.history.events import Action, AnyEvent, Outcome, ReadMode
from e2e.history.history import History
from e2e.history.load import Load, Plan
from e2e.history.messengers import Held, Kind, Landed, QueueToMake, Record
from e2e.history.recorder import CallError, ClientRecorder, Recorder
from e2e.history.report import WHOLE_RUN, markdown_table, rows, summary
from e2e.history.wishes import NO_WISH, Wish


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.ndjson"


def clock(*times: float) -> Iterator[float]:
    yield from times
    yield from count(int(times[-1]) + 1)


def test_what_is_written_is_read(path: Path) -> None:
    times = clock(1, 2, 3, 4, 5, 6, 7, 8, 9)
    with Recorder(path, lambda: next(times)) as recorder:
        client = recorder.client("c", "sdk", idempotent=True, ordered=True)
        client.sent(client.send("log", "c-1", "k"), 0, 7, "fsync")
        client.send_failed(client.send("log", "c-2", None), CallError("timeout"))
        client.reader("r", ReadMode.LOG, "log")
        client.read("r", ReadMode.LOG, "log", 0, 7, events.body_of("c-1", 100))
        lease = client.lease(
            "q", 1, 2, events.body_of("c-1", 5), deliveries=1, begin=5.5, end=6, lease_s=30
        )
        client.settle(lease, Action.ACK, 6.0, Outcome.OK)
        with pytest.raises(CallError), client.call("receive", 2.5):
            raise CallError("unavailable")
    assert list(events.read_events(path)) == [
        events.Client("c", "sdk", True, True),
        events.Send("c", 1, "log", "c-1", "k", 1.0),
        events.Sent("c", 1, 2.0, 0, 7, "fsync"),
        events.Send("c", 2, "log", "c-2", None, 3.0),
        events.SendFailed("c", 2, 4.0, "timeout", True),
        events.Reader("r", ReadMode.LOG, "log"),
        events.Read("c", "r", ReadMode.LOG, "log", 0, 7, "c-1", 5.0),
        events.Lease("c", "c/1", "q", 1, 2, "c-1", 1, 5.5, 6.0, 30.0),
        events.Settle("c", "c/1", Action.ACK, 6.0, 6.0, Outcome.OK, 0.0),
        events.Call("c", "receive", 7.0, 8.0, 2.5, "unavailable"),
    ]


def test_every_event_survives_the_file(path: Path) -> None:
    history = history_model.run(Random(1), 200)
    history += [events.Mark("a disruption", True, 1.0), events.Mark("a disruption", False, 2.0)]
    history += [
        events.Queue("q", "fair", 3, "dead", True, 0.5, True, 2.5, 4),
        events.Send("c", 1, "q", "m", None, 1.0, priority=9, group="one"),
        events.Move("c", "q", 0, 1, 1.0, 2.0, 0.5, Outcome.OK),
        events.Purge("c", "q", 1.0, 2.0, Outcome.UNKNOWN),
        events.Queue("q", messages_max=5),
        events.Topic("t", 5.0),
        events.Pause("c", "q", True, 1.0, 2.0, Outcome.OK),
        events.Reading("c", "r", "t", 0, 1.0, 2.0),
        events.Described("c", "q", 1.0, 2.0, True),
        events.Queue("q", retry_backoff_multiplier=2.0, retry_backoff_s_max=3.0, crashes=True),
        events.Lease("c", "c/2", "q", 0, 1, "m", 1, 1.0, 2.0, 5.0, 1),
        events.Crash("c", ("c/1", "c/2"), 1.0),
        dead_letter_histories.dead(1.0),
        events.Redrive("c", "q", 1.0, 2.0, "done", 3),
    ]
    path.write_bytes(b"".join(events.encode(one) for one in history))
    assert list(events.read_events(path)) == history


def test_a_line_that_a_crash_cut_short_is_left_out(path: Path) -> None:
    whole = events.encode(events.Mark("a disruption", True, 1.0))
    path.write_bytes(whole + whole[:-5])
    assert len(list(events.read_events(path))) == 1
    path.write_bytes(whole[:-5] + b"\n" + whole)
    with pytest.raises(ValueError, match="line 1 is no event"):
        list(events.read_events(path))


@pytest.mark.parametrize("size", [0, 1, 10, 1000])
def test_a_body_tells_its_id_and_every_damage(size: int) -> None:
    body = events.body_of("sdk-1-t7", size)
    assert events.id_of(body) == "sdk-1-t7"
    for place in range(len(body)):
        changed = body[:place] + "#" + body[place + 1 :]
        assert events.id_of(changed) != "sdk-1-t7"
        assert events.id_of(body[:place]) != "sdk-1-t7"


# The report.

SDK = events.Client("s", "sdk", True, True)
HTTP = events.Client("h", "http", False, False)


def sends(client: str, *times: float) -> list[AnyEvent]:
    """Sends that took a tenth of a second each."""
    made: list[AnyEvent] = []
    for call, at in enumerate(times):
        made.append(events.Send(client, call, "log", f"{client}{call}", None, at))
        made.append(events.Sent(client, call, at + 0.1, 0, int(at * 100), "fsync"))
    return made


def test_a_disruption_s_cost() -> None:
    history = History(
        [
            SDK,
            HTTP,
            *sends("s", 1, 2, 5, 6, 9),
            *sends("h", 1.5, 2.5),
            events.Mark("a node is killed", True, 3.0),
            events.Call("h", "receive", 3.0, 3.5, 0.0, "ConnectError"),
            events.Call("s", "receive", 2.0, 7.0, 4.5, None),
            events.Mark("a node is killed", False, 5.5),
            events.Mark("a node comes", True, 8.0),
            events.Mark("a node comes", False, 8.5),
        ]
    )
    killed, comes = rows(history, check(history))
    assert (killed.disruption, killed.calls, killed.failed) == (
        "a node is killed",
        3,
        {"http": 1, "sdk": 0},
    )
    assert killed.longest_call_s == pytest.approx(0.5)
    assert killed.longest_gap_s == pytest.approx(3)
    assert killed.gaps_s == {"http": 0, "sdk": pytest.approx(3)}
    assert killed.errors == {"receive: ConnectError": 1}
    assert (comes.calls, comes.failed) == (0, {"http": 0, "sdk": 0})
    assert comes.longest_gap_s == pytest.approx(3)
    assert markdown_table([killed, comes]) == (
        "| disruption | calls | failed, http | failed, sdk | longest call |"
        " longest gap, http | longest gap, sdk | lost | duplicated | second leases |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| a node is killed | 3 | 1 | 0 | 0.50 s | 0.00 s | 3.00 s | 0 | 0 | 0 |\n"
        "| a node comes | 0 | 0 | 0 | 0.00 s | 0.00 s | 3.00 s | 0 | 0 | 0 |\n"
    )


def test_findings_are_counted_where_they_happened() -> None:
    history = History(
        [
            SDK,
            *sends("s", 1, 2),
            events.Mark("calm", True, 0.0),
            events.Mark("calm", False, 1.5),
            events.Mark("storm", True, 1.5),
            events.Mark("storm", False, 9.0),
            events.Read("s", "r", ReadMode.LOG, "log", 0, 100, "s0", 3.0),
            events.Read("s", "r", ReadMode.LOG, "log", 0, 101, "s0", 3.0),
            events.LogEnd("r", "log", 0, 102, 8.0),
        ]
    )
    verdict = check(history)
    calm, storm = rows(history, verdict)
    assert (calm.lost, calm.duplicated) == (0, 1)
    assert (storm.lost, storm.duplicated) == (1, 0)
    assert "lost from a log: s1 was acknowledged to s" in summary(history, verdict)


def test_a_run_without_disruptions_is_one_row() -> None:
    history = History([SDK, *sends("s", 1, 2)])
    (row,) = rows(history, check(history))
    assert (row.disruption, row.calls) == (WHOLE_RUN, 2)


# The load, over a broker that lives in this test.


class Broker:
    """A topic and a queue of one partition, with a fault to show."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.logs: dict[bool, list[str]] = {False: [], True: []}
        self.leased: set[int] = set()
        self.acked: set[int] = set()
        self.deliveries: Counter[int] = Counter()

    @asynccontextmanager
    async def connect(self, recorder: ClientRecorder) -> AsyncIterator[BrokenMessenger]:
        yield BrokenMessenger(self)

    def kind(self) -> Kind:
        return Kind("sdk", self.connect, True, True, joins=True, resends=0)


class BrokenMessenger:
    """A client of it."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    async def prepare(
        self, topic: str, subscription: str, partitions: int, queues: Sequence[QueueToMake]
    ) -> None:
        return

    async def cancel(self, queue: str, partition: int, offset: int) -> str | None:
        return "not_found"

    async def reschedule(
        self, queue: str, partition: int, offset: int, delay_s: float
    ) -> str | None:
        return "not_found"

    async def purge(self, queue: str) -> None:
        return

    async def create_topic(self, name: str, settings: Mapping[str, Any]) -> None:
        return

    async def create_queue(self, name: str, settings: Mapping[str, Any]) -> None:
        return

    async def offer(self, queue: str, body: str) -> Landed:
        return await self.send(queue, body, None, NO_WISH, queue=True)

    async def set_paused(self, queue: str, paused: bool) -> None:
        return

    async def send(
        self, target: str, body: str, key: str | None, wish: Wish, *, queue: bool
    ) -> Landed:
        log = self.broker.logs[queue]
        if self.broker.fault == "lost" and not queue and len(log) == 3:
            return Landed(0, 3, "fsync")
        if self.broker.fault == "twice" and not queue and len(log) == 3:
            log.append(body)
        log.append(body)
        return Landed(0, len(log) - 1, "fsync")

    async def read(
        self, topic: str, partition: int, offset: int, *, follow: bool
    ) -> AsyncIterator[Record]:
        for place in range(offset, len(self.broker.logs[False])):
            yield Record(0, place, self.broker.logs[False][place])
        if follow:
            raise CallError("unavailable")

    async def join(self, topic: str, subscription: str, member: str) -> AsyncIterator[Record]:
        async for one in self.read(topic, 0, 0, follow=True):
            yield one

    async def receive(
        self, queue: str, max_messages: int, *, wait_s: float, lease_s: float
    ) -> list[Held]:
        await asyncio.sleep(0)
        log, taken = self.broker.logs[True], self.broker.leased | self.broker.acked
        ready = [place for place in range(len(log)) if place not in taken][:max_messages]
        self.broker.leased.update(ready)
        if not ready:
            await asyncio.sleep(wait_s)  # A long poll that ends without a message.
        self.broker.deliveries.update(ready)
        return [Held(0, one, log[one], self.broker.deliveries[one], one) for one in ready]

    async def settle(
        self, queue: str, held: Sequence[Held], action: Action, *, lease_s: float = 0.0
    ) -> list[str | None]:
        for one in held:
            if action is not Action.EXTEND:
                self.broker.leased.discard(one.handle)
            if action is Action.ACK:
                self.broker.acked.add(one.handle)
            if self.broker.fault == "again" and action is Action.ACK and one.handle == 3:
                self.broker.fault = ""
                self.broker.acked.discard(one.handle)
        return [None] * len(held)

    async def is_stalled(self, queue: str) -> bool:
        return False

    async def backlog(self, queue: str) -> int:
        return len(self.broker.logs[True]) - len(self.broker.acked)


FAULTS = {
    "none": "",
    "lost": "lost from a log",
    "twice": "duplicate",
    "again": "delivered after its ack",
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_load_shows_what_a_broker_does_wrong(fault: str, path: Path) -> None:
    broker = Broker(fault)
    plan = Plan(
        partitions=1,
        sends_per_s=500,
        deadline_s=5,
        drain_s=5,
        lease_s=60,
        wait_s=0.01,
        wishes=False,
    )
    with Recorder(path) as recorder:
        kinds = [broker.kind(), broker.kind()]
        async with Load(plan, kinds, recorder) as load, load.disruption(fault):
            for _ in range(10):
                await load.every_client_sends()
    verdict = check(events.read_events(path))
    assert verdict.acked >= 40
    if fault == "none":
        assert verdict.findings == []
    else:
        assert verdict.of(FAULTS[fault])
