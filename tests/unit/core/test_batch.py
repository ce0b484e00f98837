"""The batch codec: round trips, the published vectors, and bytes from a careless world."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mom_core import batch, limits
from mom_core.errors import CorruptBatchError
from mom_core.ids import message_id
from mom_core.message import Message

VECTORS = json.loads(
    (Path(__file__).parents[2] / "vectors" / "batch_v1.json").read_text(encoding="utf-8")
)
BASE_ID = bytes.fromhex("01932f1c9a007abc8123456789abcdef")

messages = st.builds(
    Message,
    value=st.binary(max_size=200),
    key=st.none() | st.binary(max_size=20),
    headers=st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    content_type=st.none() | st.just("text/plain"),
    timestamp_ms=st.none() | st.integers(0, 1 << 50),
    id=st.none() | st.binary(min_size=16, max_size=16),
    deliver_at_ms=st.integers(0, 1 << 50),
    expires_at_ms=st.integers(0, 1 << 50),
    priority=st.integers(0, 9),
    dedup_id=st.none() | st.text(max_size=8),
)
compressions = st.sampled_from([batch.COMPRESSION_NONE, batch.COMPRESSION_ZLIB])


def build(several: list[Message], compression: int = 0) -> bytes:
    builder = batch.BatchBuilder()
    for one in several:
        builder.add(one, None if one.key is None else len(one.key))
    return builder.build(
        base_id=BASE_ID, timestamp_ms=77, producer_id=5, sequence=6, compression=compression
    )


def with_defaults(several: list[Message], first: int = 0) -> list[Message]:
    """What a reader gets: id and timestamp filled in."""
    filled = []
    for index, one in enumerate(several, first):
        filled.append(
            Message(
                one.value,
                one.key,
                one.headers,
                one.content_type,
                77 if one.timestamp_ms is None else one.timestamp_ms,
                message_id(BASE_ID, index) if one.id is None else one.id,
                one.deliver_at_ms,
                one.expires_at_ms,
                one.priority,
                one.dedup_id,
            )
        )
    return filled


@given(st.lists(messages, min_size=1, max_size=20), compressions)
def test_what_goes_in_comes_out(several: list[Message], compression: int) -> None:
    data = build(several, compression)
    header = batch.verify(data)
    assert (header.count, header.producer_id, header.sequence) == (len(several), 5, 6)
    assert batch.decode(data) == with_defaults(several)
    hashes = batch.key_hashes(header, data)
    assert list(hashes) == [0 if m.key is None else len(m.key) or 1 for m in several]


@given(st.lists(messages, min_size=1, max_size=20), compressions, st.data())
def test_a_cut_is_a_batch_of_its_own(
    several: list[Message], compression: int, data: st.DataObject
) -> None:
    whole = build(several, compression)
    first = data.draw(st.integers(0, len(several) - 1))
    end = data.draw(st.integers(first + 1, len(several)))
    part = batch.cut(whole, first, end)
    header = batch.verify(part)
    assert header.count == end - first
    assert batch.decode(part) == with_defaults(several[first:end], first)
    assert batch.key_hashes(header, part) == batch.key_hashes(batch.verify(whole), whole)[first:end]


@given(st.lists(messages, min_size=1, max_size=10), st.data())
def test_groups_stand_beside_all_other_columns(several: list[Message], data: st.DataObject) -> None:
    builder = batch.BatchBuilder()
    for one in several:
        key_hash = None if one.key is None else len(one.key)
        builder.add(one, key_hash, batch.group_of(one, "tenant"))
    whole = builder.build(base_id=BASE_ID, timestamp_ms=77)
    header = batch.verify(whole)
    groups = batch.column(header, whole, batch.COLUMN_GROUP)
    assert groups == tuple(batch.group_of(one, "tenant") for one in several)
    assert batch.decode(whole) == with_defaults(several)
    first = data.draw(st.integers(0, len(several) - 1))
    part = batch.cut(whole, first, len(several))
    assert batch.column(batch.verify(part), part, batch.COLUMN_GROUP) == groups[first:]


def test_a_group_is_the_value_of_a_header() -> None:
    one, same, other = (
        batch.group_of(Message(b"", headers={"tenant": value}), "tenant")
        for value in ("a", "a", "b")
    )
    assert one == same != other
    assert batch.group_of(Message(b"", headers={"tenant": ""}), "tenant") != 0
    assert batch.group_of(Message(b"", headers={"other": "a"}), "tenant") == 0
    assert batch.group_of(Message(b""), "tenant") == 0


@settings(max_examples=300)
@given(st.lists(messages, min_size=1, max_size=5), compressions, st.data())
def test_no_damage_goes_unnoticed(
    several: list[Message], compression: int, data: st.DataObject
) -> None:
    whole = bytearray(build(several, compression))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptBatchError):
        batch.verify(bytes(whole))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_an_error(data: bytes) -> None:
    with pytest.raises(CorruptBatchError):
        batch.verify(data)


def resealed(whole: bytearray) -> bytes:
    """The batch with a right checksum for its wrong content, as a faulty client would send it."""
    whole[4:8] = google_crc32c.value(bytes(whole[8:])).to_bytes(4, "little")
    return bytes(whole)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (12, (0).to_bytes(4, "little"), "0 records"),
        (12, (limits.BATCH_RECORDS_MAX + 1).to_bytes(4, "little"), "65537 records"),
        (12, (60_000).to_bytes(4, "little"), "past the end"),
        (16, (1 << 9).to_bytes(4, "little"), "unknown columns"),
        (3, b"\x07", "unknown compression"),
        (3, b"\x01", "decompress"),
        (20, (1 << 31).to_bytes(4, "little"), "bytes of records"),
        (64, (0).to_bytes(4, "little"), "ascend"),
        (64, (1 << 20).to_bytes(4, "little"), "ascend"),
    ],
)
def test_a_sealed_lie_is_refused(place: int, value: bytes, reason: str) -> None:
    whole = bytearray(build([Message(b"a"), Message(b"b")]))
    whole[place : place + len(value)] = value
    with pytest.raises(CorruptBatchError, match=reason):
        batch.verify(resealed(whole))


def test_a_record_that_is_none_is_refused_by_its_reader() -> None:
    whole = bytearray(build([Message(b"a")]))
    whole[-1] = 0xC1
    with pytest.raises(CorruptBatchError, match="does not decode"):
        batch.decode(resealed(whole))


def test_a_compressed_batch_can_not_swell_without_bound() -> None:
    """A few stored bytes that decompress to more than they say stop at what they say."""
    whole = bytearray(build([Message(bytes(200_000))], batch.COMPRESSION_ZLIB))
    for place in (20, 64):
        whole[place : place + 4] = (1_000).to_bytes(4, "little")
    with pytest.raises(CorruptBatchError, match="another length"):
        batch.verify(resealed(whole))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda one: one["name"])
def test_published_vectors(vector: dict) -> None:
    data = bytes.fromhex(vector["bytes"])
    batch.verify(data)
    decoded = batch.decode(data)
    shown = [
        {
            **{name: getattr(one, name) for name in Message.__struct_fields__},
            "value": one.value.hex(),
            "key": None if one.key is None else one.key.hex(),
            "id": one.id.hex(),
        }
        for one in decoded
    ]
    assert shown == vector["messages"]


def test_the_vectors_are_what_the_codec_writes() -> None:
    root = Path(__file__).parents[3]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "vectors.json"
        subprocess.run([sys.executable, root / "hack/batch_vectors.py", target], check=True)
        written = json.loads(target.read_text(encoding="utf-8"))
    assert [comparable(one) for one in written] == [comparable(one) for one in VECTORS]


def comparable(vector: dict) -> dict:
    """How zlib compresses is its own affair and differs between its builds."""
    if vector["options"].get("compression"):
        return {name: value for name, value in vector.items() if name != "bytes"}
    return vector
