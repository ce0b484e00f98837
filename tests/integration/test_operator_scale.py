"""The operator as a process of its own, with a thousand topics: how long, how much memory and CPU.

The bounds are the promised ones; the figures are printed (``pytest -s``).
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from integration.test_operator import api, pytestmark  # noqa: F401 - the fixture of this module, too
from kube_api_server import KubeApiServer
from mom_broker.master.app import Master
from mom_broker.master.settings import MasterSettings
from mom_broker.storage.memory import MemoryStore
from mom_process.system import SystemClock, SystemRandom
from operator_lab import Lab, cluster, is_ready, topic
from redis_server import free_port

TOPICS = 1_000
READY_S_MAX = 20.0
MEMORY_MIB_MAX = 120
IDLE_CPU_MAX = 0.05
IDLE_S = 15.0


class OperatorProcess:
    """mom-operator, as its image runs it."""

    def __init__(self, api_server: KubeApiServer, master_address: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        kubeconfig = api_server.write_kubeconfig(api_server.directory / "process.yaml")
        self.process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "mom-operator"),
                "--kubeconfig",
                str(kubeconfig),
                "--listen",
                self.url.removeprefix("http://"),
                "--master-address",
                master_address,
                "--log-format",
                "json",
                "--log-level",
                "warning",
            ]
        )

    def page(self, name: str) -> httpx.Response:
        return httpx.get(f"{self.url}/{name}")

    def memory_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@asynccontextmanager
async def a_master() -> AsyncIterator[Master]:
    """Masters of all clusters: one, over a store in memory."""
    clock = SystemClock()
    store = MemoryStore(clock)
    await store.open()
    settings = MasterSettings(listen="127.0.0.1:0", open_to_all=True)
    master = Master(settings, store, clock, SystemRandom())
    await master.start()
    await master.until_leading()
    try:
        yield master
    finally:
        await master.stop()
        await store.close()


@pytest.mark.timeout(240)
async def test_a_thousand_topics(api: KubeApiServer) -> None:  # noqa: F811 - the fixture
    lab = Lab(api)
    async with a_master() as master:
        await lab.kubelet.__aenter__()
        operator = OperatorProcess(api, master.address)
        mom = cluster("many", nodes={"replicas": 1})
        try:
            lab.apply(mom)
            await lab.until(lambda: lab.get(mom).get("status", {}).get("binding"))
            idle_mib = operator.memory_mib()
            manifests = [
                topic(f"topic-{number:04}", "many", partitions=1) for number in range(TOPICS)
            ]
            began = time.monotonic()
            with ThreadPoolExecutor(4) as pool:
                loop = asyncio.get_running_loop()
                await asyncio.gather(
                    *(loop.run_in_executor(pool, lab.apply, one) for one in manifests)
                )
            created_s = time.monotonic() - began
            path = "/apis/mom.dev/v1alpha1/namespaces/default/momtopics"
            await lab.until(
                lambda: sum(is_ready(one) for one in lab.items(path)) == TOPICS, READY_S_MAX * 2
            )
            ready_s = time.monotonic() - began
            cpu_s = operator.cpu_s()
            await asyncio.sleep(IDLE_S)
            idle_cpu = (operator.cpu_s() - cpu_s) / IDLE_S
            memory_mib = operator.memory_mib()
            print(
                f"\n{TOPICS} topics: applied in {created_s:.1f} s, all ready in {ready_s:.1f} s; "
                f"operator {idle_mib:.0f} MiB before, {memory_mib:.0f} MiB after; "
                f"CPU {cpu_s:.1f} s in all, then {idle_cpu:.1%} of a core"
            )
            assert operator.page("healthz").text == "leads\n"
            metrics = operator.page("metrics").text
            assert f"mom_operator_momtopics {TOPICS}.0" in metrics
            assert "mom_operator_stuck_objects 0.0" in metrics
            assert ready_s <= READY_S_MAX
            assert memory_mib <= MEMORY_MIB_MAX
            assert idle_cpu <= IDLE_CPU_MAX
        finally:
            api.client.delete(path)
            await asyncio.sleep(1)
            assert operator.stop() == 0
            await lab.start_operator()
            await lab.__aexit__()
