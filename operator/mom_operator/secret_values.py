"""The values in a cluster's Secrets: read by name, made once, made again when they are missing."""

from __future__ import annotations

import secrets
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from typing import Any, Final

from mom_operator.names import Names
from mom_operator.observed import Problem
from mom_operator.spec import Cluster

# 32 random bytes: nothing to guess.
RANDOM_BYTES: Final = 32

SECRET_MISSING: Final = "SecretMissing"

Values = dict[str, dict[str, bytes]]


def names_to_read(cluster: Cluster, names: Names) -> tuple[str, ...]:
    """The Secrets that a cluster's manifests depend on."""
    wanted = [names.cluster_token, names.admin_token, names.binding]
    external = cluster.spec.redis.external
    wanted.append(names.redis_auth if external is None else external.url_secret_ref.name)
    return tuple(wanted)


def decoded(secret: Mapping[str, Any] | None) -> dict[str, bytes]:
    """The data of a Secret; what is no Base64 is left out."""
    found = {}
    for key, value in ((secret or {}).get("data") or {}).items():
        try:
            found[key] = b64decode(value or "", validate=True)
        except Base64Error:
            continue
    return found


def completed(cluster: Cluster, names: Names, values: Values) -> Values:
    """The values, with new ones for those of ours that are missing or empty."""
    result = dict(values)
    if not result.get(names.cluster_token, {}).get("token"):
        result[names.cluster_token] = {"token": secrets.token_hex(RANDOM_BYTES).encode()}
    managed = cluster.spec.redis.managed is not None
    if managed and not result.get(names.redis_auth, {}).get("password"):
        result[names.redis_auth] = {"password": secrets.token_hex(RANDOM_BYTES).encode()}
    return result


def problem_of(cluster: Cluster, values: Values) -> Problem | None:
    """A Secret that a person has to make, if it is missing."""
    external = cluster.spec.redis.external
    if external is None:
        return None
    reference = external.url_secret_ref
    if values.get(reference.name, {}).get(reference.key):
        return None
    return Problem(
        SECRET_MISSING,
        f"Secret {reference.name!r} with key {reference.key!r}, the URL of the external Redis, is "
        "missing or empty",
    )
