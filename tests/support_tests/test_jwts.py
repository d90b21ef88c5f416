"""Real servers take the operators, users and callouts made here at their word.

Only raw sockets are used: whatever these tests say, it is not the client's fault.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.support.jwts import (
    BCRYPT_HASH,
    BCRYPT_PASSWORD,
    CALLOUT_PASSWORD,
    CALLOUT_USER,
    Callout,
    Key,
    Operator,
    User,
    claims_of,
)
from trio_nats.testing import NatsServer

OPERATOR = Operator()
REFUSED = b"-ERR 'Authorization Violation'\r\n"


class ServerConnection:
    """A connection to a server, one line at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""
        self.nonce = ""

    async def _more(self) -> None:
        data = bytes(await self.stream.receive_some())
        assert data, f"the server closed after {self._buffer!r}"
        self._buffer += data

    async def line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            await self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line + b"\r\n"

    async def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._more()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    async def connect(self, **fields: Any) -> bytes:
        """Say who one is; what the server answers."""
        fields = {"verbose": False, "pedantic": False, "lang": "test", "version": "0", **fields}
        text = b"CONNECT " + json.dumps(fields).encode() + b"\r\nPING\r\n"
        await self.stream.send_all(text)
        return await self.line()


@asynccontextmanager
async def dial(server: NatsServer) -> AsyncIterator[ServerConnection]:
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        wire = ServerConnection(stream)
        info = json.loads((await wire.line()).removeprefix(b"INFO "))
        wire.nonce = info.get("nonce", "")
        yield wire


def signed(key: Key, nonce: str) -> str:
    return base64.urlsafe_b64encode(key.sign(nonce.encode())).decode().rstrip("=")


async def verdict(server: NatsServer, user: User, *, sign: bool = True) -> bytes:
    async with dial(server) as wire:
        proof = {"sig": signed(user.key, wire.nonce)} if sign else {}
        return await wire.connect(jwt=user.jwt, **proof)


async def test_users_of_an_operator() -> None:
    bearer = OPERATOR.user("bearer", bearer=True)
    soon, past = int(time.time()) + 3600, int(time.time()) - 3600
    async with NatsServer(config=OPERATOR.config) as server:
        assert await verdict(server, OPERATOR.user("alice")) == b"PONG\r\n"
        assert await verdict(server, bearer) == b"PONG\r\n"
        assert await verdict(server, bearer, sign=False) == b"PONG\r\n"
        assert await verdict(server, OPERATOR.user(expires=soon)) == b"PONG\r\n"
        # And not those who are none.
        assert await verdict(server, OPERATOR.user("alice"), sign=False) == REFUSED
        assert await verdict(server, OPERATOR.user(expires=past)) != b"PONG\r\n"
        assert await verdict(server, OPERATOR.user(issuer=Key("account"))) == REFUSED
        stolen = User(OPERATOR.user("alice").jwt, Key("user"))
        assert await verdict(server, stolen) == REFUSED


async def test_permissions_of_a_user() -> None:
    user = OPERATOR.user(permissions={"pub": {"allow": ["yes"]}, "sub": {"allow": ["yes"]}})
    async with NatsServer(config=OPERATOR.config) as server, dial(server) as wire:
        answer = await wire.connect(jwt=user.jwt, sig=signed(user.key, wire.nonce))
        assert answer == b"PONG\r\n"
        await wire.stream.send_all(b"PUB yes 0\r\n\r\nPUB no 0\r\n\r\nPING\r\n")
        assert b"Permissions Violation" in await wire.line()


async def test_an_nkey_of_the_configuration() -> None:
    key = Key("user")
    config = f"authorization {{ users [ {{ nkey: {key.public} }} ] }}"
    async with NatsServer(config=config) as server:
        async with dial(server) as wire:
            answer = await wire.connect(nkey=key.public, sig=signed(key, wire.nonce))
            assert answer == b"PONG\r\n"
        async with dial(server) as wire:
            answer = await wire.connect(nkey=key.public, sig=signed(Key("user"), wire.nonce))
            assert answer == REFUSED


async def test_the_bcrypt_hash_is_that_of_the_password() -> None:
    config = f'authorization {{ user: a, password: "{BCRYPT_HASH}" }}'
    async with NatsServer(config=config) as server:
        async with dial(server) as wire:
            assert await wire.connect(user="a", **{"pass": BCRYPT_PASSWORD}) == b"PONG\r\n"
        async with dial(server) as wire:
            assert await wire.connect(user="a", **{"pass": BCRYPT_HASH}) == REFUSED


@pytest.mark.parametrize("error", [None, "not today"])
async def test_an_auth_callout_decides(error: str | None) -> None:
    callout = Callout()
    asked: list[dict[str, Any]] = []

    async def service(wire: ServerConnection) -> None:
        _, _, _, reply, size = (await wire.line()).split()
        request = (await wire.exactly(int(size) + 2))[:-2]
        asked.append(callout.credentials(request))
        answer = callout.response(request, error=error).encode()
        await wire.stream.send_all(b"PUB %s %d\r\n%s\r\n" % (reply, len(answer), answer))

    async with NatsServer(config=callout.config) as server, dial(server) as wire:
        login = {"user": CALLOUT_USER, "pass": CALLOUT_PASSWORD}
        assert await wire.connect(**login) == b"PONG\r\n"
        await wire.stream.send_all(b"SUB $SYS.REQ.USER.AUTH 1\r\nPING\r\n")
        assert await wire.line() == b"PONG\r\n"
        async with trio.open_nursery() as nursery, dial(server) as client:
            nursery.start_soon(service, wire)
            answer = await client.connect(auth_token="let me in")
        assert answer == (b"PONG\r\n" if error is None else REFUSED)
        assert asked[0]["auth_token"] == "let me in"


def test_claims() -> None:
    user = OPERATOR.user("alice", bearer=True, expires=2_000_000_000)
    claims = claims_of(user.jwt)
    assert claims["sub"] == user.key.public
    assert claims["iss"] == OPERATOR.account.public
    assert claims["exp"] == 2_000_000_000
    assert claims["nats"]["bearer_token"] is True
    assert claims["nats"]["version"] == 2
    assert user.jwt in user.creds
    assert user.seed in user.creds
