"""A whole cluster as it is run: masters, nodes and a gateway, each a process, over a real Redis.

Every process writes its log to a file of its own, at level debug and as JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from integration.dev_process import MOM, environment
from polling import until
from redis_server import free_port

STOP_S_MAX = 60
_MAIN = "from {module}.main import main; main()"
_MODULES = {
    "master": "mom_broker.master",
    "node": "mom_broker.node",
    "gateway": "mom_gateway",
}


class ServerProcess:
    """One mom-master, mom-node or mom-gateway. It may be killed, stopped and started again."""

    def __init__(self, kind: str, name: str, directory: Path, variables: dict[str, str]) -> None:
        self.name = name
        self.address = f"127.0.0.1:{free_port()}"
        own = {"MOM_LISTEN": self.address, "MOM_LOG_FORMAT": "json", "MOM_LOG_LEVEL": "debug"}
        self.http = f"http://{self.address}"
        if kind != "gateway":
            port = free_port()
            self.http = f"http://127.0.0.1:{port}"
            own |= {"MOM_HTTP_PORT": str(port), "MOM_ID": name}
        self._command = [sys.executable, "-c", _MAIN.format(module=_MODULES[kind])]
        self._variables = own | variables
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; :meth:`ready` waits for it."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=environment(**self._variables)
            )

    async def ready(self) -> None:
        """Wait until it wants to be sent work."""
        async with httpx.AsyncClient(timeout=STOP_S_MAX) as client:

            async def answers() -> bool:
                assert self._process is not None, "it was started"
                assert self._process.poll() is None, self.log()
                try:
                    return (await client.get(f"{self.http}/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(answers, f"{self.name} is ready")

    async def alive(self) -> None:
        """Check that it need not be restarted."""
        async with httpx.AsyncClient(timeout=STOP_S_MAX) as client:
            response = await client.get(f"{self.http}/healthz")
        assert response.status_code == 200, response.text

    async def gauge(self, name: str) -> float:
        """A value of its /metrics."""
        async with httpx.AsyncClient(timeout=STOP_S_MAX) as client:
            page = (await client.get(f"{self.http}/metrics")).text
        found = re.search(rf"^{name} (\S+)$", page, re.MULTILINE)
        assert found is not None, f"{self.name} shows no {name}"
        return float(found[1])

    def log(self) -> str:
        """All it has logged."""
        return self._log.read_text()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None, "it was started"
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def stop(self) -> None:
        """End it as an orchestrator does, and check that it went well."""
        self.signal(signal.SIGTERM)
        assert self._process is not None, "it was started"
        assert await asyncio.to_thread(self._process.wait, STOP_S_MAX) == 0, self.log()
        self._process = None


class ClusterProcesses:
    """A master, nodes and a gateway over one Redis; ``with`` starts and ends them.

    ``variables`` (``MOM_…``) are given to all of them, ``gateway`` to the gateway only.
    """

    def __init__(
        self,
        directory: Path,
        store_url: str,
        *,
        nodes: int = 2,
        variables: dict[str, str] | None = None,
        gateway: dict[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        common = dict(variables or {})
        stored = common | {"MOM_STORE": store_url}
        self.master = ServerProcess("master", "master", directory, stored)
        stored["MOM_MASTERS"] = self.master.address
        self.nodes = {
            name: ServerProcess("node", name, directory, stored)
            for name in (f"n{number}" for number in range(nodes))
        }
        addresses = ",".join(self.addresses)
        fronted = common | {"MOM_NODES": addresses, "MOM_DRAIN_MS": "0"} | (gateway or {})
        self.gateway = ServerProcess("gateway", "gateway", directory, fronted)

    @property
    def addresses(self) -> list[str]:
        """Of the nodes."""
        return [node.address for node in self.nodes.values()]

    @property
    def processes(self) -> list[ServerProcess]:
        """All of them."""
        return [self.master, *self.nodes.values(), self.gateway]

    def __enter__(self) -> ClusterProcesses:
        for process in self.processes:
            process.start()
        try:
            asyncio.run(self.ready())
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    async def ready(self) -> None:
        """Wait until every process is."""
        await asyncio.gather(*(process.ready() for process in self.processes))

    def end(self) -> None:
        """End whatever runs."""
        for process in self.processes:
            process.kill()

    def rest(self, token: str | None = None) -> httpx.AsyncClient:
        """A client of the gateway."""
        headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        return httpx.AsyncClient(base_url=self.gateway.http, headers=headers, timeout=STOP_S_MAX)

    async def mom(self, *words: str, token: str = "") -> Any:
        """What a `mom` command prints as JSON."""
        variables = {"MOM_URL": ",".join(self.addresses)} | ({"MOM_TOKEN": token} if token else {})
        process = await asyncio.create_subprocess_exec(
            *MOM, *words, "--output", "json",
            env=environment(**variables),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, errors = await process.communicate()
        assert process.returncode == 0, (words, errors.decode())
        return json.loads(output)


async def becomes(process: ServerProcess, gauge: str, value: float) -> None:
    """Wait until a gauge has a value."""

    async def is_so() -> bool:
        return await process.gauge(gauge) == value

    await until(is_so, f"{gauge} of {process.name} is {value}")
