"""Lines longer than the server's max_control_line: refused at the call, never a lost connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.connection.helpers import QUICK
from tests.support.raw import raw_connection
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import (
    AuthorizationError,
    ConfigurationError,
    ConnectError,
    Connection,
    CredentialsError,
    InvalidSubjectError,
    NatsError,
    ServerReportedError,
    Token,
    UserPassword,
    open_nats,
)
from trio_nats.events import Reconnected
from trio_nats.services import ServiceRequest
from trio_nats.testing import NatsServer

LIMIT = 4096


@asynccontextmanager
async def steady(server: NatsServer, **options: Any) -> AsyncIterator[Connection]:
    """A connection that is never lost."""
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(server.url, **options) as nc:
            yield nc
            await nc.flush()
            assert nc.stats.reconnects == 0


Send = Callable[[Connection, str, str | None], Any]

SEND: dict[str, Send] = {
    "publish": lambda nc, subject, reply: nc.publish(subject, b"1234567890", reply=reply),
    "headers": lambda nc, subject, reply: nc.publish(
        subject, b"1234567890", reply=reply, headers={"k": "v" * 5000}
    ),
    "text": lambda nc, subject, reply: nc.publish(subject, "1234567890", reply=reply),
}
SIZES = {"publish": len(" 10"), "headers": len(" 5017 5027"), "text": len(" 10")}


@pytest.mark.parametrize("limit", [LIMIT, 8000])
@pytest.mark.parametrize("kind", SEND)
async def test_the_longest_line_is_taken_and_one_byte_more_refused(
    nats_server_factory: Callable[..., Any], *, kind: str, limit: int
) -> None:
    server = await nats_server_factory(config=f"max_control_line: {limit}")
    send = SEND[kind]
    async with steady(server, max_control_line=limit) as nc, nc.subscribe(">") as sub:
        longest = "a" * (limit - SIZES[kind])
        await send(nc, longest, None)
        assert (await sub.receive()).subject == longest
        with pytest.raises(InvalidSubjectError, match=r"^the subject is too long: with its .*,"):
            await send(nc, longest + "a", None)
        longest = longest[2:]
        await send(nc, "s", longest)
        assert (await sub.receive()).reply == longest
        with pytest.raises(InvalidSubjectError, match=r"^the reply subject is too long: "):
            await send(nc, "s", longest + "a")
        await nc.flush()
        assert sub.pending == (0, 0)


async def test_each_call_names_what_is_too_long(nats_server: NatsServer) -> None:
    long = "x" * LIMIT
    too_long = {
        "subject": [
            lambda nc: nc.publish_nowait(long),
            lambda nc: nc.request(long),
            lambda nc: nc.request_many(long),
            lambda nc: nc.subscribe(long),
            lambda nc: nc.jetstream().publish(long),
        ],
        "reply subject": [lambda nc: nc.publish_nowait("a", reply=long)],
        "queue group": [lambda nc: nc.subscribe("a", queue=long)],
    }
    async with steady(nats_server) as nc:
        for name, calls in too_long.items():
            for call in calls:
                with pytest.raises(InvalidSubjectError, match=f"^the {name} is too long: "):
                    result = call(nc)
                    await result
        # A subscription counts as if its number had ten digits.
        async with nc.subscribe("x" * (LIMIT - 11)) as sub:
            await nc.publish(sub.subject)
            await sub.receive()
        assert nc.stats.out_messages == 1


async def test_requests_of_a_hostile_peer_do_not_affect_others(
    nats_server: NatsServer,
) -> None:
    """Each names a reply subject that the answer would be too long with."""

    answer = b"!" * 1000

    async def echo(request: ServiceRequest) -> None:
        answered.append(await request.respond(answer))

    async def serve() -> None:
        answered.extend([await msg.respond(answer) async for msg in sub])

    answered: list[bool] = []
    async with (
        steady(nats_server) as nc,
        steady(nats_server) as client,
        raw_connection(nats_server) as hostile,
        nc.add_service(name="svc", version="1.0.0") as service,
        nc.subscribe("p") as sub,
        trio.open_nursery() as nursery,
    ):
        await service.add_endpoint("s", echo)
        nursery.start_soon(serve)
        await nc.flush()
        for number in range(30):
            for subject in ("s", "p"):
                if not number % 5:
                    # The size of the answer has three digits more than that of the request.
                    reply = b"r" * (LIMIT - len("s  0"))
                    frame = b"PUB %b %b 0\r\n\r\n" % (subject.encode(), reply)
                    assert await hostile.until_pong(frame) == b""
                assert (await client.request(subject, b"?", timeout=10)).data == answer
        await sub.drain()
    assert answered.count(True) == 60
    assert answered.count(False) == 12


# --- CONNECT --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"name": "n" * LIMIT}, ConfigurationError, "the name is too long"),
        (
            {"inbox_prefix": "i" * LIMIT},
            InvalidSubjectError,
            "inbox_prefix must not be longer than 3,840 bytes if max_control_line is 4,096;",
        ),
        (
            {"servers": f"nats://u:{'p' * LIMIT}@localhost"},
            ConfigurationError,
            "the password is too long",
        ),
        (
            {"servers": f"nats://{'p' * LIMIT}@localhost"},
            ConfigurationError,
            "the token is too long",
        ),
    ],
)
def test_what_is_too_long_for_the_opening(
    options: dict[str, str], error: type[NatsError], text: str
) -> None:
    with pytest.raises(error, match=f"^{text}") as caught:
        open_nats(**options)
    assert "pppp" not in str(caught.value)


async def test_credentials_that_are_too_long() -> None:
    for auth, part in {
        UserPassword("u", "p" * LIMIT): "password",
        UserPassword("u" * LIMIT, "p"): "user name",
        Token("p" * LIMIT): "token",
    }.items():
        with pytest.raises(CredentialsError, match=f"^the {part} is too long") as caught:
            async with open_nats("nats://127.0.0.1:1", auth=auth):
                pass
        assert "pppp" not in str(caught.value)


async def test_the_longest_connect_is_taken(nats_server: NatsServer) -> None:
    # What else is in CONNECT depends on the version, so the boundary is looked for.
    name = "n" * LIMIT
    while True:
        try:
            opened = open_nats(nats_server.url, name=name)
        except ConfigurationError:
            name = name[:-1]
        else:
            break
    with trio.fail_after(HANG_TIMEOUT):
        async with opened as nc:
            await nc.flush()
    assert len(name) > LIMIT - 300


async def test_credentials_from_a_callable_that_are_too_long(nats_server: NatsServer) -> None:
    with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError) as caught:
        async with open_nats(nats_server.url, auth=lambda _: Token("t" * LIMIT)):
            pass
    [attempt] = caught.value.attempts
    assert isinstance(attempt.error, CredentialsError)
    assert "the token is too long" in str(attempt.error)


# --- a server that takes less than we were told ---------------------------------------------------


async def test_a_subject_that_is_too_long_for_the_server_is_an_error(
    nats_server_factory: Callable[..., Any],
) -> None:
    server = await nats_server_factory(config="max_control_line: 1024")
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            open_nats(server.url, reconnect=QUICK) as nc,
            nc.subscribe("innocent") as innocent,
            nc.subscribe("i" * 1000) as too,
            nc.subscribe("x" * 2000) as longest,
            nc.subscribe("y" * 1500, queue="q") as long,
        ):
            for refused in (longest, long):
                with pytest.raises(ServerReportedError, match="maximum control line exceeded"):
                    await refused.receive()
            await nc.flush()
            await nc.publish("innocent", b"1")
            await nc.publish(too.subject, b"2")
            assert [(await sub.receive()).data for sub in (innocent, too)] == [b"1", b"2"]
            assert nc.stats.reconnects <= 4


async def test_a_message_that_is_too_long_for_the_server_ends_no_subscription(
    nats_server_factory: Callable[..., Any],
) -> None:
    server = await nats_server_factory(config="max_control_line: 1024")
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(server.url, reconnect=QUICK) as nc, nc.subscribe("i" * 1000) as sub:
            async with nc.events() as events:
                for number in range(1, 4):
                    await nc.publish("x" * 2000)
                    while not isinstance(await events.receive(), Reconnected):
                        pass
                    await nc.publish(sub.subject, b"%d" % number)
                    assert (await sub.receive()).data == b"%d" % number


async def test_credentials_that_are_too_long_for_the_server(
    nats_server_factory: Callable[..., Any],
) -> None:
    server = await nats_server_factory(config="max_control_line: 1024")
    with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError) as caught:
        async with open_nats(server.url, auth=Token("t" * 2000)):
            pass
    [attempt] = caught.value.attempts
    assert isinstance(attempt.error, AuthorizationError)
    assert "longer than its max_control_line" in str(attempt.error)
