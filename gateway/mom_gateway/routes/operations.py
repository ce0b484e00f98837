"""Operations as resources: work that goes on by itself, asked about and ended early."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Query, Response
from msgspec import Meta, Struct

from mom_client.results import Operation as Work
from mom_core.access import Action
from mom_core.dead_letters import REASONS_TEXT
from mom_core.errors import ErrorCode
from mom_gateway.calls import Call
from mom_gateway.operations import Answer, Described, Operation, Parameter
from mom_gateway.routes.control import CallOf, Name, answer

OPERATIONS: Final = Described()


class FilterShown(Struct):
    """Which dead letters are meant; each that is set has to hold."""

    reason: Annotated[str, Meta(description=f"{REASONS_TEXT}; empty: any.")]
    topic: Annotated[str, Meta(description="Where they died; empty: anywhere.")]
    subscription: Annotated[str, Meta(description="Whose messages they were; empty: anyone's.")]
    offsets: Annotated[list[int], Meta(description="Only these; empty: all.")]
    ids: Annotated[list[str], Meta(description="Only these; empty: all.")]


class WorkShown(Struct):
    """An operation."""

    operation_id: str
    kind: Annotated[str, Meta(description="redrive.")]
    queue: Annotated[str, Meta(description="The queue that holds the dead letters.")]
    state: Annotated[str, Meta(description="running, cancelling, done, cancelled or failed.")]
    total: Annotated[int, Meta(description="Dead letters asked for; 0 until they are counted.")]
    done: Annotated[int, Meta(description="How many have arrived.")]
    left: Annotated[int, Meta(description="At the end: those that stayed.")]
    error: Annotated[str, Meta(description="What stands in the way; empty: nothing.")]
    created_at_ms: int
    ended_at_ms: Annotated[int | None, Meta(description="null: it goes on.")]
    to: Annotated[str, Meta(description="Where they go; empty: each to where it died.")]
    rate_per_s: Annotated[float, Meta(description="0: as fast as it goes.")]
    filter: FilterShown


class WorkList(Struct):
    """Operations, the newest first."""

    operations: list[WorkShown]


WORK_EXAMPLE: Final = {
    "operation_id": "0f5a1c6c2b7d4e0b9a3f8e7d6c5b4a39",
    "kind": "redrive",
    "queue": "mail.dlq",
    "state": "running",
    "total": 120,
    "done": 40,
    "left": 0,
    "error": "",
    "created_at_ms": 1_700_000_000_000,
    "ended_at_ms": None,
    "to": "",
    "rate_per_s": 100.0,
    "filter": {"reason": "", "topic": "", "subscription": "", "offsets": [], "ids": []},
}


@OPERATIONS.route(
    "GET",
    "/v1/operations",
    Operation(
        id="list_operations",
        summary="List operations",
        tag="operations",
        description="Those under way, and the last that ended; the newest first.",
        query=(
            Parameter(name="queue", description="Only this queue's.", schema={"type": "string"}),
        ),
        answers={
            200: Answer(
                description="Operations.", type=WorkList, example={"operations": [WORK_EXAMPLE]}
            )
        },
    ),
)
async def _list(call: CallOf, queue: Annotated[str, Query(max_length=256)] = "") -> Response:
    found = await call.service.engine.operations(queue)
    visible = [one for one in found if call.service.may_describe(call.identity, one.queue)]
    return answer({"operations": visible})


@OPERATIONS.route(
    "GET",
    "/v1/operations/{operation}",
    Operation(
        id="get_operation",
        summary="Show how far an operation is",
        tag="operations",
        answers={200: Answer(description="Found.", type=WorkShown, example=WORK_EXAMPLE)},
        errors=(ErrorCode.NOT_FOUND,),
    ),
)
async def _get(call: CallOf, operation: Name) -> Response:
    return answer(await _visible(call, operation, Action.DESCRIBE))


@OPERATIONS.route(
    "POST",
    "/v1/operations/{operation}:cancel",
    Operation(
        id="cancel_operation",
        summary="End an operation early",
        tag="operations",
        description="What is on its way still arrives. One that has ended is no error.",
        answers={202: Answer(description="Asked for.", type=WorkShown, example=WORK_EXAMPLE)},
        errors=(ErrorCode.NOT_FOUND,),
    ),
)
async def _cancel(call: CallOf, operation: Name) -> Response:
    await _visible(call, operation, Action.ADMIN)
    return answer(await call.service.engine.cancel_operation(operation), 202)


async def _visible(call: Call, operation: str, action: Action) -> Work:
    """An operation, if the caller may do this with its queue."""
    found = await call.service.engine.operation(operation)
    call.service.require(call.identity, action, found.queue)
    return found
