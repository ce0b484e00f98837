"""The boundary to gRPC: channels, bytes in and out, and errors translated once.

No other module of the client touches grpc, and this one imports it only when a connection
is opened: an application that imports the client and then forks has started nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from typing import TYPE_CHECKING, Any, Final

from mom_core import limits
from mom_core.errors import (
    ErrorCode,
    InternalError,
    MomError,
    RoutingError,
    UnavailableError,
    error_of,
)
from mom_process.wire_errors import code_of_bare_status, from_metadata

if TYPE_CHECKING:
    import grpc

# Connections held at a time; nodes that left the routing table are closed long before.
CONNECTIONS_MAX: Final = 1_024
# A silent server is noticed within the sum of these two while calls wait for it: 3 s, so that with
# another try its silence costs no more than 4 s also those who have their routing table from it.
KEEPALIVE_INTERVAL_MS: Final = 1_000
KEEPALIVE_TIMEOUT_MS: Final = 2_000
_RECONNECT_MS_FIRST: Final = 50
_RECONNECT_MS_MAX: Final = 1_000
# An attempt to connect may take so long. gRPC has no option of its own for that.
_CONNECT_MS_MAX: Final = 1_000

# A pod that comes back has another address under its name. gRPC asks for names every 30 s at most,
# and less and less often while a name is unknown, both of which no option limits well: so a channel
# of this age that can't connect is replaced by a fresh one.
_FAILING_CHANNEL_S_MAX: Final = 1.0

_CHANNEL_OPTIONS: Final = (
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.max_receive_message_length", limits.GRPC_MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", limits.GRPC_MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    # It is this one that ends the calls of a silent server; alone, the one above did nothing
    # (grpcio 1.85: no error after 20 s, 3 s with this).
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS_FIRST),
    ("grpc.min_reconnect_backoff_ms", _CONNECT_MS_MAX),
    ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS_MAX),
    # Retries are ours: they know the routing table and the producer's sequence.
    ("grpc.enable_retries", 0),
    # MOM's nodes are reached directly, whatever proxy the environment names for the web.
    ("grpc.enable_http_proxy", 0),
    # Closing a channel then closes its connection, which forking rests on.
    ("grpc.use_local_subchannel_pool", 1),
)

# The standard health service; the reply is a HealthCheckResponse with status SERVING.
_HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
_HEALTH_SERVING: Final = b"\x08\x01"

# What gRPC says when an HTTP/1.1 server answers.
_NO_HTTP2: Final = "Failed parsing HTTP/2"
# What gRPC says in place of the peer's status when a stream ends just while something is sent.
_STATUS_LOST: Final = "Internal error from Core"


def error_from_rpc(error: grpc.aio.AioRpcError, address: str, method: str) -> MomError:
    """What the peer reported, or what the failed transport comes down to."""
    whole = from_metadata(error.trailing_metadata())
    if whole is not None:
        return whole
    status = error.code().name
    code = code_of_bare_status(status)
    reason = error.details() or status.lower()
    if code is ErrorCode.TIMEOUT:
        reason = "no answer in time"
    if _NO_HTTP2 in reason:
        reason = (
            "what answers there speaks HTTP and is no node or master; if it is a gateway, give its "
            f"URL, http://{address}"
        )
    return error_of(code.value, f"{address} ({method.rpartition('/')[2]}): {reason}")


class GrpcStream:
    """A call with a stream each way: one task sends, another one receives.

    A task that is cancelled in the middle of either cancels the call.
    """

    def __init__(self, channels: GrpcChannels, call: Any, address: str, method: str) -> None:
        self._channels = channels
        self._call = call
        self._address = address
        self._method = method

    async def send(self, request: bytes) -> None:
        """Send. Raises the MomError that ended the call."""
        await self._do(self._call.write, request)

    async def finish(self) -> None:
        """Say that no more is sent; what the peer sends can still be received."""
        await self._do(self._call.done_writing)

    async def receive(self) -> bytes | None:
        """What came next; None at the end. Raises the MomError that ended the call."""
        reply = await self._do(self._call.read)
        return reply if isinstance(reply, bytes) else None

    async def _do(self, step: Callable[..., Any], *arguments: bytes) -> Any:
        import grpc

        failure: BaseException
        try:
            return await step(*arguments)
        except (
            grpc.aio.AioRpcError,
            grpc.aio.UsageError,
            asyncio.CancelledError,
            asyncio.InvalidStateError,
        ) as error:
            failure = self._channels.failure(error, self._address, self._method)
        finally:
            del step
        raise failure

    def cancel(self) -> None:
        """End it at once."""
        self._call.cancel()


def open_tcp_channel(address: str) -> grpc.aio.Channel:
    """A channel to ``host:port``; it connects with its first call."""
    import grpc

    return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)


class GrpcChannels:
    """Channels to processes by address: the Transport port over gRPC.

    Belongs to the event loop on which it is first used. Errors are raised outside of the handlers
    that caught gRPC's own: as their context these would keep the channel alive, and with it gRPC's
    threads, which must be gone before a fork.
    """

    def __init__(
        self,
        token: str | None = None,
        open_channel: Callable[[str], grpc.aio.Channel] = open_tcp_channel,
    ) -> None:
        self._open_channel = open_channel
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._made_s: dict[str, float] = {}
        self._methods: dict[tuple[str, str], Callable[..., Any]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._resumed: asyncio.Event | None = None

    async def call(
        self,
        address: str,
        method: str,
        request: bytes,
        timeout_ms: int,
        authorization: str | None = None,
    ) -> bytes:
        """Call ``method`` (``/mom.v1.Broker/Fetch``) at ``host:port``.

        ``authorization`` goes in place of the client's own token; empty: none. Raises the MomError
        that the peer reported, UnavailableError when it can't be reached, or TimedOutError.
        """
        import grpc

        if self._resumed is not None:
            await self._resumed.wait()
        call: Any = self._methods.get((address, method))
        if call is None:
            call = self._channel(address).unary_unary(method)
            self._methods[address, method] = call
        failure: BaseException
        try:
            reply: bytes = await call(
                request, timeout=timeout_ms / 1000, metadata=self._metadata_of(authorization)
            )
            return reply
        except grpc.aio.AioRpcError as error:
            failure = error_from_rpc(error, address, method)
            self._replace_failing(address)
        except asyncio.CancelledError:
            failure = self._cancelled(address)
        except grpc.aio.UsageError:
            failure = UnavailableError(f"the connection to {address} was closed")
        finally:
            del call
        raise failure

    def _metadata_of(self, authorization: str | None) -> tuple[tuple[str, str], ...]:
        if authorization is None:
            return self._metadata
        return (("authorization", authorization),) if authorization else ()

    async def stream(
        self, address: str, method: str, request: bytes, authorization: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Call a method that answers with a stream. Raises as :meth:`call`."""
        import grpc

        if self._resumed is not None:
            await self._resumed.wait()
        failure: BaseException | None = None
        call: Any = self._channel(address).unary_stream(method)
        replies: Any = call(request, metadata=self._metadata_of(authorization))
        try:
            async for reply in replies:
                yield reply
        except grpc.aio.AioRpcError as error:
            failure = error_from_rpc(error, address, method)
            self._replace_failing(address)
        except asyncio.CancelledError:
            failure = self._cancelled(address)
        except grpc.aio.UsageError:
            failure = UnavailableError(f"the connection to {address} was closed")
        finally:
            replies.cancel()
            del call, replies
        if failure is not None:
            raise failure

    async def open(self, address: str, method: str) -> GrpcStream:
        """Begin a call with a stream each way. Raises UnavailableError when this is closed."""
        if self._resumed is not None:
            await self._resumed.wait()
        call: Any = self._channel(address).stream_stream(method)
        return GrpcStream(self, call(metadata=self._metadata), address, method)

    async def serves(self, address: str, timeout_ms: int) -> bool:
        """Whether a gRPC server answers at an address. It is told nothing, not even the token."""
        try:
            reply = await self.call(address, _HEALTH_CHECK, b"", timeout_ms, authorization="")
        except MomError:
            reply = b""
        if reply != _HEALTH_SERVING:
            self._close(address)  # Or it would go on trying to connect.
        return reply == _HEALTH_SERVING

    def failure(self, error: BaseException, address: str, method: str) -> BaseException:
        """What an error that gRPC raised at a stream comes down to."""
        import grpc

        if isinstance(error, grpc.aio.AioRpcError):
            if error.details() == _STATUS_LOST:
                return RoutingError(f"{address} ended the stream while more was sent to it")
            failure = error_from_rpc(error, address, method)
            self._replace_failing(address)
            return failure
        if isinstance(error, asyncio.CancelledError):
            return self._cancelled(address)
        return UnavailableError(f"the connection to {address} was closed")

    def _cancelled(self, address: str) -> BaseException:
        """Tell our own cancellation from gRPC's, which reports a closed channel as one too."""
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            return asyncio.CancelledError()
        return UnavailableError(f"the connection to {address} was closed")

    def _channel(self, address: str) -> grpc.aio.Channel:
        if self._closed:
            raise UnavailableError("the client was closed")
        channel = self._channels.get(address)
        if channel is None:
            if len(self._channels) >= CONNECTIONS_MAX:
                raise InternalError(f"more than {CONNECTIONS_MAX} connections are open")
            channel = self._open_channel(address)
            self._channels[address] = channel
            self._made_s[address] = asyncio.get_running_loop().time()
        return channel

    def _replace_failing(self, address: str) -> None:
        """Close a channel that can't connect, so that the next call makes another one.

        No call is under way on it: without a connection they fail at once.
        """
        import grpc

        channel = self._channels.get(address)
        if channel is None:
            return
        age_s = asyncio.get_running_loop().time() - self._made_s[address]
        failing = channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        if failing and age_s > _FAILING_CHANNEL_S_MAX:
            self._close(address)

    def keep_only(self, addresses: Collection[str]) -> None:
        """Close connections to processes that are no more."""
        for address in [one for one in self._channels if one not in addresses]:
            self._close(address)

    def _close(self, address: str) -> None:
        channel = self._channels.pop(address, None)
        if channel is None:
            return
        self._made_s.pop(address, None)
        for key in [key for key in self._methods if key[0] == address]:
            del self._methods[key]
        task = asyncio.get_running_loop().create_task(channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def pause(self) -> None:
        """Close all connections until :meth:`resume`, for a fork.

        Calls under way end with UnavailableError, and new ones wait.
        """
        self._resumed = asyncio.Event()
        await self._close_all()

    def resume(self) -> None:
        """Connect again on demand."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    async def close(self) -> None:
        """Close all connections. Calls under way end with UnavailableError."""
        self._closed = True
        self.resume()
        await self._close_all()

    async def _close_all(self) -> None:
        channels = list(self._channels.values())
        self._channels.clear()
        self._made_s.clear()
        self._methods.clear()
        await asyncio.gather(*(channel.close() for channel in channels), *self._closing)
