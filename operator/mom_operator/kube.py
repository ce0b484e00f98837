"""The API server: the only module that talks to it.

Objects are plain dicts, as JSON gives them: the generated models cost memory and time, and know
nothing of our own kinds. Writes go by server-side apply under one fixed field manager, so applying
the same twice changes nothing, and what others set in fields that we do not name stays theirs.

Nothing that is not ours is ever taken over or deleted: an apply first looks at what stands there,
and refuses an object without our owner reference (:class:`OwnershipError`). The object that was
looked at is the one that is changed, because its uid goes along as a precondition.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import aiohttp
import msgspec
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import config_exception, incluster_config, kube_config

from mom_core.errors import ErrorCode, MomError

Object = dict[str, Any]
ApiConfiguration = Configuration

FIELD_MANAGER: Final = "mom-operator"
# One short call. Longer than the API server's own limit for most, shorter than a run's deadline.
CALL_S_MAX: Final = 20
# Calls under way at a time; watches are counted apart. API servers give a client some 20 to 50.
CALLS_MAX: Final = 16
CONNECTIONS_MAX: Final = 64
# Objects in one page of a listing.
PAGE_OBJECTS: Final = 500


class Kind(NamedTuple):
    """Where objects of a kind are found."""

    api_version: str
    plural: str

    @property
    def root(self) -> str:
        """The path of its API."""
        return (
            f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        )


KINDS: Final[Mapping[str, Kind]] = {
    "MomCluster": Kind("mom.dev/v1alpha1", "momclusters"),
    "MomTopic": Kind("mom.dev/v1alpha1", "momtopics"),
    "MomQueue": Kind("mom.dev/v1alpha1", "momqueues"),
    "ConfigMap": Kind("v1", "configmaps"),
    "CustomResourceDefinition": Kind("apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "Event": Kind("v1", "events"),
    "Node": Kind("v1", "nodes"),
    "PersistentVolumeClaim": Kind("v1", "persistentvolumeclaims"),
    "Pod": Kind("v1", "pods"),
    "Secret": Kind("v1", "secrets"),
    "Service": Kind("v1", "services"),
    "ServiceAccount": Kind("v1", "serviceaccounts"),
    "Deployment": Kind("apps/v1", "deployments"),
    "StatefulSet": Kind("apps/v1", "statefulsets"),
    "Lease": Kind("coordination.k8s.io/v1", "leases"),
    "Ingress": Kind("networking.k8s.io/v1", "ingresses"),
    "NetworkPolicy": Kind("networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": Kind("policy/v1", "poddisruptionbudgets"),
    "PodMonitor": Kind("monitoring.coreos.com/v1", "podmonitors"),
}


class KubeError(MomError):
    """The API server refused a call or did not answer.

    ``http_code`` is 0 when it did not answer; ``reason`` is its own word, such as ``Conflict``.
    """

    def __init__(self, message: str, *, http_code: int, reason: str, code: ErrorCode) -> None:
        super().__init__(message, code=code)
        self.http_code = http_code
        self.reason = reason


class OwnershipError(MomError):
    """An object of a child's name stands there and is not ours: it is left alone."""

    code = ErrorCode.CONFLICT


class FormerOwnerError(MomError):
    """A child of a deleted cluster of the same name is still there and about to go."""

    code = ErrorCode.UNAVAILABLE


class WatchExpiredError(Exception):
    """The version to go on from is too old: list again."""


class Listing(NamedTuple):
    """Objects, and the version from which a watch goes on."""

    items: list[Object]
    resource_version: str


class WatchEvent(NamedTuple):
    """A change: ``ADDED``, ``MODIFIED``, ``DELETED``, or ``BOOKMARK`` with only a version."""

    type: str
    object: Object


class _ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    next: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: list[Object] | None = None


class _Event(msgspec.Struct):
    type: str
    object: Object


_CODES: Final = {
    400: ErrorCode.INVALID_ARGUMENT,
    401: ErrorCode.UNAUTHENTICATED,
    403: ErrorCode.FORBIDDEN,
    404: ErrorCode.NOT_FOUND,
    409: ErrorCode.CONFLICT,
    422: ErrorCode.INVALID_ARGUMENT,
    429: ErrorCode.OVERLOADED,
}

Count = Callable[[str, str, str], None]
"""Counts a call: verb, kind, and the HTTP status or ``error``."""


class Kube:
    """Calls to the API server."""

    def __init__(self, configuration: Configuration, count: Count | None = None) -> None:
        configuration.connection_pool_maxsize = CONNECTIONS_MAX
        # Of this class not everything is annotated.
        self._api: Any = ApiClient(configuration)
        self._api.user_agent = FIELD_MANAGER
        self._count = count
        self._turns = asyncio.Semaphore(CALLS_MAX)

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    # Reading.

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """One object by name; None when there is none."""
        try:
            return await self._json("GET", kind, _path(kind, namespace, name))
        except KubeError as error:
            if error.http_code == 404:
                return None
            raise

    async def list_all(self, kind: str, namespace: str = "", selector: str = "") -> Listing:
        """All objects of a kind, of one namespace or of all (an empty one), by label selector."""
        items: list[Object] = []
        token = ""
        while True:
            query = [("limit", str(PAGE_OBJECTS))]
            query += [("labelSelector", selector)] if selector else []
            query += [("continue", token)] if token else []
            data = await self._call("GET", kind, _path(kind, namespace), query=query)
            page = msgspec.json.decode(data, type=_List)
            items += page.items or []
            token = page.metadata.next
            if not token:
                return Listing(items, page.metadata.resource_version)

    async def watch(
        self,
        kind: str,
        namespace: str,
        selector: str,
        resource_version: str,
        *,
        server_timeout_s: int,
        silence_s_max: int,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes after ``resource_version``, until the server ends the watch in good order.

        Raises WatchExpiredError when that version is too old, and KubeError when the connection
        breaks or nothing, not even a bookmark, comes for ``silence_s_max``.
        """
        query = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", resource_version),
            ("timeoutSeconds", str(server_timeout_s)),
        ]
        query += [("labelSelector", selector)] if selector else []
        timeout = aiohttp.ClientTimeout(
            total=server_timeout_s + silence_s_max, sock_connect=CALL_S_MAX, sock_read=silence_s_max
        )
        try:
            response = await self._request(
                "GET", _path(kind, namespace), query, None, None, timeout
            )
            if response.status == 410:
                raise WatchExpiredError
            if response.status != 200:
                raise _refusal(response.status, await response.read(), f"watch {kind}")
            async with aclosing(_events(response)) as events:
                async for event in events:
                    yield event
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _silence(f"watch {kind}", error) from None

    # Writing.

    async def apply(self, manifest: Object, existing: Object | None) -> Object:
        """Server-side apply, over ``existing`` or as a new object.

        A new one is applied without force: should another have been made in this very moment, its
        fields conflict instead of changing. Raises KubeError.
        """
        body = dict(manifest)
        if existing is not None:
            uid = existing["metadata"]["uid"]
            body = manifest | {"metadata": manifest["metadata"] | {"uid": uid}}
        metadata = manifest["metadata"]
        kind = manifest["kind"]
        return await self._json(
            "PATCH",
            kind,
            _path(kind, metadata.get("namespace", ""), metadata["name"]),
            query=[
                ("fieldManager", FIELD_MANAGER),
                ("force", "true" if existing is not None else "false"),
            ],
            body=body,
            content_type="application/apply-patch+yaml",
        )

    async def create(self, manifest: Object) -> Object:
        """Make an object that must not stand yet (KubeError 409)."""
        kind = manifest["kind"]
        path = _path(kind, manifest["metadata"].get("namespace", ""))
        return await self._json(
            "POST", kind, path, query=[("fieldManager", FIELD_MANAGER)], body=manifest
        )

    async def replace(self, manifest: Object) -> Object:
        """Write a whole object under the resourceVersion in it (KubeError 409 when it changed)."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        path = _path(kind, metadata.get("namespace", ""), metadata["name"])
        return await self._json(
            "PUT", kind, path, query=[("fieldManager", FIELD_MANAGER)], body=manifest
        )

    async def patch(
        self, kind: str, namespace: str, name: str, patch: Object, *, subresource: str = ""
    ) -> Object:
        """A JSON merge patch. ``metadata.uid`` and ``resourceVersion`` in it are preconditions."""
        return await self._json(
            "PATCH",
            kind,
            _path(kind, namespace, name, subresource),
            query=[("fieldManager", FIELD_MANAGER)],
            body=patch,
            content_type="application/merge-patch+json",
        )

    async def delete(
        self, kind: str, namespace: str, name: str, uid: str, *, grace_s: int | None = None
    ) -> bool:
        """Delete just the object with this uid; False when it is gone or another one by now."""
        body: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Background",
        }
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            await self._json("DELETE", kind, _path(kind, namespace, name), body=body)
        except KubeError as error:
            if error.http_code in (404, 409):
                return False
            raise
        return True

    async def served(self, api_version: str, plural: str) -> bool:
        """Whether the API server has a kind, such as one of a custom resource definition."""
        try:
            found = await self._json("GET", "APIResourceList", f"/apis/{api_version}")
        except KubeError as error:
            if error.http_code == 404:
                return False
            raise
        return any(one["name"] == plural for one in found.get("resources", ()))

    # The call itself.

    async def _json(
        self,
        method: str,
        kind: str,
        path: str,
        *,
        query: list[tuple[str, str]] | None = None,
        body: Object | None = None,
        content_type: str | None = None,
    ) -> Object:
        data = await self._call(
            method, kind, path, query=query, body=body, content_type=content_type
        )
        reply: Object = msgspec.json.decode(data)
        return reply

    async def _call(
        self,
        method: str,
        kind: str,
        path: str,
        *,
        query: list[tuple[str, str]] | None = None,
        body: Object | None = None,
        content_type: str | None = None,
    ) -> bytes:
        what = f"{method} {path}"
        status = "error"
        timeout = aiohttp.ClientTimeout(total=CALL_S_MAX)
        try:
            async with self._turns:
                response = await self._request(method, path, query, body, content_type, timeout)
                data: bytes = await response.read()
            status = str(response.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _silence(what, error) from None
        finally:
            if self._count is not None:
                self._count(method, kind, status)
        if not 200 <= response.status < 300:
            raise _refusal(response.status, data, what)
        return data

    async def _request(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None,
        body: Object | None,
        content_type: str | None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        method, url, headers, payload, _ = await self._api.param_serialize(
            method,
            path,
            query_params=query or [],
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        answered = await self._api.rest_client.request(
            method, url, headers=headers, body=payload, _request_timeout=timeout
        )
        response: aiohttp.ClientResponse = answered.response
        return response


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[WatchEvent, None]:
    decode = msgspec.json.Decoder(_Event).decode
    async with response:
        async for line in response.content:
            event = decode(line)
            if event.type == "ERROR":
                if event.object.get("code") == 410:
                    raise WatchExpiredError
                raise _refused(event.object, "watch")
            yield WatchEvent(event.type, event.object)


def _path(kind: str, namespace: str, name: str = "", subresource: str = "") -> str:
    found = KINDS[kind]
    parts = [found.root]
    if namespace:
        parts += ["namespaces", quote(namespace)]
    parts.append(found.plural)
    parts += [quote(part, safe="") for part in (name, subresource) if part]
    return "/".join(parts)


def _silence(what: str, error: BaseException) -> KubeError:
    said = str(error) or type(error).__name__
    return KubeError(
        f"{what}: the API server does not answer: {said}",
        http_code=0,
        reason="Unreachable",
        code=ErrorCode.UNAVAILABLE,
    )


def _refusal(status: int, data: bytes, what: str) -> KubeError:
    try:
        answer = msgspec.json.decode(data, type=Object)
    except msgspec.MsgspecError:
        answer = {"message": data[:200].decode(errors="replace")}
    return _refused({"code": status} | answer, what)


def _refused(answer: Object, what: str) -> KubeError:
    http_code = int(answer.get("code", 0))
    error = KubeError(
        f"{what}: {answer.get('message', 'no reason was given')}",
        http_code=http_code,
        reason=str(answer.get("reason", "")),
        code=_CODES.get(http_code, ErrorCode.UNAVAILABLE),
    )
    after_s = (answer.get("details") or {}).get("retryAfterSeconds")
    error.retry_after_ms = after_s * 1000 if isinstance(after_s, int) else None
    return error


def owner_uids(obj: Object) -> set[str]:
    """The uids of an object's owners."""
    return {one["uid"] for one in obj["metadata"].get("ownerReferences") or ()}


def check_owner(manifest: Object, existing: Object) -> None:
    """Whether ``existing`` is the child that ``manifest`` describes.

    Raises OwnershipError when it belongs to nobody of ours, FormerOwnerError when it belonged to a
    deleted object of our owner's name and waits to be collected.
    """
    ours, theirs = owner_uids(manifest), owner_uids(existing)
    if ours & theirs:
        return
    kind, metadata = manifest["kind"], manifest["metadata"]
    named = f"{kind} {metadata.get('namespace', '')}/{metadata['name']}"
    wanted = {(one["kind"], one["name"]) for one in metadata.get("ownerReferences") or ()}
    for one in existing["metadata"].get("ownerReferences") or ():
        if (one["kind"], one["name"]) in wanted:
            raise FormerOwnerError(
                f"{named} belongs to an earlier {one['kind']} {one['name']!r} and is being removed"
            )
    raise OwnershipError(
        f"{named} stands there already and was not made for this cluster, so it is left alone; "
        "delete or rename it, or give the cluster another name"
    )


class Credentials(NamedTuple):
    """How to reach the API server, for whoever has a client of its own."""

    server: str
    ca_path: str | None
    certificate_path: str | None
    private_key_path: str | None
    token: str | None
    insecure: bool


def credentials(configuration: Configuration) -> Credentials:
    """The credentials of a configuration as they are now: tokens in pods change each hour."""
    refresh: Any = configuration.refresh_api_key_hook
    if refresh is not None and not asyncio.iscoroutinefunction(refresh):
        refresh(configuration)
    token = configuration.api_key.get("BearerToken", "")
    kind, _, bare = token.partition(" ")
    return Credentials(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        token=(bare if kind.lower() == "bearer" else token) or None,
        insecure=not configuration.verify_ssl,
    )


async def load_configuration(kubeconfig: Path | None, context: str | None) -> Configuration:
    """How to reach the API server: by a kubeconfig file, or else from inside of a pod.

    Raises MomError when neither is there.
    """
    configuration = Configuration()
    load_file: Any = kube_config.load_kube_config
    load_in_pod: Any = incluster_config.load_incluster_config
    try:
        if kubeconfig is not None:
            await load_file(
                config_file=str(kubeconfig), context=context, client_configuration=configuration
            )
        else:
            load_in_pod(client_configuration=configuration)
    except config_exception.ConfigException as error:
        raise MomError(
            f"no way to the API server: {error}. Run this in a pod with a service account, or give "
            "--kubeconfig",
            code=ErrorCode.INVALID_ARGUMENT,
        ) from None
    return configuration
