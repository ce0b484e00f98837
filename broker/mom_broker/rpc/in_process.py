"""A network without sockets: channels and servers of one event loop, with gRPC's own behaviour.

For ``TestBroker`` and the simulation. What goes through is what gRPC would send: serialised
messages, metadata, and statuses with trailing metadata; servicers, interceptors and stubs are the
real ones. A call ends for both sides when either cancels it, when its time is over, or when its
channel or server is closed.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, NoReturn, Protocol

import grpc

from mom_broker.rpc.network import Options
from mom_process.addresses import Address

# Messages of a stream that its reader has not taken yet; gRPC's flow control is by bytes.
STREAM_MESSAGES_MAX: Final = 64
_FIRST_PORT: Final = 1

Metadata = Sequence[tuple[str, str | bytes]]
Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None


class Faults(Protocol):
    """What may go wrong on the way. Both may wait, and raise :func:`failure`."""

    async def request(self, address: str, method: str) -> None:
        """Before a call reaches its server."""

    async def reply(self, address: str, method: str) -> None:
        """After the server of a unary call has answered, and before its caller knows."""


def failure(
    code: grpc.StatusCode, details: str, trailing_metadata: Metadata = ()
) -> grpc.aio.AioRpcError:
    """The error that a caller gets for a status."""
    metadata = grpc.aio.Metadata(*trailing_metadata)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details)


class InProcessNetwork:
    """The Network port in memory, as one process has it. Belongs to one event loop."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults
        self.is_cut = False
        self._servers: dict[str, _Server] = {}
        self._ports = itertools.count(_FIRST_PORT)
        self._channels: list[_Channel] = []

    def beside(self) -> InProcessNetwork:
        """The same network, as another process has it."""
        other = InProcessNetwork(self.faults)
        other._servers, other._ports = self._servers, self._ports
        return other

    def channel(self, address: str, options: Options) -> grpc.aio.Channel:
        """See :class:`mom_broker.rpc.network.Network`, as for every method here."""
        channel = _Channel(self, address)
        self._channels.append(channel)
        return channel

    def server(
        self, interceptors: Sequence[Any], options: Options, calls_max: int
    ) -> grpc.aio.Server:
        return _Server(self, interceptors)

    def bind(self, server: grpc.aio.Server, listen: Address) -> int:
        assert isinstance(server, _Server), "a server of another network"
        port = listen.port or next(self._ports)
        server.address = str(Address(listen.host, port))
        return port

    def cut(self) -> None:
        """Part this process from all others: calls to it and by it end, and no more get through."""
        self.is_cut = True
        for server in tuple(self._servers.values()):
            if server.network is self:
                server.end_calls("the connection broke")
        for channel in self._channels:
            channel.end_calls("the connection broke")

    def forget(self, channel: _Channel) -> None:
        """A channel was closed."""
        if channel in self._channels:
            self._channels.remove(channel)

    def mend(self) -> None:
        """Undo :meth:`cut`."""
        self.is_cut = False

    def find(self, address: str) -> _Server:
        """The server at an address. Raises UNAVAILABLE."""
        server = self._servers.get(address)
        if server is None or self.is_cut or server.network.is_cut:
            raise failure(grpc.StatusCode.UNAVAILABLE, f"nobody answers at {address}")
        return server

    def listen(self, server: _Server) -> None:
        """From now on calls to the server's address come to it."""
        self._servers[server.address] = server

    def unlisten(self, server: _Server) -> None:
        """Undo :meth:`listen`."""
        if self._servers.get(server.address) is server:
            del self._servers[server.address]


class _Details(NamedTuple):
    """What an interceptor is told of a call."""

    method: str
    invocation_metadata: Metadata


class _Abort(grpc.aio.AbortError):
    """Ends a handler with a status."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__()
        self.error = error


class _Context:
    """What handlers ask of a ``grpc.aio.ServicerContext``."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> Metadata:
        return self._metadata

    def peer(self) -> str:
        return "in-process"

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        raise _Abort(failure(code, details, trailing_metadata))


class _Server(grpc.aio.Server):
    """Finds handlers and runs them."""

    def __init__(self, network: InProcessNetwork, interceptors: Sequence[Any]) -> None:
        self.address = ""
        self.network = network
        self._interceptors = tuple(interceptors)
        self._generic: list[grpc.GenericRpcHandler] = []
        self._handlers: dict[str, Any] = {}
        # Ordered, as all here, so that a simulation runs the same each time.
        self._calls: dict[_Call, None] = {}
        self._context = contextvars.copy_context()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any) -> None:
        self._generic += generic_rpc_handlers

    def add_insecure_port(self, address: str) -> int:
        raise NotImplementedError("bind it by its network")

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        raise NotImplementedError("there are no secrets within a process")

    async def start(self) -> None:
        self.network.listen(self)

    async def stop(self, grace: float | None) -> None:
        self.network.unlisten(self)
        tasks = [call.task for call in self._calls]
        if tasks and grace:
            await asyncio.wait(tasks, timeout=grace)
        self.end_calls("the server stops")
        if tasks:
            await asyncio.wait(tasks)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        raise NotImplementedError("whoever started it stops it")

    def end_calls(self, reason: str) -> None:
        """End all that is under way, as a connection that breaks does."""
        for call in tuple(self._calls):
            call.end(grpc.StatusCode.UNAVAILABLE, reason)

    def begin(self, call: _Call) -> asyncio.Task[Any]:
        """Run the server's half of a call, as a task that knows nothing of the caller's context."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(call.serve(self), context=self._context.copy())
        self._calls[call] = None
        task.add_done_callback(lambda _: self._calls.pop(call, None))
        return task

    async def handler(self, method: str, metadata: Metadata) -> Any:
        """The handler of a method behind the interceptors. Raises UNIMPLEMENTED."""
        found = self._handlers.get(method)
        if found is None:
            found = await self._intercepted(0, _Details(method, metadata))
            if found is None:
                raise failure(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            self._handlers[method] = found
        return found

    async def _intercepted(self, place: int, details: Any) -> Any:
        if place < len(self._interceptors):
            return await self._interceptors[place].intercept_service(
                lambda inner: self._intercepted(place + 1, inner), details
            )
        found = (one.service(details) for one in self._generic)
        return next((one for one in found if one is not None), None)


class _Call:
    """One call: the task that serves it, and what it ended with."""

    def __init__(self, channel: _Channel, method: str, metadata: Metadata | None) -> None:
        self._method = method
        self._metadata = tuple(metadata or ())
        self._timer: asyncio.TimerHandle | None = None
        self._requests: asyncio.Queue[bytes | None] = asyncio.Queue(STREAM_MESSAGES_MAX)
        self._channel = channel
        self.replies: asyncio.Queue[bytes | None] = asyncio.Queue(STREAM_MESSAGES_MAX)
        self.ended: BaseException | None = None
        """Why it ended before its time."""
        self.task: asyncio.Task[Any]

    def start(self, timeout: float | None) -> None:
        """Begin. Raises UNAVAILABLE."""
        server = self._channel.network.find(self._channel.address)
        self.task = server.begin(self)
        self._channel.calls[self] = None
        self.task.add_done_callback(self._done)
        if timeout is not None:
            loop = asyncio.get_running_loop()
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            self._timer = loop.call_later(timeout, self.end, code, "Deadline Exceeded")

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._channel.calls.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        if not task.cancelled():
            task.exception()  # Whoever made the call is told by result(), if still there.

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """End it from outside, with a status for the caller."""
        self._end(failure(code, details))

    def cancel(self) -> None:
        """End it as its caller."""
        self._end(asyncio.CancelledError())

    def _end(self, error: BaseException) -> None:
        if self.ended is None and not self.task.done():
            self.ended = error
            self.task.cancel()

    async def put(self, request: bytes | None) -> None:
        """Send a message; None: there are no more."""
        await self._requests.put(request)

    async def result(self) -> Any:
        """What the task returns. Raises what the call ended with."""
        try:
            return await self.task
        except asyncio.CancelledError:
            if self.ended is None or isinstance(self.ended, asyncio.CancelledError):
                raise
        except _Abort as abort:
            raise abort.error from None
        except grpc.aio.AioRpcError:
            raise
        except Exception as error:
            raise failure(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}") from None
        raise self.ended

    # The server's half.

    async def serve(self, server: _Server) -> bytes | None:
        faults, address = self._channel.network.faults, self._channel.address
        if faults is not None:
            await faults.request(address, self._method)
        handler = await server.handler(self._method, self._metadata)
        context = _Context(self._metadata)
        read = handler.request_deserializer or bytes
        write = handler.response_serializer or bytes
        taken: Any
        if handler.request_streaming:
            taken = self._taken(read)
        else:
            taken = read(await self._requests.get() or b"")
        if handler.response_streaming:
            await self._serve_stream(handler, taken, context, write)
            return None
        serve = handler.stream_unary if handler.request_streaming else handler.unary_unary
        reply: bytes = write(await serve(taken, context))
        if faults is not None:
            await faults.reply(address, self._method)
        return reply

    async def _serve_stream(self, handler: Any, taken: Any, context: Any, write: Any) -> None:
        serve = handler.stream_stream if handler.request_streaming else handler.unary_stream
        replies = serve(taken, context)
        try:
            async for reply in replies:
                await self.replies.put(write(reply))
        finally:
            await replies.aclose()

    async def _taken(self, read: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        while (request := await self._requests.get()) is not None:
            yield read(request)


class _StreamCall:
    """A call that answers with a stream, as its caller sees it."""

    def __init__(
        self, call: _Call, write: Callable[[Any], bytes], read: Callable[[bytes], Any]
    ) -> None:
        self._call = call
        self._serialize = write
        self._deserialize = read
        self._error: BaseException | None = None
        self._feeding: asyncio.Task[None] | None = None

    def start(self, requests: AsyncIterator[Any] | None, timeout: float | None) -> None:
        """Begin. Without an iterator of requests the caller writes them one by one."""
        try:
            self._call.start(timeout)
        except grpc.aio.AioRpcError as error:
            self._error = error
            return
        self._call.task.add_done_callback(self._on_end)
        if requests is not None:
            self._feeding = asyncio.get_running_loop().create_task(self._feed(requests))

    async def _feed(self, requests: AsyncIterator[Any]) -> None:
        try:
            async for request in requests:
                await self._call.put(self._serialize(request))
            await self._call.put(None)
        except Exception as error:
            self._call.end(grpc.StatusCode.INTERNAL, f"the caller's iterator failed: {error!r}")

    def _on_end(self, _task: asyncio.Task[Any]) -> None:
        if self._feeding is not None:
            self._feeding.cancel()
        # Wake the reader; where the queue is full it is not asleep.
        if self._call.replies.empty():
            self._call.replies.put_nowait(None)

    async def write(self, request: Any) -> None:
        """Send a message. Raises what ended the call, if it is over."""
        await self._put(self._serialize(request))

    async def done_writing(self) -> None:
        """Send no more."""
        await self._put(None)

    async def _put(self, request: bytes | None) -> None:
        if self._error is not None:
            raise self._error
        task = self._call.task
        putting = asyncio.ensure_future(self._call.put(request))
        try:
            if not task.done():
                await asyncio.wait((putting, task), return_when=asyncio.FIRST_COMPLETED)
            if putting.done():
                return
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            putting.cancel()
        await self._call.result()
        raise asyncio.InvalidStateError("RPC already finished.")

    async def read(self) -> Any:
        """The next message; grpc.aio.EOF at the end."""
        return await anext(self, grpc.aio.EOF)

    def __aiter__(self) -> _StreamCall:
        return self

    async def __anext__(self) -> Any:
        if self._error is not None:
            raise self._error
        replies = self._call.replies
        if not (self._call.task.done() and replies.empty()):
            try:
                reply = await replies.get()
            except asyncio.CancelledError:
                self.cancel()
                raise
            if reply is not None:
                return self._deserialize(reply)
        await self._call.result()
        raise StopAsyncIteration

    def cancel(self) -> bool:
        """End the call."""
        if self._error is None:
            self._call.cancel()
        return True


class _Channel(grpc.aio.Channel):
    """A way to an address. A server that comes later is reached as well."""

    def __init__(self, network: InProcessNetwork, address: str) -> None:
        self.network = network
        self.address = address
        self.calls: dict[_Call, None] = {}
        self._closed = False

    async def __aenter__(self) -> _Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def end_calls(self, reason: str) -> None:
        """End all that is under way, as a connection that breaks does."""
        for call in tuple(self.calls):
            call.end(grpc.StatusCode.UNAVAILABLE, reason)

    async def close(self, grace: float | None = None) -> None:
        self._closed = True
        self.network.forget(self)
        for call in tuple(self.calls):
            call.cancel()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        raise NotImplementedError("it is always ready")

    async def channel_ready(self) -> None:
        """It is."""

    def _call(self, method: str, metadata: Metadata | None) -> _Call:
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        return _Call(self, method, metadata)

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> Any:
        async def answer(request: Any, timeout: float | None, metadata: Metadata | None) -> Any:
            call = self._call(method, metadata)
            await call.put((request_serializer or bytes)(request))
            call.start(timeout)
            return (response_deserializer or bytes)(await call.result())

        def begin(
            request: Any,
            *,
            timeout: float | None = None,
            metadata: Metadata | None = None,
            **_: object,
        ) -> Awaitable[Any]:
            return answer(request, timeout, metadata)

        return begin

    def _streaming(
        self,
        method: str,
        request_serializer: Serializer,
        response_deserializer: Deserializer,
        requests_of: Callable[[Any], Any],
    ) -> Any:
        def begin(
            requests: Any = None,
            *,
            timeout: float | None = None,
            metadata: Metadata | None = None,
            **_: object,
        ) -> _StreamCall:
            call = _StreamCall(
                self._call(method, metadata),
                request_serializer or bytes,
                response_deserializer or bytes,
            )
            call.start(None if requests is None else requests_of(requests), timeout)
            return call

        return begin

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._streaming(method, request_serializer, response_deserializer, _only)

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._streaming(method, request_serializer, response_deserializer, _iterated)

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> Any:
        raise NotImplementedError("MOM has no such method")


async def _only(request: Any) -> AsyncIterator[Any]:
    yield request


async def _iterated(requests: Any) -> AsyncIterator[Any]:
    if hasattr(requests, "__aiter__"):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
