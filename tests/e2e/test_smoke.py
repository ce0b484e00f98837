"""Image, cluster and ingress fit together: a message goes in over HTTP and comes out again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from e2e import manifests
from e2e.kubernetes import Namespace

WAIT_SECONDS_MAX = 60
BEFORE = [f"before {number}" for number in range(100)]
AFTER = [f"after {number}" for number in range(100)]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def gateway(namespace: Namespace) -> Iterator[httpx.Client]:
    """A MOM made by hand, and HTTP to its gateway through the Ingress.

    All but the MOM nodes is on the cluster's first machine, so that others can be stopped.
    """
    first = namespace.cluster.workers()[0]
    namespace.apply(*manifests.redis(first), *manifests.mom(namespace, first))
    namespace.wait_rolled_out(
        "statefulset/redis",
        "deployment/mom-master",
        "deployment/mom-node",
        "deployment/mom-gateway",
    )
    headers = {"Host": namespace.host, "Authorization": f"Bearer {manifests.CLUSTER_TOKEN}"}
    with httpx.Client(
        base_url=namespace.cluster.ingress_url, headers=headers, timeout=10, trust_env=False
    ) as client:
        _wait_until("the ingress routes to the gateway", lambda: _is_ready(client))
        yield client


def _wait_until(what: str, check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not check():
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS_MAX} s: {what}"
        time.sleep(0.1)  # polling a foreign process, which has no event to wait for


def _is_ready(client: httpx.Client) -> bool:
    return client.get("/readyz").status_code == 200


def _publish(client: httpx.Client, topic: str, values: list[str]) -> None:
    records = [{"value": value, "key": value} for value in values]
    answer = client.post(f"/v1/topics/{topic}/records", json={"records": records})
    assert answer.status_code == 200, answer.text
    assert {result["durability"] for result in answer.json()["results"]} == {"fsync"}


def _read(client: httpx.Client, topic: str, partition: int) -> list[str]:
    answer = client.get(f"/v1/topics/{topic}/partitions/{partition}/records")
    assert answer.status_code == 200, answer.text
    return [record["value"] for record in answer.json()["records"]]


def test_messages_go_in_and_come_out_over_the_ingress(
    namespace: Namespace, gateway: httpx.Client
) -> None:
    assert gateway.put("/v1/topics/orders", json={"partitions": 4}).status_code == 201
    sent = [f"order {number}" for number in range(100)]
    _publish(gateway, "orders", sent)
    by_partition = [_read(gateway, "orders", partition) for partition in range(4)]
    assert sorted(value for values in by_partition for value in values) == sorted(sent)
    assert all(by_partition), "keys spread over the partitions"


def test_without_a_token_nothing_is_served(gateway: httpx.Client) -> None:
    del gateway.headers["Authorization"]
    answer = gateway.get("/v1/topics")
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"


def test_mom_serves_on_while_a_machine_is_without_power(
    namespace: Namespace, gateway: httpx.Client
) -> None:
    cluster = namespace.cluster
    first, *others = cluster.workers()
    if not cluster.can_stop_nodes or not others:
        pytest.skip("needs a cluster whose machines can be stopped, and two of them")
    assert gateway.put("/v1/topics/orders", json={"partitions": 8}).status_code == 201
    _publish(gateway, "orders", BEFORE)
    placed = {pod["spec"]["nodeName"] for pod in namespace.pods(app="mom-node")}
    assert len(placed) == 2
    (victim, *_) = sorted(placed - {first})

    cluster.stop_node(victim)
    try:
        # Every partition, so also those of the node that died with the machine.
        _wait_until("all partitions serve", lambda: _serves_all(gateway, 8))
        _publish(gateway, "orders", AFTER)
    finally:
        cluster.start_node(victim)
    namespace.wait_rolled_out("deployment/mom-node", seconds=90)
    found = [value for partition in range(8) for value in _read(gateway, "orders", partition)]
    assert sorted(found) == sorted(BEFORE + AFTER)


def _serves_all(client: httpx.Client, partitions: int) -> bool:
    try:
        answers = [
            client.get(f"/v1/topics/orders/partitions/{partition}/records", timeout=2)
            for partition in range(partitions)
        ]
    except httpx.TransportError:
        return False
    return all(answer.status_code == 200 for answer in answers)
