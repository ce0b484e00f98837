"""MOM's gRPC methods over plain HTTP, for clients that reach no node: the Connect protocol.

A call is passed on as it is, under its caller's own token, to the node or master that the caller
chose (``mom-target``), or to any: nodes pass calls on one hop. Nothing is decoded here. Only
processes of this cluster are called, and only methods that clients use; see
:mod:`mom_client.connect_protocol` for the bytes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from mom_client import connect_protocol as connect
from mom_core import limits
from mom_core.errors import (
    ErrorCode,
    InternalError,
    InvalidArgumentError,
    MomError,
    NotFoundError,
    UnavailableError,
)
from mom_gateway.http import (
    Body,
    ClientGoneError,
    Receive,
    Reply,
    Scope,
    Send,
    header_of,
    json_bytes,
    send_reply,
    whole_number,
)
from mom_gateway.service import Service
from mom_proto.v1 import broker_pb2

_log = logging.getLogger(__name__)

_BROKER: Final = "/mom.v1.Broker/"
_MASTER: Final = "/mom.v1.Master/"
_WATCH: Final = _BROKER + "WatchRouting"
_RECEIVE: Final = _BROKER + "Receive"
_FETCH: Final = _BROKER + "Fetch"
# What clients call. Registration and the checking of tokens are between MOM's own processes.
METHODS: Final = frozenset(
    {
        *(
            _BROKER + name
            for name in (
                "Produce", "Fetch", "Receive", "Settle", "Reschedule", "Browse",
                "AcquirePartitions", "CommitOffsets", "ReleasePartitions",
                "SeekSubscription", "DescribePartitions", "PurgeSubscription", "StartRedrive",
                "GetOperation", "ListOperations", "CancelOperation",
            )
        ),
        *(
            _MASTER + name
            for name in (
                "ListNodes", "SetNodeState", "CreateTopic", "GetTopic", "ListTopics", "AlterTopic",
                "DeleteTopic", "CreateSubscription", "AlterSubscription", "DeleteSubscription",
                "CreateToken", "ListTokens", "RevokeToken", "GetCluster",
            )
        ),
    }
)  # fmt: skip
TIMEOUT_MS_DEFAULT: Final = 30_000
TIMEOUT_MS_MAX: Final = limits.WAIT_MS_MAX + TIMEOUT_MS_DEFAULT
PATHS: Final = (_BROKER, _MASTER)
_CLOSE: Final = (b"connection", b"close")


class Relay:
    """Serves the paths of :data:`PATHS`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Serve one request and return its status, 0 when the client went away."""
        service = self._service
        body = Body(scope["headers"], receive, limits.GRPC_MESSAGE_BYTES_MAX, service.body_memory)
        try:
            service.begin_request()
        except MomError as error:
            return await self._refuse(send, error)
        try:
            return await self._serve(scope, receive, send, body)
        except MomError as error:
            return await self._refuse(send, error)
        except ClientGoneError:
            return 0
        except Exception:
            _log.exception("a relayed call failed by a defect")
            return await self._refuse(
                send, InternalError("the gateway failed by a defect; its log has the details")
            )
        finally:
            service.requests -= 1
            body.release()

    async def _serve(self, scope: Scope, receive: Receive, send: Send, body: Body) -> int:
        method = scope["path"]
        if scope["method"] != "POST":
            raise InvalidArgumentError(
                "calls are POSTs", code=ErrorCode.METHOD_NOT_ALLOWED, details={"allow": "POST"}
            )
        if method not in METHODS and method != _WATCH:
            raise NotFoundError(f"there is no method {method[:128]} for clients", field="path")
        streams = method == _WATCH
        _check_type(scope, connect.STREAM_TYPE if streams else connect.UNARY_TYPE)
        await self._service.access.identify(scope["headers"])
        target = (header_of(scope["headers"], b"mom-target") or b"").decode("latin-1")
        authorization = self._authorization(scope)
        request = await body.read()
        if streams:
            return await self._stream(
                receive,
                send,
                self._service.engine.relay_stream(
                    method, _only_message(request), target=target, authorization=authorization
                ),
            )
        timeout_ms = _timeout_ms(scope)
        call = self._service.engine.relay(
            method, request, target=target, timeout_ms=timeout_ms, authorization=authorization
        )
        if _may_be_ended(method, request):
            answer = await self._service.wait(call, receive, None)
            if answer is None:
                raise _stopping()
        else:
            answer = await call
        return await self._reply(send, Reply(200, answer, media_type=connect.UNARY_TYPE.encode()))

    def _authorization(self, scope: Scope) -> str:
        """Whose call it is for the node: the caller's, or this gateway's if it is open to all."""
        if self._service.settings.auth_disabled:
            return ""
        return (header_of(scope["headers"], b"authorization") or b"").decode("latin-1")

    async def _stream(
        self, receive: Receive, send: Send, messages: AsyncGenerator[bytes, None]
    ) -> int:
        headers = [(b"content-type", connect.STREAM_TYPE.encode())]
        if self._service.draining:
            headers.append(_CLOSE)
        error: MomError | None = None
        async with aclosing(messages):
            first = await self._service.wait(_next(messages), receive, b"")
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                message: bytes | None = first
                while message:
                    await send(_part(connect.envelope(message)))
                    message = await self._service.wait(_next(messages), receive, b"")
                if message is not None:
                    error = _stopping()
            except MomError as failure:
                error = failure
        await send(_part(connect.end_envelope(error), more=False))
        return 200

    async def _refuse(self, send: Send, error: MomError) -> int:
        document = json_bytes(connect.error_document(error))
        return await self._reply(send, Reply(error.http_status, document))

    async def _reply(self, send: Send, reply: Reply) -> int:
        if self._service.draining:
            reply = reply._replace(headers=(*reply.headers, _CLOSE))
        await send_reply(send, reply)
        return reply.status


async def _next(messages: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(messages, None)


def _part(data: bytes, *, more: bool = True) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def _stopping() -> UnavailableError:
    return UnavailableError("this gateway is stopping; call again, and another one answers")


def _may_be_ended(method: str, request: bytes) -> bool:
    """Whether a call only waits, so that cutting it short loses nothing."""
    if method == _FETCH:
        return True
    return method == _RECEIVE and not broker_pb2.ReceiveRequest.FromString(request).max_messages


def _check_type(scope: Scope, wanted: str) -> None:
    given = (header_of(scope["headers"], b"content-type") or b"").decode("latin-1")
    if given.partition(";")[0].strip().lower() != wanted:
        raise InvalidArgumentError(
            f"content-type {given[:64]!r} is not supported here; this is the Connect protocol, "
            f"with {wanted}. REST is under /v1",
            code=ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            field="content-type",
        )


def _timeout_ms(scope: Scope) -> int:
    given = header_of(scope["headers"], connect.TIMEOUT_HEADER.encode())
    if given is None:
        return TIMEOUT_MS_DEFAULT
    asked_ms = whole_number(given.decode("latin-1"), connect.TIMEOUT_HEADER, 1, 10**10 - 1)
    return min(asked_ms, TIMEOUT_MS_MAX)


def _only_message(body: bytes) -> bytes:
    reader = connect.EnvelopeReader()
    try:
        messages = list(reader.feed(body))
    except ValueError as error:
        raise InvalidArgumentError(f"the body is no envelope: {error}", field="body") from None
    if len(messages) != 1:
        raise InvalidArgumentError(
            f"the body has {len(messages)} messages; one is expected", field="body"
        )
    return messages[0]
