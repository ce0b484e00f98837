"""The gRPC boundary: identity in, errors out, ports that are taken. Over TCP and in memory."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mom_broker.rpc.auth import Authenticator
from mom_broker.rpc.in_process import InProcessNetwork
from mom_broker.rpc.network import GrpcNetwork, Network
from mom_broker.rpc.peers import GrpcTransport
from mom_broker.rpc.server import RpcServer
from mom_broker.storage.memory import MemoryStore
from mom_core import access, catalog
from mom_core.errors import (
    ErrorCode,
    InternalError,
    InvalidArgumentError,
    MomError,
    NotFoundError,
    TimedOutError,
    UnauthenticatedError,
    UnavailableError,
)
from mom_core.ports import KeyWrite
from mom_process.addresses import Address, holder_of
from mom_process.system import SystemClock
from mom_proto.v1 import master_pb2, master_pb2_grpc

GET_TOPIC = "/mom.v1.Master/GetTopic"
CLUSTER_TOKEN = "a-secret-of-the-cluster"


class _Servicer(master_pb2_grpc.MasterServicer):
    """Handlers that fail in the ways a handler can."""

    def __init__(self, authenticator: Authenticator) -> None:
        self.authenticator = authenticator
        self.slow = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def GetTopic(self, request: Any, context: Any) -> Any:
        match request.name:
            case "missing":
                raise NotFoundError(
                    "no topic 'missing'", field="name", retry_after_ms=7, details={"a": "b"}
                )
            case "defect":
                raise KeyError("a secret detail")
            case "huge":
                raise NotFoundError("x" * 100_000, details={"a": "b" * 100_000})
            case "slow":
                self.slow.set()
                try:
                    await SystemClock().sleep(60_000)
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
        who = self.authenticator.identity_of(context).name
        return master_pb2.GetTopicResponse(topic={"name": who})

    async def RegisterNode(self, beats: Any, context: Any) -> AsyncIterator[Any]:
        async for beat in beats:
            yield master_pb2.MasterBeat(partitions_placed=1)
            if not beat.leaving:
                raise NotFoundError("gone")


class _Fixture:
    def __init__(self, server: RpcServer, store: MemoryStore, servicer: _Servicer) -> None:
        self.server = server
        self.servicer = servicer
        self.store = store
        self.address = str(server.address)


async def _serve(
    *,
    open_to_all: bool,
    cluster_token: str | None = None,
    listen: Address | None = None,
    network: Network | None = None,
) -> _Fixture:
    clock = SystemClock()
    store = MemoryStore(clock)
    authenticator = Authenticator(store, clock, open_to_all, cluster_token)
    await authenticator.start()
    address = listen or Address("127.0.0.1", 0)
    server = RpcServer(address, authenticator, ["mom.v1.Master"], network)
    servicer = _Servicer(authenticator)
    master_pb2_grpc.add_MasterServicer_to_server(servicer, server.grpc)
    await server.start()
    return _Fixture(server, store, servicer)


@pytest.fixture(params=[GrpcNetwork, InProcessNetwork])
def network(request: pytest.FixtureRequest) -> Network:
    made: Network = request.param()
    return made


@pytest.fixture
async def opened(network: Network) -> AsyncIterator[_Fixture]:
    fixture = await _serve(open_to_all=True, network=network)
    yield fixture
    await fixture.server.stop(0)


@pytest.fixture
async def guarded(network: Network) -> AsyncIterator[_Fixture]:
    fixture = await _serve(open_to_all=False, cluster_token=CLUSTER_TOKEN, network=network)
    yield fixture
    await fixture.server.stop(0)
    await fixture.store.close()


@pytest.fixture
async def transport(network: Network) -> AsyncIterator[GrpcTransport]:
    pool = GrpcTransport(None, network)
    yield pool
    await pool.close()


def _request(name: str) -> bytes:
    return master_pb2.GetTopicRequest(name=name).SerializeToString()


async def test_an_error_arrives_as_it_was_raised(
    opened: _Fixture, transport: GrpcTransport
) -> None:
    with pytest.raises(NotFoundError) as caught:
        await transport.call(opened.address, GET_TOPIC, _request("missing"), 5_000)
    error = caught.value
    assert (error.message, error.field) == ("no topic 'missing'", "name")
    assert (error.retry_after_ms, error.details) == (7, {"a": "b"})


async def test_a_defect_says_nothing_of_its_inside(
    opened: _Fixture, transport: GrpcTransport
) -> None:
    with pytest.raises(InternalError) as caught:
        await transport.call(opened.address, GET_TOPIC, _request("defect"), 5_000)
    assert "secret" not in caught.value.message


async def test_a_huge_error_is_cut_to_fit(opened: _Fixture, transport: GrpcTransport) -> None:
    with pytest.raises(NotFoundError) as caught:
        await transport.call(opened.address, GET_TOPIC, _request("huge"), 5_000)
    assert len(caught.value.message) == 1_024


async def test_a_call_ends_at_its_time_limit(opened: _Fixture, transport: GrpcTransport) -> None:
    with pytest.raises(TimedOutError):
        await transport.call(opened.address, GET_TOPIC, _request("slow"), 50)


async def test_a_peer_that_is_not_there(transport: GrpcTransport) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UnavailableError):
            await transport.call(address, GET_TOPIC, b"", 5_000)


async def test_an_error_inside_a_stream(opened: _Fixture, network: Network) -> None:
    async with network.channel(opened.address, ()) as channel:
        call = master_pb2_grpc.MasterStub(channel).RegisterNode(iter([master_pb2.NodeBeat()]))
        replies = aiter(call)
        assert (await anext(replies)).partitions_placed == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(replies)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stream_that_is_written_and_read_step_by_step(
    opened: _Fixture, network: Network
) -> None:
    async with network.channel(opened.address, ()) as channel:
        call = master_pb2_grpc.MasterStub(channel).RegisterNode()
        for _ in range(200):
            await call.write(master_pb2.NodeBeat(leaving=True))
            assert (await call.read()).partitions_placed == 1
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(master_pb2.NodeBeat())


async def _write_for_ever(call: Any) -> None:
    while True:
        await call.write(master_pb2.NodeBeat())


async def test_a_stream_that_ends_while_it_is_written(opened: _Fixture, network: Network) -> None:
    async with network.channel(opened.address, ()) as channel:
        call = master_pb2_grpc.MasterStub(channel).RegisterNode()
        with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
            await _write_for_ever(call)


async def test_a_stream_that_its_caller_cancels(opened: _Fixture, network: Network) -> None:
    async with network.channel(opened.address, ()) as channel:
        call = master_pb2_grpc.MasterStub(channel).RegisterNode()
        await call.write(master_pb2.NodeBeat(leaving=True))
        assert (await call.read()).partitions_placed == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()


async def test_a_stream_at_a_server_that_stops(opened: _Fixture, network: Network) -> None:
    async with network.channel(opened.address, ()) as channel:
        call = master_pb2_grpc.MasterStub(channel).RegisterNode()
        await call.write(master_pb2.NodeBeat(leaving=True))
        assert (await call.read()).partitions_placed == 1
        reading = asyncio.create_task(call.read())
        await opened.server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reading
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_health_is_open_to_all_and_calls_are_not(
    guarded: _Fixture, transport: GrpcTransport, network: Network
) -> None:
    with pytest.raises(UnauthenticatedError):
        await transport.call(guarded.address, GET_TOPIC, _request("a"), 5_000)
    async with network.channel(guarded.address, ()) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_cluster_token_is_the_cluster(guarded: _Fixture, network: Network) -> None:
    pool = GrpcTransport(CLUSTER_TOKEN, network)
    reply = await pool.call(guarded.address, GET_TOPIC, _request("a"), 5_000)
    assert master_pb2.GetTopicResponse.FromString(reply).topic.name == "cluster"
    await pool.close()


async def test_a_token_from_the_store_and_its_revocation(
    guarded: _Fixture, network: Network
) -> None:
    text, record = access.new_token("alice", ["admin"], random=os.urandom(40), created_at_ms=0)
    key = catalog.token_key(record.token_id)
    await guarded.store.write([KeyWrite(key, access.encode_token(record))])
    pool = GrpcTransport(text, network)
    reply = await pool.call(guarded.address, GET_TOPIC, _request("a"), 5_000)
    assert master_pb2.GetTopicResponse.FromString(reply).topic.name == "alice"
    await guarded.store.write([KeyWrite(key, None)])
    with pytest.raises(UnauthenticatedError):
        await pool.call(guarded.address, GET_TOPIC, _request("a"), 5_000)
    await pool.close()


async def test_a_method_that_is_not_there(opened: _Fixture, transport: GrpcTransport) -> None:
    with pytest.raises(MomError) as caught:
        await transport.call(opened.address, "/mom.v1.Master/Nothing", b"", 5_000)
    assert caught.value.code is ErrorCode.METHOD_NOT_ALLOWED


async def test_a_server_that_stops_ends_the_calls_under_way(
    opened: _Fixture, transport: GrpcTransport
) -> None:
    calling = asyncio.create_task(
        transport.call(opened.address, GET_TOPIC, _request("slow"), 60_000)
    )
    await opened.servicer.slow.wait()
    await opened.server.stop(0)
    with pytest.raises(UnavailableError):
        await calling
    with pytest.raises(UnavailableError):
        await transport.call(opened.address, GET_TOPIC, _request("a"), 5_000)


async def test_a_caller_that_goes_away_ends_its_call(
    opened: _Fixture, transport: GrpcTransport
) -> None:
    calling = asyncio.create_task(
        transport.call(opened.address, GET_TOPIC, _request("slow"), 60_000)
    )
    await opened.servicer.slow.wait()
    calling.cancel()
    await opened.servicer.cancelled.wait()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_a_taken_port_is_named_with_its_process() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(InvalidArgumentError) as caught:
            await _serve(open_to_all=True, listen=Address("127.0.0.1", port))
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert f"port {port}" in caught.value.message
    assert f"pid {os.getpid()}" in caught.value.message


def test_nobody_holds_a_free_port() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        assert holder_of(probe.getsockname()[1]) is None
