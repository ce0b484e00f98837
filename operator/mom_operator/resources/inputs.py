"""What the builders are given besides the spec, and what they give back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from mom_operator.names import CLUSTER_DOMAIN_DEFAULT
from mom_operator.spec import PullSecret

REDIS_IMAGE_DEFAULT: Final = "redis:8.0"

Manifest = dict[str, Any]
"""A complete object for server-side apply."""


class OperatorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator itself was told."""

    image_registry: str = ""
    """Put before images that name no registry. Empty: nothing."""
    pull_secrets: tuple[str, ...] = ()
    """Secrets to pull images with, in each cluster's namespace."""
    redis_image: str = REDIS_IMAGE_DEFAULT
    """Of managed Redis, where neither its spec nor a running one says."""
    cluster_domain: str = CLUSTER_DOMAIN_DEFAULT
    operator_namespace: str = ""
    """Where the operator runs: it may call masters. Empty: from any namespace."""
    pod_monitors: bool = False
    """Whether the API server knows PodMonitor."""


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """What was observed and is not in the spec."""

    settings: OperatorSettings = OperatorSettings()
    secrets: Mapping[str, Mapping[str, bytes]] = {}
    """Decoded data of Secrets by name: those that exist, and those just generated. A Secret of
    ours is only made when its value is here, and its value is never changed by a builder."""
    node_replicas: int | None = None
    """Nodes to run now: above the spec while some are drained. None: as in the spec."""
    redis_image: str | None = None
    """The image of the Redis that runs, kept so that an upgrade of the operator never restarts it.
    None: there is none yet."""
    redis_volume_size: str | None = None
    """The size in the existing claim template, which can't change there. None: none yet."""


class Child(msgspec.Struct, frozen=True):
    """One object that a cluster owns."""

    component: str
    """master, node, gateway, redis or shared."""
    manifest: Manifest

    @property
    def api_version(self) -> str:
        """Such as ``apps/v1``."""
        return str(self.manifest["apiVersion"])

    @property
    def kind(self) -> str:
        """Such as ``StatefulSet``."""
        return str(self.manifest["kind"])

    @property
    def name(self) -> str:
        """Its name in the cluster's namespace."""
        return str(self.manifest["metadata"]["name"])


def pull_secrets(own: tuple[PullSecret, ...], settings: OperatorSettings) -> list[dict[str, str]]:
    """The cluster's pull secrets and the operator's, each once."""
    names = dict.fromkeys([*(one.name for one in own), *settings.pull_secrets])
    return [{"name": name} for name in names]


def image_reference(image: str, registry: str) -> str:
    """The image with the registry before it, unless it names one itself."""
    first, slash, _ = image.partition("/")
    names_registry = bool(slash) and ("." in first or ":" in first or first == "localhost")
    return image if not registry or names_registry else f"{registry.rstrip('/')}/{image}"
