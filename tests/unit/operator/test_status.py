"""What a status says, and that it is written only when it changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mom_operator import conditions, status
from mom_operator.conditions import Condition, merge_patch
from mom_operator.names import Names
from mom_operator.observed import LOST, Mom, MomNode, Observed, Pod, Problem, Trouble, Workload
from mom_operator.plan import SCALE_DOWN, Operation, Plan, make_plan
from mom_operator.spec import Cluster, parse_cluster

NOW = datetime(2026, 5, 1, 12, 0, 0, 123, tzinfo=UTC)
NAMES = Names("c", "ns")


def a_cluster(status: dict[str, Any] | None = None, **spec: Any) -> Cluster:
    return parse_cluster(
        {
            "metadata": {"name": "c", "namespace": "ns", "uid": "u", "generation": 3},
            "spec": {"version": "1", "redis": {"managed": {}}} | spec,
            "status": status or {},
        }
    )


def whole(wanted: int) -> Workload:
    return Workload(
        name="w", wanted=wanted, ready=wanted, complete=True, current=True, revision="r"
    )


def in_order() -> Observed:
    pods = [
        Pod(
            name=f"c-node-{number}",
            uid=str(number),
            component="node",
            revision="r",
            ready=True,
            deleting=False,
        )
        for number in range(3)
    ]
    nodes = {pod.name: MomNode(node_id=pod.name, state="active", partitions=2) for pod in pods}
    return Observed(
        pods=tuple(pods),
        node=whole(3),
        master=whole(2),
        gateway=whole(2),
        redis=whole(1),
        mom=Mom(nodes=nodes, version="1", durability="fsync"),
    )


def told(seen: Observed, cluster: Cluster | None = None, plan: Plan | None = None) -> Any:
    cluster = cluster or a_cluster()
    plan = plan or make_plan(cluster, seen)
    return status.cluster_status(cluster, seen, plan, NAMES, NOW)


def shown(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in found["conditions"]}


def test_a_cluster_in_order_is_ready() -> None:
    found = told(in_order())
    assert shown(found) == {
        "Available": ("True", "AsExpected"),
        "Degraded": ("False", "AsExpected"),
        "Progressing": ("False", "AsExpected"),
        "Ready": ("True", "ClusterReady"),
    }
    assert found["nodesReady"] == "3/3"
    assert "operation" not in found
    assert [one["type"] for one in found["conditions"]] == sorted(shown(found))
    assert {one["lastTransitionTime"] for one in found["conditions"]} == {"2026-05-01T12:00:00Z"}


def test_the_same_again_is_no_change() -> None:
    first = told(in_order())
    later = status.cluster_status(
        a_cluster(first), in_order(), Plan(), NAMES, NOW + timedelta(hours=1)
    )
    assert merge_patch(first, later) == {}


def test_an_open_gateway_is_told() -> None:
    found = told(in_order(), a_cluster(gateway={"auth": "Disabled"}))
    assert "authentication is OFF" in conditions.find(found, "Ready")["message"]


def test_what_never_was_is_installing_and_what_was_is_degraded() -> None:
    away = msgspec.structs.replace(
        in_order(), redis=Workload(name="w", wanted=1, ready=0, complete=False, current=True)
    )
    assert shown(told(away))["Ready"] == ("False", "Installing")
    assert shown(told(away))["Degraded"][0] == "False"
    before = told(in_order())
    found = told(away, a_cluster(before))
    assert shown(found)["Degraded"] == ("True", "RedisNotReady")
    assert shown(found)["Ready"] == ("False", "RedisNotReady")
    assert shown(found)["Available"] == ("False", "RedisNotReady")
    again = told(away, a_cluster(found))
    assert merge_patch(found, again) == {}


def test_without_a_master_clients_go_on() -> None:
    before = told(in_order())
    away = msgspec.structs.replace(in_order(), mom=None, mom_error="no master leads")
    found = told(away, a_cluster(before))
    assert shown(found)["Available"][0] == "True"
    assert shown(found)["Degraded"] == ("True", "MasterNotReady")
    assert found["nodes"] == before["nodes"]


def test_a_pod_that_cannot_run_is_named_with_its_last_words() -> None:
    seen = in_order()
    broken = msgspec.structs.replace(
        seen.pods[0], ready=False, trouble=Trouble("CrashLoopBackOff", "error: no AOF")
    )
    found = told(msgspec.structs.replace(seen, pods=(broken, *seen.pods[1:])))
    assert shown(found)["Degraded"] == ("True", "CrashLoopBackOff")
    message = conditions.find(found, "Degraded")["message"]
    assert message == "c-node-0: CrashLoopBackOff: error: no AOF"


def test_a_redis_that_was_killed_is_named_with_its_end() -> None:
    redis = Pod(
        name="c-redis-0",
        uid="u",
        component="redis",
        revision="r",
        ready=False,
        deleting=False,
        ended="OOMKilled, exit code 137",
    )
    whole_one = in_order()
    seen = msgspec.structs.replace(
        whole_one,
        pods=(*whole_one.pods, redis),
        redis=msgspec.structs.replace(whole(1), ready=0),
    )
    ready = conditions.find(told(seen, a_cluster(told(whole_one))), "Ready")
    assert ready["reason"] == "RedisNotReady"
    assert "c-redis-0 ended (OOMKilled, exit code 137) and starts again" in ready["message"]


def test_a_cause_comes_before_its_consequences() -> None:
    problem = Problem("SecretMissing", "Secret 'redis' is missing")
    seen = msgspec.structs.replace(in_order(), mom=None, problems=(problem,))
    found = told(seen)
    assert shown(found)["Degraded"] == ("True", "SecretMissing")
    assert shown(found)["Ready"] == ("False", "SecretMissing")


def test_a_lost_node_and_partitions_without_owner_are_told() -> None:
    seen = in_order()
    assert seen.mom is not None
    nodes = dict(seen.mom.nodes)
    nodes["c-node-1"] = msgspec.structs.replace(nodes["c-node-1"], state=LOST)
    lost = msgspec.structs.replace(
        seen, mom=msgspec.structs.replace(seen.mom, nodes=nodes, partitions_without_owner=2)
    )
    found = told(lost, a_cluster(told(in_order())))
    assert found["nodesReady"] == "2/3"
    assert shown(found)["Available"] == ("False", "PartitionsWithoutOwner")
    assert [one["phase"] for one in found["nodes"]] == ["Active", "Lost", "Active"]


def test_a_scale_down_that_takes_too_long_is_degraded() -> None:
    operation = Operation(type=SCALE_DOWN, done=1, total=2)
    plan = Plan(operation=operation)
    first = told(in_order(), plan=plan)
    assert shown(first)["Progressing"] == ("True", "ScaleDown")
    assert shown(first)["Ready"] == ("False", "ScaleDown")
    late = status.cluster_status(
        a_cluster(first, scaleDown={"timeoutSeconds": 60}),
        in_order(),
        plan,
        NAMES,
        NOW + timedelta(seconds=61),
    )
    assert shown(late)["Degraded"] == ("True", "OperationTimedOut")
    assert "1 of 2 nodes are drained" in conditions.find(late, "Degraded")["message"]


def test_a_refused_spec_keeps_what_is_known() -> None:
    before = told(in_order())
    problem = Problem("InvalidSpec", "spec.nodes: no")
    found = status.refused_status(before, 4, problem, NOW)
    assert found["nodes"] == before["nodes"]
    assert shown(found)["Available"] == ("True", "AsExpected")
    assert shown(found)["Ready"] == ("False", "InvalidSpec")
    assert found["observedGeneration"] == 4


# Patches.

_LEAVES = st.integers(0, 3) | st.booleans() | st.lists(st.integers(0, 2), max_size=2)
_INNER = st.dictionaries(st.sampled_from("abc"), _LEAVES, max_size=3)
_OBJECTS = st.dictionaries(st.sampled_from("abcd"), _LEAVES | _INNER, max_size=4)


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7396, as written there."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def test_a_paused_cluster_stays_ready_as_it_was_and_not_for_a_newer_spec() -> None:
    cluster = a_cluster()
    before = status.cluster_status(cluster, in_order(), make_plan(cluster, in_order()), NAMES, NOW)
    for generation, ready in ((3, "True"), (4, "False")):
        paused = status.paused_status(before, generation, NOW)
        assert conditions.find(paused, "Progressing")["reason"] == "Paused"
        assert conditions.find(paused, "Ready")["status"] == ready
        assert paused["observedGeneration"] == 3
        assert status.paused_status(paused, generation, NOW) == paused


@given(_OBJECTS, _OBJECTS)
def test_a_patch_leads_from_one_to_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    patch = merge_patch(before, after)
    assert _merged(before, patch) == after
    assert (patch == {}) == (before == after)


@given(st.booleans(), st.booleans(), st.integers(1, 10_000))
def test_a_transition_time_changes_only_with_the_status(
    first: bool, second: bool, passed_s: int
) -> None:
    one = conditions.shown([Condition("Ready", first, "A")], {}, 1, NOW)
    later = NOW + timedelta(seconds=passed_s)
    two = conditions.shown([Condition("Ready", second, "B")], {"conditions": one}, 2, later)
    same = one[0]["lastTransitionTime"] == two[0]["lastTransitionTime"]
    assert same == (first == second)
