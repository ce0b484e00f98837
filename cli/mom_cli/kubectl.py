"""What `mom` asks of Kubernetes, by way of kubectl: the user's own contexts and logins apply."""

from __future__ import annotations

import base64
import binascii
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click

from mom_core.errors import ErrorCode, InvalidArgumentError, MomError, NotFoundError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

TIMEOUT_S: Final = 30
_FORWARDING: Final = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ")


class Kubectl:
    """kubectl with the flags that choose a cluster and a namespace."""

    def __init__(self, namespace: str | None, context: str | None, kubeconfig: str | None) -> None:
        self._flags = [
            f"--{name}={value}"
            for name, value in (
                ("namespace", namespace),
                ("context", context),
                ("kubeconfig", kubeconfig),
            )
            if value
        ]

    def command(self, *words: str) -> list[str]:
        """A command line. Raises InvalidArgumentError when kubectl is not there."""
        program = shutil.which("kubectl")
        if program is None:
            raise InvalidArgumentError(
                "kubectl is not on the PATH; this command speaks to Kubernetes through it"
            )
        return [program, *self._flags, *words]

    def json(self, *words: str) -> Any:
        """What ``kubectl … -o json`` prints.

        Raises NotFoundError, or MomError with what kubectl says.
        """
        command = self.command(*words, "-o", "json")
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _failure(f"`kubectl {' '.join(words)}` did not answer in {TIMEOUT_S} s") from None
        if done.returncode:
            raise _failure(done.stderr.decode(errors="replace").strip())
        return json.loads(done.stdout)

    def the_cluster(self, name: str | None) -> dict[str, Any]:
        """The MomCluster of a name; without one, the only one of the namespace.

        Raises NotFoundError; InvalidArgumentError when there are several.
        """
        if name is not None:
            found: dict[str, Any] = self.json("get", "momclusters.mom.dev", name)
            return found
        clusters = self.json("get", "momclusters.mom.dev")["items"]
        names = [one["metadata"]["name"] for one in clusters]
        if not names:
            raise NotFoundError(
                "there is no MomCluster in this namespace; say another one with --namespace, or "
                "make one: kubectl apply -f examples/momcluster.yaml",
                field="cluster",
            )
        if len(names) > 1:
            raise InvalidArgumentError(
                f"there are {len(names)} MomClusters here, so say which: {', '.join(names)}",
                field="cluster",
            )
        only: dict[str, Any] = clusters[0]
        return only

    def secret(self, name: str, key: str) -> str:
        """A value of a Secret. Raises NotFoundError, or MomError with what kubectl says."""
        data = self.json("get", "secret", name).get("data") or {}
        try:
            return base64.b64decode(data[key], validate=True).decode()
        except (KeyError, binascii.Error, UnicodeDecodeError):
            raise NotFoundError(
                f"the Secret {name!r} has no usable {key!r}; the operator makes it again when it "
                "is deleted",
                field="secret",
            ) from None

    @contextmanager
    def forward(self, service: str, remote_port: int, local_port: int) -> Iterator[Tunnel]:
        """A tunnel to a Service for as long as the block lasts; ``local_port`` 0: a free one.

        Raises MomError with what kubectl says when it does not come about.
        """
        process = subprocess.Popen(
            self.command(
                "port-forward",
                "--address=127.0.0.1",
                f"service/{service}",
                f"{local_port or ''}:{remote_port}",
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield Tunnel(process, _local_port(process))
        finally:
            process.terminate()
            process.communicate()


class Tunnel:
    """An open port-forward."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{port}"

    def wait(self) -> None:
        """Until it ends by itself, and then raise UnavailableError with the reason."""
        _, said = self._process.communicate()
        raise MomError(f"the tunnel ended: {said.strip()}", code=ErrorCode.UNAVAILABLE)


def _local_port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None, "opened with a pipe"
    found = _FORWARDING.match(process.stdout.readline())
    if found is None:
        _, said = process.communicate()
        raise _failure(said.strip() or "kubectl port-forward ended")
    return int(found.group(1))


def _failure(said: str) -> MomError:
    # Before its last line, kubectl logs each of its tries.
    said = f"kubectl: {said.splitlines()[-1] if said else 'it failed and said nothing'}"
    if "NotFound" in said or "doesn't have a resource type" in said:
        return NotFoundError(said)
    return MomError(said, code=ErrorCode.UNAVAILABLE)


def kubectl_options(command: FunctionT) -> FunctionT:
    """The options of every command that speaks to Kubernetes."""
    for option in (
        click.option("--kubeconfig", metavar="FILE", help="As kubectl's."),
        click.option("--context", "kube_context", metavar="NAME", help="As kubectl's."),
        click.option("-n", "--namespace", metavar="NAME", help="As kubectl's."),
    ):
        command = option(command)
    return command


def words_of(conditions: Sequence[dict[str, Any]], kind: str) -> tuple[str, str]:
    """Status and message of a condition; unknown when it is not there."""
    for one in conditions:
        if one.get("type") == kind:
            return one.get("status", "Unknown"), one.get("message", "")
    return "Unknown", "the operator has not looked at it yet; is it running?"
