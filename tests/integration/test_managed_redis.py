"""The configuration and the probes of managed Redis, with a real redis-server: MOM accepts it as
durable, and a Redis that loads its data is alive but not ready.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from mom_broker.storage.redis import RedisStore
from mom_core.ports import Durability
from mom_operator.names import Names
from mom_operator.resources import Inputs, desired
from mom_operator.resources.redis import AUTH_PATH, CONFIG_PATH, DATA_PATH, redis_auth_file
from mom_operator.spec import Cluster, parse_cluster
from mom_process.system import SystemClock
from redis_server import free_port

PASSWORD = "secret-of-the-test"
WAIT_S_MAX = 10.0


def _cluster() -> Cluster:
    return parse_cluster(
        {
            "metadata": {"name": "my-mom", "namespace": "shop", "uid": "u"},
            "spec": {
                "version": "0.1.0",
                "redis": {"managed": {"resources": {"limits": {"memory": "256Mi"}}}},
            },
        }
    )


class Pod:
    """The container of managed Redis as a process: its command and probes, with paths of ours."""

    def __init__(self, directory: Path, data: Path | None = None) -> None:
        """``data``: the volume of another one."""
        names = Names("my-mom", "shop")
        inputs = Inputs(secrets={names.redis_auth: {"password": PASSWORD.encode()}})
        children = {(one.kind, one.name): one.manifest for one in desired(_cluster(), inputs)}
        self.container: dict[str, Any] = children["StatefulSet", names.redis]["spec"]["template"][
            "spec"
        ]["containers"][0]
        self.port = free_port()
        self._places = {
            path: directory / path.strip("/").replace("/", "-")
            for path in (CONFIG_PATH, AUTH_PATH, DATA_PATH)
        }
        for place in self._places.values():
            place.mkdir(parents=True)
        if data is not None:
            self._places[DATA_PATH] = data
        config = children["ConfigMap", names.redis]["data"]["redis.conf"]
        (self._places[CONFIG_PATH] / "redis.conf").write_text(self._here(config))
        (self._places[AUTH_PATH] / "auth.conf").write_text(redis_auth_file(PASSWORD))
        self._process: subprocess.Popen[bytes] | None = None

    def _here(self, text: str) -> str:
        for path, place in self._places.items():
            text = text.replace(path, str(place))
        return text.replace("port 6379", f"port {self.port}").replace(
            "-h 127.0.0.1", f"-h 127.0.0.1 -p {self.port}"
        )

    def configure(self, *lines: str) -> None:
        """Add to the configuration."""
        with (self._places[CONFIG_PATH] / "redis.conf").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def start(self) -> None:
        """Run the container's command."""
        command = [self._here(word) for word in self.container["command"]]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)

    @property
    def data(self) -> Path:
        """Its volume."""
        return self._places[DATA_PATH]

    def says(self) -> str:
        """The first line of its log."""
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode()

    def stop(self) -> None:
        """End it as Kubernetes does."""
        assert self._process is not None
        self._process.terminate()
        # With its last words, so that no pipe is left.
        self._process.communicate(timeout=WAIT_S_MAX)

    def passes(self, probe: str) -> bool:
        """Run a probe once."""
        command = [self._here(word) for word in self.container[probe]["exec"]["command"]]
        done = subprocess.run(
            command,
            env=os.environ | {"REDISCLI_AUTH": PASSWORD},
            capture_output=True,
            timeout=WAIT_S_MAX,
            check=False,
        )
        return done.returncode == 0

    def wait_for(self, probe: str) -> None:
        """Until a probe passes."""
        deadline = time.monotonic() + WAIT_S_MAX
        while not self.passes(probe):
            assert time.monotonic() < deadline, f"{probe} does not pass"
            time.sleep(0.02)

    def client(self) -> redis.Redis:
        """A connection."""
        return redis.Redis(port=self.port, password=PASSWORD)


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    """A running one."""
    running = Pod(tmp_path)
    running.start()
    yield running
    running.stop()


async def test_mom_accepts_it_as_durable(pod: Pod) -> None:
    pod.wait_for("readinessProbe")
    store = RedisStore(f"redis://:{PASSWORD}@127.0.0.1:{pod.port}", SystemClock())
    await store.open()
    assert store.capabilities.durability is Durability.FSYNC
    await store.close()


def test_it_stays_below_its_container_and_needs_its_password(pod: Pod) -> None:
    pod.wait_for("readinessProbe")
    with contextlib.closing(pod.client()) as client:
        limit = 256 * 1024 * 1024
        assert limit / 2 < int(client.config_get("maxmemory")["maxmemory"]) < limit * 0.8
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.config_get("save")["save"] == ""
    with (
        contextlib.closing(redis.Redis(port=pod.port)) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_one_that_loads_its_data_is_alive_and_not_ready(pod: Pod) -> None:
    pod.wait_for("readinessProbe")
    with contextlib.closing(pod.client()) as client:
        # Loading answers between keys, so many small ones are loaded for as long as is asked for.
        pipe = client.pipeline(transaction=False)
        for number in range(20_000):
            pipe.set(f"key-{number}", "value")
        pipe.execute()
        pod.stop()
        config = next(pod._places[CONFIG_PATH].glob("redis.conf"))
        config.write_text(
            config.read_text() + "key-load-delay 1000\nloading-process-events-interval-bytes 1024\n"
        )
        pod.start()
        pod.wait_for("livenessProbe")
        assert not pod.passes("readinessProbe")
        assert pod.passes("startupProbe")


def test_one_that_is_gone_is_dead(pod: Pod) -> None:
    pod.wait_for("readinessProbe")
    pod.stop()
    assert not pod.passes("livenessProbe")
    pod.start()
    pod.wait_for("livenessProbe")


def test_a_second_one_waits_for_the_volume(pod: Pod, tmp_path: Path) -> None:
    """One that was deleted by force may acknowledge for a while beside its successor."""
    pod.wait_for("readinessProbe")
    successor = Pod(tmp_path / "successor", data=pod.data)
    successor.start()
    assert "waiting" in successor.says()
    with contextlib.closing(pod.client()) as client:
        client.set("acknowledged", "late")
    pod.stop()
    successor.wait_for("readinessProbe")
    with contextlib.closing(successor.client()) as client:
        assert client.get("acknowledged") == b"late"
    successor.stop()
    pod.start()
