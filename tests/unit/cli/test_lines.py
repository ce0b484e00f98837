"""Lines of input and the messages they become."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mom_cli import lines
from mom_cli.lines import Line, LineFormat, LineSplitter, in_thread, message_of_line, read_chunks
from mom_core.errors import InvalidArgumentError, TooLargeError
from mom_core.message import JSON, TEXT, Message


def split(chunks: list[bytes]) -> list[Line]:
    splitter = LineSplitter("input")
    found = [line for chunk in chunks for line in splitter.feed(chunk)]
    return found + list(splitter.finish())


@given(st.lists(st.binary(max_size=20)))
def test_lines_are_those_of_the_whole_however_it_is_cut(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    expected = whole.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    found = split(chunks)
    assert [line.data for line in found] == expected
    assert [line.number for line in found] == list(range(1, len(expected) + 1))


def test_a_line_that_can_be_no_message_is_skipped_and_not_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES_MAX", 10)
    found = split([b"short\n", b"x" * 8, b"x" * 8, b"x" * 8, b"\nnext\n"])
    assert [(line.data, line.too_long) for line in found] == [
        (b"short", False),
        (b"", True),
        (b"next", False),
    ]
    with pytest.raises(TooLargeError):
        message_of_line(found[1], LineFormat())


def line(data: bytes) -> Line:
    return Line("input", 1, data)


@pytest.mark.parametrize(
    ("data", "form", "expected"),
    [
        (b"hello", LineFormat(), Message(b"hello", content_type=TEXT)),
        (b"", LineFormat(), Message(b"", content_type=TEXT)),
        (b"a\r", LineFormat(), Message(b"a\r", content_type=TEXT)),
        (b"\xff\x00", LineFormat(), Message(b"\xff\x00")),
        (b"v", LineFormat(key=b"k"), Message(b"v", b"k", content_type=TEXT)),
        (b"k:v:w", LineFormat(key_separator=b":"), Message(b"v:w", b"k", content_type=TEXT)),
        (
            b"v",
            LineFormat(headers={"h": "1"}, content_type="text/csv"),
            Message(b"v", headers={"h": "1"}, content_type="text/csv"),
        ),
        (
            b'{"value": {"n": 1}, "key": "k", "headers": {"b": "2"}}',
            LineFormat(is_json=True, headers={"a": "1"}),
            Message(b'{"n": 1}', b"k", {"a": "1", "b": "2"}, JSON),
        ),
        (b'{"value": "text"}', LineFormat(is_json=True), Message(b"text", content_type=TEXT)),
        (b'{"value_base64": "/wA="}', LineFormat(is_json=True), Message(b"\xff\x00")),
        (b"   ", LineFormat(is_json=True), None),
    ],
)
def test_a_line_becomes_a_message(data: bytes, form: LineFormat, expected: Message | None) -> None:
    assert message_of_line(line(data), form) == expected


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (b"no separator", LineFormat(key_separator=b":")),
        (b"{not json", LineFormat(is_json=True)),
        (b"{}", LineFormat(is_json=True)),
        (b'{"value": 1, "colour": "red"}', LineFormat(is_json=True)),
        (b'{"value": 1, "partition": 2}', LineFormat(is_json=True)),
    ],
)
def test_a_bad_line_says_what_is_wrong(data: bytes, form: LineFormat) -> None:
    with pytest.raises(InvalidArgumentError):
        message_of_line(line(data), form)


async def test_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"1\n2")
    second.write_bytes(b"3\n")
    found = [one async for chunk in in_thread(read_chunks([first, second])) for one in chunk.lines]
    assert [(one.source, one.number, one.data) for one in found] == [
        (str(first), 1, b"1"),
        (str(first), 2, b"2"),
        (str(second), 1, b"3"),
    ]


async def test_a_file_that_is_gone_is_an_error_of_the_reader(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _ = [chunk async for chunk in in_thread(read_chunks([tmp_path / "gone"]))]
