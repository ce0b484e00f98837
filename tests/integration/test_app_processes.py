"""Applications as processes that block, are stopped, are told to end, and are written by `mom`."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mom_client
from integration.app_process import PRELUDE, AppProcess, lines_of
from integration.broker_process import BrokerProcess
from integration.descriptions import left, none_left, subscriptions_of
from integration.dev_process import MOM, DevProcess, environment
from polling import until

Write = Callable[[str], Path]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def write(tmp_path: Path, name: str) -> Write:
    """Write an application of the queue ``QUEUE``."""

    def written(text: str) -> Path:
        path = tmp_path / "worker_app.py"
        path.write_text(f"{PRELUDE}\nQUEUE = {name!r}\n{text}")
        return path

    return written


async def noted(journal: Path, count: int) -> list[str]:
    """The first so many lines of the journal, waited for."""
    await until(lambda: len(lines_of(journal)) >= count, f"{count} lines: {lines_of(journal)}")
    return lines_of(journal)


DIES = """
@app.worker(QUEUE, lease=1, concurrency=4, prefetch=4)
async def handle(text: str):
    note("begin", text)
    if text == "bomb":
        await asyncio.sleep(0.1)  # Its neighbours have begun, too.
        os._exit(9)
    await asyncio.sleep(0.2)
    note("end", text)
"""

DIES_BESIDE = """
@app.worker(QUEUE, lease=1, concurrency=1)
async def handle(text: str):
    await asyncio.sleep(0.3)  # The other worker has begun, too, if it ever does meanwhile.
    os._exit(9)

@app.worker(QUEUE + ".beside", lease=1)
async def handle_beside(text: str):
    await asyncio.sleep(1)
    note("end", text)
"""


async def test_a_message_that_ends_its_process_takes_none_of_another_queue_along(
    client: mom_client.Client, broker: BrokerProcess, write: Write, journal: Path, name: str
) -> None:
    dead_letter, beside = f"{name}.dlq", f"{name}.beside"
    for queue in (name, beside):
        await client.create_queue(queue, max_deliveries=2, dead_letter=dead_letter)
    await client.publish(name, "bomb")
    await client.publish(beside, "harmless")
    while await left(client, name) + await left(client, beside):
        with AppProcess(write(DIES_BESIDE), broker.addresses, journal) as one:

            async def is_over(process: subprocess.Popen[bytes] = one.process) -> bool:
                open_ = await left(client, name) + await left(client, beside)
                return process.poll() is not None or not open_

            await until(is_over, "it has died, or has handled all")
    (dead,) = await client.receive(dead_letter, 20, wait=20)
    assert dead.text() == "bomb"
    assert lines_of(journal) == ["end harmless"]


DIES_ITERATING = """
import asyncio, os, sys
import mom_client

async def work(address, queue, journal):
    async with mom_client.connect(address) as client, client.consume(queue, lease=1) as messages:
        async for message in messages:
            if message.text() == "bomb":
                os._exit(9)
            with open(journal, "a") as file:
                file.write(f"end {message.text()}\\n")

asyncio.run(work(*sys.argv[1:]))
"""


@pytest.mark.parametrize("iterates", [False, True], ids=["worker", "iteration"])
async def test_a_message_that_ends_its_workers_takes_no_neighbour_along(
    client: mom_client.Client, broker: BrokerProcess, write: Write, journal: Path, name: str,
    iterates: bool,
) -> None:  # fmt: skip
    dead_letter = f"{name}.dlq"
    await client.create_queue(name, partitions=3, max_deliveries=2, dead_letter=dead_letter)
    neighbours = [f"m{number}" for number in range(12)]
    await client.publish_many(name, [*neighbours[:5], "bomb", *neighbours[5:]])
    iterating = [sys.executable, "-c", DIES_ITERATING, broker.addresses[0], name, str(journal)]

    @contextmanager
    def at_work() -> Iterator[subprocess.Popen[bytes]]:
        if iterates:
            process = subprocess.Popen(iterating)
            yield process
            process.kill()
            process.wait()
        else:
            with AppProcess(write(DIES), broker.addresses, journal) as one:
                yield one.process

    async def work() -> int | None:
        """The exit code of a worker that died; None when it has nothing more to do."""
        with at_work() as process:

            async def is_over() -> bool:
                return process.poll() is not None or not await left(client, name)

            await until(is_over, "it has died, or has handled all")
            return process.poll()

    deaths = 0
    while await left(client, name):
        deaths += await work() == 9
    (dead,) = await client.receive(dead_letter, 20, wait=20)
    assert (dead.text(), dead.headers["mom-dead-deliveries"]) == ("bomb", "2")
    assert deaths == 3, "the first one accuses nobody"
    assert {line.split()[1] for line in lines_of(journal) if "end" in line} == set(neighbours)


BLOCKS = """
@app.worker(QUEUE, lease=2, concurrency=2)
async def handle(text: str):
    note("begin", text, os.getpid())
    time.sleep(10)
    note("end", text, os.getpid())
"""

BLOCKS_A_THREAD = BLOCKS.replace("async def", "def")


@pytest.mark.parametrize("text", [BLOCKS, BLOCKS_A_THREAD], ids=["async", "sync"])
async def test_a_handler_that_blocks_for_five_leases_runs_once(
    client: mom_client.Client, broker: BrokerProcess, write: Write, journal: Path, name: str,
    text: str,
) -> None:  # fmt: skip
    await client.create_queue(name)
    path = write(text)
    with (
        AppProcess(path, broker.addresses, journal) as first,
        AppProcess(path, broker.addresses, journal) as second,
    ):
        await until(lambda: first.runs and second.runs, "both are ready")
        await client.publish_many(name, ["a", "b", "c"])
        lines = await noted(journal, 6)
        await none_left(client, name)
        assert first.end() == second.end() == 0
    assert lines_of(journal) == lines
    assert sorted(line.split()[1] for line in lines if line.startswith("begin")) == ["a", "b", "c"]


STOPPED = """
@app.worker(QUEUE, lease=2)
async def handle(text: str):
    note("begin", text, os.getpid())
    try:
        while not os.path.exists(os.environ["JOURNAL"] + ".go"):
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note("cancelled", text, os.getpid())
        raise
    note("end", text, os.getpid())
"""


async def test_a_process_that_is_stopped_for_two_leases_costs_one_other_run(
    client: mom_client.Client, broker: BrokerProcess, write: Write, journal: Path, name: str
) -> None:
    await client.create_queue(name)
    path = write(STOPPED)
    with AppProcess(path, broker.addresses, journal) as first:
        await until(lambda: first.runs, "it is ready")
        await client.publish(name, "a")
        await noted(journal, 1)
        with AppProcess(path, broker.addresses, journal) as second:
            await until(lambda: second.runs, "it is ready")
            first.process.send_signal(signal.SIGSTOP)
            one, other = first.process.pid, second.process.pid
            # The other gets it at the end of the lease, and renews it for as long as it takes.
            await noted(journal, 2)
            assert await client.receive(name, wait=4) == []
            first.process.send_signal(signal.SIGCONT)
            lines = await noted(journal, 3)
            assert lines == [f"begin a {one}", f"begin a {other}", f"cancelled a {one}"]
            journal.with_name("journal.go").touch()
            await noted(journal, 4)
            await none_left(client, name)
            assert first.end() == second.end() == 0
    assert lines_of(journal)[3:] == [f"end a {other}"]


STOPPED_THREAD = """
@app.worker(QUEUE, lease=1, prefetch=3, concurrency=1)
def handle(text: str):
    note("begin", text, os.getpid())
    while not os.path.exists(os.environ["JOURNAL"] + ".go"):
        time.sleep(0.01)
    note("end", text, os.getpid())
"""


async def test_after_a_stop_nothing_is_begun_that_another_may_have(
    client: mom_client.Client, broker: BrokerProcess, write: Write, journal: Path, name: str
) -> None:
    """A sync handler can't be cancelled: its ack is refused, and what waited behind it is left."""
    await client.create_queue(name)
    path = write(STOPPED_THREAD)
    with AppProcess(path, broker.addresses, journal) as first:
        await until(lambda: first.runs, "it is ready")
        await client.publish_many(name, ["a", "b", "c", "d"])
        await noted(journal, 1)

        async def all_leased() -> bool:
            return (await subscriptions_of(client, name))[0].leased == 4

        await until(all_leased, "three wait behind the first")
        first.process.send_signal(signal.SIGSTOP)
        taken: list[mom_client.ReceivedMessage] = []
        while len(taken) < 4:
            taken += await client.receive(name, 4, wait=20, lease=600)
        journal.with_name("journal.go").touch()
        first.process.send_signal(signal.SIGCONT)
        pid = first.process.pid
        assert await noted(journal, 2) == [f"begin a {pid}", f"end a {pid}"]
        await until(lambda: "not settled" in first.log, "its ack is refused")
        assert [error for error in await client.ack(taken) if error] == []
        await client.publish(name, "e")
        lines = await noted(journal, 4)
        assert lines[2:] == [f"begin e {pid}", f"end e {pid}"]
        assert first.end() == 0
    assert len(lines_of(journal)) == 4


SLOW = """
@app.worker(QUEUE, lease=600)
async def handle(text: str):
    note("begin", text)
    try:
        while not os.path.exists(os.environ["JOURNAL"] + ".go"):
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note("cancelled", text)
        raise
    note("end", text)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_application_that_is_told_to_end_finishes_and_acknowledges(
    client: mom_client.Client, broker: BrokerProcess, write: Write, journal: Path, name: str,
    number: signal.Signals,
) -> None:  # fmt: skip
    await client.create_queue(name)
    with AppProcess(write(SLOW), broker.addresses, journal) as process:
        await until(lambda: process.runs, "it is ready")
        await client.publish(name, "a")
        await noted(journal, 1)
        process.process.send_signal(number)
        await client.publish(name, "b")
        (message,) = await client.receive(name, wait=20)
        assert message.deliveries == 1, "it takes nothing new"
        await client.ack(message)
        journal.with_name("journal.go").touch()
        assert process.process.wait(60) == 0
    assert lines_of(journal) == ["begin a", "end a"]
    await none_left(client, name)


async def test_what_outlives_the_grace_period_is_cancelled_and_given_back(
    client: mom_client.Client, broker: BrokerProcess, write: Write, journal: Path, name: str
) -> None:
    await client.create_queue(name)
    with AppProcess(write(SLOW), broker.addresses, journal, GRACE="0.2") as process:
        await until(lambda: process.runs, "it is ready")
        await client.publish(name, "a")
        await noted(journal, 1)
        assert process.end() == 0
    assert lines_of(journal) == ["begin a", "cancelled a"]
    (message,) = await client.receive(name, wait=20)
    assert message.deliveries == 1, "the end of the process is not its failure"


async def test_the_same_signal_again_waits_for_nothing(
    client: mom_client.Client, broker: BrokerProcess, write: Write, journal: Path, name: str
) -> None:
    await client.create_queue(name)
    with AppProcess(write(SLOW), broker.addresses, journal, GRACE="600") as process:
        await until(lambda: process.runs, "it is ready")
        await client.publish(name, "a")
        await noted(journal, 1)
        process.process.send_signal(signal.SIGINT)
        await client.publish(name, "b")
        await client.ack(await client.receive(name, wait=20))
        assert process.end(signal.SIGINT) == 0
    assert lines_of(journal) == ["begin a", "cancelled a"]


SUBSCRIBER = """
@app.subscriber(QUEUE, subscription="s", session=1)
async def handle(text: str):
    note(text)
    if text == "slow":
        while not os.path.exists(os.environ["JOURNAL"] + ".go"):
            time.sleep(0.01)
"""


async def test_a_subscriber_that_blocks_keeps_its_partition_and_commits_at_its_end(
    client: mom_client.Client, broker: BrokerProcess, write: Write, journal: Path, name: str
) -> None:
    await client.create_topic(name)
    path = write(SUBSCRIBER)
    with AppProcess(path, broker.addresses, journal) as first:
        await until(lambda: first.runs, "it is ready")
        await client.publish_many(name, ["quick", "slow"])
        await noted(journal, 2)
        with AppProcess(path, broker.addresses, journal) as second:
            await until(lambda: second.runs, "it is ready")
            # Longer than the session: the heartbeats don't depend on the handler.
            await client.create_queue(f"{name}-empty")
            assert await client.receive(f"{name}-empty", wait=2) == []
            assert lines_of(journal) == ["quick", "slow"]
            first.process.send_signal(signal.SIGTERM)
            journal.with_name("journal.go").touch()
            assert first.process.wait(60) == 0
            await client.publish(name, "next")
            assert await noted(journal, 3) == ["quick", "slow", "next"]
            assert second.end() == 0


PARKS = """
import logging
from mom_client import Retry

class DieAfterParking(logging.Handler):
    def emit(self, record):
        if ": parked " in record.getMessage():
            note("dies")
            os._exit(9)

if "DIES" in os.environ:
    logging.getLogger("mom_client").addHandler(DieAfterParking())

def handle(subscription):
    async def work(text: str):
        if text == "bad":
            raise ValueError(subscription)
        note(subscription, text)
    return work

for one in os.environ["SUBSCRIPTIONS"].split():
    app.subscriber(
        QUEUE, subscription=one, session=1, retry=Retry(tries=1), dead_letter=QUEUE + ".dlq"
    )(handle(one))
"""


async def test_a_message_is_parked_once_when_the_process_dies_before_it_commits(
    client: mom_client.Client, broker: BrokerProcess, write: Write, journal: Path, name: str
) -> None:
    await client.create_topic(name)
    await client.create_queue(f"{name}.dlq")
    path = write(PARKS)
    with AppProcess(path, broker.addresses, journal, SUBSCRIPTIONS="s", DIES="1") as first:
        await until(lambda: first.runs, "it is ready")
        await client.publish_many(name, ["bad", "good"])
        await noted(journal, 1)
        assert first.process.wait(60) == 9
    with AppProcess(path, broker.addresses, journal, SUBSCRIPTIONS="s t") as second:
        lines = await noted(journal, 3)
        assert second.end() == 0
        assert "where it was parked before" in second.log
    assert sorted(lines) == ["dies", "s good", "t good"]
    dead = (await subscriptions_of(client, f"{name}.dlq"))[0].ready
    assert dead == 2, "one copy of each subscription"
    parked: list[mom_client.ReceivedMessage] = []
    while len(parked) < dead:
        parked += await client.receive(f"{name}.dlq", 2, wait=20)
    assert sorted(one.headers["mom-dead-subscription"] for one in parked) == ["s", "t"]


# mom run and mom init.


async def test_reload_runs_the_changed_file(
    client: mom_client.Client, broker: BrokerProcess, write: Write, journal: Path, name: str
) -> None:
    await client.create_queue(name)
    text = '@app.worker(QUEUE)\ndef handle(text: str):\n    note("{}", text)\n'
    path = write(text.format("first"))
    with AppProcess(path, broker.addresses, journal, "--reload") as process:
        await client.publish(name, "a")
        assert await noted(journal, 1) == ["first a"]
        path.write_text("this is no Python\n")
        await until(lambda: "waiting for a file to change" in process.log, "it says that it ended")
        write(text.format("second"))
        await client.publish(name, "b")
        assert (await noted(journal, 2))[1] == "second b"
        assert process.end() == 0
    await client.publish(name, "c")
    assert [one.text() for one in await client.receive(name, wait=20)] == ["c"]


def test_a_first_application_and_its_test(tmp_path: Path) -> None:
    with DevProcess(tmp_path / "data") as dev:
        folder = tmp_path / "shop"
        written = dev.json("init", "worker", "emails", "--folder", folder)
        assert written == {
            "files": [f"{folder}/emails_worker.py", f"{folder}/test_emails_worker.py"]
        }
        refused = dev.mom("init", "worker", "emails", "--folder", folder, code=1)
        assert "would be written over" in refused.stderr.decode()
        # A developer's broker makes the queue.
        worker = dev.begin("run", f"{folder}/emails_worker.py")
        try:
            assert worker.stderr is not None
            assert worker.stdout is not None
            while b"Ctrl-C ends it" not in (line := worker.stderr.readline()):
                assert line
            dev.mom("produce", "emails", '{"to": "ada", "text": "hello"}')
            assert worker.stdout.readline() == b"to ada: hello\n"
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.communicate(timeout=60)
        assert worker.returncode == 0
    if importlib.util.find_spec("mom_client.testing") is None:
        pytest.skip("the written test needs a TestBroker")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        capture_output=True, text=True, env=environment(), timeout=100, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


async def test_what_is_missing_is_made_in_development(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    path = tmp_path / "shop.py"
    path.write_text(f"""{PRELUDE}
@app.worker("orders", subscription="mail")
def mail(text: str): note("mail", text)

@app.subscriber("orders", subscription="bill", dead_letter="orders.dlq")
def bill(text: str): note("bill", text)
""")
    with DevProcess(tmp_path / "data") as dev:
        with AppProcess(path, dev.facts["nodes"], journal) as process:
            await until(lambda: process.runs, "it is ready")
            dev.mom("produce", "orders", "one")
            await noted(journal, 2)
            assert process.end() == 0
        assert sorted(lines_of(journal)) == ["bill one", "mail one"]
        assert dev.json("queue", "describe", "orders.dlq")["name"] == "orders.dlq"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("missing.py", "there is no file"),
        ("no_such_module", "there is no module"),
        ("empty.py", "has no MomApp"),
        ("idle.py", "has no handlers"),
        ("two.py", "has several applications; it has first, second"),
        ("two.py:third", "no MomApp called 'third'; it has first, second"),
    ],
)
def test_what_is_no_application_is_refused(target: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "idle.py").write_text("from mom_client import MomApp\napp = MomApp()\n")
    (tmp_path / "two.py").write_text(
        "from mom_client import MomApp\nfirst = MomApp()\nsecond = MomApp()\n"
    )
    done = subprocess.run(
        [*MOM, "run", target],
        capture_output=True, text=True, env=environment(), timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr


def test_no_server_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text(f"{PRELUDE}\n@app.worker('q')\ndef handle(text: str): ...\n")
    done = subprocess.run(
        [*MOM, "run", str(path), "--url", "127.0.0.1:1"],
        capture_output=True, text=True, env=environment(), timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith("mom: ")
    assert len(done.stderr.splitlines()) == 1
