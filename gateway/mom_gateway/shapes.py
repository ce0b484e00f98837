"""Which fields JSON of a type has at a place that msgspec names."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from msgspec import inspect

_STEP: Final = re.compile(r"\[.*?\]|[^.\[\]]+")
# There are fewer types of bodies.
_TYPES_MAX: Final = 64


def fields_at(kind: Any, path: str) -> list[str]:
    """The fields of the object at a path such as ``offsets[0]``; an empty path is the whole.

    Empty where the type has no object there.
    """
    places = [_type_info(kind)]
    for step in _STEP.findall(path):
        places = [inner for place in places for inner in _inside(place, step)]
    return [
        field.encode_name
        for place in places
        if isinstance(place, inspect.StructType)
        for field in place.fields
    ]


@lru_cache(_TYPES_MAX)
def _type_info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _inside(place: inspect.Type, step: str) -> list[inspect.Type]:
    """What may stand one step below."""
    found: list[inspect.Type] = []
    if isinstance(place, inspect.StructType):
        found = [field.type for field in place.fields if field.encode_name == step]
    elif isinstance(place, inspect.CollectionType):
        found = [place.item_type]
    elif isinstance(place, inspect.DictType):
        found = [place.value_type]
    return [plain for one in found for plain in _alternatives(one)]


def _alternatives(one: inspect.Type) -> list[inspect.Type]:
    if isinstance(one, inspect.Metadata):
        return _alternatives(one.type)
    if isinstance(one, inspect.UnionType):
        return [plain for part in one.types for plain in _alternatives(part)]
    return [one]
