"""Reading pods and workloads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mom_operator.observed import machine_is_gone, parse_pod, parse_workload

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


def a_pod(status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/component": "node", "controller-revision-hash": "r1"}
    return {
        "metadata": {"name": "c-node-0", "uid": "u", "labels": labels} | metadata,
        "spec": {"nodeName": "m1"},
        "status": status or {},
    }


def test_a_ready_pod() -> None:
    pod = parse_pod(a_pod({"conditions": [{"type": "Ready", "status": "True"}]}), NOW)
    assert (pod.ready, pod.deleting, pod.overdue_s) == (True, False, None)
    assert (pod.component, pod.revision, pod.machine) == ("node", "r1", "m1")


def test_the_end_of_the_grace_period_counts() -> None:
    pod = parse_pod(a_pod(deletionTimestamp="2026-05-01T11:59:50Z"), NOW)
    assert (pod.deleting, pod.overdue_s) == (True, 10.0)
    assert parse_pod(a_pod(deletionTimestamp="2026-05-01T12:00:30Z"), NOW).overdue_s == -30.0


def test_the_last_words_of_a_crashing_container_are_its_trouble() -> None:
    container = {
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
        "lastState": {"terminated": {"message": "error: appendonly is no\n"}},
    }
    pod = parse_pod(a_pod({"containerStatuses": [container]}), NOW)
    assert pod.trouble is not None
    assert (pod.trouble.reason, pod.trouble.message) == (
        "CrashLoopBackOff",
        "error: appendonly is no",
    )


def test_a_container_that_is_only_being_made_is_no_trouble() -> None:
    container = {"state": {"waiting": {"reason": "ContainerCreating"}}}
    assert parse_pod(a_pod({"containerStatuses": [container]}), NOW).trouble is None


def test_a_pod_that_fits_nowhere_is_in_trouble() -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: " + "insufficient memory, " * 40,
    }
    pod = parse_pod(a_pod({"conditions": [condition]}), NOW)
    assert pod.trouble is not None
    assert pod.trouble.reason == "Unschedulable"
    assert len(pod.trouble.message) <= 301


def _deployment(**status: int) -> dict[str, Any]:
    return {
        "metadata": {"name": "c-master", "generation": 2},
        "spec": {"replicas": 2},
        "status": {"observedGeneration": 2} | status,
    }


def test_a_deployment_is_complete_when_only_new_pods_are_there() -> None:
    done = _deployment(replicas=2, updatedReplicas=2, availableReplicas=2, readyReplicas=2)
    assert parse_workload(done).complete
    surge = _deployment(replicas=3, updatedReplicas=2, availableReplicas=2, readyReplicas=2)
    assert not parse_workload(surge).complete
    done["metadata"]["generation"] = 3
    assert not parse_workload(done).complete
    assert not parse_workload(done).current


def test_a_machine_without_news_is_gone() -> None:
    assert machine_is_gone(None)
    assert machine_is_gone({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    assert not machine_is_gone({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})


def test_how_a_container_ended_is_known_when_it_runs_again() -> None:
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    running = {"state": {"running": {}}, "lastState": ended}
    assert (
        parse_pod(a_pod({"containerStatuses": [running]}), NOW).ended == "OOMKilled, exit code 137"
    )
    assert parse_pod(a_pod({"containerStatuses": [{"state": ended}]}), NOW).ended
    assert not parse_pod(a_pod({"containerStatuses": [{"state": {"running": {}}}]}), NOW).ended
