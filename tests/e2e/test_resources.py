"""A queue and a subscription as their resources say: what is set is kept, and the status tells."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from e2e.kubernetes import Object
from e2e.mom_cluster import MomCluster
from e2e.waiting import wait_until

pytestmark = pytest.mark.timeout(400)

# What waits is counted every 5 seconds, and less often where the machines have much else to do.
TOLD_SECONDS_MAX = 60
# A stall shows after 30 seconds, or a lease.
STALL_SECONDS_MAX = 30 + TOLD_SECONDS_MAX
DELAY_MS = 3_000


def resource(kind: str, name: str, **spec: Any) -> Object:
    return {
        "apiVersion": "mom.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"clusterRef": {"name": "my-mom"}, "retention": {"bytes": "1Mi"}} | spec,
    }


def queue(name: str, **spec: Any) -> Object:
    return resource("MomQueue", name, **spec)


def topic(name: str, *subscriptions: Object, **spec: Any) -> Object:
    return resource("MomTopic", name, subscriptions=list(subscriptions), **spec)


HANGS = queue("hangs", ackTimeout="10s")


@pytest.fixture(scope="module")
def rest(shared_mom: MomCluster) -> Iterator[httpx.Client]:
    with shared_mom.http() as client:
        yield client


def make(mom: MomCluster, *resources: Object) -> None:
    """Apply resources, and wait until they stand so."""
    mom.namespace.apply(*resources)
    for one in resources:

        def stands(one: Object = one) -> bool:
            found = read(mom, one)
            ready = condition(found, "Ready")
            current = ready.get("observedGeneration") == found["metadata"]["generation"]
            return current and ready.get("status") == "True"

        wait_until(f"{one['metadata']['name']} stands as its resource says", stands)


def read(mom: MomCluster, one: Object) -> Object:
    name = one["metadata"]["name"]
    found: Object = mom.namespace.cluster.get(one["kind"], name, "-n", mom.namespace.name)
    return found


def condition(found: Object, kind: str) -> Object:
    conditions: list[Object] = found.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def told(mom: MomCluster, one: Object, **backlog: object) -> Object:
    """Until the status tells so much; the status then."""

    def tells() -> Object:
        status: Object = read(mom, one).get("status", {})
        known = status.get("backlog", {})
        return status if backlog == {key: known.get(key) for key in backlog} else {}

    return wait_until(f"the status tells {backlog}", tells, TOLD_SECONDS_MAX)


def columns(mom: MomCluster, one: Object) -> dict[str, str]:
    """The line that `kubectl get` shows of it."""
    lines = mom.kubectl("get", one["kind"].lower(), one["metadata"]["name"]).splitlines()
    return dict(zip(lines[0].split(), lines[1].split(), strict=True))


def ok(response: httpx.Response) -> Any:
    assert response.status_code < 300, response.text
    return response.json()


def publish(rest: httpx.Client, path: str, *messages: Object) -> None:
    field = "records" if path.endswith("/records") else "messages"
    for one in ok(rest.post(path, json={field: list(messages)}))["results"]:
        assert one["durability"] == "fsync"


def receive(rest: httpx.Client, path: str, wait_ms: int = 10_000, **wanted: Any) -> list[Object]:
    body = {"max": 10, "wait_ms": wait_ms} | wanted
    messages: list[Object] = ok(rest.post(f"{path}/messages:receive", json=body))["messages"]
    return messages


def settle(rest: httpx.Client, path: str, action: str, messages: list[Object]) -> None:
    receipts = [one["receipt"] for one in messages]
    ok(rest.post(f"{path}/messages:{action}", json={"receipts": receipts}))


@pytest.fixture(scope="module", autouse=True)
def hanging(shared_mom: MomCluster, rest: httpx.Client) -> list[Object]:
    """A worker's messages of which nothing is heard again: the other tests run meanwhile."""
    make(shared_mom, HANGS)
    publish(rest, "/v1/queues/hangs/messages", {"value": "a"}, {"value": "b"})
    held = receive(rest, "/v1/queues/hangs", max=1, lease_ms=600_000)
    assert len(held) == 1
    return held


def test_settings_of_a_queue_are_applied_and_a_failing_message_shows(
    shared_mom: MomCluster, rest: httpx.Client
) -> None:
    mom, path = shared_mom, "/v1/queues/jobs"
    settings = {
        "partitions": 2,
        "ackTimeout": "45s",
        "ordering": "fifo",
        "deadLetter": "jobs.dlq",
        "maxDeliveries": 2,
        "deadLetterExpired": True,
        "retryBackoff": "100ms",
        "retryBackoffMultiplier": 2,
        "retryBackoffMax": "1s",
        "messageTtl": "1h",
        "messagesMax": 100,
        "dedupWindow": "10m",
        "rate": "6000/m",
    }
    jobs = queue("jobs", **settings)
    make(mom, jobs)
    shown = ok(rest.get(path))
    applied = {
        "partitions": 2,
        "lease_ms": 45_000,
        "ordering": "fifo",
        "dead_letter": "jobs.dlq",
        "max_deliveries": 2,
        "dead_letter_expired": True,
        "retry_backoff_ms": 100,
        "retry_backoff_multiplier": 2.0,
        "retry_backoff_max_ms": 1_000,
        "message_ttl_ms": 3_600_000,
        "messages_max": 100,
        "dedup_window_ms": 600_000,
        "rate_per_s": 100.0,
        "paused": False,
    }
    assert {field: shown[field] for field in applied} == applied

    publish(rest, f"{path}/messages", {"value": "poison", "key": "k"})
    for _ in range(2):
        held = receive(rest, path)
        assert [one["value"] for one in held] == ["poison"]
        settle(rest, path, "nack", held)
    publish(rest, f"{path}/messages", {"value": "waits", "key": "k"})
    told(mom, jobs, messages=1, deadLetters=1)
    (dead,) = ok(rest.get("/v1/queues/jobs.dlq/dead-letters"))["dead_letters"]
    assert dead["value"] == "poison"
    line = columns(mom, jobs)
    assert (line["MESSAGES"], line["DEAD"], line["FLOWING"]) == ("1", "1", "True")

    make(mom, queue("jobs", **settings | {"maxDeliveries": 7, "rate": "0", "messageTtl": "0"}))
    shown = ok(rest.get(path))
    assert (shown["max_deliveries"], shown["rate_per_s"], shown["message_ttl_ms"]) == (7, 0, 0)


def test_a_subscription_of_a_topic_fails_apart_from_its_neighbour(
    shared_mom: MomCluster, rest: httpx.Client
) -> None:
    mom, path = shared_mom, "/v1/topics/orders/subscriptions"
    mail = {
        "name": "mail",
        "mode": "queue",
        "ackTimeout": "20s",
        "maxDeliveries": 1,
        "deadLetter": "mail.dlq",
    }
    orders = topic("orders", mail, {"name": "reader"}, partitions=2, retainUntilAcked=True)
    make(mom, orders)
    assert ok(rest.get("/v1/topics/orders"))["retain_until_acked"] is True
    shown = ok(rest.get(f"{path}/mail"))
    assert (shown["lease_ms"], shown["max_deliveries"]) == (20_000, 1)
    publish(rest, "/v1/topics/orders/records", {"value": "poison", "key": "k"})
    held = receive(rest, f"{path}/mail")
    settle(rest, f"{path}/mail", "nack", held)
    status = told(mom, orders, deadLetters=1)
    by_name = {one["name"]: one for one in status["backlogs"]}
    assert (by_name["mail"]["messages"], by_name["mail"]["deadLetters"]) == (0, 1)
    assert by_name["reader"]["messages"] == 1
    assert "deadLetters" not in by_name["reader"]
    assert columns(mom, orders)["DEAD"] == "1"


def test_a_delayed_message_is_not_early(shared_mom: MomCluster, rest: httpx.Client) -> None:
    mom, path = shared_mom, "/v1/queues/later"
    make(mom, queue("later"))
    due_ms = int(time.time() * 1000) + DELAY_MS
    publish(
        rest,
        f"{path}/messages",
        {"value": "later", "deliver_at_ms": due_ms},
        {"value": "now"},
    )
    assert [one["value"] for one in receive(rest, path)] == ["now"]
    assert [one["value"] for one in receive(rest, path, wait_ms=20_000)] == ["later"]
    # The machines of a test have one clock, or are kept in step to a fraction of this.
    assert time.time() * 1000 >= due_ms - 100


def test_a_resource_pauses_its_queue(shared_mom: MomCluster, rest: httpx.Client) -> None:
    mom, path = shared_mom, "/v1/queues/paused"
    make(mom, queue("paused", paused=True))
    publish(rest, f"{path}/messages", {"value": "a"})
    assert receive(rest, path, wait_ms=500) == []
    make(mom, queue("paused", paused=False))
    assert [one["value"] for one in receive(rest, path)] == ["a"]


def test_a_worker_that_hangs_shows_as_a_stall(
    shared_mom: MomCluster, rest: httpx.Client, hanging: list[Object]
) -> None:
    mom, path = shared_mom, "/v1/queues/hangs"

    def flowing() -> str:
        found: str = condition(read(mom, HANGS), "Flowing").get("status", "")
        return found

    wait_until("the stall shows", lambda: flowing() == "False", STALL_SECONDS_MAX)
    found = condition(read(mom, HANGS), "Flowing")
    assert (found["reason"], found["message"][:6]) == ("Stalled", "hangs:")
    settle(rest, path, "ack", hanging)
    settle(rest, path, "ack", receive(rest, path))
    wait_until("it is over", lambda: flowing() == "True", TOLD_SECONDS_MAX)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (queue("bad", deadLetter="bad"), "deadLetter is the queue itself"),
        (queue("bad", ordering="fifo", fairBy="header:tenant"), "needs ordering fair"),
        (queue("bad", retryBackoff="10s", retryBackoffMax="1s"), "can't be shorter"),
        (queue("bad", rate="0.5/h"), "must be from 1/h to 1000000/s"),
        (
            topic("bad", {"name": "mail", "mode": "queue", "deadLetter": "bad"}),
            "is the topic itself",
        ),
        (topic("bad", {"name": "reader", "maxDeliveries": 3}), "settings of queue mode"),
    ],
    ids=["itself", "turns", "backoff", "rate", "topic-itself", "stream"],
)
def test_what_contradicts_itself_is_refused(
    shared_mom: MomCluster, bad: Object, words: str
) -> None:
    namespace = shared_mom.namespace
    assert words in namespace.refusal("apply", "-f", "-", stdin=json.dumps(bad))


def test_dead_letters_that_would_come_back_are_told(
    shared_mom: MomCluster, rest: httpx.Client
) -> None:
    """What only the whole of them shows, the cluster refuses, and the condition says why."""
    make(shared_mom, queue("first", deadLetter="second"))
    second = queue("second", deadLetter="first")
    shared_mom.namespace.apply(second)

    def refused() -> Object:
        ready = condition(read(shared_mom, second), "Ready")
        return ready if ready.get("reason") == "Refused" else {}

    assert "come back" in wait_until("it is refused", refused)["message"]
    assert ok(rest.get("/v1/queues/second"))["dead_letter"] == ""
