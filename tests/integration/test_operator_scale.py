"""What topics cost the operator, as a process of its own: no more each where there are many.

How long a thousand take is measured by tests/e2e/test_speed_and_memory.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
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

HALF = 300
# The second half costs as much as the first, however many there are already.
GROWTH_MAX = 2.0
# In 15 s, of what it took to make them all. A loop that is hot takes all of a core.
IDLE_SHARE_MAX = 0.3
IDLE_S = 15.0
READY_S_MAX = 90.0
# What a topic adds. A thousand may add 60 MiB at most: the operator has 120 with them.
TOPIC_KIB_MAX = 60


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
async def test_many_topics_cost_no_more_each_than_few(api: KubeApiServer) -> None:  # noqa: F811
    lab = Lab(api)
    path = "/apis/mom.dev/v1alpha1/namespaces/default/momtopics"
    async with a_master() as master:
        await lab.kubelet.__aenter__()
        operator = OperatorProcess(api, master.address)
        mom = cluster("many", nodes={"replicas": 1})

        async def apply(first: int) -> float:
            """CPU that half of the topics take to be Ready, seconds."""
            before_s = operator.cpu_s()
            end = first + HALF
            loop = asyncio.get_running_loop()
            with ThreadPoolExecutor(4) as pool:
                manifests = [
                    topic(f"topic-{one:04}", "many", partitions=1) for one in range(first, end)
                ]
                await asyncio.gather(
                    *(loop.run_in_executor(pool, lab.apply, one) for one in manifests)
                )
            await lab.until(
                lambda: sum(is_ready(one) for one in lab.items(path)) == end, READY_S_MAX
            )
            return operator.cpu_s() - before_s

        try:
            lab.apply(mom)
            await lab.until(lambda: lab.get(mom).get("status", {}).get("binding"))
            first_s, few_mib = await apply(0), operator.memory_mib()
            second_s, many_mib = await apply(HALF), operator.memory_mib()
            before_s = operator.cpu_s()
            await asyncio.sleep(IDLE_S)  # what is measured is what happens in a given time
            idle_s = operator.cpu_s() - before_s
            print(
                f"\nCPU for {HALF} topics {first_s:.1f} s, for as many more {second_s:.1f} s, "
                f"then in {IDLE_S:.0f} s {idle_s:.2f} s; {few_mib:.0f} MiB, then {many_mib:.0f} MiB"
            )
            assert operator.page("healthz").text == "leads\n"
            metrics = operator.page("metrics").text
            assert f"mom_operator_momtopics {2 * HALF}.0" in metrics
            assert "mom_operator_stuck_objects 0.0" in metrics
            assert second_s <= GROWTH_MAX * first_s
            assert idle_s <= IDLE_SHARE_MAX * (first_s + second_s)
            assert (many_mib - few_mib) * 1024 <= TOPIC_KIB_MAX * HALF
        finally:
            api.client.delete(path)
            await asyncio.sleep(1)
            assert operator.stop() == 0
            await lab.start_operator()
            await lab.__aexit__()
