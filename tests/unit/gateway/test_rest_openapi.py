"""The OpenAPI document against the application's routes."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from rest_engine import Rest

from mom_gateway.app import CONTROL_ROUTES, PLAIN_ROUTES, entries
from mom_gateway.openapi import build_document, kinds_of
from mom_gateway.operations import Operation

DOCUMENT: dict[str, Any] = build_document(entries())


def test_every_route_is_described_and_every_description_is_a_route() -> None:
    described = {
        (method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods
    }
    control = {
        (method, route.path)  # type: ignore[attr-defined]
        for described in CONTROL_ROUTES
        for route in described.router.routes
        for method in route.methods  # type: ignore[attr-defined]
    }
    plain = {(route.method, route.path) for route in PLAIN_ROUTES}
    assert described == control | plain
    assert len(described) == len(entries())


def test_parameters_are_those_of_the_handlers() -> None:
    for described in CONTROL_ROUTES:
        operations = {(method, path): operation for method, path, operation in described.operations}
        for route in described.router.routes:
            (method,) = route.methods  # type: ignore[attr-defined]
            operation = operations[method, route.path]  # type: ignore[attr-defined]
            names = {one.name for one in route.dependant.query_params}  # type: ignore[attr-defined]
            assert names == {one.name for one in operation.query}


def test_references_resolve_and_ids_are_unique() -> None:
    text = msgspec.json.encode(DOCUMENT).decode()
    for name in re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', text):
        assert name in DOCUMENT["components"]["schemas"]
    assert "#/$defs" not in text
    ids = [operation.id for _, _, operation in entries()]
    assert len(set(ids)) == len(ids)
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    assert {operation.tag for _, _, operation in entries()} <= tags


@pytest.mark.parametrize(("method", "path", "operation"), entries())
def test_examples_are_of_the_described_types(method: str, path: str, operation: Operation) -> None:
    assert operation.summary
    for example in operation.examples:
        if example.media_type.endswith("json") and not isinstance(example.value, str):
            msgspec.json.decode(msgspec.json.encode(example.value), type=operation.body)
    for answer in operation.answers.values():
        for kind in kinds_of(answer)[:1]:
            shown = msgspec.convert(answer.example, kind)
            assert set(answer.example) <= set(msgspec.to_builtins(shown)) or not answer.example


async def test_the_document_and_its_page_are_served() -> None:
    rest = Rest()
    async with rest.http:
        served = (await rest.http.get("/openapi.json")).json()
        assert served == msgspec.json.decode(msgspec.json.encode(DOCUMENT))
        page = await rest.http.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        # Nothing from elsewhere: a cluster may have no way out.
        assert not re.search(r"(src|href)=[\"']?(https?:)?//", page.text)
