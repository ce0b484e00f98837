"""Pages for orchestrators, Prometheus and readers; they need no token."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from fastapi import Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool

from mom_gateway.operations import Answer, Described, Operation
from mom_gateway.service import Service

HEALTH: Final = Described()
_TEXT: Final = "text/plain"


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _page(operation_id: str, summary: str, description: str, example: str) -> Operation:
    return Operation(
        id=operation_id,
        summary=summary,
        tag="health",
        open=True,
        answers={200: Answer(description=description, media_type=_TEXT, example=example)},
    )


@HEALTH.route(
    "GET", "/healthz", _page("healthz", "Is the process alive?", "It is. Else restart it.", "ok\n")
)
async def _healthz() -> Response:
    return Response("ok\n", media_type=_TEXT)


@HEALTH.route(
    "GET",
    "/readyz",
    Operation(
        id="readyz",
        summary="Should it be sent requests?",
        tag="health",
        open=True,
        answers={
            200: Answer(description="It should.", media_type=_TEXT, example="ready\n"),
            503: Answer(description="Not now.", media_type=_TEXT, example="draining\n"),
        },
    ),
)
async def _readyz(request: Request) -> Response:
    ready, reason = _service(request).ready()
    return Response(f"{reason}\n", 200 if ready else 503, media_type=_TEXT)


@HEALTH.route(
    "GET",
    "/metrics",
    _page("metrics", "Metrics for Prometheus", "All counts.", "mom_gateway_ready 1.0\n"),
)
async def _metrics(request: Request) -> Response:
    page = generate_latest(_service(request).metrics.registry)
    return Response(page, media_type=CONTENT_TYPE_LATEST)


@HEALTH.route(
    "GET",
    "/openapi.json",
    Operation(
        id="openapi",
        summary="This document",
        tag="health",
        open=True,
        answers={200: Answer(description="OpenAPI 3.1.", example={"openapi": "3.1.0"})},
    ),
)
async def _openapi(request: Request) -> Response:
    return Response(request.app.state.openapi, media_type="application/json")


@HEALTH.route(
    "GET",
    "/docs",
    Operation(
        id="docs",
        summary="This document, for people",
        tag="health",
        open=True,
        answers={200: Answer(description="A page.", media_type="text/html", example="<html>")},
    ),
)
async def _docs() -> Response:
    page = await run_in_threadpool(files("mom_gateway").joinpath("docs_page.html").read_text)
    return Response(page, media_type="text/html")
