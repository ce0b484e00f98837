"""Tokens: made, listed and made void, by admins."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from fastapi import Response
from msgspec import Meta, Struct

from mom_core.access import Action, check_scopes
from mom_core.errors import ErrorCode
from mom_core.names import check_name
from mom_core.quantities import parse_duration_ms
from mom_gateway.calls import check_range
from mom_gateway.operations import Answer, Described, Example, Operation
from mom_gateway.routes.control import CallOf, Name, answer
from mom_gateway.routes.topics import Duration
from mom_proto.v1 import master_pb2

TOKENS: Final = Described()


class TokenIn(Struct, forbid_unknown_fields=True, kw_only=True):
    """A token to make."""

    name: Annotated[str, Meta(description="For people.")]
    scopes: Annotated[
        list[str],
        Meta(description="admin, read:PATTERN or write:PATTERN; PATTERN is * for all, orders.* "
             "for names that begin so, or one name."),
    ]  # fmt: skip
    lifetime_ms: Annotated[Duration, Meta(description="0: for ever.")] = 0


class TokenInfo(Struct, kw_only=True):
    """A token without its secret."""

    token_id: str
    name: str
    scopes: list[str]
    created_at_ms: int
    expires_at_ms: Annotated[int | None, Meta(description="null: never.")]


class NewToken(TokenInfo, kw_only=True):
    """A new token."""

    token: Annotated[str, Meta(description="The token itself. It is shown here and never again.")]


class TokenList(Struct):
    """All tokens."""

    tokens: list[TokenInfo]


_decoder: Final = msgspec.json.Decoder(TokenIn)
_LIFETIME_MS_MAX: Final = 100 * 366 * 24 * 3600 * 1000
_EXAMPLE: Final = {
    "token_id": "0a1b2c3d4e5f6071",
    "name": "billing",
    "scopes": ["read:orders.*"],
    "created_at_ms": 1_700_000_000_000,
    "expires_at_ms": None,
}


def show_token(token: master_pb2.Token) -> TokenInfo:
    """A token as REST shows it."""
    return TokenInfo(
        token_id=token.token_id,
        name=token.name,
        scopes=list(token.scopes),
        created_at_ms=token.created_at_ms,
        expires_at_ms=token.expires_at_ms or None,
    )


@TOKENS.route(
    "GET",
    "/v1/tokens",
    Operation(
        id="list_tokens",
        summary="List tokens",
        tag="tokens",
        answers={
            200: Answer(description="All tokens.", type=TokenList, example={"tokens": [_EXAMPLE]})
        },
    ),
)
async def _list(call: CallOf) -> Response:
    call.service.require(call.identity, Action.ADMIN)
    return answer(TokenList([*map(show_token, await call.service.engine.list_tokens())]))


@TOKENS.route(
    "POST",
    "/v1/tokens",
    Operation(
        id="create_token",
        summary="Make a token",
        tag="tokens",
        body=TokenIn,
        examples=(
            Example(
                summary="A reader for 90 days",
                value={"name": "billing", "scopes": ["read:orders.*"], "lifetime_ms": "2160h"},
            ),
        ),
        answers={
            201: Answer(
                description="Made.",
                type=NewToken,
                example=_EXAMPLE | {"token": "mom_0a1b2c3d4e5f6071_" + "0" * 64},
            )
        },
        errors=(ErrorCode.UNSUPPORTED_MEDIA_TYPE,),
    ),
)
async def _create(call: CallOf) -> Response:
    call.service.require(call.identity, Action.ADMIN)
    wanted = await call.json(_decoder)
    check_name(wanted.name)
    lifetime_ms = parse_duration_ms(wanted.lifetime_ms, "lifetime_ms")
    check_range(lifetime_ms, "lifetime_ms", 0, _LIFETIME_MS_MAX)
    token, secret = await call.service.engine.create_token(
        wanted.name, check_scopes(wanted.scopes), lifetime_ms
    )
    shown = msgspec.structs.asdict(show_token(token))
    return answer(NewToken(**shown, token=secret), 201, {"cache-control": "no-store"})


@TOKENS.route(
    "DELETE",
    "/v1/tokens/{token_id}",
    Operation(
        id="revoke_token",
        summary="Make a token void",
        tag="tokens",
        description="Nodes and gateways follow within ten seconds.",
        answers={204: Answer(description="Void.")},
        errors=(ErrorCode.NOT_FOUND,),
    ),
)
async def _revoke(call: CallOf, token_id: Name) -> Response:
    call.service.require(call.identity, Action.ADMIN)
    await call.service.engine.revoke_token(token_id)
    return Response(status_code=204)
