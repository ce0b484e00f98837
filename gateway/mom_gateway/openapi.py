"""The OpenAPI 3.1 document, made of the routes' own descriptions and types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, Final

import msgspec
from msgspec import Struct

from mom_core.errors import ERROR_CODES, ErrorCode, MomError
from mom_gateway.operations import Answer, Operation
from mom_gateway.problems import MEDIA_TYPE, problem_of

Entry = tuple[str, str, Operation]
"""Method, path, operation."""

_NAME: Final = re.compile(r"\{(\w+)\}")
_REF: Final = "#/components/schemas/{name}"
# Any call may get these.
_COMMON_ERRORS: Final = (
    ErrorCode.INVALID_ARGUMENT,
    ErrorCode.UNAUTHENTICATED,
    ErrorCode.FORBIDDEN,
    ErrorCode.OVERLOADED,
    ErrorCode.UNAVAILABLE,
    ErrorCode.TIMEOUT,
)
_NAMES: Final = {
    "topic": ("The topic's name.", "orders"),
    "queue": ("The queue's name.", "mail"),
    "subscription": ("The subscription's name.", "billing"),
    "partition": ("The partition, from 0.", 0),
    "node": ("The node's id.", "my-mom-node-0"),
    "operation": ("The operation's id.", "0f5a1c6c2b7d4e0b9a3f8e7d6c5b4a39"),
    "token_id": ("The token's id.", "0a1b2c3d4e5f6071"),
}
_TAGS: Final = {
    "topics": "Partitioned logs that can be replayed.",
    "records": "What is in topics.",
    "subscriptions": "Durable, named readers of a topic: of mode stream, or queue.",
    "queues": "Each message is leased to one worker until it is acknowledged.",
    "messages": "What is in queues.",
    "dead letters": "Messages that could not be handled, as the queue that got them holds them.",
    "operations": "Work that goes on by itself, such as a redrive of dead letters.",
    "cluster": "Nodes and their state.",
    "tokens": "Who may do what.",
    "health": "For orchestrators, Prometheus and readers. No token needed.",
}
_DESCRIPTION: Final = """MOM is message-oriented middleware: topics and queues for any HTTP client.

Bodies are JSON. An error is a problem (RFC 9457): `code` is stable, `retriable` says whether the
same call may succeed later, `field` names the input at fault; 429 and 503 carry Retry-After.
Send a token as `Authorization: Bearer TOKEN` unless authentication is off."""


class Problem(Struct, kw_only=True, omit_defaults=True):
    """An RFC 9457 problem. It may have further members, such as log_start or limit_bytes."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retriable: bool
    field: str | None = None
    retry_after_ms: int | None = None


def build_document(entries: Sequence[Entry]) -> dict[str, Any]:
    """The document of these operations."""
    types = _types_of(entries)
    refs, components = msgspec.json.schema_components(types, ref_template=_REF)
    schemas = dict(zip(map(_key, types), refs, strict=True))
    paths: dict[str, Any] = {}
    for method, path, operation in entries:
        paths.setdefault(path, {})[method.lower()] = _operation(path, operation, schemas)
    # Problems have members of their own.
    components["Problem"]["additionalProperties"] = True
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MOM",
            "version": version("mom-mq"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token made by `mom token create` or POST /v1/tokens.",
                }
            },
        },
    }


def _types_of(entries: Iterable[Entry]) -> list[Any]:
    types: list[Any] = [Problem]
    for _, _, operation in entries:
        types += [kind for one in operation.answers.values() for kind in kinds_of(one)]
        if operation.body is not None:
            types.append(operation.body)
    return list({_key(one): one for one in types}.values())


def kinds_of(answer: Answer) -> tuple[Any, ...]:
    """The types that an answer may have."""
    if answer.type is None:
        return ()
    return answer.type if isinstance(answer.type, tuple) else (answer.type,)


def _key(one: Any) -> str:
    return str(one)


def _operation(path: str, operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [_path_parameter(name) for name in _NAME.findall(path)]
        + [_query_parameter(one) for one in operation.query],
        "responses": {
            str(status): _answer(answer, schemas) for status, answer in operation.answers.items()
        },
    }
    if operation.description:
        shown["description"] = operation.description
    if operation.body is not None:
        shown["requestBody"] = _body(operation, schemas)
    if operation.open:
        shown["security"] = []
    else:
        shown["responses"] |= _problems(operation, schemas)
    return shown


def _path_parameter(name: str) -> dict[str, Any]:
    description, example = _NAMES[name]
    kind = "integer" if isinstance(example, int) else "string"
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": kind},
        "example": example,
    }


def _query_parameter(one: Any) -> dict[str, Any]:
    shown = {
        "name": one.name,
        "in": "query",
        "required": False,
        "description": one.description,
        "schema": one.schema,
    }
    return shown if one.example is None else shown | {"example": one.example}


def _body(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for example in operation.examples:
        if example.media_type not in content:
            text = isinstance(example.value, str)
            schema = {"type": "string"} if text else schemas[_key(operation.body)]
            content[example.media_type] = {"schema": schema, "examples": {}}
        examples = content[example.media_type]["examples"]
        examples[f"example_{len(examples) + 1}"] = {
            "summary": example.summary,
            "value": example.value,
        }
    return {"required": operation.body_required, "content": content}


def _answer(answer: Answer, schemas: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"description": answer.description}
    if answer.example is not None:
        text = not answer.media_type.endswith("json")
        schema: Any = {"type": "string"} if text else {"type": "object"}
        kinds = [schemas[_key(kind)] for kind in kinds_of(answer)]
        if kinds:
            schema = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        shown["content"] = {answer.media_type: {"schema": schema, "example": answer.example}}
    return shown


def _problems(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    by_status: dict[int, list[ErrorCode]] = {}
    for code in (*operation.errors, *_COMMON_ERRORS):
        codes = by_status.setdefault(ERROR_CODES[code].http_status, [])
        if code not in codes:
            codes.append(code)
    return {str(status): _problem(codes, schemas) for status, codes in sorted(by_status.items())}


def _problem(codes: list[ErrorCode], schemas: dict[str, Any]) -> dict[str, Any]:
    status = ERROR_CODES[codes[0]].http_status
    shown: dict[str, Any] = {
        "description": ". ".join(f"{code.value}: {ERROR_CODES[code].title}" for code in codes),
        "content": {
            MEDIA_TYPE.decode(): {
                "schema": schemas[_key(Problem)],
                "examples": {code.value: {"value": _example(code)} for code in codes},
            }
        },
    }
    if status in (429, 503):
        shown["headers"] = {
            "Retry-After": {
                "description": "Seconds to wait.",
                "schema": {"type": "integer", "minimum": 1},
            }
        }
    return shown


def _example(code: ErrorCode) -> dict[str, Any]:
    return problem_of(MomError(f"{ERROR_CODES[code].title}.", code=code))
