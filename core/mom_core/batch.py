"""The record batch: many messages in one block of bytes, as clients make it and stores keep it.

Layout of version 1, all integers little-endian::

    offset size
     0      2   magic "MB"
     2      1   version, 1
     3      1   compression of the records section: 0 none, 1 zlib (RFC 1950)
     4      4   CRC32C of everything from byte 8 to the end
     8      4   length of the whole batch in bytes
    12      4   record count, 1 to 65,536
    16      4   columns: bit 0 key_hash, 1 deliver_at, 2 expires_at, 3 priority, 4 dedup,
                5 group
    20      4   length of the records section in bytes, before compression
    24      8   producer id, 0 for none
    32      8   sequence of the batch at its producer and partition
    40     16   id of the first message (UUIDv7); the i-th has this id plus i
    56      8   timestamp in milliseconds since the Unix epoch
    64          the columns, in this order, each present one with an element a record:
                  end         u32   end of the record in the uncompressed records section; always
                  key_hash    u32   murmur2 of the key, 0 without a key (a true 0 is stored as 1)
                  deliver_at  u64   milliseconds since the Unix epoch, 0 for at once
                  expires_at  u64   milliseconds since the Unix epoch, 0 for never
                  priority    u8    0 to 9
                  dedup       16 B  BLAKE2b-128 of the dedup_id, zeros without one
                  group       u32   murmur2 of the header that the topic shares by (fair_by), 0
                                    without it (a true 0 is stored as 1); there for every record
                                    as soon as the producer knows of that setting
                the records section: each record a MessagePack array of the fields of Message in
                their order, where missing trailing fields have their defaults

A node checks header, checksum and columns, and never looks into a record. The fixed header and the
columnar index follow Kafka's record batch v2 in purpose: what the broker needs lies in front, at
known places. ``tests/vectors/batch_v1.json`` has examples for other implementations.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate, pairwise
from typing import Final

import google_crc32c
import msgspec

from mom_core import limits
from mom_core.errors import CorruptBatchError
from mom_core.ids import message_id, message_ids
from mom_core.message import Message
from mom_core.partitioner import murmur2

MAGIC: Final = b"MB"
VERSION: Final = 1
COMPRESSION_NONE: Final = 0
COMPRESSION_ZLIB: Final = 1
HEADER_BYTES: Final = 64
_HEADER: Final = struct.Struct("<2sBBIIIIIQQ16sQ")
_CRC_START: Final = 8
_TIMES: Final = struct.Struct("<QQ")

COLUMN_KEY_HASH: Final = 1
COLUMN_DELIVER_AT: Final = 2
COLUMN_EXPIRES_AT: Final = 4
COLUMN_PRIORITY: Final = 8
COLUMN_DEDUP: Final = 16
COLUMN_GROUP: Final = 32
_COLUMN_WIDTHS: Final = (
    (COLUMN_KEY_HASH, 4),
    (COLUMN_DELIVER_AT, 8),
    (COLUMN_EXPIRES_AT, 8),
    (COLUMN_PRIORITY, 1),
    (COLUMN_DEDUP, 16),
    (COLUMN_GROUP, 4),
)
_COLUMN_FORMATS: Final = {1: "B", 4: "I", 8: "Q"}
_COLUMNS_KNOWN: Final = 63
NO_DEDUP: Final = bytes(16)
"""What the dedup column has for a message without a dedup_id."""

_EMPTY_DEDUP: Final = blake2b(digest_size=16)

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Message])
_record_decoder: Final = msgspec.msgpack.Decoder(Message)


class BatchHeader(msgspec.Struct, frozen=True):
    """The fixed header of a batch."""

    compression: int
    crc: int
    length: int
    count: int
    columns: int
    records_length: int
    producer_id: int
    sequence: int
    base_id: bytes
    timestamp_ms: int

    @property
    def columns_end(self) -> int:
        """Where the records section begins."""
        return HEADER_BYTES + self.count * (4 + columns_width(self.columns))


# Of the longest index: the end of the record and every column.
COLUMNS_BYTES_PER_RECORD_MAX: Final = 4 + sum(width for _, width in _COLUMN_WIDTHS)


def columns_width(columns: int) -> int:
    """Bytes that the optional columns take for each record."""
    return sum(width for bit, width in _COLUMN_WIDTHS if columns & bit)


class BatchBuilder:
    """Collects messages into one batch. Bounded by the caller, by ``count`` and ``size_bytes``."""

    __slots__ = ("_columns", "_dedup", "_deliver", "_ends", "_expires", "_groups", "_keys",
                 "_priority", "_records")  # fmt: skip

    def __init__(self) -> None:
        self._records = bytearray()
        self._ends: list[int] = []
        self._keys: list[int] = []
        self._deliver: list[int] = []
        self._expires: list[int] = []
        self._priority = bytearray()
        self._dedup: list[bytes] = []
        self._groups: list[int] = []
        self._columns = 0

    @property
    def count(self) -> int:
        """Messages so far."""
        return len(self._ends)

    @property
    def size_bytes(self) -> int:
        """Bytes of the records section so far."""
        return len(self._records)

    def add(
        self,
        message: Message,
        key_hash: int | None,
        group: int | None = None,
        dedup: bytes | None = None,
    ) -> None:
        """Append a message. ``key_hash`` is the 32-bit murmur2 of its key, None without a key.

        ``group`` is what :func:`group_of` says where the topic shares by a header, else None. It
        is None for all messages of a batch or for none. ``dedup`` is the :func:`dedup_hash` of its
        dedup_id, if that was computed already. Whatever a message that has no form raises, the
        batch stays as it was.
        """
        records = self._records
        size, columns = len(records), self._columns
        try:
            _encoder.encode_into(message, records, -1)
            if key_hash is not None:
                self._columns |= COLUMN_KEY_HASH
                self._keys.append(key_hash or 1)
            else:
                self._keys.append(0)
            if group is not None:
                self._columns |= COLUMN_GROUP
                self._groups.append(group)
            if (
                self._columns & ~(COLUMN_KEY_HASH | COLUMN_GROUP)
                or message.deliver_at_ms
                or message.expires_at_ms
                or message.priority
                or message.dedup_id is not None
            ):
                self._add_delivery_columns(message, dedup)
        except BaseException:
            self._take_back(size, columns)
            raise
        self._ends.append(len(records))

    def _take_back(self, size: int, columns: int) -> None:
        """Forget what was added of a message that is not counted yet."""
        del self._records[size:]
        self._columns = columns
        for column in (
            self._keys, self._groups, self._deliver, self._expires, self._priority, self._dedup,
        ):  # fmt: skip
            del column[self.count :]

    def _add_delivery_columns(self, message: Message, dedup: bytes | None) -> None:
        missing = len(self._ends) - len(self._deliver)
        if missing:
            self._deliver.extend([0] * missing)
            self._expires.extend([0] * missing)
            self._priority.extend(bytes(missing))
            self._dedup.extend([NO_DEDUP] * missing)
        deliver_at_ms, expires_at_ms = message.deliver_at_ms, message.expires_at_ms
        _TIMES.pack(deliver_at_ms, expires_at_ms)  # Raises for what the columns can't hold.
        self._deliver.append(deliver_at_ms)
        self._expires.append(expires_at_ms)
        self._priority.append(message.priority)
        if deliver_at_ms:
            self._columns |= COLUMN_DELIVER_AT
        if expires_at_ms:
            self._columns |= COLUMN_EXPIRES_AT
        if message.priority:
            self._columns |= COLUMN_PRIORITY
        if message.dedup_id is None:
            self._dedup.append(NO_DEDUP)
        else:
            self._columns |= COLUMN_DEDUP
            self._dedup.append(dedup or dedup_hash(message.dedup_id))

    def build(
        self,
        *,
        base_id: bytes,
        timestamp_ms: int,
        producer_id: int = 0,
        sequence: int = 0,
        compression: int = COMPRESSION_NONE,
    ) -> bytes:
        """The batch's bytes. At least one message must have been added."""
        count = len(self._ends)
        assert count, "an empty batch"
        parts = [struct.pack(f"<{count}I", *self._ends)]
        columns = self._columns
        if columns & COLUMN_KEY_HASH:
            parts.append(struct.pack(f"<{count}I", *self._keys))
        if columns & COLUMN_DELIVER_AT:
            parts.append(struct.pack(f"<{count}Q", *self._deliver))
        if columns & COLUMN_EXPIRES_AT:
            parts.append(struct.pack(f"<{count}Q", *self._expires))
        if columns & COLUMN_PRIORITY:
            parts.append(bytes(self._priority))
        if columns & COLUMN_DEDUP:
            parts.append(b"".join(self._dedup))
        if columns & COLUMN_GROUP:
            assert len(self._groups) == count, "a group for all messages of a batch or for none"
            parts.append(struct.pack(f"<{count}I", *self._groups))
        return _assemble(
            b"".join(parts),
            bytes(self._records),
            compression=compression,
            count=count,
            columns=columns,
            producer_id=producer_id,
            sequence=sequence,
            base_id=base_id,
            timestamp_ms=timestamp_ms,
        )


def _assemble(
    index: bytes,
    records: bytes,
    *,
    compression: int,
    count: int,
    columns: int,
    producer_id: int,
    sequence: int,
    base_id: bytes,
    timestamp_ms: int,
) -> bytes:
    stored = zlib.compress(records, 1) if compression == COMPRESSION_ZLIB else records
    length = HEADER_BYTES + len(index) + len(stored)

    def header(crc: int) -> bytes:
        return _HEADER.pack(
            MAGIC, VERSION, compression, crc, length, count, columns, len(records),
            producer_id, sequence, base_id, timestamp_ms,
        )  # fmt: skip

    tail = header(0)[_CRC_START:]
    crc = google_crc32c.extend(google_crc32c.value(tail + index), stored)
    return header(crc) + index + stored


def dedup_hash(dedup_id: str) -> bytes:
    """The 16 bytes by which a dedup_id is remembered."""
    # A copy of an empty one takes less than half the time of a new one.
    digest = _EMPTY_DEDUP.copy()
    digest.update(dedup_id.encode())
    return digest.digest()


def group_of(message: Message, header: str) -> int:
    """What stands in the column ``group`` for the value of a message's header."""
    value = message.headers.get(header) if message.headers else None
    return 0 if value is None else murmur2(value.encode()) or 1


def parse_header(data: bytes) -> BatchHeader:
    """Read the fixed header without checking the rest.

    Raises CorruptBatchError when the bytes are no batch of this version.
    """
    if len(data) < HEADER_BYTES:
        raise CorruptBatchError(
            f"a batch has at least {HEADER_BYTES} bytes, this one {len(data)}", field="batch"
        )
    magic, version, *fields = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise CorruptBatchError("the bytes do not begin with the magic of a batch", field="batch")
    if version != VERSION:
        raise CorruptBatchError(
            f"batch version {version} is unknown; this server reads version {VERSION}",
            field="batch",
        )
    return BatchHeader(*fields)


def verify(data: bytes) -> BatchHeader:
    """Check structure and checksum of a batch from outside and return its header.

    Raises CorruptBatchError with what does not hold.
    """
    header = parse_header(data)
    if header.length != len(data):
        raise CorruptBatchError(
            f"the batch says {header.length} bytes and has {len(data)}", field="batch"
        )
    crc = google_crc32c.value(data[_CRC_START:])
    if crc != header.crc:
        raise CorruptBatchError(
            f"checksum {crc:#010x} where the batch says {header.crc:#010x}: it was damaged on its "
            "way; send it again",
            field="batch",
        )
    if not 0 < header.count <= limits.BATCH_RECORDS_MAX:
        raise CorruptBatchError(
            f"{header.count} records; 1 to {limits.BATCH_RECORDS_MAX} are allowed", field="batch"
        )
    if header.columns & ~_COLUMNS_KNOWN:
        raise CorruptBatchError(
            f"unknown columns in {header.columns:#x}; a newer client?", field="batch"
        )
    if header.compression not in (COMPRESSION_NONE, COMPRESSION_ZLIB):
        raise CorruptBatchError(f"unknown compression {header.compression}", field="batch")
    _verify_lengths(header, data)
    return header


def _verify_lengths(header: BatchHeader, data: bytes) -> None:
    if header.columns_end > len(data):
        raise CorruptBatchError("the columns reach past the end of the batch", field="batch")
    if header.records_length > limits.BATCH_BYTES_MAX:
        raise CorruptBatchError(
            f"{header.records_length} bytes of records; at most {limits.BATCH_BYTES_MAX} are "
            "allowed",
            field="batch",
        )
    ends = record_ends(header, data)
    if ends[-1] != header.records_length or any(map(int.__ge__, (0, *ends), ends)):
        raise CorruptBatchError("the record ends do not ascend to the records' length",
                                field="batch")  # fmt: skip
    if header.compression == COMPRESSION_NONE:
        if header.columns_end + header.records_length != len(data):
            raise CorruptBatchError("the records section has another length", field="batch")
    else:
        _records(header, data)


def largest_record(header: BatchHeader, data: bytes) -> int:
    """Bytes of the largest record of a batch."""
    ends = record_ends(header, data)
    return max(map(int.__sub__, ends, (0, *ends[:-1])))


def record_ends(header: BatchHeader, data: bytes) -> tuple[int, ...]:
    """Where each record ends in the uncompressed records section."""
    return struct.unpack_from(f"<{header.count}I", data, HEADER_BYTES)


def _records(header: BatchHeader, data: bytes) -> bytes:
    section = data[header.columns_end :]
    if header.compression == COMPRESSION_NONE:
        return section
    inflater = zlib.decompressobj()
    try:
        records = inflater.decompress(section, header.records_length + 1)
    except zlib.error as error:
        raise CorruptBatchError(f"the records do not decompress: {error}", field="batch") from None
    if len(records) != header.records_length:
        raise CorruptBatchError("the records decompress to another length", field="batch")
    return records


def decode(data: bytes) -> list[Message]:
    """The messages of a batch, with id and timestamp filled in.

    Raises CorruptBatchError when a record is not one; checksum and lengths are :func:`verify`'s.
    """
    header = parse_header(data)
    # The records as one MessagePack array: one decoder call is several times as fast as many.
    framed = b"\xdd" + header.count.to_bytes(4, "big") + _records(header, data)
    try:
        messages = _decoder.decode(framed)
    except msgspec.DecodeError as error:
        raise CorruptBatchError(f"a record does not decode: {error}", field="batch") from None
    timestamp_ms = header.timestamp_ms
    for message, given_id in zip(messages, message_ids(header.base_id, header.count), strict=True):
        if message.id is None:
            message.id = given_id
        if message.timestamp_ms is None:
            message.timestamp_ms = timestamp_ms
    return messages


def cut(data: bytes, first: int, end: int) -> bytes:
    """The batch of the records ``first`` to ``end`` (excluded), as a batch of its own.

    It keeps ids and timestamp, loses producer and sequence, and is not compressed. The whole range
    returns ``data`` itself.
    """
    header = parse_header(data)
    count = header.count
    assert 0 <= first < end <= count, f"cut {first}:{end} of {count} records"
    if first == 0 and end == count:
        return data
    place = HEADER_BYTES
    start = struct.unpack_from("<I", data, place + 4 * (first - 1))[0] if first else 0
    ends = struct.unpack_from(f"<{end - first}I", data, place + 4 * first)
    parts = [struct.pack(f"<{end - first}I", *(one - start for one in ends))]
    place += 4 * count
    for bit, width in _COLUMN_WIDTHS:
        if header.columns & bit:
            parts.append(data[place + width * first : place + width * end])
            place += width * count
    if header.compression == COMPRESSION_NONE:
        records = data[place + start : place + ends[-1]]
    else:
        records = _records(header, data)[start : ends[-1]]
    return _assemble(
        b"".join(parts),
        records,
        compression=COMPRESSION_NONE,
        count=end - first,
        columns=header.columns,
        producer_id=0,
        sequence=0,
        base_id=message_id(header.base_id, first),
        timestamp_ms=header.timestamp_ms,
    )


def without(data: bytes, left_out: Sequence[int]) -> bytes:
    """The batch without the records at some places (ascending), of which at least one stays.

    It keeps producer, sequence and timestamp, and is not compressed. Ids are of the records that
    stay: the i-th of them has the batch's base id plus i.
    """
    header = parse_header(data)
    stays = _stays(left_out, header.count)
    ends = record_ends(header, data)
    records = _records(header, data)
    kept = b"".join(records[ends[low - 1] if low else 0 : ends[high - 1]] for low, high in stays)
    lengths = [
        ends[place] - (ends[place - 1] if place else 0)
        for low, high in stays
        for place in range(low, high)
    ]
    parts = [struct.pack(f"<{len(lengths)}I", *accumulate(lengths))]
    place = HEADER_BYTES + 4 * header.count
    for bit, width in _COLUMN_WIDTHS:
        if header.columns & bit:
            parts += [data[place + width * low : place + width * high] for low, high in stays]
            place += width * header.count
    return _assemble(
        b"".join(parts),
        kept,
        compression=COMPRESSION_NONE,
        count=len(lengths),
        columns=header.columns,
        producer_id=header.producer_id,
        sequence=header.sequence,
        base_id=header.base_id,
        timestamp_ms=header.timestamp_ms,
    )


def _stays(left_out: Sequence[int], count: int) -> list[tuple[int, int]]:
    """The ranges of places between those left out."""
    bounds = (-1, *left_out, count)
    return [(low + 1, high) for low, high in pairwise(bounds) if low + 1 < high]


def key_hashes(header: BatchHeader, data: bytes) -> tuple[int, ...]:
    """The key hash of each record, 0 for those without a key."""
    return column(header, data, COLUMN_KEY_HASH)


def column(header: BatchHeader, data: bytes, wanted: int) -> tuple[int, ...]:
    """A number for each record from any column but dedup; zeros when it is not there.

    ``data`` need not hold more than header and columns.
    """
    if not header.columns & wanted:
        return (0,) * header.count
    width = dict(_COLUMN_WIDTHS)[wanted]
    place = _column_place(header, wanted)
    return struct.unpack_from(f"<{header.count}{_COLUMN_FORMATS[width]}", data, place)


def _column_place(header: BatchHeader, wanted: int) -> int:
    """Where a column begins that the batch has."""
    place = HEADER_BYTES + 4 * header.count
    for bit, width in _COLUMN_WIDTHS:
        if bit == wanted:
            break
        if header.columns & bit:
            place += width * header.count
    return place


def dedup_hashes(header: BatchHeader, data: bytes) -> list[bytes]:
    """The dedup column: 16 bytes for each record, zeros without a dedup_id.

    ``data`` need not hold more than header and columns.
    """
    if not header.columns & COLUMN_DEDUP:
        return [NO_DEDUP] * header.count
    width = len(NO_DEDUP)
    place = _column_place(header, COLUMN_DEDUP)
    return [one for (one,) in struct.iter_unpack("16s", data[place : place + width * header.count])]
