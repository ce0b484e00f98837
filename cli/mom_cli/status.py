"""``kubectl mom status``: a cluster's resource, its topics and queues, and what is amiss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from mom_cli.command import LocalCommand, examples, shared_of
from mom_cli.failures import ExitCode
from mom_cli.kubectl import Kubectl, kubectl_options, words_of
from mom_cli.output import print_facts, print_json, print_table

_CONDITIONS: Final = ("Ready", "Available", "Progressing", "Degraded")
_EVENTS_SHOWN_MAX: Final = 5


@click.command(
    cls=LocalCommand,
    help="Show how a cluster on Kubernetes is: its conditions, nodes, topics and queues that are "
    "not ready, and the last warnings. Exit code 4 when it is not Ready.\n\n"
    + examples("kubectl mom status", "kubectl mom status my-mom -n messaging --output json"),
)
@click.argument("name", metavar="[CLUSTER]", required=False)
@kubectl_options
@click.pass_context
def status(
    context: click.Context,
    name: str | None,
    namespace: str | None,
    kube_context: str | None,
    kubeconfig: str | None,
) -> None:
    """Show a cluster."""
    kubectl = Kubectl(namespace, kube_context, kubeconfig)
    cluster = kubectl.the_cluster(name)
    unready = _unready(kubectl, cluster)
    warnings = _warnings(kubectl, cluster)
    if shared_of(context).as_json:
        print_json({"cluster": cluster, "unready": unready, "warnings": warnings})
    else:
        _print(cluster, unready, warnings)
    ready, _ = words_of(cluster.get("status", {}).get("conditions", ()), "Ready")
    if ready != "True":
        context.exit(ExitCode.UNAVAILABLE)


def _unready(kubectl: Kubectl, cluster: dict[str, Any]) -> list[dict[str, str]]:
    """The topics and queues of a cluster that are not ready, in its own namespace."""
    found = []
    items = kubectl.json("get", "momtopics.mom.dev,momqueues.mom.dev")["items"]
    for one in items:
        if one.get("spec", {}).get("clusterRef", {}).get("name") != cluster["metadata"]["name"]:
            continue
        ready, message = words_of(one.get("status", {}).get("conditions", ()), "Ready")
        if ready != "True":
            found.append({"kind": one["kind"], "name": one["metadata"]["name"], "message": message})
    return found


def _warnings(kubectl: Kubectl, cluster: dict[str, Any]) -> list[dict[str, Any]]:
    """The newest warnings about a cluster, the newest last."""
    events = kubectl.json(
        "get",
        "events",
        f"--field-selector=type=Warning,involvedObject.uid={cluster['metadata']['uid']}",
    )["items"]
    events.sort(key=_moment)
    return [
        {"at": _moment(one), "reason": one.get("reason", ""), "message": one.get("message", "")}
        for one in events[-_EVENTS_SHOWN_MAX:]
    ]


def _moment(event: dict[str, Any]) -> str:
    series = event.get("series") or {}
    moment = (
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
    )
    return str(moment or "")


def _print(
    cluster: dict[str, Any], unready: Sequence[dict[str, str]], warnings: Sequence[dict[str, Any]]
) -> None:
    found = cluster.get("status", {})
    ready, message = words_of(found.get("conditions", ()), "Ready")
    word = {"True": "Ready", "False": "Not ready"}.get(ready, "Unknown")
    metadata = cluster["metadata"]
    click.echo(f"{metadata['namespace']}/{metadata['name']}: {word}. {message}")
    if _is_paused(found):
        click.echo(
            "PAUSED: nobody looks after it while the annotation mom.dev/pause is there, and what "
            "is shown is as it was before"
        )
    click.echo()
    print_facts(_facts(cluster, found))
    click.echo()
    print_table(
        ["CONDITION", "STATUS", "REASON", "MESSAGE"],
        (
            [one["type"], one["status"], one.get("reason"), one.get("message")]
            for kind in _CONDITIONS
            for one in found.get("conditions", ())
            if one["type"] == kind
        ),
        "no conditions yet",
    )
    if found.get("nodes"):
        click.echo()
        print_table(
            ["NODE", "PHASE", "PARTITIONS"],
            ([one["name"], one.get("phase"), one.get("partitions", 0)] for one in found["nodes"]),
            "",
        )
    if unready:
        click.echo()
        print_table(
            ["NOT READY", "NAME", "MESSAGE"],
            ([one["kind"], one["name"], one["message"]] for one in unready),
            "",
        )
    if warnings:
        click.echo()
        print_table(
            ["WARNING AT", "REASON", "MESSAGE"],
            ([one["at"], one["reason"], one["message"]] for one in warnings),
            "",
        )


def _is_paused(found: dict[str, Any]) -> bool:
    return any(one.get("reason") == "Paused" for one in found.get("conditions", ()))


def _facts(cluster: dict[str, Any], found: dict[str, Any]) -> list[tuple[str, object]]:
    versions = found.get("version", {})
    current, target = versions.get("current"), versions.get("target")
    shown = f"{current} → {target}" if target and target != current else current
    facts: list[tuple[str, object]] = [("version", shown), ("nodes ready", found.get("nodesReady"))]
    facts += [(one["name"], one["url"]) for one in found.get("endpoints", ())]
    operation = found.get("operation") or {}
    if operation.get("type"):
        facts.append(
            (
                "under way",
                f"{operation['type']}, {operation.get('done', 0)} of {operation.get('total', 0)}",
            )
        )
    if operation.get("blockedBy"):
        facts.append(("waits for", operation["blockedBy"]))
    if cluster.get("spec", {}).get("gateway", {}).get("auth") == "Disabled":
        facts.append(("access", "auth is Disabled: everyone who reaches the gateway may do all"))
    return facts
