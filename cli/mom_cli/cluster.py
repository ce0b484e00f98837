"""``mom cluster``: what is running, and how full it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mom_cli.command import LazyGroup, examples, shared_of
from mom_cli.connection import with_engine
from mom_cli.output import print_facts, print_json, print_table, shown_rough_bytes
from mom_core.quantities import format_duration
from mom_proto.v1 import master_pb2, types_pb2

if TYPE_CHECKING:
    from mom_client.engine import Engine


@click.group(
    cls=LazyGroup,
    help="The cluster as its leading master sees it.\n\n" + examples("mom cluster status"),
)
def cluster() -> None:
    """The group of commands."""


@cluster.command(
    help="Show the cluster: nodes, partitions, store.\n\n"
    + examples("mom cluster status", "mom cluster status --output json")
)
@click.pass_context
def status(context: click.Context) -> None:
    """Show the cluster."""

    async def work(engine: Engine) -> master_pb2.GetClusterResponse:
        return await engine.cluster()

    found = with_engine(context, work)
    if shared_of(context).as_json:
        print_json(_document(found))
    else:
        _print(found)


def _durability(found: master_pb2.GetClusterResponse) -> str:
    name = types_pb2.Durability.Name(found.durability)
    return name.removeprefix("DURABILITY_").lower()


def _document(found: master_pb2.GetClusterResponse) -> dict[str, Any]:
    return {
        "cluster_id": found.cluster_id.hex(),
        "version": found.version,
        "master_address": found.master_address or None,
        "topics": found.topics,
        "partitions": found.partitions,
        "partitions_without_owner": found.partitions_without_owner,
        "store": {
            "engine": found.store_engine,
            "durability": _durability(found),
            "used_bytes": found.store_used_bytes,
            "limit_bytes": found.store_limit_bytes or None,
            "full_in_ms": found.store_full_in_ms or None,
        },
        "nodes": [
            {
                "node_id": node.node_id,
                "address": node.address,
                "rack": node.rack,
                "state": node.state,
                "partitions": node.partitions,
            }
            for node in found.nodes
        ],
    }


def _print(found: master_pb2.GetClusterResponse) -> None:
    of_limit = "no limit but the disk"
    if found.store_limit_bytes:
        of_limit = f"of {shown_rough_bytes(found.store_limit_bytes)}"
    if found.store_full_in_ms:
        of_limit += f", full in about {_rough_duration(found.store_full_in_ms)}"
    orphans = f", {found.partitions_without_owner} without an owner"
    print_facts(
        [
            ("cluster", found.cluster_id.hex()),
            ("version", found.version),
            ("master", found.master_address or "none leads"),
            ("topics", found.topics),
            (
                "partitions",
                f"{found.partitions:,}{orphans if found.partitions_without_owner else ''}",
            ),
            ("store", f"{found.store_engine}, {_durability(found)}"),
            ("used", f"{shown_rough_bytes(found.store_used_bytes)}, {of_limit}"),
        ]
    )
    click.echo()
    print_table(
        ["NODE", "ADDRESS", "RACK", "STATE", "PARTITIONS"],
        ([one.node_id, one.address, one.rack, one.state, one.partitions] for one in found.nodes),
        "no nodes",
    )


def _rough_duration(duration_ms: int) -> str:
    for unit_ms in (3_600_000, 60_000, 1_000):
        if duration_ms >= unit_ms:
            return format_duration(duration_ms // unit_ms * unit_ms)
    return "a moment"
