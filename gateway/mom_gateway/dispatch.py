"""The ASGI application: plain routes by a table of paths, the relay, all else by FastAPI.

Every request passes here once: it is counted in, its token becomes an identity, errors become
problems, and it is counted out with its duration. A plain route costs one look into a dict: in its
path words and names alternate (``/v1/topics/{t}/records``), so the words alone are its key.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from time import perf_counter
from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mom_core.errors import ErrorCode, InternalError, InvalidArgumentError, MomError, NotFoundError
from mom_gateway import relay
from mom_gateway.calls import Call, Route
from mom_gateway.http import (
    AsgiMessage,
    ClientGoneError,
    Header,
    Receive,
    Reply,
    Scope,
    Send,
    send_reply,
)
from mom_gateway.problems import problem_reply
from mom_gateway.routes.control import IDENTITY, LIST_LIMIT_MAX, response_of
from mom_gateway.service import Service

_log = logging.getLogger(__name__)

_CLIENT_GONE: Final = 499
"""The status that metrics show for a request whose client went away; nobody gets it."""
_OTHER: Final = "other"
_CLOSE: Final[Header] = (b"connection", b"close")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Dispatcher:
    """The gateway's ASGI application."""

    def __init__(self, service: Service, routes: Iterable[Route], api: FastAPI) -> None:
        self._service = service
        self._relay = relay.Relay(service)
        self._api = api
        self._routes: dict[tuple[str, ...], dict[str, Route]] = {}
        for route in routes:
            self._routes.setdefault(route.words, {})[route.method] = route
        install_handlers(api)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._api(scope, receive, send)
            return
        started_s = perf_counter()
        if scope["path"].startswith(relay.PATHS):
            status = await self._relay(scope, receive, send)
            path = scope["path"] if scope["path"] in relay.METHODS else _OTHER
            self._observe(scope["method"], path, status or _CLIENT_GONE, started_s)
            return
        parts = scope["path"].split("/")
        methods = None
        if len(parts) > 3 and len(parts) & 1 and parts[1] == "v1":
            methods = self._routes.get(tuple(parts[2::2]))
        if methods is None:
            await self._control(scope, receive, send, started_s)
            return
        method = scope["method"]
        route = methods.get(method)
        if route is None:
            allowed = ", ".join(methods)
            await self._finish(
                send, method, _OTHER, started_s, problem_reply(_wrong_method(method, allowed))
            )
            return
        reply = await self._plain(route, scope, receive, parts[3::2])
        await self._finish(send, method, route.path, started_s, reply)

    async def _plain(
        self, route: Route, scope: Scope, receive: Receive, names: list[str]
    ) -> Reply | None:
        """The answer of a plain route; None when the client is gone."""
        service = self._service
        call = None
        try:
            service.begin_request()
        except MomError as error:
            return problem_reply(error)
        try:
            identity = await service.access.identify(scope["headers"])
            service.require(identity, route.action, names[0])
            route.operation.check_query(scope["query_string"])
            call = Call(service, scope, receive, names, identity)
            return await route.handler(call)
        except MomError as error:
            return problem_reply(error)
        except ClientGoneError:
            return None
        except Exception:
            return problem_reply(_defect(route.method, route.path))
        finally:
            service.requests -= 1
            if call is not None:
                call.body.release()

    async def _finish(
        self, send: Send, method: str, path: str, started_s: float, reply: Reply | None
    ) -> None:
        status = _CLIENT_GONE
        if reply is not None:
            status = reply.status
            if self._service.draining:
                reply = reply._replace(headers=(*reply.headers, _CLOSE))
            await send_reply(send, reply)
        self._observe(method, path, status, started_s)

    def _observe(self, method: str, path: str, status: int, started_s: float) -> None:
        known = method if method in _METHODS else _OTHER
        self._service.metrics.observe(known, path, status, perf_counter() - started_s)

    async def _control(self, scope: Scope, receive: Receive, send: Send, started_s: float) -> None:
        """A request of FastAPI's, with an identity in its scope where it needs one."""
        service = self._service
        method = scope["method"]
        if scope["path"].startswith("/v1/"):
            try:
                scope[IDENTITY] = await service.access.identify(scope["headers"])
            except MomError as error:
                await self._finish(send, method, _OTHER, started_s, problem_reply(error))
                return
        try:
            service.begin_request()
        except MomError as error:
            await self._finish(send, method, _OTHER, started_s, problem_reply(error))
            return
        watched = _WatchedSend(send, closing=service.draining)
        try:
            await self._api(scope, receive, watched)
        except Exception:
            # Starlette answers first and raises then, so that servers can log; it is logged here.
            if not watched.status:
                raise
        finally:
            service.requests -= 1
        path = getattr(scope.get("route"), "path", _OTHER)
        self._observe(method, path, watched.status, started_s)


class _WatchedSend:
    """Notes the status of an answer and adds ``Connection: close`` while draining."""

    def __init__(self, send: Send, *, closing: bool) -> None:
        self._send = send
        self._closing = closing
        self.status = 0

    async def __call__(self, message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._closing:
                message["headers"] = [*message["headers"], _CLOSE]
        await self._send(message)


def install_handlers(api: FastAPI) -> None:
    """Make every error of FastAPI's routes a problem."""

    async def on_mom_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, MomError), "registered for MomError"
        return response_of(problem_reply(error))

    async def on_validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError), "registered for RequestValidationError"
        return response_of(problem_reply(_validation_error(error)))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "registered for HTTPException"
        return response_of(problem_reply(_http_error(request, error)))

    async def on_gone(_: Request, error: Exception) -> Response:
        return Response(status_code=_CLIENT_GONE)

    async def on_defect(request: Request, error: Exception) -> Response:
        _log.error("a request failed by a defect", exc_info=error)
        return response_of(problem_reply(_defect_error(request.method, request.url.path)))

    api.add_exception_handler(MomError, on_mom_error)
    api.add_exception_handler(RequestValidationError, on_validation)
    api.add_exception_handler(HTTPException, on_http)
    api.add_exception_handler(ClientGoneError, on_gone)
    api.add_exception_handler(Exception, on_defect)


def _validation_error(error: RequestValidationError) -> InvalidArgumentError:
    """FastAPI checks a few numbers in URLs; the rest of what comes in is checked by MOM itself."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or "query"
    if field == "limit":
        return InvalidArgumentError(
            f"limit is {first['input']!r}; a whole number from 1 to {LIST_LIMIT_MAX} is allowed",
            field=field,
        )
    reason = str(first["msg"])
    return InvalidArgumentError(f"{field}: {reason[:1].lower()}{reason[1:]}", field=field)


def _http_error(request: Request, error: HTTPException) -> MomError:
    if error.status_code == 405:
        return _wrong_method(request.method, (error.headers or {}).get("Allow", ""))
    if error.status_code == 404:
        path = request.url.path[:256]
        return NotFoundError(f"there is no {path}; /docs shows what there is", field="path")
    return InvalidArgumentError(str(error.detail))


def _wrong_method(method: str, allowed: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{method[:16]} is not a method of this resource; it has {allowed}",
        code=ErrorCode.METHOD_NOT_ALLOWED,
        field="method",
        details={"allow": allowed},
    )


def _defect(method: str, path: str) -> InternalError:
    _log.exception("a request failed by a defect")
    return _defect_error(method, path)


def _defect_error(method: str, path: str) -> InternalError:
    return InternalError(
        f"{method} {path[:256]} failed by a defect in the gateway; its log has the details"
    )
