"""Several credentials in one login, and NKeys whose seed is somewhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

import trio_nats.anyio
from tests.credentials.helpers import NONCE, connects_with, sessions, signature
from tests.support.jwts import Key, Operator
from tests.support.peer import ScriptedServer
from trio_nats import (
    JWT,
    Auth,
    Combined,
    Credentials,
    NKey,
    Token,
    UserPassword,
    open_nats,
)
from trio_nats.auth import prepare
from trio_nats.errors import AuthorizationError, ConnectError, CredentialsError
from trio_nats.testing import NatsServer

OPERATOR = Operator()
USER, BEARER = OPERATOR.user("alice"), OPERATOR.user("carol", bearer=True)
KEY = Key()
SIGNED = {"jwt": USER.jwt, "sig": signature(USER.key)}

SENT: dict[str, tuple[Auth, dict[str, str]]] = {
    "JWT and token": (
        Combined(JWT(USER.jwt, seed=USER.seed), Token("t")),
        SIGNED | {"auth_token": "t"},
    ),
    "creds and password": (
        Combined(UserPassword("u", "p"), Credentials(text=USER.creds)),
        SIGNED | {"user": "u", "pass": "p"},
    ),
    "NKey and everything": (
        Combined(Token("t"), NKey(seed=KEY.seed), UserPassword("u", "")),
        {"nkey": KEY.public, "sig": signature(KEY), "user": "u", "pass": "", "auth_token": "t"},
    ),
    "one": (Combined(Token("t")), {"auth_token": "t"}),
}


@pytest.mark.parametrize("by_callback", [False, True])
@pytest.mark.parametrize("kind", SENT)
async def test_combined_credentials_in_connect(kind: str, by_callback: bool) -> None:
    auth, sent = SENT[kind]
    async with ScriptedServer(sessions()) as server:
        async with open_nats(server.url, auth=(lambda s: auth) if by_callback else auth):
            assert await connects_with(server, 0) == sent


async def test_a_real_server_uses_the_credentials_it_supports() -> None:
    async with NatsServer(config=OPERATOR.config) as server:
        for auth in (
            Combined(Credentials(text=USER.creds), Token("t")),
            Combined(JWT(BEARER.jwt), UserPassword("u", "p")),
        ):
            async with open_nats(server.url, auth=auth) as nc:
                await nc.flush()


async def test_replayable_credentials() -> None:
    key, creds = NKey(seed=KEY.seed), Credentials(text=USER.creds)
    assert not (await prepare(Combined(key))).replayable
    for auth in (Combined(key, Token("t")), Combined(creds, UserPassword("u", "p"))):
        answer = await prepare(auth)
        assert answer.replayable
        assert answer.must_sign


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (Token("a"), Token("b")),
        (NKey(seed=KEY.seed), Credentials(text=USER.creds)),
        (Token("a"), Combined(UserPassword("u", "p"))),
    ],
)
def test_credentials_that_cannot_be_combined(parts: Any) -> None:
    with pytest.raises(CredentialsError, match="Combined takes"):
        Combined(*parts)


@pytest.mark.parametrize("part", ["s3cret", None])
def test_what_is_no_credentials_cannot_be_combined(part: Any) -> None:
    with pytest.raises(TypeError, match="part of Combined must be an Auth") as caught:
        Combined(Token("a"), part)
    assert "s3cret" not in str(caught.value)


def test_combined_credentials_show_no_secret() -> None:
    auth = Combined(NKey(seed=KEY.seed), Token("s3cret"), UserPassword("u", "s3cret"))
    assert "s3cret" not in repr(auth)
    assert KEY.seed not in repr(auth)


# --- NKeys signed elsewhere ----------------------------------------------------------------------


async def sign_later(nonce: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    return KEY.sign(nonce)


@pytest.mark.parametrize("sign", [KEY.sign, sign_later])
@pytest.mark.parametrize("opening", [open_nats, trio_nats.anyio.open_nats])
async def test_an_nkey_signed_elsewhere(sign: Any, opening: Any) -> None:
    auth = NKey(public_key=KEY.public, sign=sign)
    config = {"authorization": {"users": [{"nkey": KEY.public}]}}
    async with NatsServer(config=config) as server:
        for one in (auth, Combined(auth, Token("t")), lambda s: auth):
            async with opening(server.url, auth=one) as nc:
                await nc.flush()
        with pytest.raises(ConnectError) as caught:
            wrong = NKey(public_key=KEY.public, sign=Key().sign)
            async with opening(server.url, auth=wrong):
                pass
        assert list(caught.value.errors(AuthorizationError))
    assert not (await prepare(auth)).replayable
    assert (await prepare(auth)).must_sign
    assert (await (await prepare(auth)).connect_fields(NONCE))["nkey"] == KEY.public


WRONG: dict[str, Callable[[], object]] = {
    "no key": lambda: NKey(sign=KEY.sign),
    "no sign": lambda: NKey(public_key=KEY.public),
    "a seed as well": lambda: NKey(seed=KEY.seed, public_key=KEY.public),
    "both": lambda: NKey(seed=KEY.seed, public_key=KEY.public, sign=KEY.sign),
    "seed for a key": lambda: NKey(public_key=KEY.seed, sign=KEY.sign),
    "account's key": lambda: NKey(public_key=Key("account").public, sign=KEY.sign),
    "mistyped": lambda: NKey(public_key=KEY.public[:-1] + "1", sign=KEY.sign),
    "cut": lambda: NKey(public_key=KEY.public[:-1], sign=KEY.sign),
    "swapped": lambda: (
        NKey(
            public_key=KEY.public[0] + KEY.public[2] + KEY.public[1] + KEY.public[3:] + "",
            sign=KEY.sign,
        )
        if KEY.public[1] != KEY.public[2]
        else NKey()
    ),
    "no text": lambda: NKey(public_key=b"U", sign=KEY.sign),  # type: ignore[arg-type]
    "no callable": lambda: NKey(public_key=KEY.public, sign="x"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes(mistake: str) -> None:
    kind = TypeError if mistake in ("no text", "no callable") else CredentialsError
    with pytest.raises(kind) as caught:
        WRONG[mistake]()
    assert KEY.seed not in str(caught.value)
