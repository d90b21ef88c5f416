"""Credentials that change, expire or are refused while a connection is held up."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.reliability.helpers import HANG_TIMEOUT, QUICK, receive_n, until
from tests.support.jwts import Operator
from tests.transports import ALL_BUT_WSS, Transport
from trio_nats import (
    Auth,
    ConnectError,
    ConnectionLostError,
    ConnectionState,
    Credentials,
    NKey,
    Server,
    UserPassword,
    open_nats,
)
from trio_nats.errors import AuthenticationExpiredError, AuthorizationError
from trio_nats.events import Closed, Disconnected, Reconnected, ReconnectFailed, ServerError
from trio_nats.testing import NatsServer


@ALL_BUT_WSS
async def test_the_auth_callback_is_asked_at_every_attempt(transport: Transport) -> None:
    asked: list[str] = []
    current = UserPassword("u", "one")

    def auth(server: Server) -> Auth:
        asked.append(server.url)
        return current

    async with transport.server(user="u", password="one") as server:
        async with (
            transport.open(server, auth=auth, reconnect=QUICK) as nc,
            nc.events() as events,
        ):
            assert asked == [transport.url(server)]
            current = UserPassword("u", "two")
            await server.restart(password="two")
            await until(events, Reconnected)
            assert len(asked) >= 2
            await nc.flush(timeout=HANG_TIMEOUT)


async def test_a_rotated_seed_file_is_read_again(tmp_path: Path) -> None:
    import nkeys

    def new_user() -> tuple[str, str]:
        seed = nkeys.encode_seed(time.time_ns().to_bytes(32, "big"), nkeys.PREFIX_BYTE_USER)
        return seed.decode(), nkeys.from_seed(seed).public_key.decode()

    (old_seed, old), (new_seed, new) = new_user(), new_user()
    file = tmp_path / "user.nk"
    file.write_text(old_seed)
    async with NatsServer(config={"authorization": {"users": [{"nkey": old}]}}) as server:
        async with (
            open_nats(server.url, auth=NKey(file=file), reconnect=QUICK) as nc,
            nc.events() as events,
        ):
            file.write_text(new_seed)
            await server.restart(config={"authorization": {"users": [{"nkey": new}]}})
            await until(events, Reconnected)
            await nc.flush(timeout=HANG_TIMEOUT)


@pytest.mark.slow
async def test_an_expiring_jwt_is_a_reconnect_with_the_fresh_one(tmp_path: Path) -> None:
    operator = Operator()
    file = tmp_path / "user.creds"
    file.write_text(operator.user("short", expires=int(time.time()) + 2).creds)
    async with NatsServer(config=operator.config) as server:
        async with (
            open_nats(server.url, auth=Credentials(file=file), reconnect=QUICK) as nc,
            nc.events() as events,
            nc.subscribe("a") as sub,
        ):
            file.write_text(operator.user("long").creds)
            said = await until(events, ServerError)
            assert isinstance(said.error, AuthenticationExpiredError)
            lost = await until(events, Disconnected)
            assert isinstance(lost.reason.__cause__, AuthenticationExpiredError)
            assert "expired" in str(lost.reason)
            await until(events, Reconnected)
            await nc.publish("a", b"still here")
            assert (await receive_n(sub, 1))[0].data == b"still here"


@ALL_BUT_WSS
async def test_credentials_refused_twice_in_the_same_words_end_the_connection(
    transport: Transport,
) -> None:
    async with transport.server(user="u", password="right") as server:
        auth = UserPassword("u", "right")
        async with transport.open(server, auth=auth, reconnect=QUICK) as nc:
            async with nc.events() as events, nc.subscribe("a") as sub:
                # Even the port of the server answers at once, and it answers the same.
                await server.restart(password="changed")
                refusals = 0
                with trio.fail_after(HANG_TIMEOUT):
                    async for event in events:
                        if isinstance(event, ReconnectFailed):
                            refusals += isinstance(event.error, AuthorizationError)
                        elif isinstance(event, Closed):
                            closed = event
                assert refusals == 2
                assert nc.state is ConnectionState.CLOSED
                assert closed.reason is nc.failure
                assert isinstance(nc.failure, ConnectError)
                assert list(nc.failure.errors(AuthorizationError))
                for use in (sub.receive, nc.flush, lambda: nc.publish("a")):
                    with pytest.raises(ConnectionLostError, match="Authorization") as caught:
                        await use()
                    assert caught.value.__cause__ is nc.failure


@pytest.mark.slow
@ALL_BUT_WSS
async def test_a_late_credential_rotation_is_retried(transport: Transport) -> None:
    policy = replace(QUICK, refused_credentials_timeout=3)
    async with transport.server(user="u", password="old") as server:
        auth = UserPassword("u", "old")
        async with (
            transport.open(server, auth=lambda _: auth, reconnect=policy) as nc,
            nc.events() as events,
        ):
            auth = UserPassword("u", "new")
            await server.restart()
            refusals = 0
            while refusals < 3:
                failed = await until(events, ReconnectFailed)
                refusals += isinstance(failed.error, AuthorizationError)
            await server.reload(password="new")
            await until(events, Reconnected)


@ALL_BUT_WSS
async def test_refused_credentials_are_tried_on_and_on_by_choice(transport: Transport) -> None:
    policy = replace(QUICK, refused_credentials_timeout=math.inf)
    async with transport.server(user="u", password="right") as server:
        auth = UserPassword("u", "right")
        async with (
            transport.open(server, auth=auth, reconnect=policy) as nc,
            nc.events() as events,
        ):
            await server.restart(password="changed")
            refusals = 0
            while refusals < 5:
                failed = await until(events, ReconnectFailed)
                refusals += isinstance(failed.error, AuthorizationError)
            assert nc.state is ConnectionState.RECONNECTING
            await server.reload(password="right")
            await until(events, Reconnected)


@ALL_BUT_WSS
async def test_one_server_that_refuses_is_given_up_and_another_is_used(
    transport: Transport,
) -> None:
    async with (
        transport.server(user="u", password="right") as good,
        transport.server(user="u", password="wrong") as bad,
        transport.server(user="u", password="right") as first,
    ):
        urls = [transport.url(first), transport.url(bad), transport.url(good)]
        auth = UserPassword("u", "right")
        async with (
            open_nats(urls, **transport.options, auth=auth, randomize=False, reconnect=QUICK) as nc,
            nc.events() as events,
        ):
            await good.kill()
            await first.kill()
            refused = 0
            while refused < 2:
                failed = await until(events, ReconnectFailed)
                if failed.server == transport.url(bad):
                    assert isinstance(failed.error, AuthorizationError)
                    refused += 1
            await good.start()
            assert await until(events, Reconnected) == Reconnected(transport.url(good))
            assert transport.port(bad) not in [server.port for server in nc.servers]
