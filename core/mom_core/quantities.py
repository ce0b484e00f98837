"""Durations and sizes as people write them.

A duration is ``168h``, ``30s``, ``1h30m``, ``1.5h`` or ``250ms`` (units w d h m s ms); a plain
number is milliseconds. A rate is ``100/s``, ``6000/m`` or ``10/h``; a plain number is so many a
second. A size is ``10Gi``, ``512Ki``, ``1.5GiB`` (powers of 1024), ``10G``,
``10GB`` (powers of 1000) or a plain number of bytes. A fraction of the smallest unit is
rounded up, as Kubernetes does.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

from mom_core.errors import InvalidArgumentError

_DURATION_UNITS_MS: Final = {
    "w": 7 * 24 * 3_600_000,
    "d": 24 * 3_600_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1_000,
    "ms": 1,
}
_SIZE_PREFIXES: Final = {
    "": 1,
    "k": 1_000,
    "K": 1_000,
    "M": 1_000**2,
    "G": 1_000**3,
    "T": 1_000**4,
    "P": 1_000**5,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
    "Pi": 1 << 50,
}
_RATE_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600}
# 15 digits before the point: every real quantity fits, and the arithmetic stays cheap and exact.
_NUMBER: Final = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_DURATION_PART: Final = re.compile(rf"({_NUMBER})(ms|[wdhms])")
_DURATION: Final = re.compile(rf"(?:{_NUMBER}(?:ms|[wdhms])){{1,6}}")
_SIZE: Final = re.compile(rf"({_NUMBER})\s?(|[kKMGTP]|[KMGTP]i)B?")
_RATE: Final = re.compile(rf"({_NUMBER})(?:/([smh]))?")
_PLAIN: Final = re.compile(r"[0-9]{1,15}")


def parse_duration_ms(value: object, field: str = "duration") -> int:
    """Milliseconds of a duration such as ``"168h"``, or of a number of milliseconds.

    Raises InvalidArgumentError, naming ``field``, when it is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = value.strip()
        if _PLAIN.fullmatch(text):
            return int(text)
        if _DURATION.fullmatch(text):
            parts = _DURATION_PART.findall(text)
            return _whole(sum(Decimal(n) * _DURATION_UNITS_MS[unit] for n, unit in parts))
    raise InvalidArgumentError(
        f"{field} {_shown(value)} is not a duration: write a whole number of milliseconds, or a "
        "number with a unit of w d h m s ms, such as 168h, 30s or 1h30m",
        field=field,
    )


def parse_bytes(value: object, field: str = "size") -> int:
    """Bytes of a size such as ``"10Gi"``, or of a number of bytes.

    Raises InvalidArgumentError, naming ``field``, when it is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise InvalidArgumentError(
            f"{field} {_shown(value)} is not a size: write a whole number of bytes, or a number "
            "with a unit of Ki Mi Gi Ti Pi (powers of 1024) or k M G T P (powers of 1000), such as "
            "10Gi or 500M",
            field=field,
        )
    return _whole(Decimal(match[1]) * _SIZE_PREFIXES[match[2]])


def parse_rate_per_s(value: object, field: str = "rate") -> float:
    """Messages a second of a rate such as ``"100/s"`` or ``"6000/m"``, or of a plain number.

    Raises InvalidArgumentError, naming ``field``, when it is neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise InvalidArgumentError(
            f"{field} {_shown(value)} is not a rate: write a number with /s, /m or /h, such as "
            "100/s or 6000/m, or a plain number of messages a second",
            field=field,
        )
    return float(match[1]) / _RATE_UNITS_S[match[2] or "s"]


def format_rate(rate_per_s: float) -> str:
    """A rate in the first unit in which it is a whole number, such as ``100/s``."""
    for unit, seconds in _RATE_UNITS_S.items():
        count = rate_per_s * seconds
        if count >= 1 and abs(count - round(count)) < 1e-9 * count:
            return f"{round(count)}/{unit}"
    return f"{rate_per_s:g}/s"


def format_duration(duration_ms: int) -> str:
    """The exact form in one unit of at most hours, such as ``168h``; parses back to itself."""
    for unit in ("h", "m", "s"):
        count, rest = divmod(duration_ms, _DURATION_UNITS_MS[unit])
        if count and not rest:
            return f"{count}{unit}"
    return f"{duration_ms}ms"


def format_bytes(size_bytes: int) -> str:
    """The shortest exact form with a binary unit, such as ``10Gi``; parses back to itself."""
    for unit in ("Pi", "Ti", "Gi", "Mi", "Ki"):
        count, rest = divmod(size_bytes, _SIZE_PREFIXES[unit])
        if count and not rest:
            return f"{count}{unit}"
    return str(size_bytes)


def _whole(number: Decimal | int) -> int:
    return int(Decimal(number).to_integral_value(ROUND_CEILING))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 64 else f"{text[:61]}..."
