"""Credentials in the wrong place or of the wrong kind, and where what they hold might turn up."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import nkeys
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.credentials.helpers import HANG_TIMEOUT, NONCE, QUICK, connects_with, refusals, sessions
from tests.support.files import hanging_file
from tests.support.jwts import Operator, creds_text
from tests.support.peer import Peer, Script, ScriptedServer
from tests.support.sockets import from_afar
from tests.support.tracebacks import variables_of
from tests.transports import ALL_TRANSPORTS, Transport
from trio_nats import (
    JWT,
    Auth,
    AuthLike,
    Credentials,
    NKey,
    Token,
    UserPassword,
    open_nats,
)
from trio_nats.auth import prepare
from trio_nats.errors import (
    AuthorizationError,
    ConnectError,
    ConnectTimeoutError,
    CredentialsError,
    NatsError,
    PlaintextAuthError,
)
from trio_nats.events import ReconnectFailed
from trio_nats.testing import NatsServer

OPERATOR = Operator()
USER = OPERATOR.user("alice")
BEARER = OPERATOR.user("carol", bearer=True)


def all_that_hangs_on(error: BaseException) -> list[str]:
    """Every text to be found in an exception and in those behind it, shown by default or not.

    What ``raise ... from None`` only hides is still there for code that looks at the object.
    """
    found: list[str] = []
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        found += [str(one), repr(one), repr(one.args), repr(vars(one))]
        found += [repr(getattr(one, name, None)) for name in ("object", "filename", "doc")]
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    return found


def assert_nowhere(secret: str, texts: list[str]) -> None:
    for text in texts:
        assert secret not in text
        assert repr(secret)[1:-1] not in text


def test_these_checks_find_suppressed_exceptions() -> None:
    try:
        try:
            b"hidden away\xff".decode()
        except UnicodeDecodeError:
            raise CredentialsError("nothing to see") from None
    except CredentialsError as error:
        with pytest.raises(AssertionError):
            assert_nowhere("hidden away", all_that_hangs_on(error))


# -- what can be replayed ------------------------------------------------------------------------

REPLAYABLE: dict[str, tuple[Auth, bool]] = {
    "password": (UserPassword("u", "p"), True),
    "empty password": (UserPassword("u", ""), True),
    "token": (Token("t"), True),
    "NKey": (NKey(seed=USER.seed), False),
    "JWT and seed": (JWT(USER.jwt, seed=USER.seed), False),
    "JWT signed elsewhere": (JWT(USER.jwt, sign=USER.key.sign), False),
    "creds": (Credentials(text=USER.creds), False),
    "bearer JWT": (JWT(BEARER.jwt), True),
    # The server asks nobody for the signature of a bearer JWT, so sending one protects nothing.
    "bearer JWT and seed": (JWT(BEARER.jwt, seed=BEARER.seed), True),
    "bearer JWT signed elsewhere": (JWT(BEARER.jwt, sign=BEARER.key.sign), True),
    "bearer creds": (Credentials(text=BEARER.creds), True),
}


@pytest.mark.parametrize("kind", REPLAYABLE)
async def test_replayable_credentials_are_not_sent_in_plaintext(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    from_afar()
    auth, replayable = REPLAYABLE[kind]
    async with ScriptedServer(sessions()) as server:
        if replayable:
            with pytest.raises(ConnectError, match="nothing was sent") as caught:
                async with open_nats(server.url, auth=auth, plaintext_auth="refuse"):
                    pass
            assert list(caught.value.errors(PlaintextAuthError))
            assert (await server.peer()).raw_bytes == b""
        else:
            async with open_nats(server.url, auth=auth, plaintext_auth="refuse"):
                pass
        assert "plaintext" not in caplog.text
        async with open_nats(server.url, auth=auth):
            pass
        assert ("plaintext" in caplog.text) is replayable


async def test_a_bearer_jwt_works_without_a_signature() -> None:
    async with NatsServer(config=OPERATOR.config) as server:
        async with open_nats(server.url, auth=JWT(BEARER.jwt, sign=lambda nonce: bytes(64))) as nc:
            await nc.flush()
        with pytest.raises(ConnectError) as caught:
            async with open_nats(server.url, auth=JWT(USER.jwt, sign=lambda nonce: bytes(64))):
                pass
        assert list(caught.value.errors(AuthorizationError))


# -- secrets where a path belongs ----------------------------------------------------------------

NO_PATHS = {
    "seed": USER.seed,
    "seed and line end": f"{USER.seed}\n",
    "JWT": USER.jwt,
    "indented JWT": f"  {USER.jwt}",
    "creds": USER.creds,
    "creds, CRLF": USER.creds.replace("\n", "\r\n"),
    "creds, CR": USER.creds.replace("\n", "\r"),
    "creds, in one line": USER.creds.replace("\n", " "),
    "JWT and seed": f"{USER.jwt}\n{USER.seed}",
    "comment and seed": f"# alice\n{USER.seed}\n",
}


@pytest.mark.parametrize("as_path", [str, Path])
@pytest.mark.parametrize(("make", "instead"), [(NKey, "seed="), (Credentials, "text=")])
@pytest.mark.parametrize("kind", NO_PATHS)
def test_a_secret_passed_as_a_path_is_not_shown(
    make: Any, instead: str, kind: str, as_path: Any
) -> None:
    with pytest.raises(CredentialsError, match=instead) as caught:
        make(file=as_path(NO_PATHS[kind]))
    texts = all_that_hangs_on(caught.value)
    assert_nowhere(USER.seed[4:], texts)
    assert_nowhere(USER.jwt[-40:], texts)


@pytest.mark.parametrize("make", [NKey, Credentials])
@pytest.mark.parametrize(
    "name",
    [
        "S" * 58 + ".nk",
        "SUMMARY",
        "Su" + "a" * 56,
        "eyJ.eyJ",
        "eyJhbGciOi.creds",
        "----- BEGIN",
        "a -- b",
        "S" * 58 + "/user",
        " x ",
    ],
)
async def test_a_path_with_unusual_characters(make: Any, name: str, tmp_path: Path) -> None:
    for file in (name, Path(name)):
        auth = make(file=file)
        assert repr(file) in repr(auth)
        with pytest.raises(CredentialsError, match="cannot read") as caught:
            await prepare(auth)
        assert repr(name) in str(caught.value)
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(USER.creds)
    assert (await prepare(make(file=file))).sign is not None


# -- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (NKey, {}),
        (NKey, {"seed": USER.seed, "file": "alice.nk"}),
        (Credentials, {}),
        (Credentials, {"text": USER.creds, "file": "alice.creds"}),
    ],
    ids=["NKey of nothing", "NKey of both", "Credentials of nothing", "Credentials of both"],
)
def test_exactly_one_source_must_be_given(make: Any, given: dict[str, str]) -> None:
    with pytest.raises(CredentialsError, match="exactly one"):
        make(**given)


@pytest.mark.parametrize("make", [NKey, Credentials])
def test_text_as_credentials_needs_a_type(make: Any) -> None:
    with pytest.raises(TypeError):
        make("alice.creds")
    with pytest.raises(TypeError):
        JWT(USER.jwt, USER.seed)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("auth", "name"),
    [
        (UserPassword("u", "p"), "password"),
        (Token("t"), "token"),
        (NKey(file="x"), "file"),
        (JWT(USER.jwt), "jwt"),
        (Credentials(file="x"), "file"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Auth) else value,
)
def test_a_checked_value_cannot_change(auth: Auth, name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(auth, name, "other")


async def test_spaces_before_a_marker() -> None:
    text = USER.creds.replace("JWT-----\n", "JWT  -----\n").replace("SEED-----\n", "SEED -----\n")
    assert text != USER.creds
    answer = await prepare(Credentials(text=text))
    assert answer.jwt == USER.jwt
    assert answer.sign is not None


# -- what files hold -----------------------------------------------------------------------------

UNREADABLE: dict[str, tuple[bytes, str]] = {
    "too large": (USER.creds.encode() + b"\n" * (1024 * 1024), "larger than"),
    "not UTF-8": (USER.creds.encode() + b"\xff", "must be a text file"),
    "not UTF-8 at once": (b"\xe4" + USER.creds.encode(), "must be a text file"),
    "UTF-16": (USER.creds.encode("utf-16"), "must be a text file"),
    "cut in the middle": (USER.creds.replace(USER.seed, USER.seed[:57]).encode(), "57 characters"),
    "X instead of U": (
        USER.creds.replace(USER.seed, "SX" + USER.seed[2:]).encode(),
        "checksum",
    ),
}


@pytest.mark.parametrize("make", [NKey, Credentials])
@pytest.mark.parametrize("kind", UNREADABLE)
async def test_what_files_hold_hangs_on_no_error(make: Any, kind: str, tmp_path: Path) -> None:
    data, hint = UNREADABLE[kind]
    file = tmp_path / "alice.creds"
    file.write_bytes(data)
    with pytest.raises(CredentialsError, match=hint) as caught:
        await prepare(make(file=file))
    assert str(caught.value).count(str(file)) <= 1
    texts = all_that_hangs_on(caught.value)
    assert_nowhere(USER.seed[4:50], texts)
    assert_nowhere(USER.jwt[:40], texts)


async def test_the_largest_file_is_one_that_is_still_read(tmp_path: Path) -> None:
    file = tmp_path / "alice.creds"
    padding = 1024 * 1024 - len(USER.creds)
    for more, fits in [(0, True), (1, False)]:
        text = USER.creds + "\n" * (padding + more)
        file.write_text(text)
        for make in (
            lambda: Credentials(file=file),
            lambda: NKey(file=file),
            lambda: Credentials(text=text),  # noqa: B023
        ):
            if fits:
                assert (await prepare(make())).sign is not None
            else:
                with pytest.raises(CredentialsError, match="larger than"):
                    await prepare(make())


async def test_a_file_damaged_while_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "alice.creds"
    file.write_text(USER.creds)
    damaged = [data for data, _ in UNREADABLE.values()]

    async def damages_the_file(peer: Peer) -> None:
        await peer.send_info(nonce=NONCE)
        await peer.accept_connect()
        file.write_bytes(damaged.pop())
        await peer.hang_up()

    told: list[str] = []
    async with ScriptedServer(damages_the_file, sessions()) as server:
        async with (
            open_nats(server.url, auth=Credentials(file=file), reconnect=QUICK) as nc,
            nc.events() as events,
        ):
            with trio.fail_after(HANG_TIMEOUT):
                while damaged:
                    event = await events.receive()
                    told.append(repr(event))
                    if isinstance(event, ReconnectFailed):
                        told += all_that_hangs_on(event.error)
                        file.write_bytes(damaged.pop())
                assert len(server.peers) == 1
                file.write_text(BEARER.creds)
                assert (await connects_with(server, 1))["jwt"] == BEARER.jwt
    told += [caplog.text, *(repr(record.args) for record in caplog.records)]
    assert_nowhere(USER.seed[4:50], told)
    assert_nowhere(USER.jwt[:40], told)


@pytest.mark.parametrize("by_callback", [False, True])
@pytest.mark.parametrize("make", [NKey, Credentials])
async def test_a_hanging_file_is_limited_by_connect_timeout(
    make: Any, by_callback: bool, tmp_path: Path
) -> None:
    async with hanging_file(tmp_path / "user.creds") as file, ScriptedServer(sessions()) as server:
        auth = make(file=file)
        with (
            trio.fail_after(HANG_TIMEOUT),
            pytest.raises(NatsError, match="connect_timeout") as caught,
        ):
            async with open_nats(
                server.url, auth=(lambda s: auth) if by_callback else auth, connect_timeout=0.05
            ):
                pass
        assert server.peers == []
        if isinstance(caught.value, ConnectError):
            (attempt,) = caught.value.attempts
            assert attempt.phase == "auth"
            assert isinstance(attempt.error, ConnectTimeoutError)


# -- kinds of keys -------------------------------------------------------------------------------

PREFIXES = {
    "an account": 0,
    "a cluster": 2 << 3,
    "a server": 13 << 3,
    "an operator": 14 << 3,
    "a curve": 23 << 3,
    "an unknown kind of": 1 << 3,
}


def seed_of(prefix: int) -> str:
    raw = bytes([0x90 | prefix >> 5, (prefix & 0x1F) << 3]) + bytes(range(32))
    checksum = nkeys.crc16(raw).to_bytes(2, "little")
    return base64.b32encode(raw + checksum).decode().rstrip("=")


@pytest.mark.parametrize("kind", PREFIXES)
def test_seeds_of_other_kinds_are_called_by_their_names(kind: str) -> None:
    seed = seed_of(PREFIXES[kind])
    for make in (
        lambda: NKey(seed=seed),
        lambda: JWT(USER.jwt, seed=seed),
        lambda: Credentials(text=creds_text(USER.jwt, seed)),
    ):
        with pytest.raises(CredentialsError) as caught:
            make()
        text = str(caught.value)
        assert text.endswith(f"but this is {kind} seed ({seed[:2]}...)")
        assert seed[2:8] not in text


# -- variables -----------------------------------------------------------------------------------


async def hangs_up(peer: Peer) -> None:
    await peer.send_info(nonce=NONCE)
    await peer.expect_line(b"CONNECT ")
    peer.abort()


def cannot_sign(nonce: bytes) -> bytes:
    raise OSError("the vault is locked")


@pytest.mark.parametrize("script", [refusals(), hangs_up, sessions()])
@pytest.mark.parametrize("kind", ["password", "token", "URL", "sign", "file", "files"])
async def test_no_variable_along_a_traceback_holds_a_secret(
    kind: str, script: Script, tmp_path: Path
) -> None:
    file = tmp_path / "user.creds"
    file.write_text(creds_text(USER.jwt, OPERATOR.user("bob").seed))
    auth: AuthLike | None = {
        "password": UserPassword("alice", "s3cret-pw"),
        "token": Token("s3cret-pw"),
        "URL": None,
        "sign": JWT(USER.jwt, sign=cannot_sign),
        "file": Credentials(file=file),
        "files": lambda server: Credentials(file=file),
    }[kind]
    shown = ""
    async with ScriptedServer(script) as server:
        url = server.url.replace("//", "//u:s3cret-pw@") if kind == "URL" else server.url
        try:
            async with open_nats(url, auth=auth):
                pass
        except NatsError as error:
            shown = variables_of(error)
    for secret in ("s3cret-pw", USER.jwt, "USER NKEY SEED"):
        assert secret not in shown


@ALL_TRANSPORTS
async def test_no_variable_holds_what_could_not_be_written(transport: Transport) -> None:
    gone = trio.Event()

    async def script(peer: Peer) -> None:
        await transport.welcome(peer, nonce=NONCE)
        peer.abort()
        gone.set()

    async def sign(nonce: bytes) -> bytes:
        await gone.wait()
        await trio.testing.wait_all_tasks_blocked()
        return bytes(64)

    async with ScriptedServer(script) as server:
        url, auth = transport.through(server.port), JWT(USER.jwt, sign=sign)
        with pytest.raises(ConnectError) as caught:
            async with open_nats(url, auth=auth, **transport.options):
                pass
    assert USER.jwt not in variables_of(caught.value)


# -- anything at all -----------------------------------------------------------------------------

# Begins with what is in no text of ours, so that a hit is never by chance.
passwords = st.builds("§¤{}{}".format, st.text(min_size=3), st.sampled_from(["", "\udc80"]))
seeds = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=56, max_size=56)

PLACES: dict[str, Callable[[str], Any]] = {
    "password": lambda secret: UserPassword("alice", secret),
    "token": Token,
    "seed": lambda secret: NKey(seed=secret),
    "JWT": JWT,
    "JWT's seed": lambda secret: JWT(USER.jwt, seed=secret),
    "creds": lambda secret: Credentials(text=secret),
    "JWT in creds": lambda secret: Credentials(text=creds_text(secret, USER.seed)),
    "seed in creds": lambda secret: Credentials(text=creds_text(USER.jwt, secret)),
}


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@given(secret=passwords | seeds.map(lambda text: "SU" + text))
def test_no_secret_is_shown_wherever_it_is_passed(place: str, secret: str) -> None:
    try:
        auth = PLACES[place](secret)
    except CredentialsError as error:
        assert_nowhere(secret, all_that_hangs_on(error))
    else:
        answer = trio.run(prepare, auth)
        texts = [repr(auth), str(auth), repr(answer), str(answer), answer.refusal_hint()]
        assert_nowhere(secret, texts)
