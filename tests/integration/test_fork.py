"""Forks of real processes: nothing is lost, nothing lands twice, nothing hangs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import mom_client.sync
from integration.broker_process import BrokerProcess

SECONDS = 60


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with BrokerProcess(2) as process:
        yield process


def _values(client: mom_client.sync.Client, topic: str) -> list[str]:
    return sorted(one.text() for one in client.read(topic))


def test_fork_in_the_middle_of_publishing(broker: BrokerProcess) -> None:
    with mom_client.sync.connect(broker.addresses) as client:
        client.create_topic("plain", partitions=4)
        futures = []
        children = []
        expected = []
        for turn in range(5):
            for number in range(300):
                expected.append(f"parent {turn} {number}")
                futures.append(client.publish_soon("plain", expected[-1]))
            expected += [f"child {turn} {number}" for number in range(20)]
            child = os.fork()
            if not child:
                code = 1
                try:
                    for number in range(20):
                        client.publish("plain", f"child {turn} {number}")
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        for future in futures:
            future.result(SECONDS)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 5
        assert _values(client, "plain") == sorted(expected)


def test_what_was_opened_before_belongs_to_the_parent(broker: BrokerProcess) -> None:
    with mom_client.sync.connect(broker.addresses) as client:
        client.create_topic("opened")
        client.publish_many("opened", map(str, range(100)))
        with client.subscribe("opened", "group") as subscription:
            messages = iter(subscription)
            assert next(messages).text() == "0"
            child = os.fork()
            if not child:
                code = 1
                try:
                    subscription.commit()
                except mom_client.UnavailableError as error:
                    code = 0 if "before the process forked" in error.message else 2
                finally:
                    os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
            assert next(messages).text() == "1"
            subscription.commit()


def _publish_in_pool(client: mom_client.sync.Client, number: int) -> int:
    return client.publish("pool", f"{os.getpid()} {number}").offset


_pool_client: mom_client.sync.Client


def _pool_job(number: int) -> int:
    return _publish_in_pool(_pool_client, number)


def test_multiprocessing_with_fork(broker: BrokerProcess) -> None:
    global _pool_client
    with mom_client.sync.connect(broker.addresses) as client:
        _pool_client = client
        client.create_topic("pool")
        client.publish("pool", "before")
        with multiprocessing.get_context("fork").Pool(3) as pool:
            offsets = pool.map(_pool_job, range(30))
        assert sorted(offsets) == list(range(1, 31))
        client.publish("pool", "after")
        assert len(_values(client, "pool")) == 32


def _start(command: list[str], directory: Path, errors: Path) -> subprocess.Popen[bytes]:
    with errors.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *command], cwd=directory, stdout=file, stderr=file
        )


def _stop(process: subprocess.Popen[bytes], errors: Path) -> None:
    process.send_signal(signal.SIGTERM)
    code = process.wait(SECONDS)
    assert code == 0, errors.read_text()
    assert "fork() handlers" not in errors.read_text()
    assert "Traceback" not in errors.read_text()


def test_gunicorn_preload(broker: BrokerProcess, tmp_path: Path) -> None:
    (tmp_path / "web.py").write_text(
        textwrap.dedent(f"""
        import os
        import mom_client.sync
        client = mom_client.sync.connect({broker.addresses!r})
        client.create_topic("web", partitions=2)
        client.publish("web", "preload")

        def app(environ, start_response):
            client.publish("web", f"{{os.getpid()}} {{environ['PATH_INFO']}}")
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [str(os.getpid()).encode()]
        """)
    )
    with mom_client.sync.connect(broker.addresses) as client:
        client.create_topic("web", partitions=2)
        sock, errors = tmp_path / "sock", tmp_path / "errors"
        command = ["gunicorn", "--preload", "-w", "3", "-b", f"unix:{sock}", "web:app"]
        server = _start(command, tmp_path, errors)
        try:
            first = next(iter(client.read("web", follow=True)))
            assert first.text() == "preload"
            transport = httpx.HTTPTransport(uds=str(sock), retries=20)
            with httpx.Client(transport=transport, base_url="http://web") as web:
                answers = [web.get(f"/{number}") for number in range(40)]
            assert [one.status_code for one in answers] == [200] * 40
            expected = [f"{one.text} /{number}" for number, one in enumerate(answers)]
            assert _values(client, "web") == sorted([*expected, "preload"])
        finally:
            _stop(server, errors)


def test_celery_prefork(broker: BrokerProcess, tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / "control").mkdir()
    (tmp_path / "work.py").write_text(
        textwrap.dedent(f"""
        import os
        import celery
        import mom_client.sync
        client = mom_client.sync.connect({broker.addresses!r})
        client.create_topic("work", partitions=2)
        client.publish("work", "import")
        app = celery.Celery("work", broker="filesystem://")
        app.conf.broker_transport_options = dict(
            data_folder_in="box", data_folder_out="box", control_folder="control"
        )

        @app.task
        def publish(number):
            client.publish("work", f"task {{number}}")
        """)
    )
    send = "import work\nfor number in range(20): work.publish.delay(number)"
    with mom_client.sync.connect(broker.addresses) as client:
        client.create_topic("work", partitions=2)
        done = subprocess.run(
            [sys.executable, "-c", send], cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        errors = tmp_path / "errors"
        flags = ["-c", "2", "-P", "prefork", "--without-gossip", "--without-mingle"]
        worker = _start(["celery", "-A", "work", "worker", *flags], tmp_path, errors)
        try:
            seen: set[str] = set()
            for message in client.read("work", follow=True):
                seen.add(message.text())
                if len(seen) == 21:
                    break
            assert seen == {"import", *(f"task {number}" for number in range(20))}
        finally:
            _stop(worker, errors)
