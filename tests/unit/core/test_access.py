import pytest
from hypothesis import given
from hypothesis import strategies as st

from mom_core.access import (
    CLUSTER,
    OPEN,
    Action,
    Identity,
    TokenRecord,
    allowed,
    authenticate,
    check_scopes,
    decode_token,
    encode_token,
    new_token,
    parse_bearer,
    parse_token,
    require,
)
from mom_core.errors import ForbiddenError, InvalidArgumentError, StoreError, UnauthenticatedError

RANDOM = bytes(range(40))


def who(*scopes: str) -> Identity:
    return Identity("robot", scopes)


def token(*scopes: str, expires_at_ms: int | None = None) -> tuple[str, TokenRecord]:
    return new_token(
        "robot", scopes or ("admin",), random=RANDOM, created_at_ms=5, expires_at_ms=expires_at_ms
    )


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "anything", True),
        ("orders", "orders", True),
        ("orders", "orders-secret", False),
        ("orders", "order", False),
        ("orders*", "orders-secret", True),
        ("orders*", "orders", True),
        ("orders.", "orders.eu", True),
        ("orders.", "orders.", True),
        ("orders.", "orders", False),
        ("orders.*", "orders.eu", True),
        ("orders.*", "ordersXeu", False),
        ("orders-", "orders-eu", True),
        ("Orders", "orders", False),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    for action, other in ((Action.READ, Action.WRITE), (Action.WRITE, Action.READ)):
        identity = who(f"{action}:{pattern}")
        assert allowed(identity, action, name) is expected
        assert allowed(identity, Action.DESCRIBE, name) is expected
        assert not allowed(identity, other, name)
        assert not allowed(identity, Action.ADMIN, name)


@given(st.sampled_from(Action), st.sampled_from([CLUSTER, "orders"]))
def test_admin_may_do_everything_and_no_scope_almost_nothing(action: Action, resource: str) -> None:
    require(OPEN, action, resource)
    expected = (action, resource) == (Action.DESCRIBE, CLUSTER)
    assert allowed(who(), action, resource) is expected


@pytest.mark.parametrize("scope", ["read:*", "write:*"])
def test_a_topic_scope_never_reaches_the_cluster(scope: str) -> None:
    for action in (Action.READ, Action.WRITE, Action.ADMIN):
        assert not allowed(who(scope), action, CLUSTER)


@pytest.mark.parametrize(
    ("action", "resource", "needed"),
    [
        (Action.READ, "orders", "read:orders"),
        (Action.WRITE, "orders", "write:orders"),
        (Action.DESCRIBE, "orders", "read:orders or write:orders"),
        (Action.ADMIN, "orders", "admin"),
        (Action.ADMIN, CLUSTER, "admin"),
    ],
)
def test_a_refusal_names_what_is_missing(action: Action, resource: str, needed: str) -> None:
    with pytest.raises(ForbiddenError) as caught:
        require(who("read:mail"), action, resource)
    assert caught.value.details == {"needed_scope": needed}
    for part in (needed, "robot", "read:mail"):
        assert part in caught.value.message


@pytest.mark.parametrize(
    "scope",
    ["", "Admin", "admin:*", "read", "read:", "read:**", "read:*x", "own:x", "read:a b", "read:a\n",
     "read:.", "read:" + "x" * 300],
)  # fmt: skip
def test_ill_formed_scopes_are_refused(scope: str) -> None:
    with pytest.raises(InvalidArgumentError, match="a scope is admin"):
        check_scopes(["admin", scope])


def test_scopes_are_bounded_and_unique() -> None:
    assert check_scopes(["read:a", "admin", "read:a"]) == ("read:a", "admin")
    for scopes in ([], ["admin"] * 65):
        with pytest.raises(InvalidArgumentError, match="1 to 64"):
            check_scopes(scopes)


@given(st.binary(min_size=40, max_size=40))
def test_a_token_proves_itself_and_the_record_does_not_hold_it(random: bytes) -> None:
    text, record = new_token("robot", ["read:*"], random=random, created_at_ms=5)
    presented = parse_token(text)
    assert authenticate(presented, record, 10**15) == Identity("robot", ("read:*",))
    assert parse_bearer(f"Bearer {text}") == parse_bearer(f"bearer  {text} ") == presented
    assert presented.secret.encode() not in encode_token(record)
    assert decode_token(encode_token(record)) == record
    assert presented.secret not in repr(presented)
    assert record.secret_sha256 not in repr(record)


def test_a_wrong_secret_an_unknown_id_and_another_record_are_refused_alike() -> None:
    text, record = token()
    wrong = parse_token(text[:-1] + ("0" if text[-1] != "0" else "1"))
    elsewhere = parse_token(text)._replace(token_id="f" * 16)
    messages = set()
    for presented, found in ((wrong, record), (parse_token(text), None), (elsewhere, record)):
        with pytest.raises(UnauthenticatedError) as caught:
            authenticate(presented, found, 10)
        messages.add(caught.value.message)
    assert len(messages) == 1


def test_a_token_ends_at_its_time() -> None:
    text, record = token(expires_at_ms=1_000)
    assert authenticate(parse_token(text), record, 999)
    with pytest.raises(UnauthenticatedError, match="expired"):
        authenticate(parse_token(text), record, 1_000)
    with pytest.raises(InvalidArgumentError, match="later than now"):
        token(expires_at_ms=5)


@pytest.mark.parametrize("header", [None, "", "Basic abc", "Bearer", "Bearer ", "Bearer hunter2"])
def test_a_header_without_a_token_is_refused_and_not_repeated(header: str | None) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        parse_bearer(header)
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("data", [b"", b"{}", b'{"format":1}'])
def test_a_damaged_record_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError, match="damaged"):
        decode_token(data)


def test_a_record_of_a_newer_format_is_refused() -> None:
    stored = encode_token(token()[1])
    with pytest.raises(StoreError, match="format 2"):
        decode_token(stored.replace(b'"format":1', b'"format":2'))
