"""Callbacks that are asked for credentials, and callables that sign: good, slow and broken."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.credentials.helpers import (
    HANG_TIMEOUT,
    QUICK,
    connects_with,
    drops,
    in_turn,
    refusals,
    sessions,
)
from tests.support.jwts import Operator
from tests.support.peer import ScriptedServer
from trio_nats import JWT, Auth, Server, Token, UserPassword, open_nats
from trio_nats.errors import AuthorizationError, ConnectError, ConnectTimeoutError, CredentialsError
from trio_nats.events import ReconnectFailed
from trio_nats.testing import NatsServer

USER = Operator().user("alice")


async def test_the_callback_is_told_which_server_it_is_for() -> None:
    asked: list[Server] = []

    def auth(server: Server) -> Auth:
        asked.append(server)
        return Token(f"for {server.port}")

    async with ScriptedServer(refusals()) as one, ScriptedServer(sessions()) as two:
        async with open_nats([one.url, two.url], auth=auth, randomize=False):
            pass
        for server in (one, two):
            assert await connects_with(server, 0) == {"auth_token": f"for {server.port}"}
        assert [server.url for server in asked] == [one.url, two.url]


RUBBISH = ["token", b"x", ("u", "p"), {}, 0, False, UserPassword, object()]


@pytest.mark.parametrize("value", RUBBISH, ids=lambda value: repr(value)[:15])
async def test_a_callback_that_returns_an_invalid_value(value: Any) -> None:
    async def late(server: Server) -> Any:
        return value

    async with ScriptedServer(sessions()) as server:
        for auth in (lambda server: value, late):
            with pytest.raises(ConnectError, match="auth callback returned") as caught:
                async with open_nats(server.url, auth=auth):
                    pass
            (attempt,) = caught.value.attempts
            assert attempt.phase == "auth"
            assert isinstance(attempt.error, CredentialsError)
            kind = value if isinstance(value, type) else type(value)
            assert kind.__name__ in str(attempt.error)
        assert server.peers == []


class Oops(Exception):
    pass


async def test_a_callback_that_fails_is_one_failed_attempt() -> None:
    for failure in (Oops("x"), trio.TooSlowError(), ExceptionGroup("many", [Oops()]), OSError(5)):
        async with ScriptedServer(sessions()) as server:
            with pytest.raises(ConnectError, match="auth callback raised") as caught:
                async with open_nats(server.url, auth=in_turn(failure)):
                    pass
            (error,) = caught.value.errors(CredentialsError)
            assert error.__cause__ is failure
            assert type(failure).__name__ in str(error)
            assert server.peers == []


async def test_a_callback_may_fail_occasionally() -> None:
    auth = in_turn(Token("one"), Oops("not now"), Oops("not yet"), Token("two"))
    async with ScriptedServer(drops, sessions()) as server:
        async with (
            open_nats(server.url, auth=auth, reconnect=QUICK) as nc,
            nc.events() as events,
        ):
            with trio.fail_after(HANG_TIMEOUT):
                assert await connects_with(server, 1) == {"auth_token": "two"}
                failures: list[str] = []
                while len(failures) < 2:
                    event = await events.receive()
                    if isinstance(event, ReconnectFailed):
                        failures.append(str(event.error))
        assert failures == ["the auth callback raised Oops"] * 2


async def test_a_class_is_not_accepted_as_credentials() -> None:
    async with ScriptedServer(sessions()) as server:
        with pytest.raises(TypeError, match="not the class itself"):
            async with open_nats(server.url, auth=UserPassword):  # type: ignore[arg-type]
                pass
        assert server.peers == []


async def test_a_slow_callback_uses_up_connect_timeout() -> None:
    cancelled: list[str] = []

    async def auth(server: Server) -> Auth:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(server.url)

    async with ScriptedServer(sessions()) as server:
        with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError) as caught:
            async with open_nats(server.url, auth=auth, connect_timeout=0.05):
                pass
        (attempt,) = caught.value.attempts
        assert attempt.phase == "auth"
        assert isinstance(attempt.error, ConnectTimeoutError)
        assert "0.05 s (connect_timeout)" in str(attempt.error)
        # No server was asked, so no server can be blamed.
        assert "answer to CONNECT" not in str(attempt.error)
        assert cancelled == [server.url]
        assert server.peers == []


async def test_a_slow_signature_uses_up_connect_timeout() -> None:
    async def sign(nonce: bytes) -> bytes:
        await trio.sleep_forever()

    async with ScriptedServer(sessions()) as server:
        with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError) as caught:
            async with open_nats(server.url, auth=JWT(USER.jwt, sign=sign), connect_timeout=2):
                pass
        (attempt,) = caught.value.attempts
        assert attempt.phase == "auth"
        assert isinstance(attempt.error, ConnectTimeoutError)
        assert "answer to CONNECT" not in str(attempt.error)
        assert (await server.peer()).raw_bytes == b""


async def test_a_callback_for_a_server_that_changes_its_password() -> None:
    current = UserPassword("u", "one")
    async with NatsServer(user="u", password="one") as server:
        async with open_nats(server.url, auth=lambda s: current, reconnect=QUICK) as nc:
            current = UserPassword("u", "two")
            await server.reload(password="two")
            with trio.fail_after(HANG_TIMEOUT):
                await nc.flush()
        with pytest.raises(ConnectError) as caught:
            async with open_nats(server.url, auth=UserPassword("u", "one")):
                pass
        assert list(caught.value.errors(AuthorizationError))
