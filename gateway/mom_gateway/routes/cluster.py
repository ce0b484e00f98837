"""The cluster and its nodes."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from fastapi import Response
from msgspec import Meta, Struct

from mom_client.translation import DURABILITIES
from mom_core.access import Action
from mom_core.errors import ErrorCode
from mom_gateway.operations import Answer, Described, Example, Operation
from mom_gateway.routes.control import CallOf, Name, answer
from mom_proto.v1 import broker_pb2

CLUSTER: Final = Described()


class NodeInfo(Struct):
    """A node."""

    node_id: str
    address: str
    rack: Annotated[str, Meta(description="Its failure domain; may be empty.")]
    state: Annotated[str, Meta(description="active, cordoned, draining or lost.")]
    partitions: Annotated[int, Meta(description="Placed on it.")]


class NodeList(Struct):
    """All nodes."""

    nodes: list[NodeInfo]


class StoreInfo(Struct):
    """Where everything durable lies."""

    engine: str
    durability: Annotated[str, Meta(description="What an acknowledged write has reached.")]
    used_bytes: int
    limit_bytes: Annotated[int | None, Meta(description="null: only the disk limits it.")]
    full_in_ms: Annotated[
        int | None, Meta(description="At the rate of the last minutes; null: not in sight.")
    ]


class ClusterInfo(Struct):
    """The cluster at a glance."""

    cluster_id: str
    version: str
    master: Annotated[str, Meta(description="Address of the leading master; empty: none leads.")]
    nodes: list[NodeInfo]
    topics: Annotated[int, Meta(description="Topics and queues.")]
    partitions: int
    partitions_without_owner: int
    store: StoreInfo


class NodePatch(Struct, forbid_unknown_fields=True):
    """What may change of a node."""

    state: Annotated[
        str,
        Meta(description="active; cordoned: keeps what it has; draining: is to have none.",
             extra_json_schema={"enum": ["active", "cordoned", "draining"]}),
    ]  # fmt: skip


_patch_decoder: Final = msgspec.json.Decoder(NodePatch)
_NODE: Final = {
    "node_id": "my-mom-node-0",
    "address": "my-mom-node-0.my-mom:7071",
    "rack": "zone-a",
    "state": "active",
    "partitions": 4,
}


def show_node(node: broker_pb2.NodeInfo) -> NodeInfo:
    """A node as REST shows it."""
    return NodeInfo(node.node_id, node.address, node.rack, node.state, node.partitions)


@CLUSTER.route(
    "GET",
    "/v1/cluster",
    Operation(
        id="get_cluster",
        summary="The cluster at a glance",
        tag="cluster",
        answers={
            200: Answer(
                description="Its state.",
                type=ClusterInfo,
                example={
                    "cluster_id": "01912d68783e7a0384675661c1243ad4",
                    "version": "0.1.0",
                    "master": "my-mom-master:7070",
                    "nodes": [_NODE],
                    "topics": 2,
                    "partitions": 4,
                    "partitions_without_owner": 0,
                    "store": {
                        "engine": "redis",
                        "durability": "fsync",
                        "used_bytes": 4096,
                        "limit_bytes": 1073741824,
                        "full_in_ms": None,
                    },
                },
            )
        },
    ),
)
async def _cluster(call: CallOf) -> Response:
    call.service.require(call.identity, Action.DESCRIBE)
    found = await call.service.engine.cluster()
    store = StoreInfo(
        found.store_engine,
        DURABILITIES.get(found.durability, ""),
        found.store_used_bytes,
        found.store_limit_bytes or None,
        found.store_full_in_ms or None,
    )
    return answer(
        ClusterInfo(
            found.cluster_id.hex(),
            found.version,
            found.master_address,
            [*map(show_node, found.nodes)],
            found.topics,
            found.partitions,
            found.partitions_without_owner,
            store,
        )
    )


@CLUSTER.route(
    "GET",
    "/v1/nodes",
    Operation(
        id="list_nodes",
        summary="List nodes",
        tag="cluster",
        answers={200: Answer(description="All nodes.", type=NodeList, example={"nodes": [_NODE]})},
    ),
)
async def _nodes(call: CallOf) -> Response:
    call.service.require(call.identity, Action.DESCRIBE)
    return answer(NodeList([*map(show_node, await call.service.engine.nodes())]))


@CLUSTER.route(
    "PATCH",
    "/v1/nodes/{node}",
    Operation(
        id="patch_node",
        summary="Cordon or drain a node, or take it back",
        tag="cluster",
        body=NodePatch,
        examples=(Example(summary="Drain", value={"state": "draining"}),),
        answers={200: Answer(description="Its new state.", type=NodeInfo, example=_NODE)},
        errors=(ErrorCode.NOT_FOUND, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
    ),
)
async def _patch_node(call: CallOf, node: Name) -> Response:
    call.service.require(call.identity, Action.ADMIN)
    patch = await call.json(_patch_decoder)
    return answer(show_node(await call.service.engine.set_node_state(node, patch.state)))
