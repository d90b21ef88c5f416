"""No variable of our frames along a traceback holds a secret, whatever it was that went wrong.

Error reporters print them. ``repr`` is what they show, so that has to be silent as well.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_nats.anyio
from tests.credentials.helpers import HANG_TIMEOUT, QUICK, sessions
from tests.support.jwts import Operator, creds_text
from tests.support.peer import ScriptedServer
from tests.support.tracebacks import variables_of
from trio_nats import (
    JWT,
    Context,
    Credentials,
    NKey,
    TLSOptions,
    Token,
    UserPassword,
    WebSocketOptions,
    load_context,
    open_nats,
)
from trio_nats.errors import ConnectError, NatsError
from trio_nats.servers import parse_servers
from trio_nats.testing import NatsCluster, NatsServer, ServerCluster, ServerSettings

SECRET = "s3cret-pw"
OPERATOR = Operator()
USER, OTHER = OPERATOR.user("alice"), OPERATOR.user("bob")
# Not the last character: its lowest bits are padding, which is not decoded.
BAD_SEED = USER.seed[:-2] + ("A" if USER.seed[-2] != "A" else "B") + USER.seed[-1]
SECRETS = [SECRET, USER.seed[:50], OTHER.seed, USER.jwt.split(".")[1]]


def assert_hidden(error: BaseException) -> None:
    shown = variables_of(error)
    for secret in SECRETS:
        for spelling in (secret, base64.b64encode(secret.encode()).decode()[:-4]):
            assert spelling not in shown


def test_these_checks_find_violations() -> None:
    code = compile(f"def fails(password={SECRET!r}): raise OSError", "/package/x.py", "exec")
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    for error in (Exception("cause"), Exception("context"), ExceptionGroup("", [Exception()])):
        try:
            namespace["fails"]()
        except OSError as raised:
            error.__cause__ = raised if "cause" in str(error) else None
            error.__context__ = raised if "context" in str(error) else None
            shown = ExceptionGroup("", [raised]) if isinstance(error, ExceptionGroup) else error
            with pytest.raises(AssertionError):
                assert_hidden(shown)


# --- made by hand --------------------------------------------------------------------------------

URLS = [
    f"nats://u:{SECRET}@a:port",
    f"nats://u:{SECRET}@[::x]",
    f"nats://u:{SECRET}@",
    f"nats://u:{SECRET}@a\0b",
    f"nats://u:{SECRET}@a/path",
    f"nats://:{SECRET}@a",
    f"nats://u:{SECRET}%ff@a",
    f"nats://u:{SECRET}\udc80@a",
    f"http://u:{SECRET}@a",
    f"ws://u:{SECRET}@a,nats://b",
    f"ws://u:{SECRET}@a/a b",
    f"nats://u:{SECRET}@a,nats://b:x",
]

MADE: dict[str, Callable[[], Any]] = {
    **{f"URL {url[:30]!a}": lambda url=url: parse_servers(url) for url in URLS},
    **{f"open {url[:30]!a}": lambda url=url: open_nats(url) for url in URLS},
    "other options": lambda: open_nats(f"nats://u:{SECRET}@a", connect_timeout=-1),
    "URL and mode": lambda: open_nats(f"tls://u:{SECRET}@a", tls=TLSOptions(mode="disable")),
    "anyio": lambda: trio_nats.anyio.open_nats(f"nats://u:{SECRET}@a:port"),
    "auth is the password": lambda: open_nats("nats://a", auth=SECRET),  # type: ignore[arg-type]
    "number": lambda: open_nats([f"nats://u:{SECRET}@a", 5]),  # type: ignore[list-item]
    "one argument too many": lambda: UserPassword("u", SECRET, 5),  # type: ignore[call-arg]
    "user": lambda: UserPassword("", SECRET),
    "password": lambda: UserPassword("u", SECRET + "\udc80"),
    "password of bytes": lambda: UserPassword("u", SECRET.encode()),  # type: ignore[arg-type]
    "token": lambda: Token(SECRET + "\udc80"),
    "seed": lambda: NKey(seed=BAD_SEED),
    "seed in lower case": lambda: NKey(seed=USER.seed.lower() + SECRET),
    "seed that is no base32": lambda: NKey(seed=USER.seed[:56] + "1!"),
    "seed for a file": lambda: NKey(file=USER.seed),
    "seed that is not named": lambda: NKey(USER.seed),  # type: ignore[misc]
    "both": lambda: NKey(seed=USER.seed, file="x"),
    "JWT for a seed": lambda: NKey(seed=USER.jwt),
    "seed for a JWT": lambda: JWT(USER.seed, seed=OTHER.seed),
    "another seed": lambda: JWT(USER.jwt, seed=OTHER.seed),
    "bad seed": lambda: JWT(USER.jwt, seed=BAD_SEED),
    "seed and sign": lambda: JWT(USER.jwt, seed=USER.seed, sign=len),  # type: ignore[arg-type]
    "sign is the seed": lambda: JWT(USER.jwt, sign=USER.seed),  # type: ignore[arg-type]
    "creds for a file": lambda: Credentials(file=USER.creds),
    "bad creds": lambda: Credentials(text=USER.creds.replace(USER.seed, BAD_SEED)),
    "another's creds": lambda: Credentials(text=creds_text(USER.jwt, OTHER.seed)),
    "creds of bytes": lambda: Credentials(text=USER.creds.encode()),  # type: ignore[arg-type]
    "TLS": lambda: TLSOptions(key_password=SECRET),
    "TLS password": lambda: TLSOptions(bundle_file="b", bundle_password=SECRET + "\udc80"),
    "headers": lambda: WebSocketOptions(headers={"Authorization": f"{SECRET}\n"}),
    "headers of text": lambda: WebSocketOptions(headers=SECRET),  # type: ignore[arg-type]
    "context": lambda: Context(password=SECRET, user=5),  # type: ignore[arg-type]
    "context's URL": lambda: Context(url=f"nats://u:{SECRET}@a:port"),
    "context's data": lambda: Context(token=f"data:x,{SECRET}").auth(),
    "context's bytes": lambda: Context(
        creds="data:;base64," + base64.b64encode(SECRET.encode() + b"\xff").decode()
    ).auth(),
    "context's seed": lambda: Context(user_jwt=USER.jwt, user_seed=OTHER.seed).auth(),
    "context's NKey": lambda: Context(
        nkey="data:;base64," + base64.b64encode(BAD_SEED.encode()).decode()
    ).auth(),
    "settings": lambda: ServerSettings(password=SECRET),
    "settings of a port": lambda: ServerSettings(
        config={"port": 1, "authorization": {"token": SECRET}}, args=["--pass", SECRET]
    ),
    "test server": lambda: NatsServer(token=SECRET, port=-1),
    "test cluster": lambda: NatsCluster(0, token=SECRET),
}


@pytest.mark.parametrize("mistake", MADE)
def test_what_is_made_by_hand(mistake: str) -> None:
    with pytest.raises((NatsError, TypeError)) as caught:
        MADE[mistake]()
    assert_hidden(caught.value)


async def test_servers_set_later() -> None:
    async with ScriptedServer(sessions()) as server, open_nats(server.url) as nc:
        with pytest.raises(NatsError) as caught:
            nc.set_servers(f"nats://u:{SECRET}@a:port")
        assert_hidden(caught.value)


def test_a_context_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    for text in (
        f'{{"password": "{SECRET}", "user": 5}}',
        f'{{"password": "{SECRET}"',
        f'{{"url": "nats://u:{SECRET}@a:port"}}',
        SECRET + "\udc80",
    ):
        file.write_text(text, "utf-8", "surrogateescape")
        with pytest.raises(NatsError) as caught:
            load_context(file)
        assert_hidden(caught.value)


# --- asked for at every attempt ------------------------------------------------------------------

ASKED: dict[str, Callable[[], Any]] = {
    "password itself": lambda: SECRET,
    "bytes": lambda: SECRET.encode(),
    "dict": lambda: {"password": SECRET},
    "unusable password": lambda: UserPassword("u", SECRET + "\udc80"),
    "no password": lambda: UserPassword("", SECRET),
    "token": lambda: Token(SECRET + "\udc80"),
    "seed": lambda: NKey(seed=BAD_SEED),
    "JWT": lambda: JWT(USER.jwt, seed=OTHER.seed),
    "creds": lambda: Credentials(text=creds_text(USER.jwt, OTHER.seed)),
    "sign": lambda: JWT(USER.jwt, sign=lambda nonce: SECRET),  # type: ignore[arg-type,return-value]
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", ASKED)
async def test_what_a_callable_gives(kind: str, asynchronous: bool) -> None:
    async def later() -> Any:
        await trio.lowlevel.checkpoint()
        return ASKED[kind]()

    async with ScriptedServer(sessions()) as server:
        with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError) as caught:
            auth: Any = (lambda s: later()) if asynchronous else (lambda s: ASKED[kind]())
            async with open_nats(server.url, auth=auth, reconnect=QUICK):
                pass
    assert_hidden(caught.value)


@pytest.mark.parametrize(
    "given", [SECRET, {"Authorization": f"{SECRET}\n"}, {"Authorization": [SECRET]}]
)
async def test_what_a_callable_gives_for_headers(given: Any) -> None:
    options = WebSocketOptions(headers=lambda server: given)
    with pytest.raises(ConnectError) as caught:
        async with open_nats("ws://127.0.0.1:1", websocket=options):
            pass
    assert_hidden(caught.value)


# --- shown ---------------------------------------------------------------------------------------


def test_the_settings_of_a_test_server_are_shown_without_secrets() -> None:
    settings = ServerSettings(
        config={"authorization": {"users": [{"user": "u", "password": SECRET}]}},
        args=["--user", "u", "--pass", SECRET],
        cluster=ServerCluster("c", routes=(f"nats://u:{SECRET}@a:1",)),
    )
    assert SECRET not in repr(settings)
    assert SECRET not in repr(ServerSettings(config=f"authorization {{ token: {SECRET} }}"))
    assert SECRET not in repr(NatsServer(token=SECRET))
