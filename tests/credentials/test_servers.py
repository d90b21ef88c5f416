"""Every kind of credentials with a server that asks for it: let in, and refused with a reason."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.credentials.helpers import HANG_TIMEOUT, QUICK
from tests.support.certs import CLIENT_EMAIL, certificates
from tests.support.jwts import (
    BCRYPT_HASH,
    BCRYPT_PASSWORD,
    CALLOUT_PASSWORD,
    CALLOUT_USER,
    Callout,
    Key,
    Operator,
)
from trio_nats import (
    JWT,
    Auth,
    Connection,
    Credentials,
    NKey,
    Server,
    TLSOptions,
    Token,
    UserPassword,
    open_nats,
)
from trio_nats.errors import (
    AuthenticationExpiredError,
    AuthorizationError,
    ConnectError,
    ConnectTimeoutError,
    CredentialsError,
    PermissionsViolationError,
)
from trio_nats.events import Disconnected, Reconnected, ServerError
from trio_nats.testing import NatsServer, ServerTLS

OPERATOR = Operator()
KEY = Key()
CALLOUT = Callout()

AWKWARD = 'pä:ss/w@rd?#% [x],"\\\u2028'
"""A password that a URL and JSON both have to write differently."""
ENCODED = "p%C3%A4%3Ass%2Fw%40rd%3F%23%25%20%5Bx%5D%2C%22%5C%E2%80%A8"

USERS = {
    "authorization": {
        "users": [
            {"user": "plain", "password": "secret"},
            {"user": "crypt", "password": BCRYPT_HASH},
            {"user": "ä b", "password": AWKWARD},
            {"user": "blank", "password": ""},
            {"nkey": KEY.public},
        ]
    }
}


async def who(nc: Connection) -> str:
    """What the server takes the connection for."""
    reply = await nc.request("$SYS.REQ.USER.INFO", b"", timeout=HANG_TIMEOUT)
    return str(json.loads(reply.data)["data"]["user"])


async def logs_in(server: NatsServer, auth: Any, **options: Any) -> str:
    url = options.pop("url", server.url)
    async with open_nats(url, auth=auth, **options) as nc:
        return await who(nc)


async def refused(server: NatsServer, auth: Any, **options: Any) -> AuthorizationError:
    """The server's refusal: exactly one attempt, and it says what was sent."""
    url = options.pop("url", server.url)
    with pytest.raises(ConnectError) as caught:
        async with open_nats(url, auth=auth, **options):
            pass
    (attempt,) = caught.value.attempts
    assert attempt.phase == "auth"
    assert attempt.server == server.url
    assert isinstance(attempt.error, AuthorizationError)
    assert caught.value.__cause__ is attempt.error
    assert attempt.error.message == "Authorization Violation"
    assert "check the credentials" in str(caught.value)
    return attempt.error


# -- users of a configuration --------------------------------------------------------------------


async def test_users_and_nkeys(tmp_path: Path) -> None:
    file = tmp_path / "user.nk"
    file.write_text(f"# a comment\n{KEY.seed}\n")
    async with NatsServer(config=USERS) as server:
        for auth, name in [
            (UserPassword("plain", "secret"), "plain"),
            (UserPassword("crypt", BCRYPT_PASSWORD), "crypt"),
            (UserPassword("ä b", AWKWARD), "ä b"),
            (UserPassword("blank", ""), "blank"),
            (NKey(seed=KEY.seed), KEY.public),
            (NKey(file=file), KEY.public),
        ]:
            assert await logs_in(server, auth) == name


async def test_users_and_nkeys_refused() -> None:
    async with NatsServer(config=USERS) as server:
        for auth, sent in [
            (UserPassword("plain", "Secret"), "user and password"),
            (UserPassword("crypt", BCRYPT_HASH), "user and password"),
            (UserPassword("blank", "x"), "user and password"),
            (UserPassword("nobody", "secret"), "user and password"),
            (Token("secret"), "token"),
            (NKey(seed=Key().seed), "NKey"),
            (JWT(OPERATOR.user().jwt, sign=KEY.sign), "JWT"),
            (None, "no credentials were sent"),
        ]:
            error = await refused(server, auth)
            assert sent in error.explanation


async def test_a_token() -> None:
    async with NatsServer(token=AWKWARD) as server:
        async with open_nats(server.url, auth=Token(AWKWARD)) as nc:
            await nc.flush()
        error = await refused(server, Token(AWKWARD + "x"))
        assert "sent: token" in error.explanation


async def test_a_url_may_contain_the_credentials() -> None:
    async with NatsServer(config=USERS) as server:
        at = server.url.removeprefix("nats://")
        for userinfo, name in [("plain:secret", "plain"), (f"%C3%A4%20b:{ENCODED}", "ä b")]:
            assert await logs_in(server, None, url=f"nats://{userinfo}@{at}") == name
        await refused(server, None, url=f"nats://plain:secre%74%20@{at}")
        # What is given as such is not decoded.
        await refused(server, UserPassword("ä b", ENCODED))
    async with NatsServer(token=AWKWARD) as server:
        at = server.url.removeprefix("nats://")
        async with open_nats(f"nats://{ENCODED}@{at}") as nc:
            await nc.flush()
        error = await refused(server, None, url=f"nats://{ENCODED}x@{at}")
        assert "sent: token" in error.explanation


async def test_auth_beats_the_url() -> None:
    async with NatsServer(config=USERS) as server:
        at = server.url.removeprefix("nats://")
        plain = UserPassword("plain", "secret")
        for userinfo in ("crypt:wrong", "sometoken"):
            assert await logs_in(server, plain, url=f"nats://{userinfo}@{at}") == "plain"
            assert await logs_in(server, lambda s: plain, url=f"nats://{userinfo}@{at}") == "plain"
        await refused(server, UserPassword("plain", "wrong"), url=f"nats://plain:secret@{at}")
        # A callback that has nothing to say has said so: the URL does not speak for it.
        error = await refused(server, lambda s: None, url=f"nats://plain:secret@{at}")
        assert "no credentials" in error.explanation


async def test_a_default_user() -> None:
    config: dict[str, Any] = {
        "authorization": {
            "users": [{"user": "guest", "password": "x"}, {"nkey": KEY.public}],
        },
        "no_auth_user": "guest",
    }
    async with NatsServer(config=config) as server:
        async with await trio.open_tcp_stream(server.host, server.port) as stream:
            # Only the first INFO has it.
            assert b'"nonce":' in await stream.receive_some(), "the case is one with a nonce"
        async with open_nats(server.url) as nc:
            assert await who(nc) == "guest"
        assert await logs_in(server, lambda s: None) == "guest"
        assert await logs_in(server, NKey(seed=KEY.seed)) == KEY.public
        await refused(server, NKey(seed=Key().seed))
        await refused(server, UserPassword("guest", "y"))


async def test_credentials_for_a_server_that_wants_none() -> None:
    user = OPERATOR.user()
    async with NatsServer() as server:
        for auth in (UserPassword("u", "p"), Token("t")):
            async with open_nats(server.url, auth=auth) as nc:
                await nc.flush()
        # A key cannot be shown to a server that does not ask for a signature.
        for key in (NKey(seed=KEY.seed), Credentials(text=user.creds)):
            with pytest.raises(ConnectError, match="leave auth out") as caught:
                async with open_nats(server.url, auth=key):
                    pass
            assert list(caught.value.errors(CredentialsError))


async def test_an_nkey_for_a_server_without_nkeys() -> None:
    async with NatsServer(user="u", password="p") as server:
        with pytest.raises(ConnectError, match="accepts no keys") as caught:
            async with open_nats(server.url, auth=NKey(seed=KEY.seed)):
                pass
        assert list(caught.value.errors(CredentialsError))


async def test_a_certificate_identifies_the_user() -> None:
    certs = certificates()
    tls = ServerTLS(
        certs.server.cert_file, certs.server.key_file, ca_file=certs.ca_file, verify_and_map=True
    )
    client, chained = certs.client, certs.client_dn
    config = {"authorization": {"users": [{"user": CLIENT_EMAIL}]}}
    async with NatsServer(tls=tls, config=config) as server:
        url = server.url.replace("nats://", "tls://")

        def options(certificate: Any) -> TLSOptions:
            return TLSOptions(
                ca_file=certs.ca_file,
                cert_file=certificate.cert_file,
                key_file=certificate.key_file,
            )

        assert await logs_in(server, None, url=url, tls=options(client)) == CLIENT_EMAIL
        with pytest.raises(ConnectError) as caught:
            async with open_nats(url, tls=options(chained)):
                pass
        (error,) = caught.value.errors(AuthorizationError)
        assert "no credentials were sent" in error.explanation


# -- JWTs ----------------------------------------------------------------------------------------


async def _late(sign: Callable[[bytes], bytes], nonce: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    return sign(nonce)


async def test_jwts(tmp_path: Path) -> None:
    user, bearer = OPERATOR.user("alice"), OPERATOR.user("bob", bearer=True)
    file = tmp_path / "alice.creds"
    file.write_text(user.creds)
    async with NatsServer(config=OPERATOR.config) as server:
        for auth, expected in [
            (Credentials(text=user.creds), user),
            (Credentials(file=file), user),
            (JWT(user.jwt, seed=user.seed), user),
            (JWT(user.jwt, sign=user.key.sign), user),
            (JWT(user.jwt, sign=lambda nonce: _late(user.key.sign, nonce)), user),
            (JWT(bearer.jwt), bearer),
            (JWT(bearer.jwt, seed=bearer.seed), bearer),
        ]:
            assert await logs_in(server, auth) == expected.key.public


async def test_jwts_refused() -> None:
    user, other = OPERATOR.user("alice"), OPERATOR.user("bob")
    stranger = Operator().user("mallory")
    minute_ago = int(time.time()) - 60
    expired = OPERATOR.user("late", expires=minute_ago)
    date = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(minute_ago))
    async with NatsServer(config=OPERATOR.config) as server:
        for auth, explanation in [
            (Credentials(text=stranger.creds), "credentials (JWT)"),
            (JWT(user.jwt, sign=other.key.sign), "sent: JWT"),
            (JWT(user.jwt, sign=lambda nonce: bytes(64)), "sent: JWT"),
            (JWT(user.jwt), "no bearer JWT"),
            (JWT(expired.jwt, seed=expired.seed), f"the user JWT expired at {date}"),
            (Credentials(text=expired.creds), f"the user JWT expired at {date}"),
            (UserPassword("u", "p"), "user and password"),
            (NKey(seed=user.seed), "NKey"),
            (None, "no credentials were sent"),
        ]:
            error = await refused(server, auth)
            assert explanation in error.explanation


async def test_signing_that_fails_is_our_fault_and_not_the_servers() -> None:
    user = OPERATOR.user("alice")

    async def sealed(nonce: bytes) -> bytes:
        raise PermissionError("the vault is sealed")

    async with NatsServer(config=OPERATOR.config) as server:
        with pytest.raises(ConnectError, match="sign callable raised PermissionError") as caught:
            async with open_nats(server.url, auth=JWT(user.jwt, sign=sealed)):
                pass
        (attempt,) = caught.value.attempts
        assert attempt.phase == "auth"
        assert isinstance(attempt.error, CredentialsError)


@pytest.mark.slow
async def test_a_jwt_that_expires_while_in_use() -> None:
    async with NatsServer(config=OPERATOR.config) as server:

        def auth(server: Server) -> Auth:
            return Credentials(text=users.pop(0).creds)

        # The server counts in whole seconds, and there have to be some of them left.
        users = [OPERATOR.user("short", expires=int(time.time()) + 2), OPERATOR.user("long")]
        async with (
            open_nats(server.url, auth=auth, reconnect=QUICK) as nc,
            nc.events() as events,
        ):
            told: list[type] = []
            with trio.fail_after(HANG_TIMEOUT):
                async for event in events:
                    told.append(type(event))
                    if isinstance(event, ServerError):
                        assert isinstance(event.error, AuthenticationExpiredError)
                        assert "fresh one" in event.error.explanation
                    elif isinstance(event, Disconnected):
                        assert isinstance(event.reason.__cause__, AuthenticationExpiredError)
                    elif isinstance(event, Reconnected):
                        break
            assert told == [ServerError, Disconnected, Reconnected]
            await nc.flush()


async def test_the_permissions_of_a_jwt_hold() -> None:
    user = OPERATOR.user("alice", permissions={"pub": {"deny": ["secret"]}, "sub": {}})
    async with (
        NatsServer(config=OPERATOR.config) as server,
        open_nats(server.url, auth=Credentials(text=user.creds)) as nc,
        nc.events() as events,
    ):
        await nc.publish("secret", b"x")
        with trio.fail_after(HANG_TIMEOUT):
            event = await events.receive()
        assert isinstance(event, ServerError)
        assert isinstance(event.error, PermissionsViolationError)
        assert event.error.subject == "secret"


# -- auth callout --------------------------------------------------------------------------------

Decide = Callable[[dict[str, Any]], Awaitable[str | None]]
"""From what is in CONNECT to the reason for a refusal, or None."""


@asynccontextmanager
async def callout(decide: Decide) -> AsyncIterator[NatsServer]:
    """A server that asks ``decide`` about everybody."""
    service = UserPassword(CALLOUT_USER, CALLOUT_PASSWORD)
    async with (
        NatsServer(config=CALLOUT.config) as server,
        open_nats(server.url, auth=service) as nc,
        nc.subscribe("$SYS.REQ.USER.AUTH") as requests,
        trio.open_nursery() as nursery,
    ):

        async def answer() -> None:
            async for msg in requests:
                error = await decide(CALLOUT.credentials(msg.data))
                await msg.respond(CALLOUT.response(msg.data, error=error))

        nursery.start_soon(answer)
        await nc.flush()
        yield server
        nursery.cancel_scope.cancel()


async def test_auth_callout_sees_what_was_sent() -> None:
    seen: list[dict[str, Any]] = []

    async def decide(fields: dict[str, Any]) -> str | None:
        seen.append(fields)
        return None if fields.get("pass") == "let me in" or "auth_token" in fields else "no"

    async with callout(decide) as server:
        for auth in (UserPassword("alice", "let me in"), Token("a token")):
            async with open_nats(server.url, auth=auth, name="the caller") as nc:
                await nc.flush()
        error = await refused(server, UserPassword("alice", "wrong"))
        assert "user and password" in error.explanation
    assert [(one.get("user"), one.get("pass"), one.get("auth_token")) for one in seen] == [
        ("alice", "let me in", None),
        (None, None, "a token"),
        ("alice", "wrong", None),
    ]
    assert seen[0]["name"] == "the caller"


async def test_a_slow_auth_callout() -> None:
    asked, go = trio.Event(), trio.Event()

    async def decide(fields: dict[str, Any]) -> str | None:
        asked.set()
        await go.wait()
        return None

    async with callout(decide) as server, trio.open_nursery() as nursery:

        async def connect() -> None:
            async with open_nats(server.url, auth=UserPassword("alice", "x")) as nc:
                await nc.flush()

        nursery.start_soon(connect)
        with trio.fail_after(HANG_TIMEOUT):
            await asked.wait()
            go.set()


async def test_auth_callout_that_never_answers_uses_up_connect_timeout() -> None:
    async def decide(fields: dict[str, Any]) -> str | None:
        await trio.sleep_forever()

    async with callout(decide) as server:
        with pytest.raises(ConnectError, match=r"no answer to CONNECT within 2 s") as caught:
            async with open_nats(server.url, auth=Token("x"), connect_timeout=2):
                pass
        (attempt,) = caught.value.attempts
        assert isinstance(attempt.error, ConnectTimeoutError)
        assert attempt.phase == "auth"
