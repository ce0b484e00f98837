"""Mirrors of objects, who owns a child, what counts as a change, and the health of watches."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import kopf
import pytest

from mom_operator import handlers
from mom_operator.children import fingerprint
from mom_operator.health import CONTACT_MS_MAX, Hearing, alive
from mom_operator.informer import Informer, slim_pod
from mom_operator.kube import (
    Credentials,
    FormerOwnerError,
    Listing,
    OwnershipError,
    WatchEvent,
    check_owner,
)
from mom_operator.registry import Key
from mom_process.system import SystemClock, SystemRandom


def obj(name: str, version: int, **fields: Any) -> dict[str, Any]:
    metadata = {"namespace": "ns", "name": name, "uid": f"uid-{name}"}
    return {"metadata": metadata | {"resourceVersion": str(version)}} | fields


class NoSource:
    """Nothing is read here."""

    async def list_all(self, kind: str, namespace: str = "", selector: str = "") -> Listing:
        raise NotImplementedError

    async def watch(self, *_: Any, **__: Any) -> AsyncGenerator[WatchEvent, None]:
        raise NotImplementedError
        yield


def mirror() -> tuple[Informer, list[str]]:
    changes: list[str] = []
    found = Informer(
        NoSource(),
        "Thing",
        namespace="",
        selector="",
        changed=lambda kind, one: changes.append(one["metadata"]["name"]),
        clock=SystemClock(),
        random=SystemRandom(),
    )
    return found, changes


def test_events_are_mirrored_and_told_once() -> None:
    things, changes = mirror()
    things.take(WatchEvent("ADDED", obj("a", 1)))
    things.take(WatchEvent("MODIFIED", obj("a", 2)))
    things.take(WatchEvent("MODIFIED", obj("a", 2)))
    things.take(WatchEvent("BOOKMARK", obj("", 9)))
    assert changes == ["a", "a"]
    things.take(WatchEvent("DELETED", obj("a", 3)))
    assert things.get("ns", "a") is None
    assert changes == ["a", "a", "a"]
    assert things.contact_ms is not None


def test_an_answer_to_our_own_write_is_not_undone_by_a_late_event() -> None:
    things, changes = mirror()
    things.learn(obj("a", 5, spec={"new": True}))
    things.take(WatchEvent("MODIFIED", obj("a", 4, spec={"new": False})))
    found = things.get("ns", "a")
    assert found is not None
    assert found["spec"] == {"new": True}
    assert changes == []


def test_an_answer_that_comes_after_the_deletion_is_none() -> None:
    """An apply for a cluster that is gone: its child is collected before the answer is here."""
    things, _ = mirror()
    things.take(WatchEvent("ADDED", obj("a", 5)))
    things.take(WatchEvent("DELETED", obj("a", 6)))
    things.learn(obj("a", 5))
    assert things.get("ns", "a") is None
    another = obj("a", 7)
    another["metadata"]["uid"] = "another"
    things.take(WatchEvent("ADDED", another))
    things.learn(obj("a", 5))
    found = things.get("ns", "a")
    assert found is not None
    assert found["metadata"]["uid"] == "another"
    things.learn(obj("b", 8))
    assert things.get("ns", "b") is not None


def test_a_listing_finds_what_came_and_went_unseen() -> None:
    things, changes = mirror()
    things.replace([obj("kept", 1), obj("gone", 1), obj("old", 1)])
    changes.clear()
    things.replace([obj("kept", 1), obj("old", 2), obj("new", 3)])
    assert sorted(changes) == ["gone", "new", "old"]
    assert len(things) == 3


def test_of_a_pod_only_what_decides_is_kept() -> None:
    pod = obj(
        "p",
        1,
        spec={"nodeName": "m", "containers": [{"name": "node"}]},
        status={"phase": "Running", "podIP": "10.0.0.1", "qosClass": "Burstable"},
    )
    pod["metadata"]["managedFields"] = [{}]
    slimmed = slim_pod(pod)
    assert slimmed["spec"] == {"nodeName": "m"}
    assert slimmed["status"] == {"phase": "Running", "podIP": "10.0.0.1"}
    assert "managedFields" not in slimmed["metadata"]


# Ownership.

OWNER = {"apiVersion": "mom.dev/v1alpha1", "kind": "MomCluster", "name": "c", "uid": "u1"}


def child(*owners: dict[str, str]) -> dict[str, Any]:
    return {
        "kind": "ConfigMap",
        "metadata": {"namespace": "ns", "name": "x", "ownerReferences": list(owners)},
    }


def test_only_our_own_child_is_touched() -> None:
    check_owner(child(OWNER), child(OWNER))
    check_owner(child(OWNER), child({**OWNER, "kind": "Other", "uid": "z"}, OWNER))
    with pytest.raises(FormerOwnerError):
        check_owner(child(OWNER), child({**OWNER, "uid": "u0"}))
    with pytest.raises(OwnershipError, match="ConfigMap ns/x"):
        check_owner(child(OWNER), child())
    with pytest.raises(OwnershipError):
        check_owner(child(OWNER), child({**OWNER, "name": "other", "uid": "u0"}))


def test_a_status_is_no_change_and_a_label_is_one() -> None:
    before = obj("a", 1, spec={"x": 1}, status={"ready": 0})
    after = copy.deepcopy(before)
    after["status"] = {"ready": 1}
    after["metadata"] |= {"resourceVersion": "2", "generation": 7, "managedFields": []}
    assert fingerprint(before) == fingerprint(after)
    after["metadata"]["labels"] = {"x": "y"}
    assert fingerprint(before) != fingerprint(after)


# Health.


@dataclass
class Watched:
    kind: str
    contact_ms: int | None


def test_a_silent_watch_is_not_well() -> None:
    now_ms = 2 * CONTACT_MS_MAX
    heard, silent = Watched("Pod", now_ms - 1), Watched("Service", 0)
    hearing = Hearing()
    assert alive(now_ms, [heard], hearing, leading=False, working=False) == (True, "stands by")
    well, text = alive(now_ms, [heard, silent], hearing, leading=True, working=True)
    assert not well
    assert "Service" in text


def test_a_leader_that_does_not_work_is_not_well() -> None:
    assert alive(0, [], Hearing(), leading=True, working=True) == (True, "leads")
    assert not alive(0, [], Hearing(), leading=True, working=False)[0]


def test_a_deaf_watch_is_found_by_listings() -> None:
    hearing = Hearing()
    hearing.listed(missed=1)
    assert not hearing.deaf
    hearing.listed(missed=2)
    assert hearing.deaf
    hearing.told()
    assert not hearing.deaf
    hearing.listed(missed=1)  # It was told something meanwhile: late is not deaf.
    hearing.listed(missed=0)
    hearing.listed(missed=1)
    assert not hearing.deaf


# kopf.


def _credentials() -> Credentials:
    return Credentials("https://127.0.0.1:1", None, None, None, "t", True)


def test_kopf_only_watches() -> None:
    settings = handlers.make_settings()
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert settings.scanning.disabled
    put: list[Any] = []
    registry = handlers.make_registry(_credentials, lambda *event: put.append(event))
    assert not list(registry._changing.get_all_handlers())
    assert not list(registry._spawning.get_all_handlers())
    assert not list(registry._webhooks.get_all_handlers())
    watching = list(registry._watching.get_all_handlers())
    assert len(watching) == 3
    assert all(isinstance(one, kopf._core.intents.handlers.WatchingHandler) for one in watching)


async def test_an_event_is_handed_over_as_a_copy() -> None:
    put: list[Any] = []
    registry = handlers.make_registry(_credentials, lambda *event: put.append(event))
    raw = obj("a", 1, kind="MomTopic", spec={})
    raw["metadata"]["managedFields"] = [{}]
    handler: Any = next(iter(registry._watching.get_all_handlers()))
    await handler.fn(event={"type": None, "object": raw})
    key, event, given = put[0]
    assert (key, event) == (Key("MomTopic", "ns", "a"), "")
    assert "managedFields" not in given["metadata"]
    assert "managedFields" in raw["metadata"]
