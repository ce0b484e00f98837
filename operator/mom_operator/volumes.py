"""The volume of a managed Redis, which grows where its storage class allows that.

A StatefulSet's claim template can't change, so the claim itself is what grows. It is looked at only
while the spec asks for more than the template, and after it has grown no more.
"""

from __future__ import annotations

from typing import Final

from mom_operator.kube import Kube, KubeError
from mom_operator.names import Names
from mom_operator.observed import Problem
from mom_operator.registry import Key
from mom_operator.resources.quantity import quantity_bytes
from mom_operator.resources.redis import volume_growth
from mom_operator.spec import Cluster, ManagedRedis

VOLUME_NOT_GROWN: Final = "VolumeNotGrown"

_SIZE: Final = "spec.redis.managed.storage.size"
# What an API server says of a claim that may not grow.
_REFUSALS: Final = (403, 422)


class Volumes:
    """Lets the volumes of managed Redis servers grow."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._grown: dict[Key, tuple[str, str]] = {}

    async def grow(
        self, key: Key, cluster: Cluster, names: Names, template_size: str | None
    ) -> list[Problem]:
        """Ask for a larger claim where the spec wants one; why that can't be.

        ``template_size`` is what the claim was made with. Raises KubeError.
        """
        managed = cluster.spec.redis.managed
        if managed is None or template_size is None or not self._is_larger(managed, template_size):
            return []
        wanted = str(managed.storage.size)
        if self._grown.get(key) == (cluster.uid, wanted):
            return []
        claim = await self._kube.get("PersistentVolumeClaim", cluster.namespace, names.redis_claim)
        if claim is None or claim.get("status", {}).get("phase") != "Bound":
            return []  # It is made, or bound, before it can grow.
        patch = volume_growth(managed, claim)
        if patch is not None:
            try:
                await self._kube.patch(
                    "PersistentVolumeClaim", cluster.namespace, names.redis_claim, patch
                )
            except KubeError as error:
                if error.http_code not in _REFUSALS:
                    raise
                return [_not_grown(names, wanted, error)]
        self._grown[key] = (cluster.uid, wanted)
        return []

    def forget(self, key: Key) -> None:
        """A cluster is gone."""
        self._grown.pop(key, None)

    @staticmethod
    def _is_larger(managed: ManagedRedis, template_size: str) -> bool:
        wanted = quantity_bytes(managed.storage.size, _SIZE)
        return wanted > quantity_bytes(template_size, "the claim template's size")


def _not_grown(names: Names, wanted: str, error: KubeError) -> Problem:
    return Problem(
        VOLUME_NOT_GROWN,
        f"the volume {names.redis_claim} can't grow to {wanted}: its storage class has to say "
        f"allowVolumeExpansion: true. The API server: {error.message}",
    )
