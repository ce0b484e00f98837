"""What a node counts, in a registry of its own: several nodes live in one process in `mom dev`."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class NodeMetrics:
    """The counters of one node. Those per topic would grow with the topics; they are left out."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.appended_messages = Counter(
            "mom_node_appended_messages", "Messages appended and durable.", registry=registry
        )
        self.appended_bytes = Counter(
            "mom_node_appended_bytes", "Bytes of batches appended and durable.", registry=registry
        )
        self.duplicate_batches = Counter(
            "mom_node_duplicate_batches", "Batches that had landed before.", registry=registry
        )
        self.refused_batches = Counter(
            "mom_node_refused_batches", "Batches refused, by error code.", ["code"],
            registry=registry,
        )  # fmt: skip
        self.fetched_bytes = Counter(
            "mom_node_fetched_bytes", "Bytes of batches sent to readers.", registry=registry
        )
        self.leased_messages = Counter(
            "mom_node_leased_messages", "Messages handed out under a lease.", registry=registry
        )
        self.settled_messages = Counter(
            "mom_node_settled_messages", "Leased messages settled, by action.", ["action"],
            registry=registry,
        )  # fmt: skip
        self.forwarded_calls = Counter(
            "mom_node_forwarded_calls", "Calls passed on to another node.", registry=registry
        )
        self._registry = registry

    def gauge(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Show a value that is read at each scrape."""
        Gauge(f"mom_node_{name}", documentation, registry=self._registry).set_function(read)
