"""The cluster that hack/e2e made or was given, and a namespace in it for one test."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Of any one command of kubectl; what waits for something says how long itself.
COMMAND_SECONDS_MAX = 120
BOOT_SECONDS_MAX = 60

Object = dict[str, Any]


def _required(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        pytest.fail(f"{name} is not set: these tests are run by `make e2e`")
    return value


@dataclass(frozen=True)
class Kubernetes:
    """A Kubernetes with the product's image on it."""

    kubeconfig: str
    target: str
    image: str
    next_image: str
    """The same image under another name, which an upgrade can go to."""
    ingress_url: str
    ingress_class: str

    @classmethod
    def from_environment(cls) -> Kubernetes:
        """As hack/e2e says."""
        return cls(
            kubeconfig=_required("KUBECONFIG"),
            target=_required("MOM_E2E_TARGET"),
            image=_required("MOM_E2E_IMAGE"),
            next_image=_required("MOM_E2E_NEXT_IMAGE"),
            ingress_url=_required("MOM_E2E_INGRESS").rstrip("/"),
            ingress_class=os.environ.get("MOM_E2E_INGRESS_CLASS", ""),
        )

    def kubectl(self, *words: str, stdin: str = "", check: bool = True) -> str:
        """Run kubectl; its output. Fails the test when it fails."""
        result = subprocess.run(
            ["kubectl", *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
        )
        if check and result.returncode:
            pytest.fail(f"kubectl {' '.join(words)}:\n{result.stderr}")
        return result.stdout

    def get(self, *words: str) -> Any:
        """An object, or a list of them."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def workers(self) -> list[str]:
        """The nodes that pods may be on."""
        return [
            node["metadata"]["name"]
            for node in self.get("nodes")["items"]
            if not node["spec"].get("taints")
        ]

    @property
    def can_stop_nodes(self) -> bool:
        """Whether this kind of cluster lets a test cut the power of a node."""
        return self.target in ("kind", "native")

    def stop_node(self, name: str) -> None:
        """Cut a node's power: it falls silent, and no process of it says goodbye."""
        self._hack("stop-node", name)

    def start_node(self, name: str) -> None:
        """Boot a node again, and wait until it is Ready."""
        before = self._heartbeat(name)
        self._hack("start-node", name)
        # Until it is heard of again, it may still be called Ready from before.
        deadline = time.monotonic() + BOOT_SECONDS_MAX
        while self._heartbeat(name) == before:
            assert time.monotonic() < deadline, f"{name} was not heard of again"
            time.sleep(0.2)  # polling a foreign process, which has no event to wait for
        self.kubectl("wait", "--for=condition=Ready", f"node/{name}", "--timeout=60s")

    def connections(self) -> str:
        """What the machines' connection tracking knows (conntrack(8)), of every machine."""
        if self.target != "native":
            pytest.skip("only the native cluster lists its connections")
        return self._hack("connections")

    def _heartbeat(self, node: str) -> str:
        lease = self.get("lease", node, "-n", "kube-node-lease")
        renewed: str = lease["spec"]["renewTime"]
        return renewed

    def _hack(self, *command: str) -> str:
        words = [str(ROOT / "hack" / "e2e"), "--target", self.target, *command]
        result = subprocess.run(words, capture_output=True, text=True)
        if result.returncode:
            pytest.fail(f"{' '.join(command)}:\n{result.stderr}")
        return result.stdout


@dataclass(frozen=True)
class Namespace:
    """One test's own namespace."""

    cluster: Kubernetes
    name: str

    @property
    def host(self) -> str:
        """The name that an Ingress of this namespace may have for itself alone."""
        return f"{self.name}.mom.test"

    def kubectl(self, *words: str, stdin: str = "", check: bool = True) -> str:
        """Run kubectl in it."""
        return self.cluster.kubectl("-n", self.name, *words, stdin=stdin, check=check)

    def refusal(self, *words: str, stdin: str = "") -> str:
        """What kubectl says of a command that has to fail."""
        result = subprocess.run(
            ["kubectl", "-n", self.name, *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        assert result.returncode, f"kubectl {' '.join(words)} did not fail:\n{result.stdout}"
        return result.stderr

    def apply(self, *objects: Object) -> None:
        """Make them so."""
        body = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(body))

    def wait_rolled_out(self, *names: str, seconds: int = 60) -> None:
        """Until all pods of each workload (``deployment/mom-node``) are Ready."""
        for name in names:
            self.kubectl("rollout", "status", name, f"--timeout={seconds}s")

    def pods(self, **labels: str) -> list[Object]:
        """The pods with these labels."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        listed = self.cluster.get("pods", "-n", self.name, "-l", selector)
        pods: list[Object] = listed["items"]
        return pods

    def story(self) -> str:
        """What a failed test is read by: pods, events and the end of each log."""
        parts: Sequence[Sequence[str]] = (
            ("get", "pods", "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("get", "momclusters,momtopics,momqueues", "-o", "yaml"),
            ("logs", "--all-containers", "--prefix", "--tail=30", "-l", "app", "--ignore-errors"),
            ("logs", "--prefix", "--tail=30", "-l", "mom.dev/cluster", "--ignore-errors"),
        )
        return "\n".join(
            f"--- kubectl {' '.join(words)}\n{self.kubectl(*words, check=False)}" for words in parts
        )
