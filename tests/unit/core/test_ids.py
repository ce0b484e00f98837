import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mom_core.errors import InvalidArgumentError
from mom_core.ids import id_text, message_id, message_ids, parse_id, timestamp_ms, uuid7

times = st.integers(0, (1 << 48) - 1)
randoms = st.binary(min_size=10, max_size=10)


@given(times, randoms)
def test_uuid7_has_version_variant_and_time(now_ms: int, random: bytes) -> None:
    made = uuid7(now_ms, random)
    parsed = uuid.UUID(bytes=made)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert timestamp_ms(made) == now_ms


def test_uuid7_vector_of_rfc_9562() -> None:
    """Appendix A.6, whose rand_b begins with a clear bit too."""
    random = (0xCC3 << 64 | 0x18C4DC0C0C07398F).to_bytes(10, "big")
    assert id_text(uuid7(0x017F22E279B0, random)) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@given(times, randoms, st.integers(0, 65_535), st.integers(0, 65_535))
def test_ids_of_a_batch_ascend_and_stay_uuid7(
    now_ms: int, random: bytes, one: int, other: int
) -> None:
    base = uuid7(now_ms, random)
    ids = sorted([(one, message_id(base, one)), (other, message_id(base, other))])
    assert (ids[0][1] < ids[1][1]) == (one != other)
    for index, made in ids:
        assert uuid.UUID(bytes=made).version == 7
        assert int.from_bytes(made, "big") == int.from_bytes(base, "big") + index


@given(st.binary(min_size=16, max_size=16), st.integers(0, 65_535), st.integers(0, 65_535))
def test_any_base_id_keeps_all_but_rand_b(base: bytes, one: int, other: int) -> None:
    made = message_id(base, one)
    assert made[:8] == base[:8]
    assert made[8] >> 6 == base[8] >> 6
    assert (made == message_id(base, other)) == (one == other)
    assert message_id(base, 0) == base


def test_a_foreign_id_at_the_end_wraps_inside_rand_b() -> None:
    base = parse_id("017f22e2-79b0-7cc3-bfff-ffffffffffff")
    assert id_text(message_id(base, 1)) == "017f22e2-79b0-7cc3-8000-000000000000"


@given(st.binary(min_size=16, max_size=16))
def test_text_forms(made: bytes) -> None:
    assert id_text(made) == str(uuid.UUID(bytes=made))
    assert parse_id(id_text(made)) == parse_id(made.hex()) == parse_id(made.hex().upper()) == made


@pytest.mark.parametrize(
    "text", ["", "x", "017f22e279b07cc398c4dc0c0c07398", "0" * 31 + "g", "-" * 36]
)
def test_what_is_no_uuid_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not a UUID"):
        parse_id(text)


@given(st.binary(min_size=16, max_size=16), st.integers(1, 50), st.booleans())
def test_many_ids_are_the_single_ones(base: bytes, count: int, near_the_end: bool) -> None:
    if near_the_end:
        base = base[:8] + b"\xbf" + b"\xff" * 7
    assert message_ids(base, count) == [message_id(base, one) for one in range(count)]
