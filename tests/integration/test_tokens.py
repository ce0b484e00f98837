"""Tokens end to end: real processes with authentication on, REST and the SDK, over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any

import grpc
import pytest

import mom_client
from integration.cluster_processes import ClusterProcesses
from mom_proto.v1 import broker_pb2, broker_pb2_grpc, master_pb2_grpc, types_pb2
from polling import until
from redis_server import RedisServer

CLUSTER_TOKEN = "a-secret-that-the-processes-share"
STORE_PASSWORD = "the-password-of-the-store"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    directory = tmp_path_factory.mktemp("tokens")
    server = RedisServer(directory / "redis")
    server.start(["--requirepass", STORE_PASSWORD])
    url = server.url.replace("//", f"//:{STORE_PASSWORD}@")
    variables = {"MOM_AUTH": "required", "MOM_CLUSTER_TOKEN": CLUSTER_TOKEN}
    with ClusterProcesses(directory, url, variables=variables) as running:
        asyncio.run(make_topics(running))
        yield running
    server.stop()


async def make_topics(cluster: ClusterProcesses) -> None:
    async with cluster.rest(CLUSTER_TOKEN) as rest:
        for name in ("orders", "orders.eu", "orders-secret"):
            assert (await rest.put(f"/v1/topics/{name}")).status_code == 201
        assert (await rest.put("/v1/queues/jobs.mail")).status_code == 201


class Token:
    """A token as it was shown when it was made."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.id: str = document["token_id"]
        self.text: str = document["token"]
        self.secret = self.text.rpartition("_")[2]


@pytest.fixture(scope="module")
def tokens(cluster: ClusterProcesses) -> dict[str, Token]:
    """A token for each use. `mom token create` makes the admin's, who makes the others by REST."""
    scopes = {
        "reader": ["read:orders."],
        "writer": ["write:orders"],
        "worker": ["read:jobs.*", "write:jobs.*"],
        "leaver": ["read:orders", "write:orders"],
    }

    async def make_all() -> dict[str, Token]:
        words = ("--scope", "admin", "--expires", "1h")
        admin = Token(await cluster.mom("token", "create", "admin", *words, token=CLUSTER_TOKEN))
        made = {"admin": admin}
        async with cluster.rest(admin.text) as rest:
            for name, allowed in scopes.items():
                response = await rest.post("/v1/tokens", json={"name": name, "scopes": allowed})
                assert response.status_code == 201, response.text
                made[name] = Token(response.json())
        return made

    return asyncio.run(make_all())


def wrong(token: Token) -> str:
    """The token with another secret."""
    return token.text[:-1] + ("0" if token.text[-1] != "0" else "1")


async def test_rest_asks_for_a_token(cluster: ClusterProcesses, tokens: dict[str, Token]) -> None:
    path = "/v1/topics/orders/records"
    for text in (None, "nonsense", wrong(tokens["admin"]), f"mom_{'0' * 16}_{'0' * 64}"):
        async with cluster.rest(text) as rest:
            for response in (
                await rest.post(path, json={"value": 1}),
                await rest.get("/v1/topics"),
                await rest.put("/v1/topics/more"),
                await rest.get("/v1/cluster"),
                await rest.get("/v1/tokens"),
            ):
                assert response.status_code == 401, response.text
                assert response.json()["code"] == "unauthenticated"
                assert "mom token create" in response.json()["detail"] or text is not None
                assert response.headers["www-authenticate"] == 'Bearer realm="mom"'
            # What an orchestrator and a reader of the documentation need stands open.
            for open_path in ("/healthz", "/readyz", "/metrics", "/docs"):
                assert (await rest.get(open_path)).status_code == 200


async def test_rest_allows_what_the_scopes_say(
    cluster: ClusterProcesses, tokens: dict[str, Token]
) -> None:
    async def status(name: str, method: str, path: str, body: object = None) -> int:
        async with cluster.rest(tokens[name].text) as rest:
            response = await rest.request(method, path, json=body)
            if response.status_code == 403:
                assert response.json()["code"] == "forbidden"
            return response.status_code

    async def read(name: str, topic: str) -> int:
        return await status(name, "GET", f"/v1/topics/{topic}/partitions/0/records?offset=0")

    async def write(name: str, topic: str) -> int:
        return await status(name, "POST", f"/v1/topics/{topic}/records", {"value": 1})

    # Names: exactly, and by prefix, which ends at a mark.
    assert await write("writer", "orders") == 200
    assert await write("writer", "orders.eu") == 403
    assert await write("writer", "orders-secret") == 403
    assert await read("writer", "orders") == 403
    assert await read("reader", "orders.eu") == 200
    assert await read("reader", "orders") == 403
    assert await read("reader", "orders-secret") == 403
    assert await write("reader", "orders.eu") == 403
    # A worker's whole day.
    jobs = "/v1/queues/jobs.mail/messages"
    assert await status("worker", "POST", jobs, {"value": "job"}) == 200
    async with cluster.rest(tokens["worker"].text) as rest:
        received = await rest.post(f"{jobs}:receive", json={"wait_ms": 10_000})
        (message,) = received.json()["messages"]
        settled = await rest.post(f"{jobs}:ack", json={"receipts": [message["receipt"]]})
        assert settled.json()["results"][0]["status"] == "ok"
        shown = (await rest.get("/v1/topics")).json()["topics"]
        assert shown == [], "topics that it may not know of"
    assert await status("reader", "POST", f"{jobs}:receive", {}) == 403
    assert await status("reader", "POST", f"{jobs}:ack", {"receipts": [message["receipt"]]}) == 403
    # Only an admin changes anything.
    for name in ("reader", "writer", "worker"):
        assert await status(name, "PUT", "/v1/topics/orders.new") == 403
        assert await status(name, "DELETE", "/v1/topics/orders") == 403
        assert await status(name, "GET", "/v1/tokens") == 403
        assert await status(name, "POST", "/v1/tokens", {"name": "x", "scopes": ["admin"]}) == 403
    assert await status("admin", "PUT", "/v1/topics/orders.new") == 201
    assert await write("admin", "orders-secret") == 200


async def test_the_sdk_asks_for_a_token(
    cluster: ClusterProcesses, tokens: dict[str, Token]
) -> None:
    for text in (None, "nonsense", wrong(tokens["admin"])):
        with pytest.raises(mom_client.UnauthenticatedError):
            async with mom_client.connect(cluster.addresses, token=text):
                pass


async def test_the_sdk_allows_what_the_scopes_say(
    cluster: ClusterProcesses, tokens: dict[str, Token]
) -> None:
    async with mom_client.connect(cluster.addresses, token=tokens["writer"].text) as writer:
        assert (await writer.publish("orders", "by the SDK")).durability == "fsync"
        with pytest.raises(mom_client.ForbiddenError):
            [one async for one in writer.read("orders")]
        with pytest.raises(mom_client.ForbiddenError):
            await writer.create_topic("orders.other")
        # A topic that it may not know of is none to it.
        for name in ("orders.eu", "orders-secret"):
            with pytest.raises((mom_client.NotFoundError, mom_client.ForbiddenError)):
                await writer.publish(name, "not allowed")
    async with mom_client.connect(cluster.addresses, token=tokens["worker"].text) as worker:
        await worker.publish("jobs.mail", "by the SDK")
        (job,) = await worker.receive("jobs.mail", wait=10)
        await worker.ack(job)
        with pytest.raises(mom_client.ForbiddenError):
            await worker.delete("jobs.mail")


async def test_what_is_for_the_cluster_is_refused_to_others(
    cluster: ClusterProcesses, tokens: dict[str, Token]
) -> None:
    asked = broker_pb2.AuthenticateRequest(token=tokens["reader"].text)
    async with (
        grpc.aio.insecure_channel(cluster.addresses[0]) as to_node,
        grpc.aio.insecure_channel(cluster.master.address) as to_master,
    ):
        for text, status in (
            (tokens["worker"].text, grpc.StatusCode.PERMISSION_DENIED),
            (None, grpc.StatusCode.UNAUTHENTICATED),
        ):
            metadata = bearer(text)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await broker_pb2_grpc.BrokerStub(to_node).Authenticate(asked, metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            # Nothing is sent: gRPC tells of a refusal that meets a message as INTERNAL.
            call = master_pb2_grpc.MasterStub(to_master).RegisterNode(metadata=metadata)
            assert await call.code() is status


def bearer(text: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata of a call with a token."""
    return (("authorization", f"Bearer {text}"),) if text is not None else ()


async def test_a_revoked_token_ends_within_its_cache_time(
    cluster: ClusterProcesses, tokens: dict[str, Token]
) -> None:
    leaver = tokens["leaver"]
    path = "/v1/topics/orders/records"
    async with AsyncExitStack() as stack:
        rest = await stack.enter_async_context(cluster.rest(leaver.text))
        admin = await stack.enter_async_context(cluster.rest(tokens["admin"].text))
        client = mom_client.connect(cluster.addresses, token=leaver.text)
        await stack.enter_async_context(client)
        await client.publish("orders", "still allowed")
        assert (await rest.post(path, json={"value": 1})).status_code == 200
        owner = (await client.describe("orders"))[0].node_id
        channel = grpc.aio.insecure_channel(cluster.nodes[owner].address)
        await stack.enter_async_context(channel)
        stub = broker_pb2_grpc.BrokerStub(channel)
        routing = stub.WatchRouting(broker_pb2.WatchRoutingRequest(), metadata=bearer(leaver.text))
        topic_id = (await anext(aiter(routing))).topics[0].topic.topic_id
        stream = stub.Subscribe(metadata=bearer(leaver.text))
        start = broker_pb2.FetchPartition(
            partition=types_pb2.Partition(topic_id=topic_id), earliest=True
        )
        await stream.write(broker_pb2.SubscribeRequest(start=start, credit_bytes=1 << 30))
        assert (await stream.read()).batches

        await cluster.mom("token", "revoke", leaver.id, token=CLUSTER_TOKEN)

        async def refused() -> bool:
            response = await rest.post(path, json={"value": 1})
            assert response.status_code in (200, 401), response.text
            return response.status_code == 401

        await until(refused, "the gateway refuses the token")
        # Nodes know at once, and no message of afterwards goes out on a stream of before.
        with pytest.raises(mom_client.UnauthenticatedError):
            await client.publish("orders", "no longer")
        assert (await admin.post(path, json={"value": "after"})).status_code == 200
        assert (await admin.put("/v1/topics/orders")).status_code == 200
        shown = [one.batch for result in await rest_of(stream) for one in result.batches]
        assert b"after" not in b"".join(shown)
        assert (await admin.put("/v1/topics/orders.latest")).status_code == 201
        shown = [one.topic.name for update in await rest_of(routing) for one in update.topics]
        assert "orders.latest" not in shown


async def rest_of(stream: Any) -> list[Any]:
    """What a stream still brings until it ends for lack of a good token."""
    brought: list[Any] = []

    async def read_on() -> None:
        while (one := await stream.read()) is not grpc.aio.EOF:
            brought.append(one)

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await read_on()
    assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
    return brought


def test_no_log_shows_a_secret(cluster: ClusterProcesses, tokens: dict[str, Token]) -> None:
    """The last test here: by now every process has had all of them in its hands."""
    secrets = [CLUSTER_TOKEN, STORE_PASSWORD]
    for one in tokens.values():
        secrets += [
            one.secret,
            wrong(one).rpartition("_")[2],
            sha256(bytes.fromhex(one.secret)).hexdigest(),
            sha256(one.secret.encode()).hexdigest(),
        ]
    for process in cluster.processes:
        log = process.log()
        assert '"level":"info"' in log
        assert [secret for secret in secrets if secret in log] == [], process.name
