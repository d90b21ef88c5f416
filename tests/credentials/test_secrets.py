"""No password, token, seed, JWT or signature is ever told: in no text that anybody may come to see.

Events, log records and exceptions end up in files and with third parties.
"""

from __future__ import annotations

import base64
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.credentials.helpers import HANG_TIMEOUT, QUICK
from tests.support.jwts import Key, Operator, creds_text
from tests.support.peer import Peer, ScriptedServer
from tests.support.sockets import from_afar
from trio_nats import (
    JWT,
    Credentials,
    NKey,
    Server,
    TLSOptions,
    Token,
    UserPassword,
    open_nats,
)
from trio_nats.auth import prepare
from trio_nats.errors import (
    AuthorizationError,
    ConnectError,
    CredentialsError,
    NatsError,
    PlaintextAuthError,
    ProtocolError,
)
from trio_nats.events import Event, ReconnectFailed
from trio_nats.servers import parse_servers
from trio_nats.testing import NatsServer

WINDOW = 8
"""As much of a secret as may be told by chance."""

PASSWORD = "Pä55/wörd of @alice:#7?"
TOKEN = "t0ken+of/alice=%41&more"
OPERATOR = Operator()
USER, OTHER = OPERATOR.user("alice"), OPERATOR.user("bob")
BEARER = OPERATOR.user("carol", bearer=True)
KEY = Key()


def jwt_secrets(jwt: str) -> list[str]:
    """The parts of a JWT, without the header that all of them have."""
    return jwt.split(".")[1:]


def windows(secret: str) -> set[str]:
    return {secret[start : start + WINDOW] for start in range(len(secret) - WINDOW + 1)}


def assert_untold(texts: Iterable[str], secrets: Iterable[str]) -> None:
    """No part of a secret, in any spelling, is in any of ``texts``."""
    spelled: set[str] = set()
    for secret in secrets:
        for spelling in (secret, quote(secret, safe=""), quote(secret), repr(secret)[1:-1]):
            found = windows(spelling)
            assert found, "a secret too short to be looked for"
            spelled |= found
    for text in texts:
        leaks = [window for window in spelled if window in text]
        assert not leaks, f"{sorted(leaks)[:3]} in {text[:500]!r}"


def texts_of(error: BaseException) -> list[str]:
    """All that an exception says, with those behind it and in it."""
    found, waiting, seen = [], [error], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found += [str(one), repr(one), repr(one.args), *getattr(one, "__notes__", ())]
        found += traceback.format_exception_only(one)
        waiting += [one.__cause__] if one.__cause__ else []
        waiting += [one.__context__] if one.__context__ and not one.__suppress_context__ else []
        waiting += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        if isinstance(one, ConnectError):
            found += [repr(one.attempts), *map(str, one.attempts)]
            waiting += [attempt.error for attempt in one.attempts]
    return found


def texts_of_event(event: Event) -> list[str]:
    found = [repr(event), str(event)]
    for name in ("reason", "error"):
        inner = getattr(event, name, None)
        found += texts_of(inner) if isinstance(inner, BaseException) else []
    return found


def texts_of_log(records: Iterable[logging.LogRecord]) -> list[str]:
    found = []
    for record in records:
        found += [record.getMessage(), repr(record.args)]
        if record.exc_info and record.exc_info[1] is not None:
            found += texts_of(record.exc_info[1])
    return found


def test_these_checks_find_violations() -> None:
    inner = NatsError(f"x{PASSWORD}x")
    outer = NatsError("fine")
    outer.__cause__ = ExceptionGroup("many", [inner])
    record = logging.LogRecord("n", logging.DEBUG, "p", 1, "%s", (inner,), None)
    url = f"nats://{quote(PASSWORD, safe='')}@host"
    for texts in (
        texts_of(outer),
        texts_of_event(ReconnectFailed("url", 1, outer)),
        texts_of_log([record]),
        [PASSWORD[3:11]],
        [url],
    ):
        with pytest.raises(AssertionError, match=" in "):
            assert_untold(texts, [PASSWORD])


# -- connections ---------------------------------------------------------------------------------


@dataclass
class Case:
    """Credentials, the server that likes them, and what must not be told of them."""

    config: str | Mapping[str, Any]
    secrets: list[str]
    auth: Any = None
    userinfo: str = ""
    replayable: bool = False
    told: list[str] = field(default_factory=list)


BY_PASSWORD = {"authorization": {"users": [{"user": "alice", "password": PASSWORD}]}}
BY_TOKEN = {"authorization": {"token": TOKEN}}
BY_NKEY = {"authorization": {"users": [{"nkey": KEY.public}]}}
BY_JWT = OPERATOR.config
REFUSING = {
    "authorization": {
        "users": [{"user": "nobody", "password": "x"}, {"nkey": Key().public}],
    }
}
USER_SECRETS = [USER.seed, *jwt_secrets(USER.jwt)]


def signing() -> Case:
    secrets = jwt_secrets(USER.jwt)

    def sign(nonce: bytes) -> bytes:
        signature = USER.key.sign(nonce)
        secrets.append(base64.urlsafe_b64encode(signature).decode())
        return signature

    return Case(BY_JWT, secrets, JWT(USER.jwt, sign=sign))


CASES: dict[str, Callable[[], Case]] = {
    "password": lambda: Case(
        BY_PASSWORD, [PASSWORD], UserPassword("alice", PASSWORD), replayable=True
    ),
    "password in the URL": lambda: Case(
        BY_PASSWORD, [PASSWORD], userinfo=f"alice:{quote(PASSWORD, safe='')}@", replayable=True
    ),
    "token": lambda: Case(BY_TOKEN, [TOKEN], Token(TOKEN), replayable=True),
    "token in the URL": lambda: Case(
        BY_TOKEN, [TOKEN], userinfo=f"{quote(TOKEN, safe='')}@", replayable=True
    ),
    "NKey": lambda: Case(BY_NKEY, [KEY.seed], NKey(seed=KEY.seed)),
    "JWT and seed": lambda: Case(BY_JWT, USER_SECRETS, JWT(USER.jwt, seed=USER.seed)),
    "JWT signed elsewhere": signing,
    "creds": lambda: Case(BY_JWT, USER_SECRETS, Credentials(text=USER.creds)),
    "bearer": lambda: Case(BY_JWT, jwt_secrets(BEARER.jwt), JWT(BEARER.jwt), replayable=True),
    "callback": lambda: Case(
        BY_PASSWORD, [PASSWORD], lambda s: UserPassword("alice", PASSWORD), replayable=True
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
async def test_connections_keep_their_secrets(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    # So that there is a warning of plaintext to look into, too.
    from_afar()
    caplog.set_level(logging.DEBUG)
    case = CASES[kind]()
    told = [repr(case.auth), str(case.auth)]
    async with NatsServer(config=case.config) as server:
        url = f"nats://{case.userinfo}127.0.0.1:{server.port}"
        told += [repr(parse_servers(url)), str(parse_servers(url)[0])]
        opening = open_nats(url, auth=case.auth, reconnect=QUICK)
        told.append(repr(opening))
        async with opening as nc:
            async with nc.events() as events:
                await nc.flush()
                told += [repr(nc), str(nc), repr(nc.servers), str(nc.connected_url)]
                told += [repr(nc.server_info), repr(nc.stats)]
                await server.restart(config=REFUSING)
                refusals = 0
                with trio.fail_after(HANG_TIMEOUT):
                    async for event in events:
                        told += texts_of_event(event)
                        if isinstance(event, ReconnectFailed):
                            refusals += isinstance(event.error, AuthorizationError)
                assert refusals == 2
                assert nc.failure is not None
                told += [*texts_of(nc.failure), repr(nc)]
            with pytest.raises(NatsError) as lost:
                await nc.publish("a")
            told += texts_of(lost.value)
        with pytest.raises(ConnectError) as caught:
            async with open_nats(url, auth=case.auth):
                pass
        assert list(caught.value.errors(AuthorizationError))
        told += texts_of(caught.value)
        with pytest.raises(ConnectError) as caught:
            async with open_nats(url, auth=case.auth, plaintext_auth="refuse"):
                pass
        assert any(caught.value.errors(PlaintextAuthError)) is case.replayable
        told += texts_of(caught.value)
    logged = texts_of_log(caplog.records)
    assert any("Authorization Violation" in text for text in logged)
    assert any("plaintext" in text for text in logged) is case.replayable
    assert_untold(told + logged, case.secrets)


async def _echo(peer: Peer) -> None:
    await peer.send_info(nonce="nonce")
    while data := await peer.receive():
        await peer.send(data)


async def _echo_as_error(peer: Peer) -> None:
    await peer.send_info(nonce="nonce")
    await peer.expect_line(b"CONNECT ")
    await peer.send(b"BOO " + peer.lines[0][7:] + b"\r\n")
    await peer.stall()


@pytest.mark.parametrize("script", [_echo, _echo_as_error])
@pytest.mark.parametrize("kind", ["password", "token", "creds", "bearer", "NKey"])
async def test_a_peer_that_echoes_what_it_hears(
    kind: str, script: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    case = CASES[kind]()
    async with ScriptedServer(script) as server:
        with pytest.raises(ConnectError) as caught:
            async with open_nats(server.url, auth=case.auth):
                pass
        assert list(caught.value.errors(ProtocolError))
    assert_untold(texts_of(caught.value) + texts_of_log(caplog.records), case.secrets)


async def test_errors_of_failing_callables_show_no_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    def sign(nonce: bytes) -> Any:
        return USER.seed

    def auth(server: Server) -> Any:
        return USER.seed

    told = []
    async with NatsServer(config=BY_JWT) as server:
        for wrong in (JWT(USER.jwt, sign=sign), auth, lambda s: JWT(USER.seed)):
            with pytest.raises(ConnectError) as caught:
                async with open_nats(server.url, auth=wrong):
                    pass
            assert list(caught.value.errors(CredentialsError))
            told += texts_of(caught.value)
    assert_untold(told + texts_of_log(caplog.records), USER_SECRETS)


def test_options_keep_their_secrets() -> None:
    options = TLSOptions(
        cert_file="c", key_file="k", key_password=PASSWORD, ca_data=b"-----BEGIN x"
    )
    assert_untold([repr(options), str(options)], [PASSWORD])
    options = TLSOptions(bundle_file="b", bundle_password=PASSWORD)
    assert_untold([repr(options), str(options)], [PASSWORD])
    servers = NatsServer(user="u", password=PASSWORD), NatsServer(token=PASSWORD)
    for server in servers:
        assert_untold([repr(server), str(server), repr(server.settings)], [PASSWORD])


# -- anything at all -----------------------------------------------------------------------------


def outcome(make: Callable[[], Any]) -> list[str]:
    """What is said about something that may or may not be credentials."""
    try:
        made = make()
    except CredentialsError as error:
        return texts_of(error)
    return [repr(made), str(made)]


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """``text`` with something done to it, so that it is refused for all kinds of reasons."""
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 20)))
    between = draw(st.sampled_from(["", " ", "\n", "=", "-", ".", "Ä", "\udc80", "\0", "A"]))
    changed = text[:start] + between + text[end:]
    ways = [changed, changed.lower(), changed.swapcase(), changed[::-1], changed * 2]
    return draw(st.sampled_from(ways))


SECRETS = [*USER_SECRETS, OTHER.seed, Key("account").seed]


@pytest.mark.slow
@given(seed=st.sampled_from([USER.seed, SECRETS[-1]]).flatmap(damaged))
def test_errors_do_not_show_damaged_seeds(seed: str) -> None:
    texts = [
        *outcome(lambda: NKey(seed=seed)),
        *outcome(lambda: JWT(USER.jwt, seed=seed)),
        *outcome(lambda: JWT(seed)),
        *outcome(lambda: Credentials(text=seed)),
        *outcome(lambda: Credentials(text=creds_text(USER.jwt, seed))),
    ]
    assert_untold(texts, [*SECRETS, *([seed] if len(seed) >= WINDOW and seed.isascii() else [])])


@pytest.mark.slow
@given(jwt=damaged(USER.jwt), seed=st.sampled_from([None, USER.seed, OTHER.seed]))
def test_errors_do_not_show_damaged_jwts(jwt: str, seed: str | None) -> None:
    texts = [
        *outcome(lambda: JWT(jwt, seed=seed)),
        *outcome(lambda: NKey(seed=jwt)),
        *outcome(lambda: Credentials(text=creds_text(jwt, seed or ""))),
    ]
    assert_untold(texts, SECRETS)


@pytest.mark.slow
@given(text=damaged(USER.creds))
def test_errors_do_not_show_damaged_creds(text: str) -> None:
    assert_untold(outcome(lambda: Credentials(text=text)), SECRETS)


@pytest.mark.slow
@given(data=damaged(USER.creds).map(lambda t: t.encode(errors="surrogateescape")))
def test_errors_do_not_show_damaged_files(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.creds"
    file.write_bytes(data)
    texts = []
    for auth in (Credentials(file=file), NKey(file=file)):
        try:
            answer = trio.run(prepare, auth)
        except CredentialsError as error:
            texts += texts_of(error)
        else:
            texts += [repr(answer), str(answer), answer.refusal_hint()]
    assert_untold([text.replace(str(Path(file)), "") for text in texts], SECRETS)
