"""The definitions' files against the operator's structs and MOM's limits, without an API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from mom_core import limits
from mom_core.quantities import format_bytes, format_duration
from mom_operator import spec
from mom_operator.topics import Backlog, shown_backlog

CRDS = Path(__file__).resolve().parents[3] / "deploy/helm/mom/crds"
PLURALS = {
    "momclusters": spec.ClusterSpec,
    "momtopics": spec.TopicSpec,
    "momqueues": spec.QueueSpec,
}
every_kind = pytest.mark.parametrize("plural", PLURALS)


def _version(plural: str) -> dict[str, Any]:
    (version,) = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())["spec"]["versions"]
    found: dict[str, Any] = version
    return found


def _schema(plural: str) -> dict[str, Any]:
    found: dict[str, Any] = _version(plural)["schema"]["openAPIV3Schema"]
    return found


def _walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from _walk(part, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from _walk(schema[name], f"{path}[]")


def _structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """The structs in a type."""
    described = msgspec.inspect.type_info(kind)
    for one in getattr(described, "types", (described,)):
        if isinstance(one, msgspec.inspect.StructType):
            yield one.cls
        elif isinstance(one, msgspec.inspect.VarTupleType) and isinstance(
            one.item_type, msgspec.inspect.StructType
        ):
            yield one.item_type.cls


def _compare(schema: dict[str, Any], kind: type[msgspec.Struct], path: str) -> None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    schema = schema.get("items", schema)
    assert set(schema["properties"]) == set(fields), path
    required = {name for name, field in fields.items() if field.required}
    assert set(schema.get("required", ())) == required, path
    for name, field in fields.items():
        for struct in _structs(field.type):
            _compare(schema["properties"][name], struct, f"{path}.{name}")


@every_kind
def test_the_operator_reads_just_what_is_defined(plural: str) -> None:
    _compare(_schema(plural)["properties"]["spec"], PLURALS[plural], "spec")


@every_kind
def test_everything_is_explained_and_bounded(plural: str) -> None:
    """`kubectl explain` tells of every field, and the cost of the rules can be estimated."""
    for path, part in _walk(_schema(plural)):
        if path in ("", ".metadata", ".apiVersion", ".kind"):
            continue
        if not path.endswith("[]"):
            assert part.get("description"), path
        if part.get("type") == "array":
            assert {"maxItems", "x-kubernetes-list-type"} <= set(part), path
        if part.get("type") == "string" and part.get("format") != "date-time":
            assert part.get("maxLength") or part.get("enum"), path
        if part.get("x-kubernetes-int-or-string"):
            assert part["maxLength"], path
        if isinstance(part.get("additionalProperties"), dict):
            assert part["maxProperties"], path
        if part.get("type") == "integer" and ".status" not in path:
            assert {"minimum", "maximum"} <= set(part), path


@every_kind
def test_settings_of_topics_have_no_defaults(plural: str) -> None:
    """What is absent there is unmanaged; a default would undo what REST set."""
    if plural == "momclusters":
        return
    allowed = {".clusterRef.namespace", ".deletionPolicy", ".subscriptions[].mode"}
    found = {
        path for path, part in _walk(_schema(plural)["properties"]["spec"]) if "default" in part
    }
    assert found <= allowed


@every_kind
def test_names_and_columns(plural: str) -> None:
    definition = yaml.safe_load((CRDS / f"{plural}.yaml").read_text())
    names = definition["spec"]["names"]
    assert definition["metadata"]["name"] == f"{plural}.{spec.GROUP}"
    assert names["categories"] == ["mom"]
    assert names["shortNames"]
    version = _version(plural)
    assert "status" in version["subresources"]
    assert ("scale" in version["subresources"]) == (plural == "momclusters")
    columns = [one["name"] for one in version["additionalPrinterColumns"]]
    assert {"Ready", "Age"} <= set(columns)
    if plural != "momclusters":
        assert {"Messages", "Dead", "Oldest", "Flowing"} <= set(columns)
    conditions = _schema(plural)["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def _rules(part: dict[str, Any]) -> str:
    return " ".join(one["rule"] for one in part["x-kubernetes-validations"])


@pytest.mark.parametrize("plural", ["momtopics", "momqueues"])
def test_bounds_are_those_of_mom(plural: str) -> None:
    fields = _schema(plural)["properties"]["spec"]["properties"]
    assert fields["partitions"]["maximum"] == limits.PARTITIONS_MAX
    assert fields["name"]["maxLength"] == limits.NAME_LENGTH_MAX
    retention = fields["retention"]["properties"]
    for part, bounds in (
        (retention["bytes"], (limits.RETENTION_BYTES_MIN, limits.RETENTION_BYTES_MAX)),
        (
            fields["messageBytesMax"],
            (limits.MESSAGE_BYTES_MAX_MIN, limits.MESSAGE_BYTES_MAX_HARD),
        ),
    ):
        assert [f"'{format_bytes(one)}'" in _rules(part) for one in bounds] == [True, True]
    durations = [
        (retention["time"], (limits.RETENTION_MS_MIN, limits.RETENTION_MS_MAX)),
        (fields["dedupWindow"], (limits.DEDUP_WINDOW_MS_MIN, limits.DEDUP_WINDOW_MS_MAX)),
    ]
    leases = (limits.LEASE_MS_MIN, limits.LEASE_MS_MAX)
    if plural == "momqueues":
        durations.append((fields["ackTimeout"], leases))
    else:
        subscription = fields["subscriptions"]["items"]["properties"]
        sessions = (limits.SESSION_MS_MIN, limits.SESSION_MS_MAX)
        durations += [
            (subscription["ackTimeout"], leases),
            (subscription["sessionTimeout"], sessions),
        ]
        assert fields["subscriptions"]["maxItems"] == limits.SUBSCRIPTIONS_PER_TOPIC_MAX
    delivery = fields if plural == "momqueues" else fields["subscriptions"]["items"]["properties"]
    waits = (1, limits.RETRY_BACKOFF_MS_MAX)
    durations += [
        (delivery["retryBackoff"], waits),
        (delivery["retryBackoffMax"], waits),
        (delivery["messageTtl"], (limits.MESSAGE_TTL_MS_MIN, limits.RETENTION_MS_MAX)),
    ]
    for part, bounds in durations:
        assert [f"'{format_duration(one)}'" in _rules(part) for one in bounds] == [True, True]
    for seconds in (1, 60, 3_600):
        assert f"<= {limits.RATE_PER_S_MAX * seconds:.1f}" in _rules(delivery["rate"])
    assert limits.RATE_PER_S_MIN == 1.0 / 3_600.0
    assert delivery["maxDeliveries"]["maximum"] == limits.MAX_DELIVERIES_MAX
    assert delivery["retryBackoffMultiplier"]["maximum"] == limits.RETRY_BACKOFF_MULTIPLIER_MAX


def test_bounds_of_the_gateway_are_those_of_mom() -> None:
    gateway = _schema("momclusters")["properties"]["spec"]["properties"]["gateway"]
    rules = _rules(gateway["properties"]["bodyBytesMax"])
    for one in (limits.KIB, limits.GATEWAY_BODIES_BYTES_MAX):
        assert f"'{format_bytes(one)}'" in rules


def test_a_status_that_is_written_is_defined() -> None:
    """What a definition lacks is dropped by the API server, and would be written for ever."""
    told = set(shown_backlog(Backlog(messages=1, oldest_ms=1, dead_letters=1)))
    queue = _schema("momqueues")["properties"]["status"]["properties"]["backlog"]
    assert set(queue["properties"]) == told
    whole = _schema("momtopics")["properties"]["status"]["properties"]["backlog"]
    assert set(whole["properties"]) == told
    items = _schema("momtopics")["properties"]["status"]["properties"]["backlogs"]["items"]
    assert set(items["properties"]) == told | {"name"}
