"""The dedup window against a plain list of what landed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mom_core import batch
from mom_core.batch import NO_DEDUP, dedup_hash
from mom_core.dedup import DedupWindow, decode_landings, encode_landings, ids_of
from mom_core.message import Message

IDS = st.lists(st.none() | st.sampled_from("abcdef"), min_size=1, max_size=8)


def hashes(ids: list[str | None]) -> list[bytes]:
    return [NO_DEDUP if one is None else dedup_hash(one) for one in ids]


@given(st.lists(st.tuples(IDS, st.integers(0, 60)), max_size=12))
def test_only_the_first_within_the_window_is_stored(history: list[tuple[list, int]]) -> None:
    window = DedupWindow()
    stored: list[tuple[str, int, int]] = []  # id, offset, time
    now_ms, following = 1_000, 0
    for ids, elapsed_ms in history:
        now_ms += elapsed_ms
        window.expire(now_ms - 100)
        live = {one: offset for one, offset, at_ms in stored if at_ms >= now_ms - 100}
        left_out = window.duplicates(ids_of(hashes(ids)))
        expected = [
            place
            for place, one in enumerate(ids)
            if one is not None and (one in live or one in ids[:place])
        ]
        assert list(left_out) == expected
        base = following
        for place, one in enumerate(ids):
            if place not in left_out:
                stored += [(one, following, now_ms)] if one is not None else []
                following += 1
        known = len(window)
        assert window.landed(now_ms, base, hashes(ids), left_out) == len(window) - known
        firsts = {**{one: offset for one, offset, _ in stored}, **live}
        for one in filter(None, ids):
            assert window.offset_of(dedup_hash(one)) == firsts[one]
        # The same batch again, after its answer was lost.
        again = window.duplicates_of_landed(base, hashes(ids))
        assert [place for place, _ in again] == expected
        assert [offset for _, offset in again] == [firsts[ids[place]] for place in expected]
    kept = DedupWindow()
    for landing in decode_landings(encode_landings(list(window.landings))):
        kept.remember(landing)
    assert {one: kept.offset_of(dedup_hash(one)) for one in "abcdef"} == {
        one: window.offset_of(dedup_hash(one)) for one in "abcdef"
    }


@given(
    st.lists(
        st.builds(
            Message,
            value=st.binary(max_size=8),
            key=st.none() | st.binary(max_size=3),
            priority=st.integers(0, 9),
            dedup_id=st.none() | st.text(min_size=1, max_size=4),
        ),
        min_size=2,
        max_size=10,
    ),
    st.data(),
    st.booleans(),
)
def test_a_batch_without_some_records_is_the_batch_of_the_others(
    messages: list[Message], data: st.DataObject, compressed: bool
) -> None:
    count = len(messages)
    left_out = sorted(data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1)))
    stays = [one for place, one in enumerate(messages) if place not in left_out]
    compression = batch.COMPRESSION_ZLIB if compressed else batch.COMPRESSION_NONE

    def built(these: list[Message], **options: int) -> bytes:
        builder = batch.BatchBuilder()
        for one in these:
            builder.add(one, None)
        return builder.build(
            base_id=bytes(range(16)), timestamp_ms=5, producer_id=7, sequence=3, **options
        )

    cut = batch.without(built(messages, compression=compression), left_out)
    header = batch.verify(cut)
    assert (header.producer_id, header.sequence, header.count) == (7, 3, len(stays))
    assert batch.decode(cut) == batch.decode(built(stays))
    expected = [NO_DEDUP if one.dedup_id is None else dedup_hash(one.dedup_id) for one in stays]
    assert batch.dedup_hashes(header, cut) == expected
