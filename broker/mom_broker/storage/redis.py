"""The store in Redis or Valkey 7.0 and newer: for clusters.

Each call is one Redis Function (``functions.lua``), hence atomic; the batches of a commit travel
beside it, in one transaction, so that their bytes are not copied through Lua. The library's name
carries its version and a digest of its code, so that nodes of two versions can share a server
during a rolling upgrade and neither swaps the other's code. All keys of a partition share a hash
tag, and so do those of the control plane.

A call whose connection broke is tried again for a bounded time. All are harmless to repeat: a
commit is known by its number, a claim and a set of control-plane writes by a token.

Lost tails. Each commit and claim leaves the server's run_id, and whether that server was *fragile*:
weaker than fsync, or with a replica that could take over without the newest writes. A claim that
meets another run_id skips OFFSET_GAP offsets if either server was fragile. A restart of a single
server that fsyncs every write loses nothing that was acknowledged, so it skips nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit

from redis import exceptions
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url

from mom_broker.storage import refusals
from mom_broker.storage.outcomes import gaps_of_text, outcomes_of_text
from mom_broker.storage.redis_changes import ChangeFollower
from mom_broker.storage.redis_errors import is_passing, store_error
from mom_broker.storage.redis_lanes import (
    Answer,
    Breaks,
    BrokenLaneError,
    Command,
    Lane,
    Link,
    Session,
    Word,
)
from mom_broker.storage.redis_verify import (
    SETTINGS_QUESTION,
    Requirements,
    ServerFacts,
    is_replicated,
    judge,
    parse_info,
    verify,
)
from mom_broker.storage.watching import WatchHub
from mom_core import limits
from mom_core.errors import ErrorCode, InvalidArgumentError, StoreError
from mom_core.names import PartitionId
from mom_core.ports import (
    BatchHead,
    Clock,
    Commit,
    CommitResult,
    Durability,
    KeyEvent,
    KeySnapshot,
    KeyValue,
    KeyWrite,
    LeaseGrant,
    Loaded,
    PartitionState,
    StoreCapabilities,
    StoredBatch,
    StoreUsage,
    Trimmed,
    TrimRule,
)

_log = logging.getLogger(__name__)

_Commands = list[Command]
_Words = list[Word]

LIBRARY_VERSION: Final = 1
_PARTITION_KEYS: Final = (
    "meta", "index", "journal", "snapshot", "producers", "used", "kept", "b:",
)  # fmt: skip
_KEPT: Final = _PARTITION_KEYS.index("kept")
_CONTROL_KEYS: Final = ("entries", "order", "revision", "changes")

WRITE_LANES: Final = 4
READ_LANES: Final = 2
# A call is tried again for this long after its connection broke, say during a failover.
RETRY_MS_MAX: Final = 5_000
RETRY_BACKOFF_MS_MIN: Final = 20
RETRY_BACKOFF_MS_MAX: Final = 500
# How often memory use, role and clock of the server are looked at.
REFRESH_MS: Final = 1_000
# A reading of the server's clock that took longer is not used: now_ms() is within half of it, and
# what the clocks drift apart in REFRESH_MS, of the server's own time.
CLOCK_ROUND_TRIP_MS_MAX: Final = 250
# For replicas to have a write, and then to have it on disk: both within REPLY_TIMEOUT_MS.
REPLICA_WAIT_MS: Final = 1_200
TOMBSTONE_MS: Final = 24 * 3600 * 1000
BATCHES_PER_READ_MAX: Final = 1_024
# Beginnings of batches fetched by one pipeline, so that other reads get their turn.
HEADS_PER_CALL_MAX: Final = 512
# Changes of the control plane that a watch may lag behind before it begins again.
CHANGES_KEPT: Final = 1_024
KEY_WRITES_MAX: Final = 1_000


class RedisStore:
    """A Store at ``url`` (``redis://`` or ``rediss://``), its keys under ``namespace``.

    ``accept_durability``: the weakest level to accept, where the server's settings promise less
    than fsync; replies then name what they promise. ``declared_durability``: what a managed service
    that forbids CONFIG is trusted to promise; replies then say ``provider``. ``replicas_required``:
    how many replicas must have fsynced a write too (Redis 7.2 and newer).
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        namespace: str = "mom",
        accept_durability: Durability | None = None,
        declared_durability: Durability | None = None,
        replicas_required: int = 0,
    ) -> None:
        self._connection_class, self._connection_options = _connection_of_url(url)
        parts = urlsplit(url)
        self._server = f"{parts.hostname}:{parts.port or 6379}"
        self._clock = clock
        self._namespace = namespace
        self._requirements = Requirements(accept_durability, declared_durability, replicas_required)
        self._library, self._code = _library()
        self._facts: ServerFacts | None = None
        self._fragile = False
        self._breaks = Breaks()
        self._writers: list[Lane] = []
        self._readers: list[Lane] = []
        self._keeper: asyncio.Task[None] | None = None
        self._used_bytes = 0
        self._limit_bytes: int | None = None
        self._clock_ahead_ms: int | None = None
        self._last_now_ms = 0
        control = f"{{{namespace}:control}}:"
        self._control_keys = tuple(control + name for name in _CONTROL_KEYS)
        self._leases_key = control + "leases"
        self._written_key = control + "written:"
        self._drops_key = control + "drops"
        self._hub = WatchHub(self._snapshot)
        self._follower = ChangeFollower(
            self._connect, self._hub, clock, control + "changes", control + "revision"
        )

    @property
    def capabilities(self) -> StoreCapabilities:
        """See :class:`mom_core.ports.Store`, as for every method here. Known once it is open."""
        durability = self._facts.durability if self._facts else Durability.FSYNC
        return StoreCapabilities("redis", durability, shared=True)

    def now_ms(self) -> int:
        """The server's clock by its last reading; it never goes back."""
        now_ms = self._clock.monotonic_ms() + (self._clock_ahead_ms or 0)
        self._last_now_ms = max(self._last_now_ms, now_ms)
        return self._last_now_ms

    async def open(self) -> None:
        try:
            link = await self._connect()
        except (exceptions.RedisError, OSError) as error:
            raise store_error(self._server, error) from error
        self._facts = link.facts
        await link.session.close()
        closing = self._replica_waits()
        self._writers = [Lane(self._connect, self._breaks, closing) for _ in range(WRITE_LANES)]
        self._readers = [Lane(self._connect, self._breaks) for _ in range(READ_LANES)]
        await self._refresh()
        await self._finish_drops()
        self._keeper = asyncio.get_running_loop().create_task(self._keep_fresh())

    async def close(self) -> None:
        self._hub.close()
        await self._follower.close()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        for lane in (*self._writers, *self._readers):
            await lane.close()
        self._writers, self._readers = [], []

    async def usage(self) -> StoreUsage:
        await self._refresh()
        return StoreUsage(self._used_bytes, self._limit_bytes)

    # Partitions.

    async def claim(self, partition: PartitionId, epoch: int) -> PartitionState:
        token = secrets.token_hex(8)

        def build(facts: ServerFacts) -> _Commands:
            args = (epoch, token, facts.incarnation, self._fragile_flag(facts), limits.OFFSET_GAP)
            return [self._function("claim", self._partition_keys(partition), args)]

        reply = self._checked(await self._call(self._writers, build), partition, epoch)
        return PartitionState(
            epoch=epoch,
            next_offset=int(reply[1]),
            log_start=int(reply[2]),
            commit_number=int(reply[3]),
            size_bytes=int(reply[4]),
            last_append_time_ms=int(reply[5]),
            gaps=gaps_of_text(reply[6].decode()),
            tail_lost=reply[7] == b"1",
        )

    async def load(self, partition: PartitionId, epoch: int) -> Loaded:
        answer = await self._read("load", self._partition_keys(partition), epoch)
        _, snapshot, journal = self._checked(answer, partition, epoch)
        return Loaded(snapshot, tuple(journal))

    async def commit(self, commit: Commit) -> CommitResult:
        size_bytes = sum(len(batch.data) for batch in commit.batches) + commit.kept_bytes
        function = "settle"
        if commit.grows:
            # A repeated commit adds nothing, but a store this full can't tell; it is tried again.
            self._check_room(size_bytes)
            function = "produce"
        kind, payload = "n", b""
        if commit.snapshot is not None:
            kind, payload = "s", commit.snapshot
        elif commit.journal:
            kind, payload = "j", commit.journal
        keys = self._partition_keys(commit.partition)

        staged = keys[-1][:-2] + f"new:{commit.epoch}.{commit.number}."

        def build(facts: ServerFacts) -> _Commands:
            args: _Words = [
                commit.epoch, commit.number, facts.incarnation, self._fragile_flag(facts),
                limits.PRODUCER_WINDOW_BATCHES, limits.PRODUCERS_PER_PARTITION_MAX, kind, payload,
                len(commit.kept),
            ]  # fmt: skip
            for key, value in commit.kept.items():
                args += (key, "d" if value is None else "s", value or b"")
            for batch in commit.batches:
                args += (
                    batch.count, batch.append_time_ms, batch.producer_id, batch.sequence,
                    len(batch.data),
                )  # fmt: skip
            function_call = self._function(function, (*keys, staged), args)
            if not commit.batches:
                return [function_call]
            stage = [
                ("SET", f"{staged}{place}", batch.data)
                for place, batch in enumerate(commit.batches, 1)
            ]
            # One transaction is also one fsync, however many reads its bytes take.
            return [("MULTI",), *stage, function_call, ("EXEC",)]

        answer = await self._call(self._writers, build, size_bytes + len(payload))
        if commit.batches:
            # MULTI, the SETs and the commit answered "queued"; EXEC ends with the commit's reply.
            self._raise_error(answer)
            answer = answer._replace(replies=[answer.replies[-1][-1]])
        reply = self._checked(answer, commit.partition, commit.epoch, commit.number)
        self._used_bytes += size_bytes
        return CommitResult(
            outcomes_of_text(reply[2].decode()), int(reply[1]), answer.facts.durability
        )

    async def read(
        self, partition: PartitionId, offset: int, max_bytes: int
    ) -> tuple[StoredBatch, ...]:
        keys = self._partition_keys(partition)
        while True:
            answer = await self._read(
                "read", keys[:2], max(0, offset), max(1, max_bytes), BATCHES_PER_READ_MAX
            )
            extents = self._reply(answer)
            if not extents:
                return ()
            command = ("MGET", *(keys[-1] + end_offset.decode() for end_offset, _, _ in extents))
            found = await self._command(self._readers, *command)
            batches = tuple(
                StoredBatch(int(end) - int(count), int(count), int(time_ms), data)
                for (end, count, time_ms), data in zip(extents, found, strict=True)
                if data is not None
            )
            # A trim in between took some from the front; all of them: look again behind it.
            if batches:
                return batches

    async def read_heads(
        self,
        partition: PartitionId,
        offset: int,
        batches_max: int,
        *,
        bytes_each: int,
        bytes_per_record: int = 0,
    ) -> tuple[BatchHead, ...]:
        keys = self._partition_keys(partition)
        found: list[BatchHead] = []
        position = max(0, offset)
        while batches_max > len(found):
            count_max = min(batches_max - len(found), HEADS_PER_CALL_MAX)
            answer = await self._read("read", keys[:2], position, 1 << 52, count_max)
            extents = [tuple(map(int, extent)) for extent in self._reply(answer)]
            if not extents:
                break
            heads = await self._heads(keys[-1], extents, bytes_each, bytes_per_record)
            found += (
                BatchHead(end - count, count, time_ms, head)
                for (end, count, time_ms), head in zip(extents, heads, strict=True)
                if head  # A trim in between took some from the front.
            )
            position = extents[-1][0]
        return tuple(found)

    async def _heads(
        self,
        key: str,
        extents: Sequence[tuple[int, ...]],
        bytes_each: int,
        bytes_per_record: int,
    ) -> list[bytes]:
        commands: _Commands = [
            ("GETRANGE", f"{key}{end}", 0, bytes_each + bytes_per_record * count - 1)
            for end, count, _ in extents
        ]
        answer = await self._call(self._readers, lambda _: commands)
        self._raise_error(answer)
        return answer.replies

    async def read_kept(
        self, partition: PartitionId, keys: Sequence[str]
    ) -> tuple[bytes | None, ...]:
        if not keys:
            return ()
        key = self._partition_keys(partition)[_KEPT]
        return tuple(await self._command(self._readers, "HMGET", key, *keys))

    async def offset_at(self, partition: PartitionId, timestamp_ms: int) -> int:
        keys = self._partition_keys(partition)[:2]
        return int(self._reply(await self._read("offset_at", keys, timestamp_ms)))

    async def trim(self, partition: PartitionId, epoch: int, rule: TrimRule) -> Trimmed:
        bounds: tuple[Word, ...] = tuple("" if one is None else str(one) for one in rule)
        answer = await self._write(
            "trim", self._partition_keys(partition), epoch, *bounds, limits.TRIM_BATCHES_MAX
        )
        _, log_start, size_bytes, more = self._checked(answer, partition, epoch)
        return Trimmed(int(log_start), int(size_bytes), more == b"1")

    async def drop(self, partition: PartitionId) -> None:
        # Noted first: a process that dies half-way leaves the rest to the next one that opens.
        noted = f"{partition.topic_id}:{partition.index}"
        self._reply(await self._write("note_drop", [self._drops_key], noted))
        await self._clear(partition)
        await self._command(self._writers, "SREM", self._drops_key, noted)

    async def _clear(self, partition: PartitionId) -> None:
        more = b"1"
        while more == b"1":
            keys = self._partition_keys(partition)
            answer = await self._write("drop", keys, TOMBSTONE_MS, limits.TRIM_BATCHES_MAX)
            more = self._reply(answer)[1]

    async def _finish_drops(self) -> None:
        for noted in await self._command(self._writers, "SMEMBERS", self._drops_key):
            topic_id, _, index = noted.decode().partition(":")
            await self._clear(PartitionId(topic_id, int(index)))
            await self._command(self._writers, "SREM", self._drops_key, noted)

    # The control plane.

    async def get(self, key: str) -> KeyValue | None:
        def build(_: ServerFacts) -> _Commands:
            return [("HGET", self._control_keys[0], key)]

        held = self._reply(await self._call(self._readers, build))
        return None if held is None else _key_value(key, held)

    async def list(self, prefix: str) -> tuple[KeyValue, ...]:
        return (await self._list(prefix)).entries

    async def _list(self, prefix: str) -> KeySnapshot:
        reply = self._reply(await self._read("list", self._control_keys, prefix))
        pairs = zip(reply[1::2], reply[2::2], strict=True)
        entries = tuple(_key_value(key.decode(), held) for key, held in pairs)
        return KeySnapshot(entries, int(reply[0]))

    async def write(self, writes: Sequence[KeyWrite]) -> int:
        if len(writes) > KEY_WRITES_MAX:
            raise InvalidArgumentError(
                f"{len(writes)} writes at once; at most {KEY_WRITES_MAX} are allowed",
                field="writes",
            )
        keys = (*self._control_keys, f"{self._written_key}{secrets.token_hex(8)}")
        args: _Words = [CHANGES_KEPT, 2 * RETRY_MS_MAX]
        for one in writes:
            expected = "" if one.expected_revision is None else one.expected_revision
            args += (one.key, expected, "d" if one.value is None else "s", one.value or b"")

        reply = self._reply(await self._write("write", keys, *args))
        if reply[0] == b"conflict":
            raise refusals.conflict(reply[1].decode(), int(reply[2]), int(reply[3]))
        return int(reply[1])

    async def watch(self, prefix: str) -> AsyncIterator[KeySnapshot | KeyEvent]:
        await self._follower.started()
        async for told in self._hub.watch(prefix):
            yield told

    async def _snapshot(self, prefix: str) -> KeySnapshot:
        while True:
            try:
                return await self._list(prefix)
            except StoreError:
                if not self._readers:
                    raise
                await self._clock.sleep(RETRY_BACKOFF_MS_MAX)

    async def acquire_lease(self, name: str, holder: str, ttl_ms: int) -> LeaseGrant:
        answer = await self._write("acquire_lease", [self._leases_key], name, holder, ttl_ms)
        held_by, token, expires_at_ms = self._reply(answer)
        return LeaseGrant(held_by.decode(), int(token), int(expires_at_ms))

    async def release_lease(self, name: str, holder: str) -> None:
        self._reply(await self._write("release_lease", [self._leases_key], name, holder))

    # Calls.

    def _partition_keys(self, partition: PartitionId) -> tuple[str, ...]:
        tag = f"{{{self._namespace}:{partition.topic_id}:{partition.index}}}:"
        return tuple(tag + name for name in _PARTITION_KEYS)

    def _function(self, name: str, keys: Sequence[str], args: Sequence[Word]) -> Command:
        return ("FCALL", f"{self._library}_{name}", len(keys), *keys, *args)

    def _replica_waits(self) -> _Commands:
        """What closes each pipeline of writes where replicas must have fsynced them.

        A replica reports what it has fsynced when it is asked, and when the question comes right
        behind the writes it has not fsynced them yet: WAITAOF alone would then wait for the report
        that a replica makes once a second (seen with Valkey 9.1). WAIT asks first, and ends when
        the replica has the writes and, under ``appendfsync always``, has fsynced them.
        """
        replicas = self._requirements.replicas_required
        if not replicas:
            return []
        return [("WAIT", replicas, REPLICA_WAIT_MS), ("WAITAOF", 1, replicas, REPLICA_WAIT_MS)]

    async def _write(self, name: str, keys: Sequence[str], *args: Word) -> Answer:
        return await self._call(self._writers, lambda _: [self._function(name, keys, args)])

    async def _command(self, lanes: Sequence[Lane], *words: Word) -> Any:
        return self._reply(await self._call(lanes, lambda _: [words]))

    async def _read(self, name: str, keys: Sequence[str], *args: Word) -> Answer:
        return await self._call(self._readers, lambda _: [self._function(name, keys, args)])

    async def _call(
        self,
        lanes: Sequence[Lane],
        build: Callable[[ServerFacts], Sequence[Command]],
        size_bytes: int = 0,
    ) -> Answer:
        """Run commands on the lane with the least to do; try again while that may help."""
        deadline_ms = self._clock.monotonic_ms() + RETRY_MS_MAX
        backoff_ms = RETRY_BACKOFF_MS_MIN
        cause: Exception | None = None
        while True:
            if not lanes:
                raise refusals.store_unavailable(f"the store at {self._server} is not open")
            lane = min(lanes, key=lambda one: one.load_bytes)
            left_ms = max(1, deadline_ms - self._clock.monotonic_ms())
            error: Exception
            try:
                async with asyncio.timeout(left_ms / 1000):
                    answer = await lane.call(build, size_bytes)
                found = _first_error(answer.replies) or self._shortfall(answer)
                if found is None or not is_passing(found):
                    return answer
                error = found
            except BrokenLaneError as broken:
                error = broken.cause
            except TimeoutError as late:
                # The last try has little time; what an earlier one met tells more.
                error = cause or late
            cause = error
            if self._is_final(error, deadline_ms, backoff_ms):
                raise store_error(self._server, error) from error
            await self._clock.sleep(backoff_ms)
            backoff_ms = min(2 * backoff_ms, RETRY_BACKOFF_MS_MAX)

    def _is_final(self, error: Exception, deadline_ms: int, backoff_ms: int) -> bool:
        """Whether another try is pointless: no time is left, or a person must change something."""
        if self._clock.monotonic_ms() + backoff_ms >= deadline_ms:
            return True
        return store_error(self._server, error).code is ErrorCode.STORE_MISCONFIGURED

    def _raise_error(self, answer: Answer) -> None:
        error = _first_error(answer.replies)
        if error is not None:
            raise store_error(self._server, error) from error

    def _shortfall(self, answer: Answer) -> StoreError | None:
        """The error of a write that too few replicas have on their disks."""
        if not answer.closing:
            return None
        failed = _first_error(answer.closing)
        if failed is not None:
            return store_error(self._server, failed)
        _, (local, replicas) = answer.closing
        if local >= 1 and replicas >= self._requirements.replicas_required:
            return None
        return refusals.store_unavailable(
            f"redis {self._server}: {replicas} replicas fsynced the write within "
            f"{2 * REPLICA_WAIT_MS} ms where {self._requirements.replicas_required} must; see "
            "whether they are up and have `appendonly yes` and `appendfsync always`"
        )

    def _reply(self, answer: Answer) -> Any:
        """The reply of the first command, if replicas have what it wrote."""
        self._raise_error(answer)
        shortfall = self._shortfall(answer)
        if shortfall is not None:
            raise shortfall
        return answer.replies[0]

    def _checked(self, answer: Answer, partition: PartitionId, epoch: int, number: int = 0) -> Any:
        """The reply of an owner's call, unless it refuses epoch, number or partition."""
        reply = self._reply(answer)
        if reply[0] == b"dropped":
            raise refusals.dropped(partition)
        if reply[0] == b"stale":
            raise refusals.stale_epoch(partition, epoch, int(reply[1]))
        if reply[0] == b"behind":
            raise refusals.stale_commit(partition, epoch, number, int(reply[1]))
        return reply

    # The server.

    async def _connect(self) -> Link:
        """A new connection to a server that was verified and has the functions."""
        connection = self._connection_class(**self._connection_options)
        session = Session(connection)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            facts = await verify(session, self._server, self._requirements)
            await self._load_library(session)
        except BaseException:
            await session.close()
            raise
        return Link(session, facts)

    async def _load_library(self, session: Session) -> None:
        if await session.run("FUNCTION", "LIST", "LIBRARYNAME", self._library):
            return
        try:
            await session.run("FUNCTION", "LOAD", self._code)
        except exceptions.ResponseError as error:
            if "already exists" not in str(error):
                raise

    def _fragile_flag(self, facts: ServerFacts) -> str:
        return "1" if facts.fragile or self._fragile else "0"

    def _check_room(self, new_bytes: int) -> None:
        if self._limit_bytes is None:
            return
        limit = int(self._limit_bytes * limits.STORE_HIGH_WATER_RATIO)
        if self._used_bytes + new_bytes > limit:
            raise refusals.store_full(
                f"redis {self._server}",
                self._used_bytes,
                limit,
                "shorten retention, or raise maxmemory",
            )

    async def _keep_fresh(self) -> None:
        while True:
            await self._clock.sleep(REFRESH_MS)
            try:
                await self._refresh()
            except StoreError:
                continue  # calls say it; the last reading stays

    async def _refresh(self) -> None:
        """Look at settings, memory use, replicas and clock."""
        before_ms = 0
        connected: ServerFacts | None = None

        def build(facts: ServerFacts) -> _Commands:
            nonlocal before_ms, connected
            connected = facts
            before_ms = self._clock.monotonic_ms()
            return [("TIME",), ("INFO",), SETTINGS_QUESTION]

        answer = await self._call(self._readers, build)
        after_ms = self._clock.monotonic_ms()
        time_reply, info_reply, settings_reply = answer.replies
        self._raise_error(answer._replace(replies=[time_reply, info_reply]))
        seconds, microseconds = time_reply
        if self._clock_ahead_ms is None or after_ms - before_ms <= CLOCK_ROUND_TRIP_MS_MAX:
            server_ms = int(seconds) * 1000 + int(microseconds) // 1000
            self._clock_ahead_ms = server_ms - (before_ms + after_ms) // 2
        info = parse_info(info_reply)
        # As Redis itself counts against maxmemory.
        uncounted = int(info.get("mem_not_counted_for_evict", 0))
        self._used_bytes = int(info["used_memory"]) - uncounted
        self._limit_bytes = int(info.get("maxmemory", 0)) or None
        self._fragile = is_replicated(info)
        self._check_settings(connected, info_reply, settings_reply)

    def _check_settings(
        self, connected: ServerFacts | None, info_reply: object, settings_reply: object
    ) -> None:
        """Let every lane connect anew, with its checks, when the server is not what it was."""
        try:
            found = judge(info_reply, settings_reply, self._server, self._requirements)
        except StoreError as error:
            _log.error("%s", error.message)
        else:
            if connected is not None and found.durability is connected.durability:
                return
            _log.warning("redis %s now promises %s", self._server, found.durability)
        self._breaks.count += 1


def _first_error(replies: Sequence[Any]) -> Exception | None:
    """The first error reply. EXEC answers a list with those of its commands."""
    for reply in replies:
        for one in reply if isinstance(reply, list) else (reply,):
            if isinstance(one, Exception):
                return one
    return None


def _key_value(key: str, held: bytes) -> KeyValue:
    revision, _, value = held.partition(b" ")
    return KeyValue(key, value, int(revision))


def _connection_of_url(url: str) -> tuple[type[AbstractConnection], dict[str, Any]]:
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except ValueError as error:
        raise InvalidArgumentError(f"not a Redis URL: {error}", field="store") from error
    options.pop("max_connections", None)
    connection_class = options.pop("connection_class", Connection)
    assert connection_class in (Connection, SSLConnection), "store_from_url lets no other through"
    # The lanes bound each wait themselves: the library's own timeouts cost a task a command.
    options.update(protocol=2, socket_timeout=None, socket_connect_timeout=None)
    return connection_class, options


def _library() -> tuple[str, str]:
    """Name and code of the function library."""
    code = (files("mom_broker.storage") / "functions.lua").read_text(encoding="utf-8")
    digest = hashlib.sha256(code.encode()).hexdigest()[:8]
    name = f"mom_v{LIBRARY_VERSION}_{digest}"
    return name, code.replace("@LIBRARY@", name)
