"""Writes tests/vectors/batch_v1.json: batches with what is in them, for other implementations.

The file is checked in; a test holds the codec to it in both directions. Run it again only for a new
version of the format.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mom_core import batch
from mom_core.message import Message

BASE_ID = bytes.fromhex("01932f1c9a007abc8123456789abcdef")
TIMESTAMP_MS = 1_700_000_000_000
CASES: list[tuple[str, list[tuple[Message, int | None]], dict[str, Any]]] = [
    ("one empty value", [(Message(b""), None)], {}),
    ("text without keys", [(Message(b"a", content_type="text/plain"), None)] * 3, {}),
    (
        "keys, some with the hash 0",
        [(Message(b"1", key=b"k"), 0x12345678), (Message(b"2"), None), (Message(b"3", b"z"), 0)],
        {"producer_id": 0xFEDCBA9876543210, "sequence": 7},
    ),
    (
        "headers, own id and own timestamp",
        [(Message(b"{}", b"k", {"a": "1", "ä": "ü"}, "application/json", 5, bytes(range(16))), 9)],
        {},
    ),
    (
        "every column",
        [
            (Message(b"x"), None),
            (Message(b"y", deliver_at_ms=TIMESTAMP_MS + 1), None),
            (Message(b"z", expires_at_ms=TIMESTAMP_MS + 2, priority=9, dedup_id="d-1"), None),
        ],
        {},
    ),
    (
        "compressed with zlib",
        [(Message(b"the same again " * 8), None)] * 4,
        {"compression": batch.COMPRESSION_ZLIB},
    ),
    (
        "groups by the header tenant",
        [
            (Message(b"1", headers={"tenant": "a"}), None),
            (Message(b"2"), None),
            (Message(b"3", priority=1, headers={"tenant": "b", "other": "a"}), None),
        ],
        {"group_header": "tenant"},
    ),
]


def message_json(message: Message) -> dict[str, Any]:
    """A message as the file shows it; bytes are hex."""
    return {
        "value": message.value.hex(),
        "key": None if message.key is None else message.key.hex(),
        "headers": message.headers,
        "content_type": message.content_type,
        "timestamp_ms": message.timestamp_ms,
        "id": None if message.id is None else message.id.hex(),
        "deliver_at_ms": message.deliver_at_ms,
        "expires_at_ms": message.expires_at_ms,
        "priority": message.priority,
        "dedup_id": message.dedup_id,
    }


def vectors() -> list[dict[str, Any]]:
    """All cases: how each was built, its bytes, and the messages that come out."""
    made = []
    for name, messages, options in CASES:
        builder = batch.BatchBuilder()
        for message, key_hash in messages:
            header = options.get("group_header")
            builder.add(message, key_hash, batch.group_of(message, header) if header else None)
        given = {name: value for name, value in options.items() if name != "group_header"}
        data = builder.build(base_id=BASE_ID, timestamp_ms=TIMESTAMP_MS, **given)
        made.append(
            {
                "name": name,
                "base_id": BASE_ID.hex(),
                "timestamp_ms": TIMESTAMP_MS,
                "options": options,
                "key_hashes": [key_hash for _, key_hash in messages],
                "bytes": data.hex(),
                "messages": [message_json(one) for one in batch.decode(data)],
            }
        )
    return made


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/vectors/batch_v1.json")
    target.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
