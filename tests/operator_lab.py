"""An operator against a real API server, with real controllers and fake machines."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from fake_kubelet import FakeKubelet
from kube_api_server import KubeApiServer, path_of
from mom_operator.app import Operator, Settings
from mom_operator.kube import load_configuration
from mom_process.system import SystemClock, SystemRandom

ROOT = Path(__file__).resolve().parents[1]
MACHINES = {"machine-a": "zone-1", "machine-b": "zone-2", "machine-c": "zone-3"}
WAIT_S_MAX = 30.0
POLL_S = 0.05
OURS = ("momtopics", "momqueues", "momclusters")
CHILD_PATHS = (
    "/api/v1/namespaces/default/services",
    "/api/v1/namespaces/default/configmaps",
    "/api/v1/namespaces/default/secrets",
    "/api/v1/namespaces/default/serviceaccounts",
    "/apis/apps/v1/namespaces/default/statefulsets",
    "/apis/apps/v1/namespaces/default/deployments",
    "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
    "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
    "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
)

Object = dict[str, Any]


def cluster(name: str, **spec: Any) -> Object:
    """A small MomCluster."""
    base: Object = {
        "version": "0.1.0",
        "nodes": {"replicas": 3},
        "master": {"replicas": 1},
        "gateway": {"replicas": 1},
        "redis": {"managed": {}},
    }
    return _resource("MomCluster", name, "default", base | spec)


def topic(resource: str, of: str, namespace: str = "default", **spec: Any) -> Object:
    """A MomTopic of the cluster ``of`` in the namespace ``default``."""
    reference = {"name": of} | ({"namespace": "default"} if namespace != "default" else {})
    return _resource("MomTopic", resource, namespace, {"clusterRef": reference} | spec)


def queue(resource: str, of: str, **spec: Any) -> Object:
    """A MomQueue of the cluster ``of`` in the namespace ``default``."""
    return _resource("MomQueue", resource, "default", {"clusterRef": {"name": of}} | spec)


def _resource(kind: str, name: str, namespace: str, spec: Object) -> Object:
    return {
        "apiVersion": "mom.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def condition(obj: Object, kind: str = "Ready") -> Object:
    """A condition of an object, empty when there is none."""
    found = (obj.get("status") or {}).get("conditions") or []
    return next((one for one in found if one["type"] == kind), {})


def is_ready(obj: Object) -> bool:
    """Whether the newest spec of an object is there."""
    ready = condition(obj)
    return (
        ready.get("status") == "True"
        and obj["status"]["observedGeneration"] == obj["metadata"]["generation"]
    )


class Lab:
    """One operator and its surroundings. Use it as an async context manager."""

    def __init__(self, api: KubeApiServer) -> None:
        self.api = api
        self.kubelet = FakeKubelet(api, MACHINES)
        self.operator: Operator | None = None

    async def __aenter__(self) -> Lab:
        await self.kubelet.__aenter__()
        await self.start_operator()
        return self

    async def __aexit__(self, *failure: object) -> None:
        try:
            await self.kubelet.return_machines()
            if self.operator is None:
                await self.start_operator()
            await self._delete_everything()
        finally:
            await self.stop_operator()
            await self.kubelet.__aexit__()

    async def make_operator(self, identity: str) -> Operator:
        """One more operator."""
        kubeconfig = self.api.write_kubeconfig(self.api.directory / "operator.yaml")
        operator = Operator(
            Settings(identity=identity, namespace="default", lease="mom-operator"),
            await load_configuration(kubeconfig, None),
            SystemClock(),
            SystemRandom(),
            master_address=lambda names: self.kubelet.master_address(names.cluster),
        )
        await operator.start()
        return operator

    async def start_operator(self) -> None:
        self.operator = await self.make_operator("lab")

    async def stop_operator(self) -> None:
        if self.operator is not None:
            await self.operator.stop()
        self.operator = None

    async def _delete_everything(self) -> None:
        paths = [f"/apis/mom.dev/v1alpha1/{plural}" for plural in OURS]
        for path in paths:
            for obj in self.items(path):
                self.delete(obj)
        await self._empty(paths)
        await self._empty(["/api/v1/pods"])
        await self._empty(CHILD_PATHS)

    async def _empty(self, paths: Iterable[str]) -> None:
        """Wait until nothing of ours is left."""

        def left() -> list[str]:
            return [
                f"{path}/{one['metadata']['name']}"
                for path in paths
                for one in self.items(path)
                if "mom.dev/cluster" in _labels(one) or "mom.dev/" in path
            ]

        try:
            await self.until(lambda: not left())
        except TimeoutError:
            raise AssertionError(f"these are left: {left()}") from None

    def _children(self, path: str) -> list[Object]:
        return [one for one in self.items(path) if "mom.dev/cluster" in _labels(one)]

    # The API server.

    def apply(self, manifest: Object) -> Object:
        """Apply a manifest; returns the object."""
        response = self.api.apply(manifest)
        assert response.status_code in (200, 201), response.text
        applied: Object = response.json()
        return applied

    def get(self, manifest: Object) -> Object:
        """The object that a manifest describes; empty when there is none."""
        response = self.api.client.get(path_of(manifest))
        found: Object = response.json() if response.status_code == 200 else {}
        return found

    def items(self, path: str) -> list[Object]:
        """A listing."""
        found: list[Object] = self.api.client.get(path).json().get("items") or []
        return found

    def delete(self, manifest: Object) -> None:
        """Delete an object in the background, as kubectl does."""
        self.api.client.delete(path_of(manifest))

    def patch(self, manifest: Object, patch: Object) -> None:
        """A merge patch by hand."""
        response = self.api.client.patch(
            path_of(manifest),
            headers={"content-type": "application/merge-patch+json"},
            json=patch,
        )
        assert response.status_code == 200, response.text

    def pods(self, component: str) -> list[Object]:
        """The pods of a component, by name."""
        found = [
            pod
            for pod in self.items("/api/v1/namespaces/default/pods")
            if _labels(pod).get("app.kubernetes.io/component") == component
        ]
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def versions(self) -> dict[str, str]:
        """The versions of all children."""
        return {
            f"{path}/{one['metadata']['name']}": one["metadata"]["resourceVersion"]
            for path in CHILD_PATHS
            for one in self._children(path)
        }

    async def until(self, holds: Callable[[], object], seconds_max: float = WAIT_S_MAX) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(seconds_max):
            while not holds():  # noqa: ASYNC110 - it lies in other processes, which set no event
                await asyncio.sleep(POLL_S)

    async def ready(self, manifest: Object, seconds_max: float = WAIT_S_MAX) -> Object:
        """Wait until the newest spec of an object is ready; returns the object."""
        try:
            await self.until(lambda: is_ready(self.get(manifest)), seconds_max)
        except TimeoutError:
            raise AssertionError(yaml.safe_dump(self.get(manifest).get("status"))) from None
        return self.get(manifest)

    async def says(self, manifest: Object, reason: str, kind: str = "Ready") -> Object:
        """Wait until a condition has a reason; returns the condition."""
        try:
            await self.until(lambda: condition(self.get(manifest), kind).get("reason") == reason)
        except TimeoutError:
            raise AssertionError(yaml.safe_dump(self.get(manifest).get("status"))) from None
        return condition(self.get(manifest), kind)


def changed(manifest: Object, **spec: Any) -> Object:
    """The manifest with other fields in its spec."""
    result = copy.deepcopy(manifest)
    result["spec"] |= spec
    return result


def names(objects: Iterable[Object]) -> list[str]:
    """The names of objects."""
    return [one["metadata"]["name"] for one in objects]


def _labels(obj: Object) -> dict[str, str]:
    labels: dict[str, str] = obj["metadata"].get("labels") or {}
    return labels
