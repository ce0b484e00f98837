"""Writing the status of a resource back to Kubernetes, the same for every kind."""

from __future__ import annotations

from typing import Any

from mom_operator import conditions
from mom_operator.conditions import Status
from mom_operator.kube import Kube, KubeError
from mom_operator.registry import Registry


async def write_status(kube: Kube, registry: Registry, obj: Any, after: Status) -> None:
    """Write the status if it changed. One of an object that changed or went meanwhile is dropped.

    Raises:
        KubeError: Kubernetes refused it for another reason.
    """
    patch = conditions.merge_patch(obj.get("status") or {}, after)
    if not patch:
        return
    metadata = obj["metadata"]
    body = {"metadata": {"uid": metadata["uid"]}, "status": patch}
    try:
        written = await kube.patch(
            obj["kind"], metadata["namespace"], metadata["name"], body, subresource="status"
        )
    except KubeError as error:
        if error.http_code not in (404, 409):
            raise
        return
    registry.put(written)
