"""Kubernetes quantities, such as ``1.5Gi``, ``500M``, ``1e9`` or ``250m``."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

from mom_operator.spec import SpecError

_SUFFIXES: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(1 << 10),
    "Mi": Decimal(1 << 20),
    "Gi": Decimal(1 << 30),
    "Ti": Decimal(1 << 40),
    "Pi": Decimal(1 << 50),
    "Ei": Decimal(1 << 60),
}
# Bounded, so that no number of digits makes the arithmetic slow.
_NUMBER: Final = r"[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}"
_QUANTITY: Final = re.compile(
    rf"\+?({_NUMBER})(?:([KMGTPE]i|[numkMGTPE]|)|[eE]([+-]?[0-9]{{1,2}}))"
)


def quantity_bytes(value: object, field: str) -> int:
    """Whole bytes of a quantity, rounded up. Raises SpecError that names ``field``."""
    match = _QUANTITY.fullmatch(str(value)) if isinstance(value, str | int) else None
    if match is None:
        raise SpecError(f"{field} {value!r} is not a quantity such as 512Mi or 2Gi", field=field)
    number, suffix, exponent = match.groups()
    scale = _SUFFIXES[suffix] if exponent is None else Decimal(10) ** int(exponent)
    return int((Decimal(number) * scale).to_integral_value(ROUND_CEILING))
