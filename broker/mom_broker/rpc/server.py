"""The gRPC server of a master or node.

Around every MOM call stands one interceptor: it refuses a caller without identity, turns a MomError
into a status with the error in trailing metadata, and turns anything unexpected into ``internal``
with a log line. So handlers just raise. Health and reflection are open to all: they tell nothing
that the published protocol does not.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NoReturn

import grpc

# Packages without type information.
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE  # type: ignore[import-untyped]
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from mom_broker.rpc.auth import Authenticator
from mom_broker.rpc.errors import status_of, trailing_metadata
from mom_broker.rpc.network import GrpcNetwork, Network
from mom_core.errors import InternalError, MomError
from mom_core.limits import GRPC_MESSAGE_BYTES_MAX
from mom_process.addresses import Address, parse_address

# Calls under way at once: limits.NODE_WAITERS_MAX long polls, and as many others. Beyond it gRPC
# itself answers RESOURCE_EXHAUSTED.
RPC_CALLS_MAX: Final = 20_000

SERVER_OPTIONS: Final = (
    ("grpc.max_receive_message_length", GRPC_MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", GRPC_MESSAGE_BYTES_MAX),
    # With it on, two processes could share a port without knowing of each other.
    ("grpc.so_reuseport", 0),
    # Clients may ping an idle connection to notice a dead server; a refusal would cut them off.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    # And the server notices clients that vanished without a word, so that their calls end.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # The one above alone does nothing in grpcio 1.85.
    ("grpc.http2.ping_timeout_ms", 5_000),
)

_OPEN_SERVICES: Final = ("/grpc.health.v1.", "/grpc.reflection.")

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class RpcServer:
    """A grpc.aio server with health, reflection, identity and errors in place.

    Add servicers to :attr:`grpc` before :meth:`start`.
    """

    def __init__(
        self,
        listen: Address,
        authenticator: Authenticator,
        services: Sequence[str],
        network: Network | None = None,
    ) -> None:
        """``services`` are the full names offered, such as ``mom.v1.Broker``."""
        self._listen = listen
        self._services = tuple(services)
        self._network = network or GrpcNetwork()
        self.grpc = self._network.server((_Boundary(authenticator),), SERVER_OPTIONS, RPC_CALLS_MAX)
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        reflection.enable_server_reflection(
            (*self._services, HEALTH_SERVICE, reflection.SERVICE_NAME), self.grpc
        )
        self.address = listen
        """What is bound, after :meth:`start`."""

    async def start(self) -> int:
        """Listen and serve; returns the port that is bound.

        Raises InvalidArgumentError when the port is taken, naming the process that has it.
        """
        port = self._network.bind(self.grpc, self._listen)
        await self.grpc.start()
        self.address = Address(self._listen.host, port)
        await self.set_serving(True)
        return port

    def reached_at(self, advertise: str) -> str:
        """The address to tell others: the bound one, unless told; a port 0 is the bound port."""
        if not advertise:
            return str(self.address)
        told = parse_address(advertise, "advertise")
        return str(told if told.port else Address(told.host, self.address.port))

    async def set_serving(self, serving: bool) -> None:
        """What the gRPC health service answers, for the server and each of its services."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        value = status.SERVING if serving else status.NOT_SERVING
        for service in ("", *self._services):
            await self._health.set(service, value)

    async def stop(self, grace_ms: int) -> None:
        """Take no new calls and end those under way, by force after ``grace_ms``."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(grace_ms / 1000)


class _Boundary(grpc.aio.ServerInterceptor):
    """Identity in, errors out."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        # One wrapped handler a method: bounded, since unknown methods are not kept.
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(_OPEN_SERVICES):
            return handler
        wrapped = self._wrapped[method] = self._wrap(handler)
        return wrapped

    def _wrap(self, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        kinds: dict[tuple[bool, bool], tuple[str, Any, Any]] = {
            (False, False): ("unary_unary", self._unary, grpc.unary_unary_rpc_method_handler),
            (False, True): ("unary_stream", self._stream, grpc.unary_stream_rpc_method_handler),
            (True, False): ("stream_unary", self._unary, grpc.stream_unary_rpc_method_handler),
            (True, True): ("stream_stream", self._stream, grpc.stream_stream_rpc_method_handler),
        }
        name, wrap, make = kinds[handler.request_streaming, handler.response_streaming]
        inner = getattr(handler, name)
        made: grpc.RpcMethodHandler[Any, Any] = make(
            wrap(inner),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return made

    def _unary(self, inner: Callable[[Any, Context], Awaitable[Any]]) -> Any:
        async def call(request: Any, context: Context) -> Any:
            try:
                self._authenticator.identity_of(context)
                return await inner(request, context)
            except Exception as error:
                await _abort(context, error)

        return call

    def _stream(self, inner: Callable[[Any, Context], AsyncIterator[Any]]) -> Any:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                self._authenticator.identity_of(context)
                replies: Any = inner(request, context)
                async with contextlib.aclosing(replies):
                    async for reply in replies:
                        yield reply
            except Exception as error:
                await _abort(context, error)

        return call


async def _abort(context: Context, error: Exception) -> NoReturn:
    """End the call with what went wrong. Cancellation is no error and passes by."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, MomError):
        _log.error("a call failed by a defect", exc_info=error)
        error = InternalError(
            f"a defect in MOM ended the call ({type(error).__name__}). The server's log has more"
        )
    await context.abort(status_of(error.code), error.message[:1_024], trailing_metadata(error))
