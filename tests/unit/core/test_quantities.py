import pytest
from hypothesis import given
from hypothesis import strategies as st

from mom_core.errors import InvalidArgumentError
from mom_core.quantities import format_bytes, format_duration, parse_bytes, parse_duration_ms


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("168h", 604_800_000),
        ("30s", 30_000),
        ("250ms", 250),
        ("1h30m", 5_400_000),
        ("1.5h", 5_400_000),
        ("1m500ms", 60_500),
        ("2d", 172_800_000),
        ("1w", 604_800_000),
        ("0.5ms", 1),
        (" 5000 ", 5_000),
        (5000, 5_000),
        (0, 0),
        ("0", 0),
    ],
)
def test_durations(text: object, expected_ms: int) -> None:
    assert parse_duration_ms(text) == expected_ms


@pytest.mark.parametrize(
    ("text", "expected_bytes"),
    [
        ("10Gi", 10 << 30),
        ("1.5GiB", 3 << 29),
        ("512 Ki", 512 << 10),
        ("10G", 10**10),
        ("10GB", 10**10),
        ("3k", 3000),
        ("0.1Ki", 103),
        ("77", 77),
        ("77B", 77),
        (77, 77),
    ],
)
def test_sizes(text: object, expected_bytes: int) -> None:
    assert parse_bytes(text) == expected_bytes


@pytest.mark.parametrize(
    "value",
    ["", "h", "5x", "-5s", "1h-3m", "1,5h", "1e3s", "5 s", "٣s", 1.5, True, None, [], "9" * 99],
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"ack_timeout .* is not a duration") as caught:
        parse_duration_ms(value, "ack_timeout")
    assert caught.value.field == "ack_timeout"


@pytest.mark.parametrize("value", ["", "Gi", "5X", "-5", "1e3", "5kiB", 1.5, True, None, "9" * 99])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match="is not a size"):
        parse_bytes(value)


@given(st.integers(0, 10**14))
def test_what_is_written_reads_back(number: int) -> None:
    assert parse_duration_ms(format_duration(number)) == number
    assert parse_bytes(format_bytes(number)) == number


def test_written_forms() -> None:
    assert [format_duration(ms) for ms in (604_800_000, 30_000, 1, 0)] == [
        "168h",
        "30s",
        "1ms",
        "0ms",
    ]
    assert [format_bytes(size) for size in (10 << 30, 1536, 1, 0)] == ["10Gi", "1536", "1", "0"]
