"""Errors as RFC 9457 problem details.

``type`` is ``https://mom.dev/problems/<code>`` and never changes for a code; it is a name, and need
not resolve. Every problem has ``code`` and ``retriable`` beside the standard members, ``field``
where one input field is at fault, and the facts of the error (``log_start``, ``limit_bytes``, …) as
members of their own. 429 and 503 carry ``Retry-After``, always at least one second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mom_core import limits
from mom_core.errors import ERROR_CODES, ErrorCode, MomError
from mom_gateway.http import Header, Reply, json_bytes

TYPE_PREFIX: Final = "https://mom.dev/problems/"
MEDIA_TYPE: Final = b"application/problem+json"

# Facts that are numbers, though errors carry text.
_NUMBERS: Final = frozenset(
    {
        "allowed_bytes", "epoch", "generation", "high_watermark", "limit", "limit_bytes", "line",
        "log_end", "log_start", "next_offset", "offset", "partition", "partitions", "position",
        "retention_bytes_max", "sum_bytes",
    }
)  # fmt: skip
# Facts that are JSON themselves.
_DOCUMENTS: Final = frozenset({"differences"})
_STANDARD: Final = frozenset(
    {"type", "title", "status", "detail", "instance", "code", "retriable", "field"}
)


def problem_of(error: MomError) -> dict[str, Any]:
    """The problem document of an error."""
    traits = ERROR_CODES[error.code]
    problem: dict[str, Any] = {
        "type": f"{TYPE_PREFIX}{error.code.value}",
        "title": traits.title,
        "status": traits.http_status,
        "detail": error.message,
        "code": error.code.value,
        "retriable": traits.retriable,
    }
    if error.field is not None:
        problem["field"] = error.field
    if traits.retriable and error.retry_after_ms:
        problem["retry_after_ms"] = error.retry_after_ms
    for name, value in error.details.items():
        if name not in _STANDARD:
            problem[name] = _fact(name, value)
    return problem


def _fact(name: str, value: str) -> Any:
    if name in _NUMBERS and value.isdigit():
        return int(value)
    if name in _DOCUMENTS:
        return msgspec.json.decode(value)
    return value


def problem_reply(error: MomError, **members: object) -> Reply:
    """The answer to a request that failed as a whole; ``members`` are added to the problem."""
    headers: list[Header] = []
    status = ERROR_CODES[error.code].http_status
    if status in (429, 503):
        headers.append((b"retry-after", b"%d" % retry_after_s(error)))
    if error.code is ErrorCode.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b'Bearer realm="mom"'))
    if error.code is ErrorCode.METHOD_NOT_ALLOWED and "allow" in error.details:
        headers.append((b"allow", error.details["allow"].encode()))
    return Reply(status, json_bytes(problem_of(error) | members), tuple(headers), MEDIA_TYPE)


def retry_after_s(error: MomError) -> int:
    """Whole seconds for Retry-After, at least 1."""
    return max(1, -(-(error.retry_after_ms or limits.RETRY_AFTER_MS_DEFAULT) // 1000))


def common_error(results: Sequence[object]) -> MomError | None:
    """The error of all items, when every one failed with the same code; else None."""
    first = results[0] if results else None
    if not isinstance(first, MomError):
        return None
    if all(isinstance(result, MomError) and result.code is first.code for result in results):
        return first
    return None
