"""The errors that every engine raises with the same words."""

from __future__ import annotations

from mom_core.errors import ConflictError, ErrorCode, NotFoundError, StaleEpochError, StoreError
from mom_core.names import PartitionId

# Space comes back when retention trims, which runs about once a second.
STORE_FULL_RETRY_AFTER_MS = 1_000
STORE_UNAVAILABLE_RETRY_AFTER_MS = 500


def stale_epoch(partition: PartitionId, epoch: int, current: int) -> StaleEpochError:
    """The caller's epoch is not the one that the store holds."""
    return StaleEpochError(
        f"partition {partition}: epoch {epoch} is not the owner's, the store holds epoch "
        f"{current}; stop serving it, or claim it under a higher epoch",
        details={"epoch": str(current)},
    )


def stale_commit(partition: PartitionId, epoch: int, number: int, last: int) -> StaleEpochError:
    """The commit does not follow the last one that the store holds."""
    return StaleEpochError(
        f"partition {partition}: commit {number} does not follow commit {last}, the last one that "
        "the store holds; claim it again under a higher epoch",
        details={"epoch": str(epoch), "commit_number": str(last)},
    )


def dropped(partition: PartitionId) -> NotFoundError:
    """The partition was deleted for good."""
    return NotFoundError(f"partition {partition} was deleted with its topic")


def conflict(key: str, expected_revision: int, revision: int) -> ConflictError:
    """A control-plane write found another revision than it expected; 0 stands for absent."""
    return ConflictError(
        f"{key} is at revision {revision} where {expected_revision} was expected: another writer "
        "was first; read it again",
        details={"key": key, "revision": str(revision)},
    )


def store_full(what: str, used_bytes: int, limit_bytes: int, fix: str) -> StoreError:
    """A commit with batches would go above the high-water mark."""
    return StoreError(
        f"{what} is full: {used_bytes} bytes are used and new messages are refused above "
        f"{limit_bytes}, while acks and reads go on; {fix}",
        code=ErrorCode.STORE_FULL,
        retry_after_ms=STORE_FULL_RETRY_AFTER_MS,
        details={"used_bytes": str(used_bytes), "limit_bytes": str(limit_bytes)},
    )


def store_unavailable(message: str) -> StoreError:
    """The engine failed or can't be reached."""
    return StoreError(message, retry_after_ms=STORE_UNAVAILABLE_RETRY_AFTER_MS)


def store_misconfigured(message: str) -> StoreError:
    """A setting breaks what the store promises."""
    return StoreError(message, code=ErrorCode.STORE_MISCONFIGURED)
