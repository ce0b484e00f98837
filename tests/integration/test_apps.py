"""Applications: what handlers get, how they fail, and how an application ends, in this process."""

from __future__ import annotations

import asyncio
import itertools
import signal
import threading
import time
from typing import Any

import msgspec
import pytest

import mom_client
from integration.broker_process import BrokerProcess
from integration.descriptions import left, none_left, subscriptions_of
from mom_client import MomApp, ReceivedMessage, Retry, member
from mom_client.app import application
from mom_client.log_reader import CHUNKS_AHEAD_MAX
from polling import until

SOON = Retry(tries=3, backoff=0.05, multiplier=2)


class Job(msgspec.Struct):
    number: int


@pytest.fixture
def app(broker: BrokerProcess) -> MomApp:
    return MomApp(broker.addresses)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The partition of each chunk that subscribers read."""
    partitions: list[int] = []

    class CountedChunk(member.MemberChunk):
        def __init__(self, topic: str, topic_id: bytes, held: Any, fetched: Any) -> None:
            super().__init__(topic, topic_id, held, fetched)
            partitions.append(held.partition)

    monkeypatch.setattr(member, "MemberChunk", CountedChunk)
    return partitions


async def committed(client: mom_client.Client, topic: str) -> list[int]:
    """The offsets of a topic's one subscription."""
    return [one.committed_offset for one in await subscriptions_of(client, topic)]


# Workers.


async def test_a_worker_runs_as_many_at_once_as_it_may(
    client: mom_client.Client, app: MomApp, name: str
) -> None:
    await client.create_queue(name, partitions=2)
    await client.create_queue(f"{name}-sync", partitions=2)
    running = {"async": 0, "sync": 0}
    most = dict(running)
    lock = threading.Lock()
    both = {"async": asyncio.Event(), "sync": threading.Event()}
    seen: list[int] = []

    def count(kind: str, step: int) -> bool:
        with lock:
            running[kind] += step
            most[kind] = max(most[kind], running[kind])
            return running[kind] == 3

    @app.worker(name, concurrency=3)
    async def work(job: Job) -> None:
        if count("async", 1):
            both["async"].set()
        await both["async"].wait()
        seen.append(job.number)
        count("async", -1)

    @app.worker(f"{name}-sync", concurrency=3)
    def work_in_a_thread(job: Job) -> None:
        if count("sync", 1):
            both["sync"].set()
        both["sync"].wait()
        seen.append(100 + job.number)
        app.sync.publish(name, Job(200 + job.number))
        count("sync", -1)

    await client.publish_many(name, [Job(number) for number in range(20)])
    await client.publish_many(f"{name}-sync", [Job(number) for number in range(20)])
    async with app.running() as running_app:
        await none_left(client, f"{name}-sync")
        await none_left(client, name)
        assert running_app.problems == {}
    assert sorted(seen) == [*range(20), *range(100, 120), *range(200, 220)]
    assert most == {"async": 3, "sync": 3}


async def test_what_a_worker_fails_at_comes_again_later_and_is_dead_in_the_end(
    client: mom_client.Client, app: MomApp, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also without a backoff of the queue: no failure makes a hot loop."""
    await client.create_queue(name, dead_letter=f"{name}.dlq", max_deliveries=3)
    times: list[float] = []

    @app.worker(name, retry=Retry(backoff=0.2, multiplier=2))
    async def fail(job: Job) -> None:
        times.append(time.monotonic())
        raise ValueError(f"not {job.number}")

    await client.publish(name, Job(1))
    await client.publish(name, "no job")
    dead: list[ReceivedMessage] = []
    async with app.running():
        while len(dead) < 2:
            dead += await client.receive(f"{name}.dlq", 2, wait=20)
    assert {one.text() for one in dead} == {'{"number":1}', "no job"}
    assert {one.headers["mom-dead-deliveries"] for one in dead} == {"3"}
    assert len(times) == 3
    assert times[1] - times[0] >= 0.2
    assert times[2] - times[1] >= 0.4
    said = " ".join(one.getMessage() for one in caplog.records)
    assert "ValueError: not 1" in said
    assert "is no Job" in said


async def test_the_backoff_of_the_queue_goes_before_that_of_the_handler(
    client: mom_client.Client, app: MomApp, name: str
) -> None:
    await client.create_queue(name, retry_backoff_ms=50)
    seen: list[int] = []

    @app.worker(name, retry=Retry(backoff=60))
    async def fail_once(message: ReceivedMessage) -> None:
        seen.append(message.deliveries)
        if len(seen) < 3:
            raise ValueError("not yet")

    await client.publish(name, "x")
    async with app.running():
        await none_left(client, name)
    assert seen == [1, 2, 3]


async def test_a_handler_that_ends_itself_has_failed(
    client: mom_client.Client, app: MomApp, name: str
) -> None:
    """Else a message would end one process after the other."""
    await client.create_queue(name)
    errors: list[BaseException] = [SystemExit(3), asyncio.CancelledError(), ValueError()]

    @app.worker(name, retry=Retry(tries=9, backoff=0.01))
    async def end(message: ReceivedMessage) -> None:
        if errors:
            raise errors.pop()

    await client.publish(name, "x")
    async with app.running():
        await none_left(client, name)
    assert errors == []


async def test_tries_of_one_delivery(client: mom_client.Client, app: MomApp, name: str) -> None:
    await client.create_queue(name)
    seen: list[int] = []

    @app.worker(name, retry=SOON)
    def fail_twice(message: ReceivedMessage) -> None:
        seen.append(message.deliveries)
        if len(seen) < 3:
            raise ValueError("not yet")

    await client.publish(name, "x")
    async with app.running():
        await none_left(client, name)
    assert seen == [1, 1, 1]


async def test_a_lost_lease_cancels_its_handler_and_its_ack_is_refused(
    client: mom_client.Client, app: MomApp, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    await client.create_queue(name)
    ends: list[str] = []
    taken = asyncio.Event()

    @app.worker(name, lease=1, concurrency=2)
    async def wait(message: ReceivedMessage) -> None:
        if message.deliveries > 1:
            ends.append(f"{message.text()} again")
            return
        await client.nack(message, delay=1)  # It is not this handler's any more.
        if message.text() == "finishes":
            ends.append("finished")
            return
        taken.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    await client.publish_many(name, ["waits", "finishes"])
    async with app.running():
        await none_left(client, name)
    assert sorted(ends) == ["cancelled", "finished", "finishes again", "waits again"]
    said = [one.getMessage() for one in caplog.records]
    assert any("was lost: handler cancelled" in one for one in said)
    assert any("were not settled" in one for one in said)


async def test_a_worker_that_is_cut_off_gives_up_at_the_end_of_the_lease(name: str) -> None:
    """Nobody can tell it that another worker may have the message now."""
    with BrokerProcess(1) as broker:
        app = MomApp(broker.addresses)
        taken, ended = asyncio.Event(), asyncio.Event()

        @app.worker(name, lease=1)
        async def wait(message: ReceivedMessage) -> None:
            if taken.is_set():
                return
            taken.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.set()
                raise

        async with mom_client.connect(broker.addresses) as client:
            await client.create_queue(name)
            await client.publish(name, "x")
            async with app.running():
                await taken.wait()
                broker.signal(signal.SIGSTOP)
                try:
                    await asyncio.wait_for(ended.wait(), 60)
                finally:
                    broker.signal(signal.SIGCONT)
                await none_left(client, name)


async def test_what_was_leased_ahead_is_handled_though_nothing_new_comes(
    client: mom_client.Client, app: MomApp, name: str
) -> None:
    await client.create_queue(name)
    seen: list[int] = []

    @app.worker(name, concurrency=1, prefetch=8)
    async def work(job: Job) -> None:
        seen.append(job.number)

    await client.publish_many(name, [Job(number) for number in range(6)])
    async with app.running():
        await none_left(client, name)
    assert seen == list(range(6))


async def test_what_was_not_begun_is_released_at_the_end(
    client: mom_client.Client, app: MomApp, name: str
) -> None:
    await client.create_queue(name)
    begun, go_on = asyncio.Event(), asyncio.Event()

    @app.worker(name, concurrency=1, prefetch=4, lease=600)
    async def work(message: ReceivedMessage) -> None:
        begun.set()
        await go_on.wait()

    await client.publish_many(name, range(5))
    running = app.running()
    await running.__aenter__()
    await begun.wait()

    async def all_leased() -> bool:
        return (await subscriptions_of(client, name))[0].leased == 5

    await until(all_leased, "four wait in the application")
    ending = asyncio.ensure_future(running.__aexit__(None, None, None))
    others: list[ReceivedMessage] = []
    while len(others) < 4:
        others += await client.receive(name, 4, wait=20)
    assert [one.deliveries for one in others] == [1] * 4, "they were never handled"
    assert not ending.done(), "the handler may finish"
    go_on.set()
    await ending
    await client.ack(others)
    assert await left(client, name) == 0, "and what it handled is acknowledged"


async def test_a_worker_goes_on_when_its_queue_is_made_again(
    client: mom_client.Client, app: MomApp, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "REOPEN_SECONDS_FIRST", 0.05)
    seen: list[str] = []

    @app.worker(name)
    async def work(text: str) -> None:
        seen.append(text)

    with pytest.raises(mom_client.NotFoundError):
        async with app.running():
            pass
    await client.create_queue(name)
    async with app.running():
        await client.publish(name, "before")
        await until(lambda: seen == ["before"], "it works")
        await client.delete(name)
        await until(lambda: "NotFoundError" in str(app.problems), "it says that it does not")
        await client.create_queue(name)
        await client.publish(name, "after")
        await until(lambda: seen == ["before", "after"], "it works again")
        await until(lambda: app.problems == {}, "and says so")


# Subscribers.


async def test_a_subscriber_parks_what_it_gives_up_on(
    client: mom_client.Client, app: MomApp, name: str
) -> None:
    await client.create_topic(name)
    await client.create_queue(f"{name}.dlq")
    runs: list[int] = []

    @app.subscriber(name, subscription="s", retry=SOON, dead_letter=f"{name}.dlq")
    async def handle(job: Job) -> None:
        runs.append(job.number)
        if job.number == 1:
            raise ValueError("never")
        if job.number == 2 and runs.count(2) < 2:
            raise ValueError("not yet")

    await client.publish(name, Job(0), key="k")
    bad = await client.publish(name, Job(1), key="k", headers={"mine": "kept"})
    await client.publish(name, "no job", key="k")
    await client.publish(name, Job(2), key="k")
    dead: list[ReceivedMessage] = []
    async with app.running():
        await until(lambda: runs.count(2) == 2, "it goes on behind them")
        while len(dead) < 2:
            dead += await client.receive(f"{name}.dlq", 2, wait=20)
    assert runs == [0, 1, 1, 1, 2, 2], "in order, and what can't be read is not tried again"
    assert await committed(client, name) == [4]
    failed, unread = dead
    assert (failed.json(), failed.key, failed.id) == ({"number": 1}, "k", bad.id_text)
    assert failed.headers["mine"] == "kept"
    facts = {key: value for key, value in failed.headers.items() if key.startswith("mom-dead-")}
    assert int(facts.pop("mom-dead-at-ms")) > 0
    assert facts == {
        "mom-dead-reason": "handler_failed",
        "mom-dead-error": "ValueError: never",
        "mom-dead-deliveries": "3",
        "mom-dead-topic": name,
        "mom-dead-subscription": "s",
        "mom-dead-partition": "0",
        "mom-dead-offset": "1",
    }
    assert unread.text() == "no job"
    assert unread.headers["mom-dead-reason"] == "payload"
    assert "is no Job" in unread.headers["mom-dead-error"]
    for one in dead:
        (chosen,) = await client.dead_letters(f"{name}.dlq", reason=one.headers["mom-dead-reason"])
        assert chosen.id == one.id


async def test_a_subscriber_stops_the_partition_and_goes_on_in_others(
    client: mom_client.Client, app: MomApp, name: str, read: list[int]
) -> None:
    await client.create_topic(name, partitions=2)
    runs: list[tuple[int, str]] = []
    mended = False

    @app.subscriber(name, subscription="s", retry=SOON, stop_on_failure=True)
    def handle(message: ReceivedMessage) -> None:
        runs.append((message.partition, message.text()))
        if message.text() == "bad" and not mended:
            raise ValueError("never")

    for text in ("good", "bad", "behind"):
        await client.publish(name, text, partition=0)
    async with app.running():
        await until(lambda: runs.count((0, "bad")) == 3, "it was tried three times")
        await until(lambda: len(app.problems) == 1, "it stopped")
        ((place, reason),) = app.problems.items()
        assert "partition 0" in place
        assert "stopped" in reason
        assert "ValueError: never" in reason
        chunks = read.count(0)
        await client.publish(name, "late", partition=0)
        for number in range(100):
            await client.publish(name, str(number), partition=1)
        await until(lambda: (1, "99") in runs, "the other partition goes on")
        assert read.count(0) == chunks, "what is not to be handled is not read"
    assert (0, "behind") not in runs
    assert await committed(client, name) == [1, 100]
    runs.clear()
    mended = True
    async with app.running():
        await until(lambda: len(runs) == 3, "it goes on where it stopped")
    assert runs == [(0, "bad"), (0, "behind"), (0, "late")]


async def test_a_subscriber_without_a_policy_tries_for_ever(
    client: mom_client.Client, app: MomApp, name: str
) -> None:
    await client.create_topic(name)
    times: list[float] = []

    @app.subscriber(name, subscription="s", retry=Retry(backoff=0.02, backoff_max=0.02))
    async def handle(job: Job) -> None:
        times.append(time.monotonic())
        if len(times) < 8:
            raise ValueError("not yet")

    await client.publish(name, Job(1))
    async with app.running():
        await until(lambda: len(app.problems) == 1, "it says so")
        await until(lambda: len(times) == 8, "it goes on")
        await until(lambda: app.problems == {}, "and says so")
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert min(waits) >= 0.02, "never in a hot loop"
    assert await committed(client, name) == [1]


async def test_a_partition_that_waits_for_a_retry_can_go_to_another_member(
    client: mom_client.Client, app: MomApp, name: str, broker: BrokerProcess
) -> None:
    await client.create_topic(name, partitions=2)
    other = MomApp(broker.addresses)
    runs: list[tuple[str, int]] = []

    def handler(member: str, fails: bool) -> Any:
        async def handle(message: ReceivedMessage) -> None:
            runs.append((member, message.partition))
            if fails:
                raise ValueError("not here")

        return handle

    slowly = Retry(backoff=600, backoff_max=600)
    app.subscriber(name, subscription="s", retry=slowly)(handler("one", fails=True))
    other.subscriber(name, subscription="s", retry=slowly)(handler("other", fails=False))
    await client.publish(name, "x", partition=0)
    await client.publish(name, "x", partition=1)
    async with app.running():
        await until(lambda: len(app.problems) == 2, "both partitions wait")
        async with other.running():
            await until(lambda: any(member == "other" for member, _ in runs), "one moved")
            await until(lambda: len(app.problems) == 1, "and is no problem here any more")
    assert sorted(await committed(client, name)) == [0, 1]


async def test_a_slow_partition_does_not_hold_up_another(
    client: mom_client.Client, app: MomApp, name: str, read: list[int]
) -> None:
    """More of it is waiting than may be read ahead."""
    await client.create_topic(name, partitions=2)
    await client.publish_many(name, (bytes(1_000_000) for _ in range(30)), partition=0)
    begun, go_on = asyncio.Event(), asyncio.Event()
    seen: list[int] = []

    @app.subscriber(name, subscription="s")
    async def handle(message: ReceivedMessage) -> None:
        if message.partition == 0:
            begun.set()
            await go_on.wait()
        seen.append(message.partition)

    async with app.running():
        await begun.wait()
        for _ in range(5):
            await client.publish(name, b"x", partition=1)
        await until(lambda: seen == [1] * 5, "the other partition goes on")
        assert read.count(0) <= CHUNKS_AHEAD_MAX
        go_on.set()
        await until(lambda: seen.count(0) == 30, "all of it comes")


async def test_dead_letters_that_have_nowhere_to_go_are_told_at_the_start(
    client: mom_client.Client, app: MomApp, name: str
) -> None:
    await client.create_topic(name)
    app.subscriber(name, subscription="s", dead_letter=f"{name}.dlq")(lambda message: None)
    with pytest.raises(mom_client.NotFoundError, match=r"\.dlq"):
        async with app.running():
            pass


async def test_a_source_of_the_wrong_kind_is_refused(
    client: mom_client.Client, broker: BrokerProcess, name: str
) -> None:
    await client.create_topic(name)
    await client.create_subscription(name, "stream", mode="stream")
    await client.create_subscription(name, "queue", mode="queue")
    for subscription, reason in ((None, "is a topic"), ("stream", "is a stream")):
        app = MomApp(broker.addresses)
        app.worker(name, subscription=subscription)(lambda message: None)
        with pytest.raises(mom_client.InvalidArgumentError, match=reason):
            async with app.running():
                pass
    app = MomApp(broker.addresses)
    app.subscriber(name, subscription="queue")(lambda message: None)
    with pytest.raises(mom_client.InvalidArgumentError, match="is a queue"):
        async with app.running():
            pass
