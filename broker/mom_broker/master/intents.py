"""What an administrator wants of a node, under ``intents/<node_id>``.

Kept apart from the node's record, which says what is: a node that was lost and comes back is again
what its administrator had made it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mom_core import catalog
from mom_core.catalog import NodeState
from mom_core.errors import InvalidArgumentError
from mom_core.ports import KeyWrite, Store

INTENTS_PREFIX: Final = "intents/"

_WANTED: Final = (NodeState.ACTIVE, NodeState.CORDONED, NodeState.DRAINING)


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """The state that a node is to have whenever it is there."""

    state: NodeState = NodeState.ACTIVE
    by: str = ""
    """The program that asked for it and will undo it; empty: a person."""


ANY_NODE: Final = Intent()
"""What any node is without an intent of its own."""


def parse_state(text: str) -> NodeState:
    """A state that may be asked for. Raises InvalidArgumentError."""
    if text not in _WANTED:
        raise InvalidArgumentError(
            f"state is {text[:64]!r}; active, cordoned or draining is allowed", field="state"
        )
    return NodeState(text)


def intent_write(node_id: str, intent: Intent) -> KeyWrite:
    """How to remember an intent; active is what any node is without one."""
    value = None if intent.state is NodeState.ACTIVE else catalog.encode(intent)
    return KeyWrite(INTENTS_PREFIX + node_id, value)


async def load_intents(store: Store) -> dict[str, Intent]:
    """All intents by node id."""
    return {
        entry.key.removeprefix(INTENTS_PREFIX): catalog.decode(entry.value, Intent)
        for entry in await store.list(INTENTS_PREFIX)
    }
