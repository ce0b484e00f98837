"""Who may do what: tokens, the identities behind them, and their scopes.

A **token** is ``mom_<id>_<secret>``: 16 hex digits that name its record, and 64 that prove it. The
store holds only the SHA-256 of the secret; 256 random bits need no slow hash. A token becomes an
:class:`Identity` in :func:`authenticate` and nowhere else, and an identity is allowed something in
:func:`allowed` and nowhere else.

A **scope** is one of

- ``admin``: everything, that is to create, alter and delete, to manage tokens and nodes, and to
  read and write every topic and queue;
- ``read:PATTERN``: fetch, subscribe, receive and settle;
- ``write:PATTERN``: produce.

``write`` does not include ``read``. Either allows to *describe* what it matches (settings,
partitions, routing). The cluster itself (its nodes and state) may be described by every identity.

A **pattern** is ``*`` for every name; ``orders*`` for the names that begin with ``orders``;
``orders.`` (also with ``-`` or ``_`` at the end) for those that begin with ``orders.``, as
``orders.*`` does; and ``orders`` for that one name, so that nobody who was given ``orders`` reads
``orders-secret``. Case matters. A subscription belongs to its topic: the topic's name decides.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from mom_core import limits
from mom_core.errors import (
    ErrorCode,
    ForbiddenError,
    InvalidArgumentError,
    StoreError,
    UnauthenticatedError,
)
from mom_core.names import check_name

TOKEN_RANDOM_BYTES: Final = 40
"""How many random bytes :func:`new_token` takes."""
FORMAT: Final = 1

_ID_BYTES: Final = 8
_TOKEN: Final = re.compile(r"mom_([0-9a-f]{16})_([0-9a-f]{64})")
_SCOPE: Final = re.compile(r"admin|(?:read|write):(?:\*|[A-Za-z0-9][A-Za-z0-9._-]*\*?)")
_ADMIN: Final = "admin"
_PREFIX_ENDS: Final = (".", "-", "_")
_NO_HASH: Final = "0" * 64
CLUSTER: Final = ""
"""The resource that is no topic or queue: the cluster itself."""


class Action(StrEnum):
    """What someone wants to do with a topic or queue, or the cluster."""

    DESCRIBE = "describe"
    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class Identity(msgspec.Struct, frozen=True):
    """Who makes a call."""

    name: str
    scopes: tuple[str, ...]


OPEN: Final = Identity("anonymous", (_ADMIN,))
"""Every caller, where authentication is off."""


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the store keeps of a token."""

    token_id: str
    name: str
    secret_sha256: str
    scopes: tuple[str, ...]
    created_at_ms: int
    expires_at_ms: int | None = None
    """Milliseconds since the Unix epoch; None: never."""

    def __repr__(self) -> str:
        """Without the hash, so that no log shows it."""
        return f"TokenRecord({self.token_id}, {self.name!r}, {self.scopes})"


class PresentedToken(NamedTuple):
    """A token as it came with a call, not yet verified."""

    token_id: str
    secret: str

    def __repr__(self) -> str:
        """Without the secret, so that no log shows it."""
        return f"PresentedToken({self.token_id})"


# What is allowed.


def allowed(identity: Identity, action: Action, resource: str = CLUSTER) -> bool:
    """Whether the identity may do this with the topic or queue of this name, or the cluster."""
    if _ADMIN in identity.scopes:
        return True
    if action is Action.DESCRIBE:
        if resource == CLUSTER:
            return True
        return any(_matches(scope.partition(":")[2], resource) for scope in identity.scopes)
    if action is Action.ADMIN or resource == CLUSTER:
        return False
    for scope in identity.scopes:
        granted, _, pattern = scope.partition(":")
        if granted == action and _matches(pattern, resource):
            return True
    return False


def require(identity: Identity, action: Action, resource: str = CLUSTER) -> None:
    """Raise ForbiddenError, which names the missing scope, unless it is :func:`allowed`."""
    if allowed(identity, action, resource):
        return
    if action is Action.ADMIN or resource == CLUSTER:
        needed = _ADMIN
    elif action is Action.DESCRIBE:
        needed = f"read:{resource} or write:{resource}"
    else:
        needed = f"{action}:{resource}"
    where = f" {resource!r}" if resource != CLUSTER else " the cluster"
    raise ForbiddenError(
        f"token {identity.name!r} may not {action}{where}: it needs the scope {needed} and has "
        f"{', '.join(identity.scopes) or 'none'}. Ask an admin for another token",
        details={"needed_scope": needed},
    )


def _matches(pattern: str, name: str) -> bool:
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    if pattern.endswith(_PREFIX_ENDS):
        return name.startswith(pattern)
    return bool(pattern) and name == pattern


def check_scopes(scopes: Sequence[str], field: str = "scopes") -> tuple[str, ...]:
    """Return the scopes without repeats if all are well-formed, else raise InvalidArgumentError."""
    if not 0 < len(scopes) <= limits.SCOPES_PER_TOKEN_MAX:
        raise InvalidArgumentError(
            f"{field} has {len(scopes)} scopes; 1 to {limits.SCOPES_PER_TOKEN_MAX} are allowed",
            field=field,
        )
    for scope in scopes:
        if len(scope) > limits.NAME_LENGTH_MAX + len("write:*") or not _SCOPE.fullmatch(scope):
            shown = scope if len(scope) <= 64 else f"{scope[:61]}..."
            raise InvalidArgumentError(
                f"{field} has {shown!r}; a scope is admin, read:PATTERN or write:PATTERN, where "
                "PATTERN is * for all, orders.* for the names that begin so, or one name",
                field=field,
            )
    return tuple(dict.fromkeys(scopes))


# Tokens.


def new_token(
    name: str,
    scopes: Sequence[str],
    *,
    random: bytes,
    created_at_ms: int,
    expires_at_ms: int | None = None,
) -> tuple[str, TokenRecord]:
    """Make a token from 40 random bytes: its text, to be shown once, and what to store.

    Raises InvalidArgumentError for an ill-formed name or scope, or an end that is not later than
    ``created_at_ms``.
    """
    assert len(random) == TOKEN_RANDOM_BYTES, "new_token takes 40 random bytes"
    check_name(name)
    if expires_at_ms is not None and expires_at_ms <= created_at_ms:
        raise InvalidArgumentError(
            f"expires_at_ms is {expires_at_ms}; it must be later than now, {created_at_ms}",
            field="expires_at_ms",
        )
    token_id, secret = random[:_ID_BYTES].hex(), random[_ID_BYTES:].hex()
    record = TokenRecord(
        token_id=token_id,
        name=name,
        secret_sha256=_hash(secret),
        scopes=check_scopes(scopes),
        created_at_ms=created_at_ms,
        expires_at_ms=expires_at_ms,
    )
    return f"mom_{token_id}_{secret}", record


def parse_token(text: str) -> PresentedToken:
    """Read a token's text. Raises UnauthenticatedError, which does not repeat it, otherwise."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise UnauthenticatedError(
            "the token is not of the form mom_ID_SECRET; give the whole text that `mom token` "
            "printed"
        )
    return PresentedToken(match[1], match[2])


def parse_bearer(header: str | None) -> PresentedToken:
    """Read the value of an Authorization header. Raises UnauthenticatedError without a token."""
    scheme, _, text = (header or "").strip().partition(" ")
    if scheme.lower() != "bearer":
        raise UnauthenticatedError(
            "the call has no token; send the header 'Authorization: Bearer mom_ID_SECRET'"
        )
    return parse_token(text.strip())


def authenticate(presented: PresentedToken, record: TokenRecord | None, now_ms: int) -> Identity:
    """The identity behind a token. ``record`` is what the store has under its id, or None.

    Takes the same time whether the record is missing or the secret wrong. Raises
    UnauthenticatedError, which does not say which of them it was.
    """
    stored = _NO_HASH if record is None else record.secret_sha256
    proven = hmac.compare_digest(_hash(presented.secret), stored)
    if record is None or not proven or record.token_id != presented.token_id:
        raise UnauthenticatedError("the token is unknown or revoked; ask an admin for another one")
    if record.expires_at_ms is not None and now_ms >= record.expires_at_ms:
        raise UnauthenticatedError(
            f"token {record.name!r} has expired; ask an admin for another one"
        )
    return Identity(record.name, record.scopes)


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


class _StoredToken(TokenRecord, frozen=True, kw_only=True):
    format: int


def encode_token(record: TokenRecord) -> bytes:
    """The stored form of a token's record."""
    return msgspec.json.encode({"format": FORMAT} | msgspec.structs.asdict(record))


def decode_token(data: bytes) -> TokenRecord:
    """Read the stored form.

    A record is never written again, so fields of a newer version are passed over; one that limits a
    token further raises the format, and an unknown format is refused. Raises StoreError for that
    and for damage.
    """
    try:
        stored = msgspec.json.decode(data, type=_StoredToken)
    except msgspec.MsgspecError as error:
        raise StoreError(
            f"a stored token is damaged: {error}", code=ErrorCode.STORE_MISCONFIGURED
        ) from None
    if stored.format != FORMAT:
        raise StoreError(
            f"a stored token has format {stored.format}; this version reads {FORMAT}. Start the "
            "version of MOM that wrote it, or a newer one",
            code=ErrorCode.STORE_MISCONFIGURED,
        )
    fields = msgspec.structs.asdict(stored)
    del fields["format"]
    return TokenRecord(**fields)
