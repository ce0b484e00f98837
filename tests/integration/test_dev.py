"""`mom dev` and the command line, as a new user tries them: real processes, real files."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import queue
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from dev_process import MOM, TIMEOUT_SECONDS, DevProcess, environment

from mom_process.addresses import own_host

LINES_MAX = 20_000


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevProcess]:
    """One `mom dev` for the tests that leave it running."""
    with DevProcess(tmp_path_factory.mktemp("dev") / "data") as process:
        yield process


@pytest.fixture(scope="module")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real file of many lines: the package log of this machine, or a text that Python brings."""
    source = Path("/var/log/dpkg.log")
    if not source.is_file() or source.stat().st_size < 10_000:
        source = Path(pydoc_data.topics.__file__)
    lines = source.read_bytes().splitlines(keepends=True)[:LINES_MAX]
    path = tmp_path_factory.mktemp("input") / "lines.log"
    path.write_bytes(b"".join(lines).rstrip(b"\n") + b"\n")
    return path


def lines_of(path: Path) -> Counter[bytes]:
    return Counter(path.read_bytes().splitlines())


def test_a_file_goes_into_a_topic_and_comes_out_again_and_again(
    dev: DevProcess, log_file: Path
) -> None:
    expected = lines_of(log_file)
    dev.mom("topic", "create", "logs", "--partitions", "3")
    made = dev.produced("logs", "--file", log_file).counts
    assert made["published"] == expected.total()
    assert made["failed"] == 0
    assert len(made["partitions"]) == 3
    assert made["durability"] == "fsync"
    for _ in range(2):
        read = dev.mom("consume", "logs", "--until-end").stdout
        assert Counter(read.splitlines()) == expected


def run_until_all_came(
    dev: DevProcess, command: list[str], count: int
) -> tuple[Counter[bytes], list[int]]:
    """Run a command twice at a time until both together printed ``count`` lines."""
    came: queue.Queue[tuple[int, bytes]] = queue.Queue()

    def follow(index: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            came.put((index, line.rstrip(b"\n")))

    processes = [dev.begin(*command) for _ in range(2)]
    threads = [
        threading.Thread(target=follow, args=(index, process), daemon=True)
        for index, process in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    lines: Counter[bytes] = Counter()
    shares = [0, 0]
    try:
        for _ in range(count):
            index, line = came.get(timeout=TIMEOUT_SECONDS)
            lines[line] += 1
            shares[index] += 1
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        codes = [process.wait(TIMEOUT_SECONDS) for process in processes]
        for thread in threads:
            thread.join(TIMEOUT_SECONDS)
        for process in processes:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            process.stderr.close()
    assert codes == [130, 130]
    assert came.empty(), "more came than went in"
    return lines, shares


def test_how_a_queue_flows(dev: DevProcess) -> None:
    flags = ("--ordering", "fair", "--fair-by", "header:tenant", "--rate", "6000/m")
    dev.mom("queue", "create", "flowing", *flags)
    described = dev.json("queue", "describe", "flowing")
    assert (described["rate_per_s"], described["fair_by"]) == (100.0, "header:tenant")
    shown = dev.mom("queue", "describe", "flowing").stdout.decode()
    assert "100/s" in shown
    assert "STALLED SINCE" in shown
    altered = dev.mom("queue", "alter", "flowing", "--rate", "10/h").stdout.decode()
    assert "rate 10/h" in altered
    refused = dev.mom("queue", "alter", "flowing", "--rate", "fast", code=2).stderr.decode()
    assert "such as 100/s" in refused
    dev.mom("topic", "create", "flow-topic")
    dev.mom("subscription", "create", "flow-topic", "work", "--mode", "queue", "--rate", "5/s")
    assert "5/s" in dev.mom("subscription", "describe", "flow-topic", "work").stdout.decode()


def test_two_workers_share_a_queue(dev: DevProcess, log_file: Path) -> None:
    expected = lines_of(log_file)
    dev.mom("queue", "create", "jobs", "--partitions", "2")
    dev.mom("produce", "jobs", "--file", log_file)
    command = ["receive", "jobs", "--ack", "--follow"]
    lines, _ = run_until_all_came(dev, command, expected.total())
    assert lines == expected
    described = dev.json("queue", "describe", "jobs")
    counts = [one["subscriptions"][0] for one in described["partition_list"]]
    assert sum(one["ready"] + one["leased"] for one in counts) == 0


def test_two_members_share_a_subscription(dev: DevProcess, log_file: Path) -> None:
    expected = lines_of(log_file)
    dev.mom("topic", "create", "shared", "--partitions", "4")
    dev.mom("subscription", "create", "shared", "group")
    dev.mom("produce", "shared", "--file", log_file)
    command = ["consume", "shared", "--subscription", "group"]
    lines, _ = run_until_all_came(dev, command, expected.total())
    assert lines == expected
    described = dev.json("subscription", "describe", "shared", "group")
    assert sum(one.get("lag", 0) for one in described["partition_list"]) == 0


def test_everything_is_there_after_a_restart(tmp_path: Path, log_file: Path) -> None:
    expected = lines_of(log_file)
    with DevProcess(tmp_path / "data") as dev:
        dev.mom("topic", "create", "logs", "--partitions", "3")
        dev.mom("produce", "logs", "--file", log_file)
        dev.mom("consume", "logs", "--subscription", "group", "--max", "100")
        dev.mom("queue", "create", "jobs", "--lease", "10m")
        dev.mom("produce", "jobs", "first", "second")
        leased = json.loads(dev.mom("receive", "jobs", "--format", "json").stdout)
        assert dev.stop() == 0

        dev.start()
        read = dev.mom("consume", "logs", "--until-end").stdout
        assert Counter(read.splitlines()) == expected
        rest = dev.mom("consume", "logs", "--subscription", "group", "--until-end").stdout
        assert len(rest.splitlines()) == expected.total() - 100
        assert dev.mom("receive", "jobs", "--max", "5", "--ack").stdout == b"second\n"
        dev.mom("ack", "jobs", leased["receipt"])
        described = dev.json("queue", "describe", "jobs")
        counts = described["partition_list"][0]["subscriptions"][0]
        assert (counts["ready"], counts["leased"]) == (0, 0)


def test_acknowledged_messages_survive_a_crash(tmp_path: Path) -> None:
    with DevProcess(tmp_path / "data") as dev:
        assert dev.produced("notes", stdin=b"a\nb\nc\n").counts["published"] == 3
        dev.kill()
        dev.start()
        assert dev.mom("consume", "notes", "--until-end").stdout == b"a\nb\nc\n"


def owner_of_each(dev: DevProcess, topic: str) -> list[str]:
    return [one["node_id"] for one in dev.json("topic", "describe", topic)["partition_list"]]


def test_more_or_fewer_nodes_have_the_same_data(tmp_path: Path, log_file: Path) -> None:
    expected = lines_of(log_file)
    receipt = ""
    for turn, count in enumerate((1, 3, 2, 1)):
        with DevProcess(tmp_path / "data", "--nodes", str(count)) as dev:
            if turn == 0:
                dev.mom("topic", "create", "logs", "--partitions", "6")
                dev.mom("produce", "logs", "--file", log_file)
                dev.mom("consume", "logs", "--subscription", "group", "--max", "100")
                dev.mom("queue", "create", "jobs", "--partitions", "4", "--lease", "10m")
                dev.mom("produce", "jobs", "leased")
                receipt = json.loads(dev.mom("receive", "jobs", "-o", "json").stdout)["receipt"]
            else:
                assert dev.mom("receive", "jobs", "--wait", "0").stdout == b""
                dev.mom("extend", "jobs", receipt, "--lease", "10m")
            nodes = {f"dev-{index}" for index in range(count)}
            assert {one["node_id"] for one in dev.json("cluster", "status")["nodes"]} == nodes
            # Nobody is waited for who is not there, and those who come get their share.
            assert set(owner_of_each(dev, "logs")) <= nodes
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while set(Counter(owner_of_each(dev, "logs")).values()) != {6 // count}:
                assert time.monotonic() < deadline, owner_of_each(dev, "logs")
            read = dev.mom("consume", "logs", "--until-end").stdout
            assert Counter(read.splitlines()) == expected
            assert dev.stop() == 0
    with DevProcess(tmp_path / "data", "--nodes", "2") as dev:
        dev.mom("ack", "jobs", receipt)
        rest = dev.mom("consume", "logs", "--subscription", "group", "--until-end").stdout
        assert len(rest.splitlines()) == expected.total() - 100


def test_what_does_not_exist_is_created_and_that_is_said(dev: DevProcess) -> None:
    said = dev.mom("produce", "fresh", "hello").stderr.decode()
    assert "created" in said
    assert "fresh" in said
    assert "partition 0, offset 0 (fsync)" in said
    dev.mom("produce", "fresh-queue", "job", "--queue")
    assert dev.mom("receive", "fresh-queue", "--ack").stdout == b"job\n"
    refused = dev.json("produce", "other", "x", "--no-create", code=3)
    assert refused["error"]["code"] == "not_found"


def test_a_gateway_in_the_place_of_a_node_is_told(dev: DevProcess) -> None:
    gateway = dev.facts["rest_url"].removeprefix("http://")
    said = dev.mom("topic", "list", "--url", gateway, code=4).stderr.decode()
    assert f"give its URL, http://{gateway}" in said
    assert "HTTP/2" not in said


def test_topics_by_the_command_line(dev: DevProcess) -> None:
    made = dev.json("topic", "create", "orders", "--partitions", "2", "--retention", "24h")
    assert made["created"] is True
    again = dev.json("topic", "create", "orders", "--partitions", "2", "--retention", "24h")
    assert again["created"] is False
    other = dev.json("topic", "create", "orders", "--partitions", "3", code=1)
    assert other["error"]["code"] == "conflict"
    altered = dev.json("topic", "alter", "orders", "--retention-bytes", "10Mi")
    assert altered["retention_bytes"] == 10 << 20
    fewer = dev.json("topic", "alter", "orders", "--partitions", "1", code=1)
    assert fewer["error"]["field"] == "partitions"
    assert "orders" in [one["name"] for one in dev.json("topic", "list")]
    assert "orders" in dev.mom("topic", "list").stdout.decode()
    assert len(dev.json("topic", "describe", "orders")["partition_list"]) == 2
    assert dev.json("queue", "describe", "orders", code=3)["error"]["code"] == "not_found"
    for words in (("topic", "delete", "orders"), ("subscription", "delete", "orders", "s")):
        assert b"give --yes" in dev.mom(*words, stdin=b"y\n", code=2).stderr
    assert dev.json("topic", "delete", "orders", "--yes")["deleted"] is True
    missing = dev.json("topic", "delete", "orders", "--yes", code=3)
    assert missing["error"]["code"] == "not_found"
    assert dev.json("topic", "delete", "orders", "--if-exists", "--yes")["deleted"] is False


def test_a_queue_is_administrated(dev: DevProcess) -> None:
    dev.mom("queue", "create", "frail", "--dead-letter", "frail.dlq", "--max-deliveries", "1")
    dev.mom("produce", "frail", "a", "b", "c")
    dev.mom("queue", "pause", "frail")
    assert dev.mom("receive", "frail", "--wait", "0s").stdout == b""
    described = dev.json("queue", "describe", "frail")
    assert described["paused"] is True
    counts = described["partition_list"][0]["subscriptions"][0]
    assert (counts["ready"], counts["paused"]) == (3, True)
    assert counts["oldest_unacked_ms"] >= counts["oldest_ready_ms"] >= 0
    dev.mom("queue", "resume", "frail")
    received = dev.mom("receive", "frail", "--max", "3", "--format", "json").stdout.splitlines()
    receipts = "\n".join(json.loads(one)["receipt"] for one in received)
    dev.mom("nack", "frail", stdin=receipts.encode())
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while len(dead := dev.json("dead", "list", "frail.dlq")["dead_letters"]) < 3:
        assert time.monotonic() < deadline
    assert [one["value"] for one in dead] == ["a", "b", "c"]
    assert b"max_deliveries" in dev.mom("dead", "list", "frail.dlq").stdout
    offset = str(dead[1]["offset"])
    done = dev.json("dead", "redrive", "frail.dlq", "--offset", offset, "--wait")
    assert (done["state"], done["done"], done["total"]) == ("done", 1, 1)
    assert done.pop("not_found") == []
    assert dev.json("operation", "show", done["operation_id"]) == done
    assert [one["operation_id"] for one in dev.json("operation", "list")] == [done["operation_id"]]
    assert dev.json("operation", "cancel", done["operation_id"])["state"] == "done"
    assert dev.json("operation", "show", "0" * 32, code=3)["error"]["code"] == "not_found"
    dev.mom("dead", "redrive", "frail.dlq", "--rate", "fast", code=2)
    again = dev.mom("operation", "cancel", done["operation_id"]).stderr.decode()
    assert "had ended before (done)" in again
    shown = dev.mom("operation", "show", done["operation_id"], "--wait").stderr.decode()
    assert "goes on" not in shown
    none = dev.json("dead", "redrive", "frail.dlq", "--offset", "98", "--offset", "99", code=3)
    assert "offset 98, offset 99" in none["error"]["message"]
    assert len(dev.json("operation", "list")) == 1, "it did not begin"
    # Nobody can say yes.
    assert b"give --yes" in dev.mom("queue", "purge", "frail.dlq", code=2).stderr
    assert dev.json("queue", "purge", "frail.dlq", "--yes")["purged"] == 2
    assert dev.mom("receive", "frail").stdout == b"b\n"


def test_dead_letters_that_are_named_and_not_there_are_told(dev: DevProcess) -> None:
    dev.mom("queue", "create", "graves")
    dev.mom("queue", "create", "graves.again")
    headers = ("--header", "mom-dead-reason=payload")
    ids = [one["id"] for one in dev.produced("graves", "a", "b", *headers).results]
    assert b"payload" in dev.mom("dead", "list", "graves", "--reason", "payload").stdout
    picks = ("--offset", "0", "--offset", "9", "--id", ids[0])
    to = ("--to", "graves.again", "--wait")
    done = dev.json("dead", "redrive", "graves", *picks, *to, code=1)
    assert (done["done"], done["not_found"]) == (1, ["offset 9"])
    said = dev.mom("dead", "redrive", "graves", "--offset", "1", "--offset", "0", *to, code=1)
    assert "no such dead letter: offset 0;" in said.stderr.decode()


def test_a_subscription_is_administrated(dev: DevProcess) -> None:
    dev.mom("topic", "create", "steps", "--retain-until-acked")
    assert dev.json("topic", "describe", "steps")["retain_until_acked"] is True
    dev.mom("subscription", "create", "steps", "mail", "--mode", "queue")
    dev.mom("subscription", "create", "steps", "reader")
    dev.mom("produce", "steps", "a", "b", "c")
    altered = dev.json("subscription", "alter", "steps", "mail", "--lease", "1m")
    assert altered["lease_ms"] == 60_000
    refused = dev.mom("subscription", "pause", "steps", "reader", code=1).stderr.decode()
    assert "stream mode" in refused
    assert "'paused'" not in refused
    dev.mom("subscription", "pause", "steps", "mail")
    assert dev.mom("receive", "steps", "--subscription", "mail", "--wait", "0s").stdout == b""
    assert dev.json("subscription", "purge", "steps", "mail", "--yes")["purged"] == 3
    sought = dev.json("subscription", "seek", "steps", "reader", "--to", "offset:1", "--dry-run")
    assert [(one["offset"], one["lag"]) for one in sought["offsets"]] == [(1, 2)]
    described = dev.json("subscription", "describe", "steps", "reader")
    assert described["partition_list"][0]["lag"] == 3
    assert b"LAG IN TIME" in dev.mom("subscription", "describe", "steps", "reader").stdout


def test_good_lines_land_and_bad_ones_are_named(dev: DevProcess) -> None:
    dev.mom("topic", "create", "small", "--message-bytes-max", "1Ki")
    done = dev.mom("produce", "small", stdin=b"one\n" + b"x" * 2000 + b"\nthree\n", code=1)
    assert "standard input line 2" in done.stderr.decode()
    done = dev.mom("produce", "small", "x" * 2000, code=1)
    assert "argument 1 was not sent" in done.stderr.decode()
    assert dev.mom("consume", "small", "--until-end").stdout == b"one\nthree\n"
    lines = b'{"value": 1, "key": "a"}\n{nonsense\n{"value": {"b": [2]}, "headers": {"h": "v"}}\n'
    made, counts = dev.produced("small", "--json", stdin=lines, code=1)
    assert (counts["published"], counts["failed"]) == (2, 1)
    assert [one.get("offset") for one in made] == [2, None, 3], "in the order of the lines"
    assert (made[1]["line"], made[1]["error"]["code"]) == (2, "invalid_argument")
    read = dev.mom("consume", "small", "--from", "offset:2", "--until-end", "--format", "json")
    first, second = (json.loads(line) for line in read.stdout.splitlines())
    assert (first["value"], first["key"], first["offset"]) == (1, "a", 2)
    assert (second["value"], second["headers"]) == ({"b": [2]}, {"h": "v"})


def test_duplicates_are_told(dev: DevProcess) -> None:
    first = dev.mom("produce", "once", "a", "--dedup-id", "1")
    assert b"not stored" not in first.stderr
    again = dev.mom("produce", "once", "a", "--dedup-id", "1")
    assert b"once: partition 0, offset 0 (fsync); not stored again" in again.stderr
    lines = b"".join(b'{"value": %d, "dedup_id": "%d"}\n' % (one, one) for one in range(4))
    made, counts = dev.produced("once", "--json", stdin=lines)
    assert (counts["published"], counts["duplicates"]) == (4, 1)
    assert [one["duplicate"] for one in made] == [False, True, False, False]
    assert (made[1]["position"], made[1]["id"]) == ("0:0", "")
    again = dev.mom("produce", "once", "--json", stdin=lines)
    assert b"; 4 not stored again, as duplicates" in again.stderr
    assert dev.produced("once", "b", "c").counts["duplicates"] == 0
    assert len(dev.mom("consume", "once", "--until-end").stdout.splitlines()) == 6


def test_what_was_sent_for_later_can_be_cancelled(dev: DevProcess) -> None:
    dev.mom("queue", "create", "later", "--partitions", "2")
    results, counts = dev.produced("later", "a", "b", "c", "--delay", "1h")
    assert counts["published"] == 3
    assert [set(one) for one in results] == [
        {"position", "partition", "offset", "id", "duplicate", "durability"}
    ] * 3
    assert [one["position"] for one in results] == [
        f"{one['partition']}:{one['offset']}" for one in results
    ]
    places = [one["position"] for one in results]
    said = dev.mom("produce", "later", "d", "e", "--delay", "1h")
    assert (said.stdout, len(said.stderr.splitlines())) == (b"", 1)
    done = dev.json("cancel", "later", places[0], "foo", places[1], "0:77", code=1)["results"]
    assert [one["position"] for one in done] == [places[0], "foo", places[1], "0:77"]
    assert [one["status"] for one in done] == ["ok", "failed", "ok", "failed"]
    assert "PARTITION:OFFSET" in done[1]["error"]["message"]
    done = dev.json("reschedule", "later", "x", places[2], code=1)["results"]
    assert [one["status"] for one in done] == ["failed", "ok"]
    assert dev.mom("receive", "later", "--wait", "20s").stdout == b"c\n"


def test_a_reader_of_the_results_that_goes_away_is_no_error(dev: DevProcess) -> None:
    process = dev.begin("produce", "gone", "-o", "json", *map(str, range(2)))
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    assert b"Traceback" not in errors
    assert b'"error"' not in errors


def test_leases_by_the_command_line(dev: DevProcess) -> None:
    dev.mom("queue", "create", "work", "--lease", "10m")
    dev.mom("topic", "create", "not-work")
    assert b"--subscription" in dev.mom("receive", "not-work", code=1).stderr
    dev.mom("produce", "work", "a", "b")
    leased = dev.mom("receive", "work", "--max", "2", "-o", "json").stdout.splitlines()
    receipts = [json.loads(line)["receipt"] for line in leased]
    assert dev.mom("receive", "work", "--wait", "0").stdout == b""
    dev.mom("extend", "work", receipts[0], "--lease", "20m")
    dev.mom("nack", "work", receipts[0])
    again = json.loads(dev.mom("receive", "work", "-o", "json").stdout)
    assert again["deliveries"] == 2
    dev.mom("nack", "work", again["receipt"], "--no-count")
    assert json.loads(dev.mom("receive", "work", "-o", "json").stdout)["deliveries"] == 2
    assert (
        dev.json("ack", "work", stdin=f"{receipts[1]}\n".encode())["results"][0]["status"] == "ok"
    )
    refused = dev.json("ack", "work", receipts[0], "not-a-receipt", code=1)["results"]
    assert refused[0]["error"]["code"] in ("lease_lost", "already_settled")
    assert refused[1]["error"]["code"] == "invalid_receipt"


def test_a_subscription_is_replayed_by_seek(dev: DevProcess) -> None:
    dev.mom("produce", "events", "a", "b", "c")
    read = ["consume", "events", "--subscription", "s", "--until-end"]
    assert dev.mom(*read).stdout == b"a\nb\nc\n"
    assert dev.mom(*read).stdout == b""
    sought = dev.json("subscription", "seek", "events", "s", "--to", "offset:1")
    assert [(one["partition"], one["offset"]) for one in sought["offsets"]] == [(0, 1)]
    assert dev.mom(*read).stdout == b"b\nc\n"


def test_cluster_and_tokens(dev: DevProcess) -> None:
    status = dev.json("cluster", "status")
    assert len(status["nodes"]) == 3
    assert status["store"]["engine"] == "sqlite"
    assert status["store"]["durability"] == "fsync"
    assert "dev-0" in dev.mom("cluster", "status").stdout.decode()
    made = dev.json("token", "create", "ci", "--scope", "read:logs")
    assert made["token"]
    assert made["token_id"] in [one["token_id"] for one in dev.json("token", "list")]
    dev.mom("token", "revoke", made["token_id"])
    assert dev.json("token", "revoke", "000000000000", code=3)["error"]["code"] == "not_found"


def test_a_reader_that_goes_away_is_no_error_message(dev: DevProcess, log_file: Path) -> None:
    dev.mom("produce", "piped", "--file", log_file)
    process = dev.begin("consume", "piped")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    dev.mom("produce", "piped", "--file", log_file)
    assert process.wait(TIMEOUT_SECONDS) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def refused_start(*flags: str) -> str:
    done = subprocess.run(
        [*MOM, "dev", *flags],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode in (1, 4)
    assert done.stdout == b""
    said = done.stderr.decode()
    assert said.startswith("mom: ")
    assert said.count("\n") == 1
    return said


FREE = ("--master-port", "0", "--node-port", "0")


@pytest.mark.parametrize("flag", ["--port", "--master-port", "--node-port"])
def test_a_taken_port_is_named_with_its_process(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused_start("--data", str(tmp_path), "--port", "0", *FREE, flag, str(port))
    assert f"port {port}" in said
    assert f"pid {os.getpid()}" in said


def test_one_port_is_enough_for_a_second_one(tmp_path: Path) -> None:
    usual = range(7070, 7074)
    with ExitStack() as stack:
        for port in usual:
            with suppress(OSError):  # Then another process has it, which is just as well.
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        dev = stack.enter_context(DevProcess(tmp_path / "data", ports=("--port", "0")))
        ports = [int(address.rpartition(":")[2]) for address in dev.facts["nodes"]]
        ports.append(int(dev.facts["master"].rpartition(":")[2]))
        assert not set(ports) & set(usual)
        dev.mom("produce", "notes", "hello")
        assert dev.mom("consume", "notes", "--until-end").stdout == b"hello\n"
        said = refused_start("--data", str(tmp_path / "more"), "--port", "0", "--node-port", "7071")
        assert "port 7071" in said


@pytest.mark.parametrize("advertised", ["", "localhost"])
def test_on_every_interface_it_tells_an_address_that_can_be_reached(
    tmp_path: Path, advertised: str
) -> None:
    host = advertised or own_host()
    if not host:
        pytest.skip("this machine has no address of its own")
    flags = ["--host", "0.0.0.0", *(["--advertise", advertised] if advertised else [])]
    with DevProcess(tmp_path / "data", *flags) as dev:
        told = [*dev.facts["nodes"], dev.facts["master"]]
        assert {address.rpartition(":")[0] for address in told} == {host}
        assert dev.facts["rest_url"].startswith(f"http://{host}:")
        assert b"MOM_TOKEN" in dev.mom("topic", "list", code=1).stderr
        dev.more["MOM_TOKEN"] = (tmp_path / "data" / "cluster-token").read_text().strip()
        # Through what the routing table says, to all of the nodes.
        dev.mom("topic", "create", "notes", "--partitions", "6")
        dev.produced("notes", stdin=b"".join(b"%d\n" % one for one in range(600)))
        assert len(dev.mom("consume", "notes", "--until-end").stdout.splitlines()) == 600
        status = dev.json("cluster", "status")
        assert {node["address"] for node in status["nodes"]} == set(dev.facts["nodes"])


def test_a_data_directory_that_is_held_is_named_with_its_process(
    dev: DevProcess, tmp_path: Path
) -> None:
    said = refused_start("--data", dev.facts["data"], "--port", "0", *FREE)
    assert str(dev.facts["pid"]) in said
    assert dev.facts["data"] in said


def test_data_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with DevProcess(tmp_path / "data") as dev:
        dev.stop()
    (database,) = (tmp_path / "data").glob("*.sqlite3")
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    said = refused_start("--data", str(tmp_path / "data"), "--port", "0", *FREE)
    assert "newer version" in said


def test_an_idle_dev_is_small(tmp_path: Path) -> None:
    with DevProcess(tmp_path / "data") as dev:
        status = Path(f"/proc/{dev.facts['pid']}/status")
        if not status.exists():
            pytest.skip("needs /proc")
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        assert int(line.split()[1]) < 150 * 1024


def test_help_imports_no_grpc() -> None:
    code = (
        "import sys, mom_cli.main as m; m.run(['--help']); "
        "sys.exit(any(name in sys.modules for name in ('grpc', 'asyncio', 'msgspec')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
