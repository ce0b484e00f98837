"""Machines for a real API server with real controllers: pods are bound, run and reported here.

The pods of MOM's masters and nodes are real masters and nodes, in this process, over one store in
memory for each cluster. Redis and gateways only count as ready. An image that holds the word
"missing" can't be pulled.
"""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import suppress
from typing import Any

import httpx

from kube_api_server import TOKEN, KubeApiServer, program
from mom_broker.master.app import Master
from mom_broker.master.settings import MasterSettings
from mom_broker.node.app import Node
from mom_broker.node.settings import NodeSettings
from mom_broker.storage.catalog_view import CatalogView
from mom_broker.storage.memory import MemoryStore
from mom_core.access import TokenRecord
from mom_core.catalog import TOKENS_PREFIX, decode
from mom_core.topics import TopicConfig
from mom_process.system import SystemClock, SystemRandom

CONTROLLERS = (
    "deployment-controller",
    "replicaset-controller",
    "statefulset-controller",
    "garbage-collector-controller",
    "namespace-controller",
)
POLL_S = 0.05
MERGE = {"content-type": "application/merge-patch+json"}


class Controllers:
    """Kubernetes' own controllers of workloads."""

    def __init__(self, api: KubeApiServer) -> None:
        self._api = api
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def is_installed() -> bool:
        return program("kube-controller-manager") is not None

    def start(self) -> None:
        found = program("kube-controller-manager")
        assert found is not None
        kubeconfig = self._api.write_kubeconfig(self._api.directory / "controllers.yaml")
        with (self._api.directory / "controllers.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    found,
                    f"--kubeconfig={kubeconfig}",
                    f"--controllers={','.join(CONTROLLERS)}",
                    "--leader-elect=false",
                    "--secure-port=0",
                    "--kube-api-qps=500",
                    "--kube-api-burst=500",
                ],
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)


class FakeKubelet:
    """Runs the pods of all machines. Use it as an async context manager."""

    def __init__(self, api: KubeApiServer, machines: dict[str, str]) -> None:
        """``machines``: their zones by name."""
        self._zones = machines
        self._client = httpx.AsyncClient(
            base_url=api.url,
            verify=False,
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=30,
        )
        self._dead: set[str] = set()
        self._running: dict[str, Master | Node | None] = {}
        self._where: dict[str, str] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._shown: dict[str, str] = {}
        self._masters: dict[str, dict[str, Master]] = {}
        self._stores: dict[str, MemoryStore] = {}
        self._task: asyncio.Task[None] | None = None
        self.started: list[str] = []
        """Names of pods in the order in which they began to run."""

    async def __aenter__(self) -> FakeKubelet:
        for name, zone in self._zones.items():
            machine = {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
            }
            await self._client.post("/api/v1/nodes", json=machine)
            await self._machine_is(name, ready=True)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *failure: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        for task in self._busy.values():
            task.cancel()
        await asyncio.gather(*self._busy.values(), return_exceptions=True)
        for process in sorted(self._running.values(), key=lambda one: isinstance(one, Master)):
            await _end(process, drain=False)
        await self._client.aclose()

    # What tests ask and do.

    def master_address(self, cluster: str) -> str:
        """Where a master of the cluster is reached."""
        masters = self._masters.get(cluster) or {}
        return next((one.address for one in masters.values()), "127.0.0.1:1")

    def _view(self, cluster: str) -> CatalogView:
        master = next(iter(self._masters[cluster].values()))
        return master._view

    def placed(self, cluster: str, node_id: str) -> int:
        """How many partitions are placed on a node."""
        return sum(
            owner.node_id == node_id
            for found in self._view(cluster).assignments.values()
            for owner in found.assignment.owners
        )

    def topics(self, cluster: str) -> set[str]:
        """Names of the topics and queues that stand in a cluster."""
        return set(self._view(cluster).topics)

    def config(self, cluster: str, topic: str) -> TopicConfig:
        """The settings of a topic as they stand."""
        return self._view(cluster).topics[topic]

    async def tokens(self, cluster: str) -> list[TokenRecord]:
        """The tokens that a cluster knows."""
        entries = await self._stores[cluster].list(TOKENS_PREFIX)
        return [decode(one.value, TokenRecord) for one in entries]

    def lose_store(self, cluster: str) -> None:
        """What the cluster stored is gone: processes that start from now on find nothing."""
        del self._stores[cluster]

    async def lose_machine(self, name: str) -> None:
        """A machine loses its power: nothing on it answers or ends any more."""
        self._dead.add(name)
        await self._machine_is(name, ready=False)
        for pod in [pod for pod, where in self._where.items() if where == name]:
            await _end(self._running.pop(pod, None), drain=False)

    async def return_machines(self) -> None:
        """Lost machines come back, empty."""
        for name in tuple(self._dead):
            self._dead.discard(name)
            await self._machine_is(name, ready=True)

    async def _machine_is(self, name: str, *, ready: bool) -> None:
        condition = {"type": "Ready", "status": "True" if ready else "Unknown", "reason": "Test"}
        await self._client.patch(
            f"/api/v1/nodes/{name}/status",
            headers=MERGE,
            json={"status": {"conditions": [condition]}},
        )

    # The loop.

    async def _run(self) -> None:
        while True:
            with suppress(httpx.TransportError):
                listing = (await self._client.get("/api/v1/pods")).json()
                for pod in listing.get("items") or ():
                    self._look_at(pod)
            await asyncio.sleep(POLL_S)

    def _look_at(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        key = f"{metadata['namespace']}/{metadata['name']}"
        if key in self._busy and not self._busy[key].done():
            return
        machine = pod["spec"].get("nodeName")
        if machine in self._dead:
            return
        if not machine:
            self._busy[key] = asyncio.create_task(self._bind(pod, key))
        elif metadata.get("deletionTimestamp"):
            self._busy[key] = asyncio.create_task(self._finish(pod, key))
        elif self._shown.get(key) != metadata["uid"]:
            self._busy[key] = asyncio.create_task(self._begin(pod, key, machine))

    async def _bind(self, pod: dict[str, Any], key: str) -> None:
        alive = [name for name in self._zones if name not in self._dead]
        machine = min(alive, key=lambda name: list(self._where.values()).count(name))
        self._where[key] = machine
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod["metadata"]["name"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": machine},
        }
        await self._client.post(f"{_path(pod)}/binding", json=binding)

    async def _begin(self, pod: dict[str, Any], key: str, machine: str) -> None:
        self._where[key] = machine
        image = pod["spec"]["containers"][0]["image"]
        if "missing" in image:
            await self._show(pod, ready=False, waiting="ImagePullBackOff")
        else:
            await self._start(pod, key)
            self.started.append(pod["metadata"]["name"])
            await self._show(pod, ready=True)
        self._shown[key] = pod["metadata"]["uid"]

    async def _start(self, pod: dict[str, Any], key: str) -> None:
        labels = pod["metadata"]["labels"]
        cluster, component = labels["mom.dev/cluster"], labels["app.kubernetes.io/component"]
        clock = SystemClock()
        if cluster not in self._stores:
            self._stores[cluster] = MemoryStore(clock)
            await self._stores[cluster].open()
        store = self._stores[cluster]
        process: Master | Node | None = None
        if component == "master":
            settings = MasterSettings(listen="127.0.0.1:0", open_to_all=True)
            process = Master(settings, store, clock, SystemRandom())
            await process.start()
            self._masters.setdefault(cluster, {})[key] = process
        elif component == "node":
            node = NodeSettings(
                node_id=pod["metadata"]["name"],
                listen="127.0.0.1:0",
                open_to_all=True,
                drain_timeout_ms=2_000,  # Nobody takes the partitions of a cluster that goes.
                masters=tuple(one.address for one in self._masters.get(cluster, {}).values()),
            )
            process = Node(node, store, clock, SystemRandom())
            await process.start()
        self._running[key] = process

    async def _finish(self, pod: dict[str, Any], key: str) -> None:
        process = self._running.pop(key, None)
        for masters in self._masters.values():
            masters.pop(key, None)
        self._shown.pop(key, None)
        self._where.pop(key, None)
        await _end(process, drain=True)
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        await self._client.request("DELETE", _path(pod), json=options)

    async def _show(self, pod: dict[str, Any], *, ready: bool, waiting: str = "") -> None:
        container = pod["spec"]["containers"][0]
        state: dict[str, Any] = {"running": {}}
        if waiting:
            state = {"waiting": {"reason": waiting, "message": f"no image {container['image']}"}}
        conditions = [
            {"type": kind, "status": "True" if ready else "False"}
            for kind in ("Ready", "ContainersReady", "Initialized", "PodScheduled")
        ]
        status = {
            "phase": "Running" if ready else "Pending",
            "conditions": conditions,
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": "",
                    "restartCount": 0,
                    "ready": ready,
                    "state": state,
                }
            ],
        }
        await self._client.patch(f"{_path(pod)}/status", headers=MERGE, json={"status": status})


async def _end(process: Master | Node | None, *, drain: bool) -> None:
    if isinstance(process, Node):
        await process.stop(drain=drain)
    elif process is not None:
        await process.stop()


def _path(pod: dict[str, Any]) -> str:
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
