"""From what Redis and the network say to a StoreError that names the server and what to do."""

from __future__ import annotations

from typing import Final

from redis import exceptions

from mom_broker.storage import refusals
from mom_core.errors import ErrorCode, StoreError

# States of a server that pass: the call was not carried out and may be tried on a new connection.
_PASSING: Final = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "BUSY",
)
_FUNCTION_GONE: Final = "Function not found"


def reply_text(error: Exception) -> str:
    """What the server said, with its code in front."""
    text = str(error)
    if isinstance(error, exceptions.BusyLoadingError):
        return f"LOADING {text}"
    if isinstance(error, exceptions.ReadOnlyError):
        return f"READONLY {text}"
    if isinstance(error, exceptions.OutOfMemoryError):
        return f"OOM {text}"
    if isinstance(error, exceptions.NoPermissionError):
        return f"NOPERM {text}"
    if isinstance(error, exceptions.MasterDownError):
        return f"MASTERDOWN {text}"
    return text


def is_passing(error: Exception) -> bool:
    """Whether an error says that a later try of the same call may succeed: the server is in a state
    that passes, or its replicas are behind."""
    if isinstance(error, StoreError):
        return error.retriable
    text = reply_text(error)
    return text.startswith(_PASSING) or _FUNCTION_GONE in text


def store_error(server: str, error: Exception) -> StoreError:
    """The StoreError for a failed call to the Redis at ``server`` (host, port and database)."""
    if isinstance(error, StoreError):
        return error
    text = reply_text(error)
    if text.startswith("OOM"):
        return StoreError(
            f"redis {server} is full: it is above its maxmemory and takes no new messages, while "
            "acks and reads go on; shorten retention, or raise maxmemory",
            code=ErrorCode.STORE_FULL,
            retry_after_ms=refusals.STORE_FULL_RETRY_AFTER_MS,
        )
    if text.startswith("LOADING"):
        return refusals.store_unavailable(
            f"redis {server} is loading its data after a start; it answers when that is done"
        )
    if text.startswith(("READONLY", "MASTERDOWN")):
        return refusals.store_unavailable(
            f"redis {server} is a read-only replica; give the primary's address"
        )
    if text.startswith("MISCONF"):
        return refusals.store_unavailable(
            f"redis {server} can't write to its disk and refuses changes; see its log: {text}"
        )
    if isinstance(error, exceptions.AuthenticationError) or text.startswith(
        ("NOAUTH", "NOPERM", "WRONGPASS")
    ):
        return refusals.store_misconfigured(
            f"redis {server} does not let this user in: {text}; see user, password and ACL"
        )
    if isinstance(error, TimeoutError | exceptions.TimeoutError):
        return refusals.store_unavailable(
            f"redis {server} did not answer in time; it is slow, suspended or cut off"
        )
    if isinstance(error, OSError | exceptions.ConnectionError):
        return refusals.store_unavailable(
            f"redis {server} can't be reached: {text.rstrip('.')}; "
            "see that it runs and that this address is right"
        )
    return refusals.store_unavailable(f"redis {server} refused a call: {text}")
