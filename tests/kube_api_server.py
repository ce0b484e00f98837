"""A real Kubernetes API server over a real etcd, without nodes or controllers: on free ports, in a
directory of its own. Enough for definitions, their rules, and server-side apply.

The programs are looked for in ``MOM_KUBE_BIN``, on the PATH, and where `make e2e` builds them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from redis_server import free_port

START_SECONDS_MAX = 60.0
TOKEN = "tests-only"
FIELD_MANAGER = "tests"
_BUILT = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mom-e2e" / "bin"


def program(name: str) -> str | None:
    """The path of a program of Kubernetes, None when this machine has none."""
    own = os.environ.get("MOM_KUBE_BIN")
    path = os.pathsep.join([*([own] if own else []), os.environ.get("PATH", ""), str(_BUILT)])
    return shutil.which(name, path=path)


API_SERVER = "kube-apiserver"
# Of the oldest Kubernetes that MOM runs on.
OLDEST_API_SERVER = "kube-apiserver-oldest"


def is_installed(api_server: str = API_SERVER) -> bool:
    """Whether the programs are there."""
    return all(program(name) for name in ("etcd", api_server))


class KubeApiServer:
    """One API server and its etcd."""

    def __init__(self, directory: Path, api_server: str = API_SERVER) -> None:
        self.directory = directory
        self._api_server = api_server
        self.url = f"https://127.0.0.1:{free_port()}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.client = httpx.Client(
            base_url=self.url,
            verify=False,
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=30,
        )

    def start(self) -> None:
        """Start both and wait until the API answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._spawn(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )
        self._spawn(self._api_server, f"--etcd-servers={client}", *self._flags())
        self._wait()

    def _flags(self) -> list[str]:
        key = self.directory / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens = self.directory / "tokens.csv"
        tokens.write_text(f"{TOKEN},admin,admin,system:masters\n")
        return [
            f"--secure-port={self.url.rpartition(':')[2]}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.directory / 'certificates'}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://tests",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            # Nobody makes the accounts that it would wait for.
            "--disable-admission-plugins=ServiceAccount",
        ]

    def _spawn(self, name: str, *flags: str) -> None:
        found = program(name)
        assert found is not None, f"{name} is not installed"
        log = (self.directory / f"{name}.log").open("wb")
        self._processes.append(subprocess.Popen([found, *flags], stdout=log, stderr=log))
        log.close()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            if any(process.poll() is not None for process in self._processes):
                break
            try:
                if self.client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        self.stop()
        log = (self.directory / f"{self._api_server}.log").read_text()
        raise RuntimeError(f"the API server did not start: {log[-2000:]}")

    def pause(self) -> None:
        """Let the API server stand still, its connections open, as in an overload."""
        self._processes[-1].send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._processes[-1].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End both at once: an API server would wait for its watchers, and the data is ours."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(30)
        self._processes.clear()
        self.client.close()

    def write_kubeconfig(self, path: Path) -> Path:
        """A KUBECONFIG of an administrator."""
        cluster = {"server": self.url, "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "admin"}}],
            "current-context": "tests",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def apply(self, manifest: dict[str, Any], **query: str) -> httpx.Response:
        """Apply a manifest on the server's side."""
        return self.client.patch(
            path_of(manifest),
            params={"fieldManager": FIELD_MANAGER, "force": "true"} | query,
            headers={"content-type": "application/apply-patch+yaml"},
            content=yaml.safe_dump(manifest),
        )

    def create(self, manifest: dict[str, Any], **query: str) -> httpx.Response:
        """Create an object."""
        collection = path_of(manifest).rpartition("/")[0]
        return self.client.post(collection, params=query, json=manifest)

    def establish(self, definition: dict[str, Any]) -> None:
        """Apply a CustomResourceDefinition and wait until its resources are served."""
        response = self.apply(definition)
        assert response.status_code in (200, 201), response.text
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            found = self.client.get(path_of(definition)).json()
            conditions = found.get("status", {}).get("conditions") or []
            if {"type": "Established", "status": "True"} in [
                {"type": one["type"], "status": one["status"]} for one in conditions
            ]:
                return
            time.sleep(0.05)
        raise AssertionError(f"{definition['metadata']['name']} is not established")


_PLURALS = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}


def path_of(manifest: dict[str, Any]) -> str:
    """The path of an object in the API."""
    version, kind = manifest["apiVersion"], manifest["kind"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = manifest["metadata"].get("namespace")
    scope = f"/namespaces/{namespace}" if namespace else ""
    plural = _PLURALS.get(kind, kind.lower() + "s")
    return f"{root}{scope}/{plural}/{manifest['metadata']['name']}"
