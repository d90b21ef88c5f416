"""INFO in plaintext, TLS to follow: somebody on the way may have written it, so it decides little.

The table in ``docs/security.md`` says what; each row of it is tested here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.background import LoopbackServer
from tests.support.certs import certificates, server_context
from tests.support.jwts import Key, Operator
from tests.support.peer import Peer, Script, ScriptedServer, info_line
from tests.support.timeouts import HANG_TIMEOUT
from tests.support.tls_records import is_only_tls_records
from trio_nats import (
    JWT,
    AuthLike,
    AuthorizationError,
    ConnectAttempt,
    ConnectError,
    CredentialsError,
    MaxPayloadError,
    NKey,
    ProtocolError,
    ServerInfo,
    TLSMode,
    TLSOptions,
    Token,
    UserPassword,
    open_nats,
)
from trio_nats.testing import NatsServer, ServerTLS

CERTS = certificates()
SERVER = server_context(CERTS.server)
TRUSTING = TLSOptions(ca_file=CERTS.ca_file)
KEY = Key("user")
USER = Operator().user()
BEARER = Operator().user(bearer=True)
SIGNING: dict[str, AuthLike] = {
    "NKey": NKey(seed=KEY.seed),
    "JWT": JWT(USER.jwt, seed=USER.seed),
    "JWT with a signer": JWT(USER.jwt, sign=lambda nonce: bytes(64)),
}


def upgraded(**info: Any) -> Script:
    """A server that says INFO in plaintext only."""

    async def script(peer: Peer) -> None:
        await peer.send_info(tls_required=True, **info)
        await peer.start_tls(SERVER)
        await peer.accept_connect()
        await peer.serve()

    return script


async def failure(port: int, auth: AuthLike | None, tls: TLSOptions = TRUSTING) -> ConnectAttempt:
    with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError) as caught:
        async with open_nats(f"tls://localhost:{port}", tls=tls, auth=auth):
            pass
    (attempt,) = caught.value.attempts
    return attempt


# --- credentials ---------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", SIGNING.values(), ids=SIGNING)
@pytest.mark.parametrize("nonce", [None, ""])
async def test_an_nkey_without_a_nonce_is_an_error(auth: AuthLike, nonce: str) -> None:
    """Without the nonce it would be a login as nobody, or as whom the server takes nobody for."""
    async with ScriptedServer(upgraded(nonce=nonce)) as server:
        attempt = await failure(server.port, auth)
        peer = await server.peer()
    assert attempt.phase == "auth"
    assert isinstance(attempt.error, CredentialsError)
    assert "nonce" in str(attempt.error)
    assert "plaintext" in str(attempt.error)
    assert peer.lines == []
    assert is_only_tls_records(peer.raw_bytes)


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_nonce_that_is_too_long_is_ignored(encrypted: bool) -> None:
    def sign(nonce: bytes) -> bytes:
        raise AssertionError("asked to sign")

    async def plain(peer: Peer) -> None:
        if encrypted:
            await peer.start_tls(SERVER)
        await peer.send_info(nonce="x" * 5000)
        await peer.accept_connect()

    async with ScriptedServer(plain) as server:
        scheme = "tls" if encrypted else "nats"
        with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError) as caught:
            tls = TRUSTING if encrypted else None
            url = f"{scheme}://localhost:{server.port}"
            async with open_nats(url, tls=tls, auth=JWT(USER.jwt, sign=sign)):
                pass
    (error,) = caught.value.errors(CredentialsError)
    assert "nonce" in str(error)


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (UserPassword("joe", "pw"), {"user": "joe", "pass": "pw"}),
        (Token("secret"), {"auth_token": "secret"}),
        (JWT(BEARER.jwt), {"jwt": BEARER.jwt}),
    ],
)
async def test_secrets_are_sent_whatever_info_says(
    auth: AuthLike, expected: dict[str, str]
) -> None:
    async with ScriptedServer(upgraded(auth_required=False)) as server:
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(f"tls://localhost:{server.port}", tls=TRUSTING, auth=auth):
                connect = (await server.peer()).connect
    assert expected.items() <= connect.items()


# --- features ------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [False, None])
@pytest.mark.parametrize("auth", [None, UserPassword("joe", "pw")])
async def test_no_headers_is_not_believed_in_plaintext(
    auth: AuthLike | None, headers: bool | None
) -> None:
    """It would cost "no responders", so that requests to nobody hang: refused, not put up with."""
    async with ScriptedServer(upgraded(headers=headers)) as server:
        attempt = await failure(server.port, auth)
        peer = await server.peer()
    assert type(attempt.error) is ProtocolError
    assert attempt.phase == "auth"
    assert "headers" in str(attempt.error)
    assert "IMPLICIT" in str(attempt.error)
    assert peer.lines == []


async def test_plaintext_info_without_headers_is_an_error_with_credentials() -> None:
    async def script(peer: Peer) -> None:
        await peer.send_info(headers=False)
        await peer.accept_connect()

    async with ScriptedServer(script) as server:
        with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError) as caught:
            async with open_nats(server.url, auth=UserPassword("joe", "pw")):
                pass
        assert (await server.peer()).raw_bytes == b""
    (error,) = caught.value.errors(ProtocolError)
    assert "headers" in str(error)


async def test_inside_tls_the_server_may_have_none() -> None:
    async def script(peer: Peer) -> None:
        await peer.start_tls(SERVER)
        await peer.send_info(headers=False)
        await peer.accept_connect()
        await peer.serve()

    async with ScriptedServer(script) as server:
        with trio.fail_after(HANG_TIMEOUT):
            url = f"tls://localhost:{server.port}"
            async with open_nats(url, tls=TRUSTING, auth=UserPassword("joe", "pw")):
                connect = (await server.peer()).connect
    assert connect["headers"] is connect["no_responders"] is False
    assert connect["user"] == "joe"


# --- what outlives the handshake -----------------------------------------------------------------

LIES: dict[str, Any] = {
    "server_id": "NLIES",
    "version": "99.0.0",
    "jetstream": True,
    "domain": "lies",
    "cluster": "lies",
    "max_payload": 10,
    "client_id": 666,
    "ldm": True,
    "nonce": "lies",
    "connect_urls": ["192.0.2.1:4222"],
    "auth_required": True,
}


@pytest.mark.parametrize("mode", [TLSMode.PREFER, TLSMode.REQUIRE])
async def test_nothing_outlives_the_handshake(mode: TLSMode) -> None:
    async with ScriptedServer(upgraded(**LIES)) as server:
        tls = TLSOptions(ca_file=CERTS.ca_file, mode=mode)
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(f"nats://localhost:{server.port}", tls=tls) as nc:
                assert nc.server_info == ServerInfo(headers=True)
                await nc.publish("a", bytes(1000), headers={"a": "b"})
                await nc.flush()
                assert (await server.peer()).payloads[0].endswith(bytes(1000))


async def test_info_inside_tls_replaces_the_plaintext_one() -> None:
    """As nats-server 2.12 and later do, behind their first PONG, and later where it may."""
    truth = info_line(version="2.12.0", connect_info=True, max_payload=2000)

    async def script(peer: Peer) -> None:
        await peer.send_info(tls_required=True, **LIES)
        await peer.start_tls(SERVER)
        await peer.accept_connect(pong=False)
        for said in (b"PONG\r\n", truth, b"PONG\r\n"):
            await peer.send(said)
            await trio.testing.wait_all_tasks_blocked()
        await peer.serve()

    async with ScriptedServer(script) as server:
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(f"tls://localhost:{server.port}", tls=TRUSTING) as nc:
                assert nc.server_info.version == "2.12.0"
                assert nc.server_info.max_payload == 2000
                assert not nc.server_info.ldm
                assert [known.host for known in nc.servers] == ["localhost"]
                with pytest.raises(MaxPayloadError):
                    await nc.publish("a", bytes(2001))


async def test_an_info_injected_before_a_tls_first_handshake() -> None:
    async def script(peer: Peer) -> None:
        await peer.send_info(tls_required=True, **LIES)
        await peer.start_tls(SERVER)
        await peer.send_info(version="2.10.4", server_id="NTRUE")
        await peer.accept_connect()
        await peer.serve()

    async with ScriptedServer(script) as server:
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(f"tls://localhost:{server.port}", tls=TRUSTING) as nc:
                assert nc.server_info.server_id == "NTRUE"
                assert nc.server_info.version == "2.10.4"
                assert not nc.server_info.jetstream


@pytest.mark.slow
@pytest.mark.parametrize(("said", "most"), [(10, 1024 * 1024), (8 * 1024 * 1024, 8 * 1024 * 1024)])
async def test_a_smaller_max_payload_in_plaintext_is_ignored(said: int, most: int) -> None:
    """A smaller one would have us refuse messages that the server takes; a larger is its affair."""
    async with ScriptedServer(upgraded(max_payload=said)) as server:
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(f"tls://localhost:{server.port}", tls=TRUSTING) as nc:
                assert nc.server_info.max_payload == 1024 * 1024
                await nc.publish("a", bytes(most))
                with pytest.raises(MaxPayloadError):
                    await nc.publish("a", bytes(most + 1))


# --- real servers, with somebody on the way ------------------------------------------------------


class Tampering(LoopbackServer):
    """Stands between a client and a real server, and rewrites the INFO that passes in plaintext."""

    def __init__(self, port: int, tamper: Callable[[dict[str, Any]], None], *, first: bool) -> None:
        super().__init__()
        self._port = port
        self._tamper = tamper
        self._first = first

    async def _handle(self, stream: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as server:
            info: dict[str, Any] = json.loads(info_line()[5:])
            rest = b""
            if not self._first:
                line = b""
                while b"\r\n" not in line:
                    line += await server.receive_some()
                line, _, rest = line.partition(b"\r\n")
                info = json.loads(line[5:])
            self._tamper(info)
            await stream.send_all(b"INFO " + json.dumps(info).encode() + b"\r\n" + rest)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_on, stream, server, nursery)
                nursery.start_soon(self._pass_on, server, stream, nursery)

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, nursery: trio.Nursery
    ) -> None:
        try:
            async for data in source:
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        nursery.cancel_scope.cancel()


def without_login(info: dict[str, Any]) -> None:
    info.pop("nonce", None)
    info.pop("auth_required", None)
    info["tls_required"] = True


def another_nonce(info: dict[str, Any]) -> None:
    info["nonce"] = "AAAAAAAAAAAAAAA"
    info["tls_required"] = True


def lies(info: dict[str, Any]) -> None:
    info.update(LIES, tls_required=True)
    del info["nonce"]


@asynccontextmanager
async def tampered(
    tamper: Callable[[dict[str, Any]], None], *, first: bool
) -> AsyncIterator[tuple[NatsServer, int]]:
    """A server with a guest, an NKey and a password, and the port of who rewrites its INFO."""
    tls = ServerTLS(CERTS.server.cert_file, CERTS.server.key_file, handshake_first=first)
    users = [
        {"user": "guest", "password": "x"},
        {"user": "joe", "password": "pw"},
        {"nkey": KEY.public},
    ]
    config: Any = {"authorization": {"users": users}, "no_auth_user": "guest"}
    async with NatsServer(tls=tls, config=config) as server:
        async with Tampering(server.port, tamper, first=first) as proxy:
            yield server, proxy.port


@pytest.mark.parametrize("first", [False, True], ids=["after INFO", "TLS first"])
async def test_an_nkey_user_is_not_the_default_user(first: bool) -> None:
    async with tampered(without_login, first=first) as (server, port):
        attempt = await failure(port, NKey(seed=KEY.seed))
        assert isinstance(attempt.error, CredentialsError)
        direct = await failure_or_name(server.port, NKey(seed=KEY.seed))
        assert direct == KEY.public
    async with tampered(another_nonce, first=first) as (_, port):
        attempt = await failure(port, NKey(seed=KEY.seed))
        assert isinstance(attempt.error, AuthorizationError)


@pytest.mark.parametrize("first", [False, True], ids=["after INFO", "TLS first"])
async def test_a_real_server_corrects_a_tampered_info(first: bool) -> None:
    async with tampered(lies, first=first) as (_, port):
        with trio.fail_after(HANG_TIMEOUT):
            url = f"tls://localhost:{port}"
            async with open_nats(url, tls=TRUSTING, auth=UserPassword("joe", "pw")) as nc:
                info = nc.server_info
                assert info.server_id.startswith("N")
                assert info.server_id != "NLIES"
                assert info.version != "99.0.0"
                assert info.max_payload == 1024 * 1024
                assert not info.ldm
                assert not info.jetstream
                assert info.domain is None
                assert len(nc.servers) == 1


async def failure_or_name(port: int, auth: AuthLike) -> str:
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(f"tls://localhost:{port}", tls=TRUSTING, auth=auth) as nc:
            reply = await nc.request("$SYS.REQ.USER.INFO")
            return str(json.loads(reply.data)["data"]["user"])
