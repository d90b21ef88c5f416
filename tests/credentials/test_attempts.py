"""What one attempt after the other sends: asked afresh, read afresh, and nothing from the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from tests.credentials.helpers import (
    HANG_TIMEOUT,
    NONCE,
    QUICK,
    connects_with,
    credentials,
    drops,
    in_turn,
    refusals,
    sessions,
    signature,
)
from tests.support.jwts import Key, Operator
from tests.support.peer import Peer, ScriptedServer
from trio_nats import (
    JWT,
    Auth,
    ConnectError,
    Credentials,
    NKey,
    Token,
    UserPassword,
    __version__,
    open_nats,
)
from trio_nats.errors import CredentialsError
from trio_nats.events import ReconnectFailed

USER, OTHER = Operator().user("alice"), Operator().user("bob")
KEY = Key()


# -- CONNECT -------------------------------------------------------------------------------------

KINDS: dict[str, tuple[Any, dict[str, str]]] = {
    "none": (None, {}),
    "password": (UserPassword("ü", 'p"\n'), {"user": "ü", "pass": 'p"\n'}),
    "empty password": (UserPassword("u", ""), {"user": "u", "pass": ""}),
    "token": (Token("t k"), {"auth_token": "t k"}),
    "nkey": (NKey(seed=KEY.seed), {"nkey": KEY.public, "sig": signature(KEY)}),
    "jwt": (JWT(USER.jwt, seed=USER.seed), {"jwt": USER.jwt, "sig": signature(USER.key)}),
    "sign": (JWT(USER.jwt, sign=USER.key.sign), {"jwt": USER.jwt, "sig": signature(USER.key)}),
    "bearer": (JWT(USER.jwt), {"jwt": USER.jwt}),
    "creds": (Credentials(text=USER.creds), {"jwt": USER.jwt, "sig": signature(USER.key)}),
    "callback": (lambda server: Token(str(server.port)), {}),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_connect_contains_exactly_these_fields(kind: str) -> None:
    auth, expected = KINDS[kind]
    async with ScriptedServer(sessions()) as server:
        async with open_nats(server.url, auth=auth, name="me", echo=False):
            peer = await server.peer()
        if kind == "callback":
            expected = {"auth_token": str(server.port)}
        assert peer.connect == {
            "verbose": False,
            "pedantic": False,
            "tls_required": False,
            "lang": "python-trio",
            "version": __version__,
            "protocol": 1,
            "echo": False,
            "headers": True,
            "no_responders": True,
            "name": "me",
            **expected,
        }
        secrets = (KEY.seed, USER.seed)
        assert not any(secret.encode() in peer.raw_bytes for secret in secrets)


@pytest.mark.parametrize(("headers", "expected"), [(True, True), (False, False), (None, False)])
async def test_headers_follow_info(headers: bool | None, expected: bool) -> None:
    async with ScriptedServer(sessions(headers=headers)) as server:
        async with open_nats(server.url):
            connect = (await server.peer()).connect
    assert connect["headers"] is connect["no_responders"] is expected
    assert "name" not in connect


async def test_without_a_nonce_nothing_is_signed() -> None:
    """What needs a signature then fails; a bearer JWT does not need one."""

    def sign(nonce: bytes) -> bytes:
        raise AssertionError("asked to sign nothing")

    async def script(peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect()
        await peer.serve()

    bearer = Operator().user(bearer=True)
    async with ScriptedServer(script) as server:
        for auth in (JWT(USER.jwt, sign=sign), NKey(seed=KEY.seed)):
            with pytest.raises(ConnectError) as caught:
                async with open_nats(server.url, auth=auth):
                    pass
            assert list(caught.value.errors(CredentialsError))
            assert server.peers[-1].raw_bytes == b""
        async with open_nats(server.url, auth=JWT(bearer.jwt, sign=sign)):
            assert credentials(server.peers[-1]) == {"jwt": bearer.jwt}


async def test_the_nonce_signed_is_that_of_the_attempt() -> None:
    signed: list[bytes] = []

    def sign(nonce: bytes) -> bytes:
        signed.append(nonce)
        return bytes(64)

    async def first(peer: Peer) -> None:
        await peer.send_info(nonce="first")
        await peer.accept_connect()
        await peer.hang_up()

    async with ScriptedServer(first, sessions()) as server:
        async with open_nats(server.url, auth=JWT(USER.jwt, sign=sign), reconnect=QUICK):
            with trio.fail_after(HANG_TIMEOUT):
                await connects_with(server, 1)
    assert signed == [b"first", NONCE.encode()]


# -- nothing lingers -----------------------------------------------------------------------------


ROTATION: tuple[tuple[Auth | None, dict[str, str]], ...] = (
    (UserPassword("u", "p"), {"user": "u", "pass": "p"}),
    (Token("t"), {"auth_token": "t"}),
    (Credentials(text=USER.creds), {"jwt": USER.jwt, "sig": signature(USER.key)}),
    (NKey(seed=KEY.seed), {"nkey": KEY.public, "sig": signature(KEY)}),
    (None, {}),
    (JWT(OTHER.jwt), {"jwt": OTHER.jwt}),
    (UserPassword("u", "p"), {"user": "u", "pass": "p"}),
)


@pytest.mark.parametrize("backwards", [False, True])
async def test_attempts_do_not_affect_each_other(backwards: bool) -> None:
    rotation = ROTATION[::-1] if backwards else ROTATION
    auth = in_turn(*(one for one, _ in rotation))
    async with ScriptedServer(*[drops] * (len(rotation) - 1), sessions()) as server:
        async with open_nats(server.url, auth=auth, reconnect=QUICK):
            with trio.fail_after(HANG_TIMEOUT):
                sent = [await connects_with(server, index) for index in range(len(rotation))]
    assert sent == [expected for _, expected in rotation]


async def test_a_rotating_callback_after_refusals() -> None:
    scripts = [drops, refusals(), refusals("Authentication Timeout"), refusals(), sessions()]
    auth = in_turn(*(Token(f"t{number}") for number in range(len(scripts))))
    async with ScriptedServer(*scripts) as server:
        async with open_nats(server.url, auth=auth, reconnect=QUICK):
            with trio.fail_after(HANG_TIMEOUT):
                sent = [await connects_with(server, index) for index in range(len(scripts))]
    assert sent == [{"auth_token": f"t{number}"} for number in range(len(scripts))]


async def test_files_are_read_again_at_every_attempt(tmp_path: Path) -> None:
    creds, nkey = tmp_path / "user.creds", tmp_path / "user.nk"
    one, two = Key(), Key()
    kinds: list[tuple[Any, Path, str, str]] = [
        (Credentials, creds, USER.creds, OTHER.creds),
        (NKey, nkey, one.seed, two.seed),
    ]
    for make, file, before, after in kinds:
        file.write_text(before)

        async def drops_when_rotated(peer: Peer, file: Path = file, after: str = after) -> None:
            await peer.send_info(nonce=NONCE)
            await peer.accept_connect()
            file.write_text(after)  # noqa: ASYNC240
            await peer.hang_up()

        async with ScriptedServer(drops_when_rotated, sessions()) as server:
            async with open_nats(server.url, auth=make(file=file), reconnect=QUICK):
                with trio.fail_after(HANG_TIMEOUT):
                    sent = [await connects_with(server, index) for index in range(2)]
        if make is NKey:
            assert [fields["nkey"] for fields in sent] == [one.public, two.public]
            assert [fields["sig"] for fields in sent] == [signature(one), signature(two)]
        else:
            assert [fields["jwt"] for fields in sent] == [USER.jwt, OTHER.jwt]


async def test_a_file_that_is_missing_for_a_while(tmp_path: Path) -> None:
    file = tmp_path / "user.creds"
    file.write_text(USER.creds)

    async def takes_the_file(peer: Peer) -> None:
        await peer.send_info(nonce=NONCE)
        await peer.accept_connect()
        file.unlink()
        await peer.hang_up()

    async with ScriptedServer(takes_the_file, sessions()) as server:
        async with (
            open_nats(server.url, auth=Credentials(file=file), reconnect=QUICK) as nc,
            nc.events() as events,
        ):
            failures = 0
            with trio.fail_after(HANG_TIMEOUT):
                while failures < 3:
                    event = await events.receive()
                    if isinstance(event, ReconnectFailed):
                        assert isinstance(event.error, CredentialsError)
                        assert "cannot read" in str(event.error)
                        failures += 1
                assert len(server.peers) == 1, "somebody dialled without credentials"
                file.write_text(OTHER.creds)
                assert (await connects_with(server, 1))["jwt"] == OTHER.jwt


# -- whose URL -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("userinfos", "expected"),
    [
        (["u:p@", "", ""], [{"user": "u", "pass": "p"}] * 3),
        (["", "tok@", ""], [{"auth_token": "tok"}] * 3),
        (
            ["u:p@", "tok@", ""],
            [{"user": "u", "pass": "p"}, {"auth_token": "tok"}, {"user": "u", "pass": "p"}],
        ),
        (
            ["u:@", "v:w@", "t%40@"],
            [{"user": "u", "pass": ""}, {"user": "v", "pass": "w"}, {"auth_token": "t@"}],
        ),
    ],
)
async def test_servers_without_userinfo_use_the_first(
    userinfos: list[str], expected: list[dict[str, str]]
) -> None:
    async with (
        ScriptedServer(refusals()) as one,
        ScriptedServer(refusals()) as two,
        ScriptedServer(sessions()) as three,
    ):
        servers = (one, two, three)
        urls = [
            f"nats://{userinfo}127.0.0.1:{server.port}"
            for userinfo, server in zip(userinfos, servers, strict=True)
        ]
        async with open_nats(urls, randomize=False) as nc:
            assert nc.connected_url == three.url
        assert [await connects_with(server, 0) for server in servers] == expected


async def test_discovered_servers_use_the_first_urls_userinfo() -> None:
    async with ScriptedServer(sessions()) as second:

        async def first(peer: Peer) -> None:
            await peer.send_info(nonce=NONCE, connect_urls=[f"127.0.0.1:{second.port}"])
            await peer.accept_connect()
            server.refuse()
            await peer.hang_up()

        async with ScriptedServer(first) as server:
            url = f"nats://u:p%40@127.0.0.1:{server.port}"
            async with open_nats(url, reconnect=QUICK):
                with trio.fail_after(HANG_TIMEOUT):
                    assert await connects_with(second, 0) == {"user": "u", "pass": "p@"}
