import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mom_core import limits
from mom_core.errors import ErrorCode, InvalidArgumentError, StoreError
from mom_core.topics import (
    Start,
    StartKind,
    SubscriptionConfig,
    SubscriptionMode,
    TopicConfig,
    TopicKind,
    check_budget,
    decode_subscription,
    decode_topic,
    diff,
    encode_subscription,
    encode_topic,
    new_subscription,
    new_topic,
    parse_start,
    patch_subscription,
    patch_topic,
    queue_subscription,
    show_subscription,
    show_topic,
)

TOPIC_ID = "0123456789abcdef" * 2
GIB = limits.GIB


def topic(kind: TopicKind = TopicKind.TOPIC, name: str = "orders", **wanted: object) -> TopicConfig:
    return new_topic(name, kind, wanted, topic_id=TOPIC_ID, created_at_ms=1_700_000_000_000)


def subscription(**wanted: object) -> SubscriptionConfig:
    return new_subscription("billing", "orders", wanted, created_at_ms=5, secret=b"s" * 32)


topics = st.builds(
    topic,
    st.sampled_from(TopicKind),
    partitions=st.integers(1, limits.PARTITIONS_MAX),
    retention_ms=st.just(0) | st.integers(limits.RETENTION_MS_MIN, limits.RETENTION_MS_MAX),
    retention_bytes=st.integers(limits.RETENTION_BYTES_MIN, limits.RETENTION_BYTES_MAX),
)


def test_defaults() -> None:
    made = topic()
    assert (made.partitions, made.retention_ms) == (1, limits.RETENTION_MS_DEFAULT)
    assert made.queue is None
    queue = topic(TopicKind.QUEUE)
    assert queue.retention_ms == 0
    assert queue.queue is not None
    assert queue.queue.lease_ms == limits.LEASE_MS_DEFAULT


def test_text_quantities() -> None:
    made = topic(TopicKind.QUEUE, retention_ms="168h", retention_bytes="10Gi", lease_ms="45s")
    assert (made.retention_ms, made.retention_bytes) == (604_800_000, 10 * GIB)
    assert made.queue is not None
    assert made.queue.lease_ms == 45_000


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("partitions", 0, "1 to 1024"),
        ("partitions", 1025, "1 to 1024"),
        ("partitions", "3", "whole number"),
        ("partitions", True, "whole number"),
        ("partitions", 1.5, "whole number"),
        ("retention_ms", 1, "or 0 for no limit"),
        ("retention_ms", -1, "or 0 for no limit"),
        ("retention_ms", "soon", "not a duration"),
        ("retention_bytes", 5, "1048576 to"),
        ("message_bytes_max", 1 << 40, "8388608"),
        ("lease_ms", 1000, "no setting of a topic"),
        ("colour", "red", "no setting of a topic"),
        ("name", "other", "can't change"),
        ("kind", "queue", "can't change"),
    ],
)
def test_what_is_not_allowed_is_named(field: str, value: object, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        new_topic("orders", TopicKind.TOPIC, {field: value}, topic_id=TOPIC_ID, created_at_ms=0)
    assert caught.value.field == field
    assert field in caught.value.message


@pytest.mark.parametrize("body", [None, [], "x", 5])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidArgumentError, match="must be a JSON object"):
        patch_topic(topic(), body)


@given(topics)
def test_the_stored_form_reads_back(made: TopicConfig) -> None:
    assert decode_topic(encode_topic(made)) == made


@given(topics)
def test_repeating_the_shown_form_changes_nothing(made: TopicConfig) -> None:
    assert patch_topic(made, show_topic(made)) == made
    assert patch_topic(made, {}) == made


@given(topics, topics)
def test_a_patch_of_all_differences_makes_the_wanted_topic(
    existing: TopicConfig, wanted: TopicConfig
) -> None:
    differences = diff(existing, wanted)
    assert (not differences) == (show_topic(existing) == show_topic(wanted))
    if existing.kind is wanted.kind and existing.partitions <= wanted.partitions:
        patch = {name: difference.wanted for name, difference in differences.items()}
        assert patch_topic(existing, patch) == wanted
    elif existing.kind is not wanted.kind:
        assert "kind" in differences


def test_a_patch_changes_only_what_it_names_and_null_means_default() -> None:
    made = topic(partitions=3, retention_ms="1h", retention_bytes="2Gi")
    patched = patch_topic(made, {"retention_ms": None, "partitions": 4})
    assert patched.retention_ms == limits.RETENTION_MS_DEFAULT
    assert (patched.partitions, patched.retention_bytes) == (4, 2 * GIB)


@pytest.mark.parametrize(
    ("standing", "mended"),
    [
        ({"max_deliveries": 3}, {"dead_letter": "dead"}),
        ({"retry_backoff_multiplier": 2.0}, {"retry_backoff_ms": 10}),
        ({"retry_backoff_max_ms": 10}, {"retry_backoff_max_ms": 0}),
        ({"retry_backoff_ms": 100, "message_ttl_ms": 100}, {"message_ttl_ms": 101}),
    ],
)
def test_what_an_older_version_allowed_is_judged_only_when_a_queue_changes(
    standing: dict[str, object], mended: dict[str, object]
) -> None:
    made = topic(TopicKind.QUEUE)
    assert made.queue is not None
    made = msgspec.structs.replace(made, queue=msgspec.structs.replace(made.queue, **standing))
    assert patch_topic(made, {"partitions": 9}).partitions == 9
    with pytest.raises(InvalidArgumentError) as refused:
        patch_topic(made, {"lease_ms": 2_000})
    assert refused.value.field in standing
    assert patch_topic(made, {"lease_ms": 2_000} | mended).queue is not None


@pytest.mark.parametrize("patch", [{"partitions": 2}, {"partitions": None}])
def test_partitions_never_become_fewer(patch: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError, match="can't become fewer") as caught:
        patch_topic(topic(partitions=3), patch)
    assert caught.value.field == "partitions"


@pytest.mark.parametrize("field", ["name", "kind", "topic_id", "created_at_ms"])
def test_fixed_fields_of_a_topic(field: str) -> None:
    with pytest.raises(InvalidArgumentError, match="can't change"):
        patch_topic(topic(), {field: "x"})


def test_a_diff_of_named_fields_leaves_defaults_alone() -> None:
    existing = topic(partitions=12)
    assert not diff(existing, topic(), fields={"retention_ms"})
    assert diff(existing, topic())["partitions"] == (12, 1)


def test_a_field_of_a_newer_version_survives() -> None:
    stored = msgspec.json.decode(encode_topic(topic(TopicKind.QUEUE)))
    stored["of_tomorrow"] = {"topic": "dlq"}
    read = decode_topic(msgspec.json.encode(stored))
    changed = patch_topic(read, {"partitions": 2})
    assert msgspec.json.decode(encode_topic(changed))["of_tomorrow"] == {"topic": "dlq"}


@pytest.mark.parametrize("data", [b'{"format":2}', b"{}", b"x", b'{"format":1}', b"[]"])
def test_what_can_not_be_read_is_refused(data: bytes) -> None:
    for decode in (decode_topic, decode_subscription):
        with pytest.raises(StoreError) as caught:
            decode(data)
        assert caught.value.code is ErrorCode.STORE_MISCONFIGURED


def test_subscriptions() -> None:
    stream = subscription(start="offset:7", session_ms="20s")
    assert (stream.mode, stream.start, stream.session_ms) == ("stream", "offset:7", 20_000)
    queue = subscription(mode="queue", lease_ms=5_000)
    assert queue.queue.lease_ms == 5_000
    for made in (stream, queue):
        assert decode_subscription(encode_subscription(made)) == made
        assert patch_subscription(made, show_subscription(made)) == made
        assert "secret" not in show_subscription(made)
        assert "sss" not in repr(made)
    assert patch_subscription(queue, {"lease_ms": "9s"}).queue.lease_ms == 9_000
    assert diff(stream, queue)["mode"] == ("stream", "queue")


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"mode": "both"}, "mode"),
        ({"mode": 5}, "mode"),
        ({"start": "middle"}, "start"),
        ({"lease_ms": 5000}, "lease_ms"),
        ({"session_ms": 5}, "session_ms"),
        ({"mode": "queue", "session_ms": 5000}, "session_ms"),
    ],
)
def test_subscription_settings_that_are_not_allowed(wanted: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        subscription(**wanted)
    assert caught.value.field == field


@pytest.mark.parametrize("patch", [{"start": "latest"}, {"mode": "queue"}, {"topic": "x"}])
def test_fixed_fields_of_a_subscription(patch: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError, match="can't change"):
        patch_subscription(subscription(), patch)


def test_the_subscription_of_a_queue_has_its_name_and_settings() -> None:
    queue = topic(TopicKind.QUEUE, name="jobs", lease_ms=7_000)
    made = queue_subscription(queue, b"s" * 32)
    assert (made.name, made.topic, made.mode) == ("jobs", "jobs", SubscriptionMode.QUEUE)
    assert made.queue == queue.queue


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("earliest", Start(StartKind.EARLIEST)),
        ("latest", Start(StartKind.LATEST)),
        ("offset:0", Start(StartKind.OFFSET, 0)),
        ("timestamp:1700000000000", Start(StartKind.TIMESTAMP, 1_700_000_000_000)),
        ("timestamp:2023-11-14T22:13:20Z", Start(StartKind.TIMESTAMP, 1_700_000_000_000)),
        ("timestamp:2023-11-15T00:13:20.5+02:00", Start(StartKind.TIMESTAMP, 1_700_000_000_500)),
    ],
)
def test_start_positions(text: str, expected: Start) -> None:
    assert parse_start(text) == expected
    assert parse_start(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "offset:", "offset:-1", "offset:9007199254740993", "timestamp:2023-11-14",
     "timestamp:1960-01-01T00:00:00Z", "timestamp:x", 5, None],
)  # fmt: skip
def test_what_is_no_start_position_is_refused(text: object) -> None:
    with pytest.raises(InvalidArgumentError, match="is not a start position"):
        parse_start(text)


def test_a_time_without_a_zone_is_told_what_it_lacks() -> None:
    with pytest.raises(InvalidArgumentError, match="has no time zone: add Z") as caught:
        parse_start("timestamp:2023-11-14T22:13:20", "to")
    assert caught.value.field == "to"


def test_the_budget_names_sum_limit_and_remedy() -> None:
    existing = [topic(name="a", retention_bytes=4 * GIB), topic(name="b", retention_bytes=4 * GIB)]
    check_budget(existing, topic(name="c", retention_bytes=GIB), 10 * GIB)
    with pytest.raises(InvalidArgumentError) as caught:
        check_budget(existing, topic(name="c", partitions=2, retention_bytes=GIB), 10 * GIB)
    assert str(10 * GIB) in caught.value.message
    assert caught.value.field == "retention_bytes"
    assert caught.value.details == {
        "sum_bytes": str(10 * GIB),
        "allowed_bytes": str(9 * GIB),
        "limit_bytes": str(10 * GIB),
        "retention_bytes_max": str(GIB // 2),
    }


def test_a_change_counts_once_and_a_smaller_one_is_always_allowed() -> None:
    existing = [topic(name="a", retention_bytes=8 * GIB)]
    check_budget(existing, topic(name="a", retention_bytes=9 * GIB), 10 * GIB)
    check_budget(existing, topic(name="a", retention_bytes=7 * GIB), 1 * GIB)
    check_budget(existing, topic(name="z", retention_bytes=1 << 50), None)
