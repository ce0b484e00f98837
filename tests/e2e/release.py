"""The chart's release: the operator as a user installs it."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass

import pytest

from e2e.kubernetes import ROOT, Kubernetes, Object

CHART = ROOT / "deploy" / "helm" / "mom"
HELM_SECONDS_MAX = 240
TURNS = r'^mom_operator_reconcile_seconds_count\{lane="clusters?"\} (\S+)'


def image_parts(image: str) -> tuple[str, str]:
    """Repository and tag of an image's name."""
    repository, _, tag = image.rpartition(":")
    return repository, tag


@dataclass(frozen=True)
class Release:
    """A release of the chart in its own namespace."""

    cluster: Kubernetes
    name: str = "mom"
    namespace: str = "mom-system"

    @property
    def deployment(self) -> str:
        """The operator's Deployment."""
        return "mom-operator" if self.name == "mom" else f"{self.name}-operator"

    def helm(self, *words: str, check: bool = True) -> str:
        """Run helm in the release's namespace; its output. Fails the test when it fails."""
        result = subprocess.run(
            ["helm", *words, "--namespace", self.namespace],
            capture_output=True,
            text=True,
            timeout=HELM_SECONDS_MAX,
        )
        if check and result.returncode:
            pytest.fail(f"helm {' '.join(words)}:\n{result.stdout}\n{result.stderr}")
        return result.stdout

    def install(self, *settings: str, image: str = "") -> None:
        """Install it, or upgrade it to this; returns when the operator is Ready."""
        repository, tag = image_parts(image or self.cluster.image)
        values = (f"image.repository={repository}", f"image.tag={tag}", *settings)
        self.helm(
            *("upgrade", "--install", self.name, str(CHART), "--create-namespace", "--wait"),
            *(word for one in values for word in ("--set", one)),
        )

    def uninstall(self, *flags: str) -> None:
        """Remove it; definitions and clusters stay."""
        self.helm("uninstall", self.name, "--ignore-not-found", "--wait", *flags)

    def pods(self) -> list[Object]:
        """The operator's pods that are not ending."""
        listed = self.cluster.get(
            *("pods", "-n", self.namespace, "-l", "app.kubernetes.io/name=mom-operator")
        )
        return [pod for pod in listed["items"] if not pod["metadata"].get("deletionTimestamp")]

    def apply(self, *objects: Object) -> None:
        """Make objects in its namespace."""
        body = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def cluster_turns(self) -> int:
        """How many turns for clusters its pods have done, by their own metrics."""
        return sum(self._turns(pod["metadata"]["name"]) for pod in self.pods())

    def _turns(self, pod: str) -> int:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}:8080/proxy/metrics"
        page = self.cluster.kubectl("get", "--raw", path)
        found = re.search(
            r'^mom_operator_reconcile_seconds_count\{lane="(cluster\w*)"\} (\S+)', page, re.M
        )
        return int(float(found[2])) if found else 0

    def restart(self) -> None:
        """End all pods of the operator at once."""
        names = [pod["metadata"]["name"] for pod in self.pods()]
        self.cluster.kubectl(
            "delete", "pod", "-n", self.namespace, "--wait=false", "--grace-period=0", *names
        )

    def logs(self) -> str:
        """The end of the operator's logs."""
        return self.cluster.kubectl(
            *("logs", "-n", self.namespace, "-l", "app.kubernetes.io/name=mom-operator"),
            *("--prefix", "--tail=60", "--ignore-errors"),
            check=False,
        )
