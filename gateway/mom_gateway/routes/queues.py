"""Queues as resources; what they do is :mod:`mom_gateway.routes.topics`."""

from __future__ import annotations

from typing import Final

from fastapi import Response

from mom_core.topics import TopicKind
from mom_gateway.operations import Described
from mom_gateway.routes import topics
from mom_gateway.routes.control import (
    LIST_LIMIT_DEFAULT,
    CallOf,
    Limit,
    Name,
    PageToken,
    answer,
)

QUEUES: Final = Described()
_KIND: Final = TopicKind.QUEUE


@QUEUES.route("GET", "/v1/queues", topics.list_operation(_KIND))
async def _list(
    call: CallOf, limit: Limit = LIST_LIMIT_DEFAULT, page_token: PageToken = ""
) -> Response:
    page = await topics.list_topics(call, _KIND, limit, page_token)
    shown = [*map(topics.show, page.topics)]
    return answer({"queues": shown, "next_page_token": page.next_page_token})


@QUEUES.route("PUT", "/v1/queues/{queue}", topics.put_operation(_KIND))
async def _put(call: CallOf, queue: Name) -> Response:
    return await topics.put_topic(call, queue, _KIND)


@QUEUES.route("GET", "/v1/queues/{queue}", topics.get_operation(_KIND))
async def _get(call: CallOf, queue: Name) -> Response:
    return await topics.get_topic(call, queue, _KIND)


@QUEUES.route("PATCH", "/v1/queues/{queue}", topics.patch_operation(_KIND))
async def _patch(call: CallOf, queue: Name) -> Response:
    return await topics.patch_topic(call, queue, _KIND)


@QUEUES.route("DELETE", "/v1/queues/{queue}", topics.delete_operation(_KIND))
async def _delete(call: CallOf, queue: Name) -> Response:
    return await topics.delete_topic(call, queue, _KIND)


@QUEUES.route("GET", "/v1/queues/{queue}/partitions", topics.partitions_operation(_KIND))
async def _partitions(call: CallOf, queue: Name) -> Response:
    return await topics.list_partitions(call, queue, _KIND)
