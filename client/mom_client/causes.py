"""Which of several errors to tell when a call was tried in vain until its time was over."""

from __future__ import annotations

from typing import Final

from mom_core.errors import ErrorCode, MomError

# These name what is wrong; a timeout, or a partition that moves, is only how it shows.
CAUSES: Final = frozenset(
    {
        ErrorCode.OVERLOADED,
        ErrorCode.STORE_FULL,
        ErrorCode.STORE_UNAVAILABLE,
        ErrorCode.STORE_MISCONFIGURED,
        ErrorCode.UNAVAILABLE,
    }
)
# A limit was reached or a setting is wrong: for certain nothing was written, and soon trying again
# helps only if somebody makes room, or mends it.
REFUSALS: Final = frozenset(
    {ErrorCode.OVERLOADED, ErrorCode.STORE_FULL, ErrorCode.STORE_MISCONFIGURED}
)


def telling(before: MomError | None, now: MomError) -> MomError:
    """The one of two tries' errors that tells more; the newer one when both do."""
    if before is not None and before.code in CAUSES and now.code not in CAUSES:
        return before
    return now
