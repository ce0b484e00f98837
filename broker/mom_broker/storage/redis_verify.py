"""What a Redis server must be before MOM trusts it, checked on every new connection, and again
every second, since settings can change under a connection.

A connection may reach another server than the last one did (a failover, a restart with other
settings), so nothing found on one is taken for granted on the next. Found by trials against 7.0 and
8.0: ``no-appendfsync-on-rewrite yes`` skips fsyncs during a rewrite even under ``appendfsync
always``, and any eviction policy deletes messages as a matter of course.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from redis import exceptions

from mom_broker.storage import refusals
from mom_core.errors import StoreError
from mom_core.ports import Durability

VERSION_MIN: Final = (7, 0)
WAITAOF_VERSION_MIN: Final = (7, 2)
_STRENGTH: Final = {Durability.MEMORY: 0, Durability.OS: 1, Durability.FSYNC: 2}
SETTINGS_QUESTION: Final = (
    "CONFIG",
    "GET",
    "appendonly",
    "appendfsync",
    "no-appendfsync-on-rewrite",
    "maxmemory-policy",
)


class Requirements(NamedTuple):
    """What the operator of MOM asked for."""

    accept_durability: Durability | None = None
    """The weakest level that is acceptable; None: only fsync."""
    declared_durability: Durability | None = None
    """The level a managed service that forbids CONFIG is trusted to have."""
    replicas_required: int = 0
    """Replicas that must have fsynced a write before it is acknowledged."""


class ServerFacts(NamedTuple):
    """What a connection's server is."""

    incarnation: str
    """Its run_id: another one after each start."""
    durability: Durability
    fragile: bool
    """Whether a tail of acknowledged writes can be missing after another start or a failover."""


class Commands(Protocol):
    """A connection that runs one command at a time."""

    async def run(self, *words: bytes | str) -> object:
        """Send a command and return its reply. Raises redis.exceptions.RedisError."""


async def verify(commands: Commands, server: str, requirements: Requirements) -> ServerFacts:
    """Check role, version and every setting that durability rests on.

    Raises StoreError: store_misconfigured with setting, value and fix, or store_unavailable while
    the server loads its data or is a replica.
    """
    info_reply = await commands.run("INFO")
    try:
        settings_reply: object = await commands.run(*SETTINGS_QUESTION)
    except exceptions.ResponseError as error:
        settings_reply = error
    return judge(info_reply, settings_reply, server, requirements)


def judge(
    info_reply: object, settings_reply: object, server: str, requirements: Requirements
) -> ServerFacts:
    """What the answers to ``INFO`` and :data:`SETTINGS_QUESTION` say; an error reply to the second
    one means that CONFIG is forbidden. Raises as :func:`verify`."""
    info = parse_info(info_reply)
    if info.get("loading", "0") != "0":
        raise refusals.store_unavailable(
            f"redis {server} is loading its data after a start; it answers when that is done"
        )
    _verify_role_and_version(info, server, requirements)
    if isinstance(settings_reply, list):
        words = [word.decode() for word in settings_reply]
        settings = dict(zip(words[::2], words[1::2], strict=True))
        durability = _configured(settings, server, requirements)
    else:
        durability = _declared(info, server, requirements)
    if requirements.replicas_required:
        durability = Durability.REPLICATED
    return ServerFacts(
        incarnation=info["run_id"],
        durability=durability,
        fragile=durability is not Durability.FSYNC or is_replicated(info),
    )


def is_replicated(info: dict[str, str]) -> bool:
    """Whether another server has, or had, the primary's role or a copy of its data.

    Replication is asynchronous: what a primary acknowledged may be missing on the replica that
    takes over. A server that took over once shows its former primary as the second id.
    """
    return info.get("connected_slaves", "0") != "0" or bool(
        info.get("master_replid2", "").strip("0")
    )


def parse_info(reply: object) -> dict[str, str]:
    """The fields of an INFO reply."""
    assert isinstance(reply, bytes)
    lines = reply.decode(errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}


def _refuse(server: str, setting: str, value: str, why: str, fix: str) -> StoreError:
    error = refusals.store_misconfigured(f"redis {server}: {setting} is {value}: {why}; {fix}")
    error.details = {"setting": setting, "value": value}
    return error


def _version(info: dict[str, str]) -> tuple[int, int]:
    major, minor, *_ = (*info.get("redis_version", "0.0").split("."), "0")
    return int(major), int(minor)


def _verify_role_and_version(info: dict[str, str], server: str, requirements: Requirements) -> None:
    shown = info.get("redis_version", "unknown")
    if _version(info) < VERSION_MIN:
        raise _refuse(
            server, "redis_version", shown, "functions need 7.0 or newer", "upgrade the server"
        )
    if info.get("role") != "master":
        # No setting to be mended: in a failover the address soon leads to the new primary.
        raise refusals.store_unavailable(
            f"redis {server}: role is {info.get('role', 'unknown')}: a replica takes no writes; "
            "give the primary's address"
        )
    if info.get("cluster_enabled", "0") != "0":
        raise _refuse(
            server,
            "cluster-enabled",
            "yes",
            "this version of MOM speaks to one primary",
            "use a server without cluster mode",
        )
    if requirements.replicas_required and _version(info) < WAITAOF_VERSION_MIN:
        raise _refuse(
            server,
            "redis_version",
            shown,
            "waiting for replicas' fsync (WAITAOF) needs 7.2 or newer",
            "upgrade the server, or require no replicas",
        )


def _verify_policy(server: str, policy: str) -> None:
    if policy != "noeviction":
        raise _refuse(
            server,
            "maxmemory-policy",
            policy,
            "under memory pressure the server would delete messages",
            "set `maxmemory-policy noeviction`",
        )


def _configured(settings: dict[str, str], server: str, requirements: Requirements) -> Durability:
    _verify_policy(server, settings["maxmemory-policy"])
    if settings["appendonly"] != "yes":
        setting, wanted, level = "appendonly", "yes", Durability.MEMORY
        why = "a restart loses messages that were acknowledged"
    elif settings["appendfsync"] != "always":
        setting, wanted, level = "appendfsync", "always", Durability.OS
        why = "a power failure loses messages that were acknowledged"
    elif settings["no-appendfsync-on-rewrite"] != "no":
        setting, wanted, level = "no-appendfsync-on-rewrite", "no", Durability.OS
        why = "a power failure during a rewrite loses messages that were acknowledged"
    else:
        return Durability.FSYNC
    accepted = requirements.accept_durability
    if (
        accepted is not None
        and not requirements.replicas_required
        and _STRENGTH[level] >= _STRENGTH.get(accepted, _STRENGTH[Durability.FSYNC])
    ):
        return level
    raise _refuse(
        server,
        setting,
        settings[setting],
        why,
        f"set `{setting} {wanted}`, or accept durability {str(level)!r} explicitly",
    )


def _declared(info: dict[str, str], server: str, requirements: Requirements) -> Durability:
    """The level of a service that forbids CONFIG: what INFO tells, and its operator's word."""
    policy = info.get("maxmemory_policy")
    if policy is not None:
        _verify_policy(server, policy)
    if requirements.declared_durability is None:
        raise _refuse(
            server,
            "CONFIG",
            "forbidden",
            "how durable a write is can't be verified",
            "allow CONFIG GET for this user, or declare the durability that the service promises",
        )
    durable = requirements.declared_durability is not Durability.MEMORY
    if durable and info.get("aof_enabled") == "0":
        raise _refuse(
            server,
            "aof_enabled",
            "0",
            f"durability {str(requirements.declared_durability)!r} was declared",
            "turn on append-only persistence, or declare 'memory'",
        )
    return Durability.PROVIDER if durable else Durability.MEMORY
