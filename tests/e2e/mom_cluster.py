"""A MomCluster under test: applied, waited for, asked and changed as a user would do it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from e2e.kubernetes import Namespace, Object
from e2e.release import image_parts
from e2e.waiting import wait_until

READY_SECONDS_MAX = 120
"""The goal is 20 s on two cores of their own; machines that run tests are shared."""
VERSION = "0.1.0"
COMPONENTS = ("node", "master", "gateway")
# What a small message broker needs for a test; a bigger request may fit on no machine.
_SMALL = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}


def merged(base: Any, over: Any) -> Any:
    """A spec with another one over it."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return base | {key: merged(base.get(key), value) for key, value in over.items()}


@dataclass(frozen=True)
class MomCluster:
    """One MomCluster of a namespace; its host is that of the namespace, or one of its own."""

    namespace: Namespace
    name: str = "my-mom"

    # Making it.

    @property
    def host(self) -> str:
        """The host of its Ingress."""
        own = "" if self.name == "my-mom" else f"{self.name}."
        return f"{own}{self.namespace.host}"

    def manifest(self, spec: Object | None = None) -> Object:
        """A small cluster with two of everything, with ``spec`` over it."""
        kubernetes = self.namespace.cluster
        repository, tag = image_parts(kubernetes.image)
        small: Object = {
            "version": VERSION,
            "image": {"repository": repository, "tag": tag},
            "nodes": {"replicas": 2, "resources": _SMALL},
            "master": {"resources": _SMALL},
            "gateway": {
                "resources": _SMALL,
                "ingress": {"className": kubernetes.ingress_class, "host": self.host},
            },
            "redis": {"managed": {"storage": {"size": "1Gi"}, "resources": _SMALL}},
        }
        return {
            "apiVersion": "mom.dev/v1alpha1",
            "kind": "MomCluster",
            "metadata": {"name": self.name},
            "spec": merged(small, spec or {}),
        }

    def apply(self, spec: Object | None = None) -> None:
        """Apply the small cluster with ``spec`` over it."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps(self.manifest(spec)))

    def annotate_new(self, text: str) -> None:
        """Apply the small cluster with an annotation (``key=value``) from the beginning."""
        key, _, value = text.partition("=")
        manifest = self.manifest()
        manifest["metadata"]["annotations"] = {key: value}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def patch(self, spec: Object) -> None:
        """Change some of its spec."""
        self.kubectl(
            "patch", "momcluster", self.name, "--type=merge", "-p", json.dumps({"spec": spec})
        )

    def annotate(self, text: str) -> None:
        """Set an annotation (``key=value``), or remove it (``key-``)."""
        self.kubectl("annotate", "--overwrite", "momcluster", self.name, text)

    def kubectl(self, *words: str, stdin: str = "", check: bool = True) -> str:
        """Run kubectl in its namespace."""
        return self.namespace.kubectl(*words, stdin=stdin, check=check)

    # Looking at it.

    def get(self) -> Object:
        """The resource."""
        found: Object = self.namespace.cluster.get(
            "momcluster", self.name, "-n", self.namespace.name
        )
        return found

    def status(self) -> Object:
        """Its status."""
        return self.get().get("status") or {}

    def condition(self, kind: str) -> Object:
        """A condition, if it is about the spec that stands; else an empty one."""
        found = self.get()
        conditions: list[Object] = (found.get("status") or {}).get("conditions", [])
        generation = found["metadata"]["generation"]
        for one in conditions:
            if one["type"] == kind and one.get("observedGeneration") == generation:
                return one
        return {}

    def is_ready(self) -> bool:
        """Whether it says that it is Ready as its spec stands."""
        return self.condition("Ready").get("status") == "True"

    def wait_ready(self, seconds: float = READY_SECONDS_MAX) -> float:
        """Until it is Ready as its spec stands; how many seconds that took."""
        began = time.monotonic()
        try:
            wait_until(f"{self.name} is Ready", self.is_ready, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(self.status(), indent=1)}") from None
        return time.monotonic() - began

    def uids(self, component: str) -> set[str]:
        """Which pods a component has, for :meth:`wait_replaced`."""
        return {pod["metadata"]["uid"] for pod in self.pods(component)}

    def wait_replaced(self, before: set[str], seconds: float = READY_SECONDS_MAX) -> None:
        """Until none of these pods is there, and the cluster is Ready."""

        def replaced() -> bool:
            left = {uid for one in COMPONENTS for uid in self.uids(one)} & before
            return not left and self.is_ready()

        wait_until("all pods are replaced and the cluster is Ready", replaced, seconds)

    async def ready_again(self, seconds: float = READY_SECONDS_MAX) -> float:
        """Await what :meth:`wait_ready` waits for, so that a load goes on meanwhile."""
        return await asyncio.to_thread(self.wait_ready, seconds)

    def wait_says(self, kind: str, words: str, seconds: float = 60) -> Object:
        """Until a condition's reason or message has these words, and it is true or Ready is not."""

        def said() -> Object:
            found = self.condition(kind)
            there = words in f"{found.get('reason')}: {found.get('message')}"
            return found if there else {}

        try:
            return wait_until(f"{kind} says {words!r}", said, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {json.dumps(self.status(), indent=1)}") from None

    def objects(self, kinds: str) -> list[Object]:
        """Its children of some kinds (``deployments,services``)."""
        label = f"mom.dev/cluster={self.name}"
        listed = self.namespace.cluster.get(kinds, "-n", self.namespace.name, "-l", label)
        items: list[Object] = listed["items"]
        return items

    def wait_still(self, kinds: str, seconds: float = 60) -> None:
        """Until no pod of a roll-out is ending any more."""
        wait_until(
            "nothing is ending",
            lambda: (
                not any(one["metadata"].get("deletionTimestamp") for one in self.objects(kinds))
            ),
            seconds,
        )

    def pods(self, component: str) -> list[Object]:
        """The pods of a component that are not ending."""
        found = self.namespace.pods(
            **{"mom.dev/cluster": self.name, "app.kubernetes.io/component": component}
        )
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    # Using it.

    @property
    def url(self) -> str:
        """REST through the Ingress, in this process: see :mod:`e2e.names`."""
        parts = urlsplit(self.namespace.cluster.ingress_url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{self.host}{port}"

    def secret(self, name: str, key: str) -> str:
        """A value of one of its Secrets."""
        found = self.namespace.cluster.get("secret", name, "-n", self.namespace.name)
        return base64.b64decode(found["data"][key]).decode()

    @property
    def token(self) -> str:
        """The token of scope admin."""
        return self.secret(f"{self.name}-admin-token", "token")

    @property
    def node_addresses(self) -> list[str]:
        """Where any of its nodes is reached with gRPC, by its own DNS."""
        return [f"{self.name}-node.{self.namespace.name}.svc.cluster.local:7071"]

    @contextmanager
    def http(self, token: str | None = None) -> Iterator[httpx.Client]:
        """REST through the Ingress with the admin token, or another one (empty: none)."""
        given = self.token if token is None else token
        headers = {"authorization": f"Bearer {given}"} if given else {}
        with httpx.Client(
            base_url=self.url, headers=headers, timeout=30, trust_env=False
        ) as client:
            wait_until("the ingress routes to the gateway", lambda: _routed(client))
            yield client


def _routed(client: httpx.Client) -> bool:
    return client.get("/readyz").status_code == 200
