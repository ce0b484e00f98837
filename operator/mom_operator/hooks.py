"""What the chart's hooks run: once at an install or upgrade, and once before an uninstall.

Helm installs the files of a chart's ``crds/`` folder and never touches them again, so a hook
applies them before each install and upgrade. It has the rights for that, and the operator, which
runs for ever, has not.

Before an uninstall a hook stops the operator and takes its finalizers off, since afterwards nobody
is there to do so, and whatever is deleted then would hang. Data stays.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import click
import msgspec

from mom_core.errors import ErrorCode, MomError
from mom_operator.kube import Kube, KubeError, Object, load_configuration
from mom_operator.spec import CLUSTER_KIND, FINALIZER, QUEUE_KIND, TOPIC_KIND

_log = logging.getLogger(__name__)

DEFINITION_KIND: Final = "CustomResourceDefinition"
# The operator's pods end within their grace period of 30 s.
STOP_S_MAX: Final = 60
_POLL_S: Final = 0.5
# Writes of others that come in between, each of which costs one more try.
CONFLICTS_MAX: Final = 10


def read_definitions(directory: Path) -> list[Object]:
    """Every definition in the JSON files of a folder. Raises MomError when there is none."""
    manifests = [
        msgspec.json.decode(file.read_bytes(), type=Object)
        for file in sorted(directory.glob("*.json"))
    ]
    if not manifests:
        raise MomError(f"{directory} holds no definitions", code=ErrorCode.NOT_FOUND)
    return manifests


async def apply_definitions(kube: Kube, manifests: list[Object]) -> None:
    """Apply definitions over those that stand."""
    for manifest in manifests:
        name = manifest["metadata"]["name"]
        await kube.apply(manifest, await kube.get(DEFINITION_KIND, "", name))
        _log.info("applied %s", name)


async def stop_operator(kube: Kube, namespace: str, deployment: str, selector: str) -> None:
    """Scale the operator to nothing and wait until its pods are gone.

    Raises MomError when they are not after :data:`STOP_S_MAX`.
    """
    if await kube.get("Deployment", namespace, deployment) is None:
        return
    await kube.patch("Deployment", namespace, deployment, {"spec": {"replicas": 0}})
    deadline = asyncio.get_running_loop().time() + STOP_S_MAX
    while (await kube.list_all("Pod", namespace, selector)).items:
        if asyncio.get_running_loop().time() > deadline:
            raise MomError(
                f"pods of the operator ({selector}) still run after {STOP_S_MAX} s",
                code=ErrorCode.TIMEOUT,
            )
        await asyncio.sleep(_POLL_S)


async def release_finalizers(kube: Kube, namespaces: list[str]) -> int:
    """Take our finalizer off all our resources; how many had it. No namespaces: all of them."""
    released = 0
    # Topics first: a cluster that goes meanwhile takes nothing along that they still need.
    for kind in (TOPIC_KIND, QUEUE_KIND, CLUSTER_KIND):
        for namespace in namespaces or [""]:
            for obj in await _all(kube, kind, namespace):
                if FINALIZER in (obj["metadata"].get("finalizers") or ()):
                    await _release(kube, kind, obj)
                    released += 1
    return released


async def _all(kube: Kube, kind: str, namespace: str) -> list[Object]:
    """The objects of a kind; none where its definition is gone already."""
    try:
        return (await kube.list_all(kind, namespace)).items
    except KubeError as error:
        if error.http_code == 404:
            return []
        raise


async def _release(kube: Kube, kind: str, obj: Object) -> None:
    namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
    current: Object | None = obj
    for _ in range(CONFLICTS_MAX):
        if current is None:
            return
        metadata = current["metadata"]
        kept = [one for one in metadata.get("finalizers") or () if one != FINALIZER]
        # The version is a precondition, so that no finalizer of others is lost.
        wanted = {"finalizers": kept, "resourceVersion": metadata["resourceVersion"]}
        try:
            await kube.patch(kind, namespace, name, {"metadata": wanted})
            return
        except KubeError as error:
            if error.http_code == 404:
                return
            if error.http_code != 409:
                raise
        current = await kube.get(kind, namespace, name)
    raise MomError(
        f"{kind} {namespace}/{name} keeps changing; its finalizer {FINALIZER} is still there",
        code=ErrorCode.CONFLICT,
    )


@click.group()
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="How to reach the API server; by default by the pod's service account.",
)
@click.pass_context
def main(context: click.Context, kubeconfig: Path | None) -> None:
    """What the hooks of MOM's chart run."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    context.obj = kubeconfig


@main.command("apply-crds")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.pass_obj
def apply_crds(kubeconfig: Path | None, directory: Path) -> None:
    """Apply the custom resource definitions of a folder."""

    async def work(kube: Kube) -> None:
        await apply_definitions(kube, manifests)

    manifests = read_definitions(directory)
    _run(kubeconfig, work)


@main.command("release-finalizers")
@click.option("--namespace", required=True, help="Where the operator runs.")
@click.option("--deployment", required=True, help="The operator's Deployment, to be stopped.")
@click.option("--selector", required=True, help="Labels of the operator's pods.")
@click.option("--watch-namespaces", default="", help="Comma-separated; empty for all.")
@click.pass_obj
def release(
    kubeconfig: Path | None,
    namespace: str,
    deployment: str,
    selector: str,
    watch_namespaces: str,
) -> None:
    """Stop the operator and take its finalizers off MomClusters, MomTopics and MomQueues."""
    namespaces = [one.strip() for one in watch_namespaces.split(",") if one.strip()]

    async def work(kube: Kube) -> None:
        await stop_operator(kube, namespace, deployment, selector)
        _log.info("released %d resources", await release_finalizers(kube, namespaces))

    _run(kubeconfig, work)


def _run(kubeconfig: Path | None, work: Callable[[Kube], Awaitable[None]]) -> None:
    async def with_kube() -> None:
        kube = Kube(await load_configuration(kubeconfig, None))
        try:
            await work(kube)
        finally:
            await kube.close()

    try:
        asyncio.run(with_kube())
    except MomError as error:
        raise click.ClickException(error.message) from None


if __name__ == "__main__":
    main()
