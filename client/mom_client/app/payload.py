"""From a message's bytes to the value that a handler asks for by its annotation.

``bytes`` and ``str`` are the value itself, :class:`~mom_client.ReceivedMessage` is the message, and
every other type is read from JSON: by msgspec for its structs, dataclasses, typed dicts and plain
types, by pydantic for pydantic's models, which are found without importing pydantic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import msgspec

from mom_client.received import ReceivedMessage
from mom_core.errors import InvalidArgumentError, MomError

Decode = Callable[[ReceivedMessage], Any]


class PayloadError(InvalidArgumentError):
    """A message is not what its handler takes. Trying again would read the same bytes."""


def decoder(wanted: Any) -> Decode:
    """How to make a value of type ``wanted``; what it returns raises PayloadError.

    Raises InvalidArgumentError when no message can be turned into such a type.
    """
    if wanted is ReceivedMessage:
        return _whole
    if wanted is bytes:
        return _value
    if wanted is str:
        return _text
    name = getattr(wanted, "__name__", None) or str(wanted)
    parse, errors = _pydantic(wanted) if _is_pydantic(wanted) else _msgspec(wanted, name)

    def decode(message: ReceivedMessage) -> Any:
        try:
            return parse(message.value)
        except errors as error:
            raise PayloadError(f"{message!r} is no {name}: {error}", field="value") from None

    return decode


def _whole(message: ReceivedMessage) -> ReceivedMessage:
    return message


def _value(message: ReceivedMessage) -> bytes:
    return message.value


def _text(message: ReceivedMessage) -> str:
    try:
        return message.text()
    except MomError as error:
        raise PayloadError(f"{message!r}: {error.message}", field="value") from None


def _is_pydantic(wanted: Any) -> bool:
    parts = get_args(wanted)
    return hasattr(wanted, "__pydantic_core_schema__") or any(map(_is_pydantic, parts))


def _pydantic(wanted: Any) -> tuple[Callable[[bytes], Any], type[Exception]]:
    from pydantic import TypeAdapter, ValidationError

    return TypeAdapter(wanted).validate_json, ValidationError


def _msgspec(wanted: Any, name: str) -> tuple[Callable[[bytes], Any], type[Exception]]:
    try:
        info = msgspec.inspect.type_info(wanted)
        parse = msgspec.json.Decoder(wanted).decode
    except TypeError as error:
        raise _unreadable(name, str(error)) from None
    if isinstance(info, msgspec.inspect.CustomType):
        raise _unreadable(name, "it has no JSON form that is known here")
    return parse, msgspec.DecodeError


def _unreadable(name: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"a message can't be read as {name}: {why}. Take a msgspec Struct, a dataclass, a pydantic "
        "model, dict, str, bytes or ReceivedMessage",
        field="handler",
    )
