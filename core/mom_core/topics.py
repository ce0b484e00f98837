"""Topics, queues and subscriptions as the control plane stores them and as users see them.

**Stored** form: JSON with ``"format": 1``. A new field with a default does not change the format:
a process that does not know the field keeps it in ``unknown`` and writes it back, so that an older
master in a rolling upgrade loses nothing. A change that an older process would misread raises the
number, and a number that is not known is refused.

**Shown** form (REST, CLI): a flat JSON object. Sizes are bytes and durations milliseconds; on input
they may be text such as ``10Gi`` or ``168h`` too. A change is a JSON merge patch (RFC 7396) of the
shown form: an absent member stays, ``null`` returns to the default, and a member that can't change
may be repeated with the value that it has. Creating is the patch of the defaults.

``retention_bytes`` counts for each partition, so a topic may take ``retention_bytes`` times
``partitions`` of the store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from mom_core import limits
from mom_core.delivery.policy import Backoff, Ordering, Policy
from mom_core.errors import ConflictError, ErrorCode, InvalidArgumentError, StoreError
from mom_core.names import check_name, check_topic_id
from mom_core.quantities import (
    format_bytes,
    parse_bytes,
    parse_duration_ms,
    parse_rate_per_s,
)
from mom_core.suggestions import known_instead

FORMAT: Final = 1
SECRET_BYTES: Final = 32
FAIR_BY_KEY: Final = "key"
_HEADER_PREFIX: Final = "header:"


class TopicKind(StrEnum):
    """What a topic is to its users."""

    TOPIC = "topic"
    QUEUE = "queue"


class SubscriptionMode(StrEnum):
    """How a subscription reads its topic."""

    STREAM = "stream"
    """By offsets; members share the partitions."""
    QUEUE = "queue"
    """By leases of single messages."""


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How messages are leased, of a queue or of a queue-mode subscription."""

    lease_ms: int = limits.LEASE_MS_DEFAULT
    """The lease that a receive gets unless it asks for another."""
    ordering: Ordering = Ordering.PRIORITY
    """Which ready message comes next."""
    dead_letter: str = ""
    """The topic or queue for messages that can't be handled; empty: they come again for ever."""
    max_deliveries: int = limits.MAX_DELIVERIES_DEFAULT
    """After so many failed deliveries a message goes to the dead letters, if there are any."""
    dead_letter_expired: bool = False
    """Whether a message whose time is over goes there too; else it is dropped."""
    retry_backoff_ms: int = 0
    """The wait after the first failed delivery. 0: none."""
    retry_backoff_multiplier: float = 1.0
    """By which the wait grows with each further one."""
    retry_backoff_max_ms: int = 0
    """The longest wait. 0: no bound but the multiplier's."""
    message_ttl_ms: int = 0
    """How long after its arrival a message expires. 0: never by that."""
    paused: bool = False
    """Whether nothing is delivered for now; what comes in is kept, and leases can be settled."""
    rate_per_s: float = 0.0
    """How many messages a second are leased at the most, over all workers. 0: no limit."""
    fair_by: str = FAIR_BY_KEY
    """With fair ordering, what has a turn: ``key``, or ``header:NAME``, the value of a header."""

    @property
    def policy(self) -> Policy:
        """What decides over deliveries."""
        return Policy(
            ordering=self.ordering,
            backoff=Backoff(
                self.retry_backoff_ms, self.retry_backoff_multiplier, self.retry_backoff_max_ms
            ),
            max_deliveries=self.max_deliveries if self.dead_letter else 0,
            expired_are_dead=self.dead_letter_expired,
            ttl_ms=self.message_ttl_ms,
            paused=self.paused,
            groups_by_header=bool(self.fair_header),
        )

    @property
    def fair_header(self) -> str:
        """The header whose values have turns; empty: it is not by a header."""
        return self.fair_by.removeprefix(_HEADER_PREFIX) if self.fair_by != FAIR_BY_KEY else ""


class TopicConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One topic or queue."""

    name: str
    kind: TopicKind
    topic_id: str
    """32 lower-case hex digits. A topic made again under an old name has another one."""
    partitions: int
    retention_ms: int
    """How long messages are kept. 0: no limit by time. A topic that retains until acked has it only
    for as long as it has no subscription."""
    retention_bytes: int
    """How many bytes of messages each partition keeps."""
    message_bytes_max: int
    dedup_window_ms: int = limits.DEDUP_WINDOW_MS_DEFAULT
    """How long a second message with the same dedup_id is not stored. 0: it is stored."""
    created_at_ms: int
    queue: QueueSettings | None = None
    """Set for a queue, None for a topic."""
    messages_max: int = 0
    """A queue refuses new messages while it holds so many, over all partitions. 0: no bound."""
    retain_until_acked: bool = False
    """Whether a topic keeps a message, whatever its age, until all of its subscriptions have
    handled it, and then removes it; new ones are refused at ``retention_bytes``."""
    unknown: dict[str, Any] = {}
    """Fields that a newer version stored, kept as they are."""

    @property
    def budget_bytes(self) -> int:
        """What the topic may take of the store."""
        return self.retention_bytes * self.partitions

    @property
    def refuses_when_full(self) -> bool:
        """Whether ``retention_bytes`` is a bound on what comes in, and not on what is kept."""
        return self.kind is TopicKind.QUEUE or self.retain_until_acked

    @property
    def partition_messages_max(self) -> int:
        """Each partition's share of ``messages_max``, rounded up; 0: no bound."""
        return -(-self.messages_max // self.partitions)


class SubscriptionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One durable, named reader of a topic."""

    name: str
    topic: str
    mode: SubscriptionMode
    start: str
    """Where it begins: see :func:`parse_start`."""
    session_ms: int
    """Stream mode: how long a member may stay silent before its partitions go to others."""
    queue: QueueSettings
    """Queue mode: its leases."""
    created_at_ms: int
    secret: bytes
    """Signs receipts, so that those of another subscription, or of none, are refused."""
    start_offsets: tuple[int, ...] = ()
    """Where it begins in each partition: what ``start`` meant when it was made. Partitions that
    were added later are read from their beginning."""
    unknown: dict[str, Any] = {}

    def __repr__(self) -> str:
        """Without the secret, so that no log shows it."""
        return f"SubscriptionConfig({self.topic}/{self.name}, {self.mode}, start={self.start!r})"


class StartKind(StrEnum):
    """What a start position refers to."""

    EARLIEST = "earliest"
    LATEST = "latest"
    OFFSET = "offset"
    TIMESTAMP = "timestamp"


class Start(NamedTuple):
    """Where a subscription begins in each partition."""

    kind: StartKind
    value: int = 0
    """The offset, or milliseconds since the Unix epoch."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.kind in _VALUED else self.kind.value


_VALUED: Final = (StartKind.OFFSET, StartKind.TIMESTAMP)
_START: Final = re.compile(r"(offset|timestamp):([0-9]{1,16})")


def parse_start(text: object, field: str = "start") -> Start:
    """Read ``earliest``, ``latest``, ``offset:42``, ``timestamp:1700000000000`` (milliseconds since
    the Unix epoch) or ``timestamp:2026-01-31T08:00:00Z`` (RFC 3339).

    Raises InvalidArgumentError when it is none of these.
    """
    if isinstance(text, str):
        if text in (StartKind.EARLIEST, StartKind.LATEST):
            return Start(StartKind(text))
        match = _START.fullmatch(text)
        if match and int(match[2]) <= limits.OFFSET_MAX:
            return Start(StartKind(match[1]), int(match[2]))
        if text.startswith("timestamp:"):
            moment = _rfc3339_ms(text.removeprefix("timestamp:"))
            if moment is not None:
                return Start(StartKind.TIMESTAMP, moment)
            if lacks_zone(text.removeprefix("timestamp:")):
                raise InvalidArgumentError(f"{field} {_shown(text)} {ZONE_HINT}", field=field)
    raise InvalidArgumentError(
        f"{field} {_shown(text)} is not a start position: write earliest, latest, offset:N, "
        "timestamp:MILLISECONDS or timestamp:2026-01-31T08:00:00Z",
        field=field,
    )


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


ZONE_HINT: Final = "has no time zone: add Z for UTC, or an offset such as +02:00"


def lacks_zone(text: str) -> bool:
    """Whether a text is a time but for its zone."""
    try:
        return len(text) > len("2026-01-31") and datetime.fromisoformat(text).tzinfo is None
    except ValueError:
        return False


def _rfc3339_ms(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None or moment < _EPOCH:
        return None
    elapsed = moment - _EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1000 + elapsed.microseconds // 1000


# Checks: each returns the value or raises InvalidArgumentError with the field and what is allowed.

Check = Callable[[object, str], Any]


def _number(lowest: int, highest: int, *, zero: str = "") -> Check:
    def check(value: object, field: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidArgumentError(
                f"{field} must be a whole number from {lowest} to {highest}, not {_shown(value)}",
                field=field,
            )
        if not (lowest <= value <= highest or (zero and value == 0)):
            also = f", or 0 for {zero}" if zero else ""
            raise InvalidArgumentError(
                f"{field} is {value}; {lowest} to {highest}{also} is allowed", field=field
            )
        return value

    return check


def _duration(lowest: int, highest: int, *, zero: str = "") -> Check:
    number = _number(lowest, highest, zero=zero)
    return lambda value, field: number(parse_duration_ms(value, field), field)


def _size(lowest: int, highest: int) -> Check:
    number = _number(lowest, highest)
    return lambda value, field: number(parse_bytes(value, field), field)


class _Setting(NamedTuple):
    """A member of the shown form that a user may set."""

    default: Any
    check: Check
    immutable: bool = False


def _multiplier(value: object, field: str) -> float:
    lowest, highest = 1, limits.RETRY_BACKOFF_MULTIPLIER_MAX
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgumentError(
            f"{field} must be a number from {lowest} to {highest}, not {_shown(value)}",
            field=field,
        )
    if not lowest <= value <= highest:
        raise InvalidArgumentError(
            f"{field} is {value}; {lowest} to {highest} is allowed", field=field
        )
    return float(value)


def _rate(value: object, field: str) -> float:
    rate_per_s = parse_rate_per_s(value, field)
    lowest, highest = limits.RATE_PER_S_MIN, limits.RATE_PER_S_MAX
    if rate_per_s and not lowest <= rate_per_s <= highest:
        raise InvalidArgumentError(
            f"{field} is {_shown(value)}; 1/h to {highest:.0f}/s, or 0 for no limit, is allowed",
            field=field,
        )
    return rate_per_s


def _fair_by(value: object, field: str) -> str:
    if value == FAIR_BY_KEY:
        return FAIR_BY_KEY
    name = value.removeprefix(_HEADER_PREFIX) if isinstance(value, str) else ""
    if name == value or not 0 < len(name.encode()) <= limits.HEADER_NAME_BYTES_MAX:
        raise InvalidArgumentError(
            f"{field} is {_shown(value)}; key, or header: and the name of a header of 1 to "
            f"{limits.HEADER_NAME_BYTES_MAX} bytes, such as header:tenant, is allowed",
            field=field,
        )
    return f"{_HEADER_PREFIX}{name}"


def _flag(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgumentError(
            f"{field} must be true or false, not {_shown(value)}", field=field
        )
    return value


def _ordering(value: object, field: str) -> Ordering:
    if isinstance(value, str) and value in tuple(Ordering):
        return Ordering(value)
    raise InvalidArgumentError(
        f"{field} is {_shown(value)}; {', '.join(Ordering)} are allowed", field=field
    )


def _other_name(value: object, field: str) -> str:
    if value == "":
        return ""
    if not isinstance(value, str):
        raise InvalidArgumentError(
            f"{field} must be the name of a topic or queue, not {_shown(value)}", field=field
        )
    return check_name(value, field)


_QUEUE_DEFAULTS: Final = QueueSettings()
_WAIT: Final = _duration(0, limits.RETRY_BACKOFF_MS_MAX)
_QUEUE_CHECKS: Final[dict[str, Check]] = {
    "lease_ms": _duration(limits.LEASE_MS_MIN, limits.LEASE_MS_MAX),
    "ordering": _ordering,
    "dead_letter": _other_name,
    "max_deliveries": _number(1, limits.MAX_DELIVERIES_MAX),
    "dead_letter_expired": _flag,
    "retry_backoff_ms": _WAIT,
    "retry_backoff_multiplier": _multiplier,
    "retry_backoff_max_ms": _WAIT,
    "message_ttl_ms": _duration(
        limits.MESSAGE_TTL_MS_MIN, limits.RETENTION_MS_MAX, zero="no expiry"
    ),
    "paused": _flag,
    "rate_per_s": _rate,
    "fair_by": _fair_by,
}
# Messages under way have their order by them.
_QUEUE_IMMUTABLE: Final = ("ordering", "fair_by")
_QUEUE_SETTINGS: Final = {
    name: _Setting(getattr(_QUEUE_DEFAULTS, name), check, immutable=name in _QUEUE_IMMUTABLE)
    for name, check in _QUEUE_CHECKS.items()
}


def _topic_settings(retention_ms: int) -> dict[str, _Setting]:
    return {
        "partitions": _Setting(limits.PARTITIONS_DEFAULT, _number(1, limits.PARTITIONS_MAX)),
        "retention_ms": _Setting(
            retention_ms,
            _duration(limits.RETENTION_MS_MIN, limits.RETENTION_MS_MAX, zero="no limit by time"),
        ),
        "retention_bytes": _Setting(
            limits.RETENTION_BYTES_DEFAULT,
            _size(limits.RETENTION_BYTES_MIN, limits.RETENTION_BYTES_MAX),
        ),
        "message_bytes_max": _Setting(
            limits.MESSAGE_BYTES_MAX_DEFAULT,
            _size(limits.MESSAGE_BYTES_MAX_MIN, limits.MESSAGE_BYTES_MAX_HARD),
        ),
        "dedup_window_ms": _Setting(
            limits.DEDUP_WINDOW_MS_DEFAULT,
            _duration(limits.DEDUP_WINDOW_MS_MIN, limits.DEDUP_WINDOW_MS_MAX, zero="no window"),
        ),
    }


# A queue keeps a message until it is acknowledged, so time alone removes none unless asked for.
_TOPIC_SETTINGS: Final = {
    TopicKind.TOPIC: _topic_settings(limits.RETENTION_MS_DEFAULT)
    | {"retain_until_acked": _Setting(False, _flag)},
    TopicKind.QUEUE: _topic_settings(0)
    | {"messages_max": _Setting(0, _number(1, limits.QUEUE_MESSAGES_MAX_MAX, zero="no bound"))}
    | _QUEUE_SETTINGS,
}
_SUBSCRIPTION_SETTINGS: Final = {
    SubscriptionMode.STREAM: {
        "start": _Setting("earliest", lambda value, field: str(parse_start(value, field)), True),
        "session_ms": _Setting(
            limits.SESSION_MS_DEFAULT, _duration(limits.SESSION_MS_MIN, limits.SESSION_MS_MAX)
        ),
    },
    SubscriptionMode.QUEUE: {
        "start": _Setting("earliest", lambda value, field: str(parse_start(value, field)), True),
        **_QUEUE_SETTINGS,
    },
}


# Making and changing.


def new_topic(
    name: str,
    kind: TopicKind,
    wanted: Mapping[str, object],
    *,
    topic_id: str,
    created_at_ms: int,
) -> TopicConfig:
    """A topic with ``wanted`` (the shown form) over the defaults.

    Raises InvalidArgumentError that names the field and what is allowed.
    """
    check_name(name)
    check_topic_id(topic_id)
    fixed = {"name": name, "kind": kind.value}
    values = _patched({}, wanted, _TOPIC_SETTINGS[kind], fixed, what=kind.value)
    return _topic_of(
        values, name=name, kind=kind, topic_id=topic_id, created_at_ms=created_at_ms, unknown={}
    )


def patch_topic(existing: TopicConfig, patch: object) -> TopicConfig:
    """Apply a JSON merge patch of the shown form.

    Raises InvalidArgumentError when a value is not allowed, a field is unknown or can't change, or
    partitions would become fewer.
    """
    shown = show_topic(existing)
    settings = _TOPIC_SETTINGS[existing.kind]
    fixed = {field: value for field, value in shown.items() if field not in settings}
    values = _patched(shown, patch, settings, fixed, what=existing.kind.value)
    if values["partitions"] < existing.partitions:
        raise InvalidArgumentError(
            f"partitions is {values['partitions']}; {existing.name!r} has {existing.partitions} "
            "and partitions can't become fewer, since their messages would be lost. Make another "
            "topic instead",
            field="partitions",
        )
    return _topic_of(
        values,
        name=existing.name,
        kind=existing.kind,
        topic_id=existing.topic_id,
        created_at_ms=existing.created_at_ms,
        unknown=existing.unknown,
        standing=existing.queue,
    )


def _topic_of(
    values: Mapping[str, Any],
    *,
    name: str,
    kind: TopicKind,
    topic_id: str,
    created_at_ms: int,
    unknown: dict[str, Any],
    standing: QueueSettings | None = None,
) -> TopicConfig:
    return TopicConfig(
        name=name,
        kind=kind,
        topic_id=topic_id,
        partitions=values["partitions"],
        retention_ms=values["retention_ms"],
        retention_bytes=values["retention_bytes"],
        message_bytes_max=values["message_bytes_max"],
        dedup_window_ms=values["dedup_window_ms"],
        created_at_ms=created_at_ms,
        queue=_queue_of(values, name, standing) if kind is TopicKind.QUEUE else None,
        messages_max=values.get("messages_max", 0),
        retain_until_acked=values.get("retain_until_acked", False),
        unknown=unknown,
    )


def _queue_of(
    values: Mapping[str, Any], name: str, standing: QueueSettings | None = None
) -> QueueSettings:
    """The settings of a queue, if they go together; those that stand are not judged again.

    Raises InvalidArgumentError.
    """
    given = {field: values[field] for field in QueueSettings.__struct_fields__ if field in values}
    queue = msgspec.convert(given, QueueSettings)
    if queue != standing:
        _check_dead_letters(queue, name)
        _check_waits(queue)
        _check_turns(queue)
    return queue


def _check_dead_letters(queue: QueueSettings, name: str) -> None:
    if queue.dead_letter == name:
        raise InvalidArgumentError(
            f"dead_letter of {name!r} is {name!r} itself, so a message that can't be handled "
            "would never leave it; name another one",
            field="dead_letter",
        )
    if queue.dead_letter:
        return
    if queue.dead_letter_expired:
        raise InvalidArgumentError(
            "dead_letter_expired is true, but there is no dead_letter for the expired to go to; "
            "name one",
            field="dead_letter_expired",
        )
    # The default can't be told from a setting that was left out.
    if queue.max_deliveries != limits.MAX_DELIVERIES_DEFAULT:
        raise InvalidArgumentError(
            f"max_deliveries is {queue.max_deliveries}, but there is no dead_letter for a message "
            "to go to after them, so it would come again for ever; name one, or leave "
            "max_deliveries out",
            field="max_deliveries",
        )


def _check_waits(queue: QueueSettings) -> None:
    longest_ms, first_ms = queue.retry_backoff_max_ms, queue.retry_backoff_ms
    if longest_ms and longest_ms < first_ms:
        raise InvalidArgumentError(
            f"retry_backoff_max_ms is {longest_ms}, below retry_backoff_ms, which "
            f"is {first_ms}; the longest wait can't be shorter than the first",
            field="retry_backoff_max_ms",
        )
    if not first_ms:
        _check_no_growth(queue)
    for field in ("retry_backoff_ms", "retry_backoff_max_ms"):
        wait_ms = getattr(queue, field)
        if wait_ms and 0 < queue.message_ttl_ms <= wait_ms:
            raise InvalidArgumentError(
                f"{field} is {wait_ms}, but messages expire after {queue.message_ttl_ms} "
                "(message_ttl_ms), so one that waited as long would never come again; let it be "
                "shorter, or messages live longer",
                field=field,
            )


def _check_no_growth(queue: QueueSettings) -> None:
    for field in ("retry_backoff_multiplier", "retry_backoff_max_ms"):
        if getattr(queue, field) != getattr(_QUEUE_DEFAULTS, field):
            raise InvalidArgumentError(
                f"{field} is {getattr(queue, field)}, but retry_backoff_ms is 0, so there is no "
                f"wait that could grow; set retry_backoff_ms, or leave {field} out",
                field=field,
            )


def _check_turns(queue: QueueSettings) -> None:
    if queue.fair_header and queue.ordering is not Ordering.FAIR:
        raise InvalidArgumentError(
            f"fair_by is {queue.fair_by!r}, but ordering is {queue.ordering.value}, which has no "
            "turns to share by it; set ordering fair",
            field="fair_by",
        )


def fair_header(subscriptions: Iterable[SubscriptionConfig]) -> str:
    """The header whose values take turns in a subscription of a topic; empty: there is none.

    Producers fill the column ``group`` of their batches by it, so a topic has one at the most.
    """
    return next((one.queue.fair_header for one in subscriptions if one.queue.fair_header), "")


def refuse_second_fair_header(
    standing: Iterable[SubscriptionConfig], new: SubscriptionConfig
) -> None:
    """Raise ConflictError when subscriptions of a topic would take turns by different headers."""
    wanted, taken = new.queue.fair_header, fair_header(standing)
    if wanted and taken and wanted != taken:
        raise ConflictError(
            f"fair_by of {new.name!r} is header {wanted!r}, but a subscription of {new.topic!r} "
            f"shares by header {taken!r} already, and producers note one header of each message "
            "for it. Share by the same one, or by the key, or make a topic of its own",
            field="fair_by",
        )


def new_subscription(
    name: str,
    topic: str,
    wanted: Mapping[str, object],
    *,
    created_at_ms: int,
    secret: bytes,
) -> SubscriptionConfig:
    """A subscription with ``wanted`` (the shown form, ``mode`` included) over the defaults.

    ``mode`` is stream unless ``wanted`` says queue. ``secret`` is 32 random bytes. Raises
    InvalidArgumentError that names the field and what is allowed.
    """
    check_name(name)
    check_name(topic, "topic")
    assert len(secret) == SECRET_BYTES, "a subscription's secret has 32 bytes"
    mode = _mode(wanted.get("mode"))
    fixed = {"name": name, "topic": topic, "mode": mode.value}
    values = _patched(
        {},
        {field: value for field, value in wanted.items() if field != "mode"},
        _SUBSCRIPTION_SETTINGS[mode],
        fixed,
        what=f"{mode}-mode subscription",
    )
    return SubscriptionConfig(
        name=name,
        topic=topic,
        mode=mode,
        start=values["start"],
        session_ms=values.get("session_ms", limits.SESSION_MS_DEFAULT),
        queue=_queue_of(values, topic),
        created_at_ms=created_at_ms,
        secret=secret,
    )


def _mode(value: object) -> SubscriptionMode:
    if value is None:
        return SubscriptionMode.STREAM
    if isinstance(value, str) and value in tuple(SubscriptionMode):
        return SubscriptionMode(value)
    raise InvalidArgumentError(f"mode is {_shown(value)}; stream or queue is allowed", field="mode")


def queue_subscription(queue: TopicConfig, secret: bytes) -> SubscriptionConfig:
    """The one subscription of a queue, which has the queue's name and settings."""
    assert queue.queue is not None, "a topic is no queue"
    return SubscriptionConfig(
        name=queue.name,
        topic=queue.name,
        mode=SubscriptionMode.QUEUE,
        start=StartKind.EARLIEST.value,
        session_ms=limits.SESSION_MS_DEFAULT,
        queue=queue.queue,
        created_at_ms=queue.created_at_ms,
        secret=secret,
    )


def patch_subscription(existing: SubscriptionConfig, patch: object) -> SubscriptionConfig:
    """Apply a JSON merge patch of the shown form.

    Raises InvalidArgumentError when a value is not allowed or a field is unknown or can't change.
    """
    shown = show_subscription(existing)
    settings = _SUBSCRIPTION_SETTINGS[existing.mode]
    fixed = {field: value for field, value in shown.items() if field not in settings}
    values = _patched(shown, patch, settings, fixed, what=f"{existing.mode}-mode subscription")
    return msgspec.structs.replace(
        existing,
        session_ms=values.get("session_ms", existing.session_ms),
        queue=_queue_of(values, existing.topic, existing.queue),
    )


def _patched(
    current: Mapping[str, Any],
    patch: object,
    settings: Mapping[str, _Setting],
    fixed: Mapping[str, object],
    *,
    what: str,
) -> dict[str, Any]:
    """The settings after the patch; ``current`` is empty for a new thing."""
    if not isinstance(patch, Mapping):
        raise InvalidArgumentError(
            f"the body must be a JSON object with settings of a {what}, not {_shown(patch)}",
            field="body",
        )
    values = {field: current.get(field, setting.default) for field, setting in settings.items()}
    for field, value in patch.items():
        if field in settings:
            values[field] = _setting_value(field, value, settings[field], current)
        elif field not in fixed:
            raise InvalidArgumentError(
                f"{_shown(field)} is no setting of a {what}{known_instead(str(field), settings)}",
                field=str(field),
            )
        elif value != fixed[field]:
            raise _immutable(field, fixed[field])
    return values


def _setting_value(
    field: str, value: object, setting: _Setting, current: Mapping[str, object]
) -> object:
    checked = setting.default if value is None else setting.check(value, field)
    if setting.immutable and current and checked != current[field]:
        raise _immutable(field, current[field])
    return checked


def _immutable(field: str, value: object) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{field} can't change; it is {_shown(value)}. Leave it out, or make another one",
        field=field,
    )


# Showing and comparing.


def show_topic(config: TopicConfig) -> dict[str, Any]:
    """The shown form of a topic or queue."""
    shown: dict[str, Any] = {
        "name": config.name,
        "kind": config.kind.value,
        "topic_id": config.topic_id,
        "partitions": config.partitions,
        "retention_ms": config.retention_ms,
        "retention_bytes": config.retention_bytes,
        "message_bytes_max": config.message_bytes_max,
        "dedup_window_ms": config.dedup_window_ms,
        "created_at_ms": config.created_at_ms,
    }
    if config.queue is not None:
        return shown | {"messages_max": config.messages_max} | show_queue(config.queue)
    return shown | {"retain_until_acked": config.retain_until_acked}


def show_queue(queue: QueueSettings) -> dict[str, Any]:
    """The shown form of a queue's own settings."""
    return msgspec.structs.asdict(queue) | {"ordering": queue.ordering.value}


def show_subscription(config: SubscriptionConfig) -> dict[str, Any]:
    """The shown form of a subscription, without its secret."""
    shown: dict[str, Any] = {
        "name": config.name,
        "topic": config.topic,
        "mode": config.mode.value,
        "start": config.start,
        "created_at_ms": config.created_at_ms,
    }
    if config.mode is SubscriptionMode.QUEUE:
        return shown | show_queue(config.queue)
    return shown | {"session_ms": config.session_ms}


class Difference(NamedTuple):
    """A field in which what stands differs from what is wanted. None: it has no such field."""

    existing: Any
    wanted: Any


# Given by MOM and not by the user, so two of them never make a difference.
_GIVEN: Final = frozenset({"topic_id", "created_at_ms"})

_Config = TypeVar("_Config", TopicConfig, SubscriptionConfig)


def diff(
    existing: _Config, wanted: _Config, fields: Collection[str] | None = None
) -> dict[str, Difference]:
    """The fields of the shown form that differ; empty when the same already stands.

    With ``fields``, only these are compared: those that a caller named, so that what it left out
    does not count as a wish for the default. ``kind`` and ``mode`` are compared always.
    """
    old, new = _show(existing), _show(wanted)
    names = [name for name in old | new if name not in _GIVEN]
    if fields is not None:
        names = [name for name in names if name in fields or name in ("kind", "mode")]
    return {
        name: Difference(old.get(name), new.get(name))
        for name in names
        if old.get(name) != new.get(name)
    }


def refuse_differences(existing: _Config, wanted: _Config, fields: Collection[str]) -> None:
    """Raise ConflictError, with :func:`diff` in its details, unless what stands is wanted."""
    differences = diff(existing, wanted, fields)
    if not differences:
        return
    kind = existing.kind.value if isinstance(existing, TopicConfig) else "subscription"
    shown = "; ".join(
        f"{field} is {one.existing!r}, not {one.wanted!r}" for field, one in differences.items()
    )
    document = {field: one._asdict() for field, one in differences.items()}
    raise ConflictError(
        f"{kind} {existing.name!r} exists with other settings: {shown}. Alter or delete it, or "
        "choose another name",
        field=next(iter(differences)),
        details={"differences": msgspec.json.encode(document).decode()},
    )


def _show(config: TopicConfig | SubscriptionConfig) -> dict[str, Any]:
    return show_topic(config) if isinstance(config, TopicConfig) else show_subscription(config)


# The byte budget.


def check_budget(
    existing: Iterable[TopicConfig], new: TopicConfig, limit_bytes: int | None
) -> None:
    """Refuse a topic, or a change of one, that could fill the store past its high-water mark.

    ``limit_bytes`` is the store's hard limit; None, where only the disk limits it, allows all. A
    change that does not raise a topic's budget is always allowed. Raises InvalidArgumentError that
    names the sum, the limit and what to do.
    """
    if limit_bytes is None:
        return
    others_bytes = 0
    before_bytes = 0
    for topic in existing:
        if topic.name == new.name:
            before_bytes = topic.budget_bytes
        else:
            others_bytes += topic.budget_bytes
    allowed_bytes = int(limit_bytes * limits.STORE_HIGH_WATER_RATIO)
    sum_bytes = others_bytes + new.budget_bytes
    if sum_bytes <= allowed_bytes or new.budget_bytes <= before_bytes:
        return
    left_bytes = max(0, allowed_bytes - others_bytes) // new.partitions
    raise InvalidArgumentError(
        f"{new.name!r} with {new.partitions} partitions of {format_bytes(new.retention_bytes)} "
        f"each would bring all topics together to {sum_bytes} bytes; the store holds {limit_bytes} "
        f"and {allowed_bytes} of it may be promised. Choose retention_bytes of at most "
        f"{left_bytes}, lower it on other topics, delete topics, or give the store more memory",
        field="retention_bytes",
        details={
            "sum_bytes": str(sum_bytes),
            "allowed_bytes": str(allowed_bytes),
            "limit_bytes": str(limit_bytes),
            "retention_bytes_max": str(left_bytes),
        },
    )


# The stored form.


def encode_topic(config: TopicConfig) -> bytes:
    """The stored form of a topic."""
    return _encode(config)


def decode_topic(data: bytes) -> TopicConfig:
    """Read the stored form. Raises StoreError when a newer version wrote it, or it is damaged."""
    return _decode(data, TopicConfig, "topic")


def encode_subscription(config: SubscriptionConfig) -> bytes:
    """The stored form of a subscription."""
    return _encode(config)


def decode_subscription(data: bytes) -> SubscriptionConfig:
    """Read the stored form. Raises StoreError when a newer version wrote it, or it is damaged."""
    return _decode(data, SubscriptionConfig, "subscription")


def _encode(config: TopicConfig | SubscriptionConfig) -> bytes:
    document = {"format": FORMAT} | config.unknown | msgspec.structs.asdict(config)
    # Flat, so that a queue setting of a newer version is kept by ``unknown`` as well.
    queue = document.pop("queue")
    if queue is not None:
        document |= msgspec.structs.asdict(queue)
    del document["unknown"]
    return msgspec.json.encode(document)


def _decode(data: bytes, kind: type[_Config], what: str) -> _Config:
    try:
        document = msgspec.json.decode(data, type=dict[str, Any])
        stored_format = document.pop("format", None)
        if stored_format != FORMAT:
            raise StoreError(
                f"a stored {what} has format {stored_format!r}; this version reads {FORMAT}. Start "
                "the version of MOM that wrote it, or a newer one",
                code=ErrorCode.STORE_MISCONFIGURED,
            )
        queue = {
            field: document.pop(field)
            for field in QueueSettings.__struct_fields__
            if field in document
        }
        unknown = {k: v for k, v in document.items() if k not in kind.__struct_fields__}
        document |= {"queue": queue or None, "unknown": unknown}
        return msgspec.convert(document, kind)
    except msgspec.MsgspecError as error:
        raise StoreError(
            f"a stored {what} is damaged: {error}", code=ErrorCode.STORE_MISCONFIGURED
        ) from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 64 else f"{text[:61]}..."
