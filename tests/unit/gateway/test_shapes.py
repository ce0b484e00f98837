"""Which fields a place in a body has."""

from __future__ import annotations

from msgspec import Struct, field

from mom_gateway.shapes import fields_at


class Leaf(Struct):
    """The innermost."""

    size: int
    colour: str = field(name="hue", default="")


class Body(Struct):
    """Holds leaves in several ways."""

    leaves: list[Leaf]
    by_name: dict[str, Leaf] | None = None
    one: Leaf | None = None


def test_of_the_whole() -> None:
    assert fields_at(Body, "") == ["leaves", "by_name", "one"]


def test_in_lists_objects_and_what_may_be_null() -> None:
    for path in ("leaves[0]", "leaves[12]", "by_name[...]", "one"):
        assert fields_at(Body, path) == ["size", "hue"], path


def test_where_there_is_no_object() -> None:
    for path in ("leaves", "one.size", "nowhere", "leaves[0].nowhere"):
        assert fields_at(Body, path) == [], path
    assert fields_at(dict[str, int], "") == []
