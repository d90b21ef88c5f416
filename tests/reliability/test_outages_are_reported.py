"""Lost connections and their consequences are reported in logs, errors and states."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import NoReturn

import pytest
import trio

from trio_nats import (
    ConnectAttempt,
    ConnectError,
    Connection,
    ConnectionLostError,
    ReconnectPolicy,
    Server,
    ServerInfo,
    open_nats,
)
from trio_nats._core.reconnect import Reconnector
from trio_nats._core.server_pool import ServerPool
from trio_nats._event_hub import EventHub
from trio_nats._transport.connector import AttemptFailed
from trio_nats.events import Reconnected, ReconnectFailed
from trio_nats.jetstream import StreamConfig, UnacknowledgedError
from trio_nats.servers import parse_servers
from trio_nats.testing import NatsServer

NEVER = ReconnectPolicy(delay=lambda _: 1000.0)
SINCE = r"; there has been no connection to a server for [\d.]+ s"


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [
        (record.levelno, record.getMessage())
        for record in caplog.records
        if record.name.startswith("trio_nats")
    ]


async def test_lost_and_back(nats_server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_nats")
    policy = ReconnectPolicy(delay=lambda _: 0.01)
    async with open_nats(nats_server.url, reconnect=policy) as nc, nc.events() as events:
        assert nc.disconnected_for is None
        caplog.clear()
        await nats_server.kill()
        async for event in events:
            if isinstance(event, ReconnectFailed):
                break
        since = nc.disconnected_for
        assert since is not None
        assert since >= 0
        await nats_server.start()
        async for event in events:
            if isinstance(event, Reconnected):
                break
        assert nc.disconnected_for is None
    warnings = [text for level, text in records(caplog) if level >= logging.WARNING]
    assert len(warnings) == 1
    assert re.fullmatch(
        r"lost the connection to nats://\S+: .*; reconnecting", warnings[0], re.DOTALL
    )
    [back] = [text for _, text in records(caplog) if "reconnected to" in text]
    assert re.fullmatch(r"reconnected to nats://\S+ \(no TLS\) after [\d.e-]+ s", back)
    assert caplog.records[-1].levelno == logging.INFO


async def test_attempts_are_logged_less_often_over_time(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_nats.reconnect")
    pool = ServerPool(parse_servers("nats://a"), randomize=False)
    policy = ReconnectPolicy(delay=lambda _: 5.0, max_attempts=36)

    async def fail(server: Server) -> NoReturn:
        raise AttemptFailed(ConnectAttempt(server.url, "dial", OSError("refused")))

    with pytest.raises(ConnectError):
        await Reconnector(pool, policy, EventHub(), fail).until_connected(ServerInfo())
    assert trio.current_time() >= 180
    told = [level for level, text in records(caplog) if text.startswith("attempt ")]
    assert len(told) == 36
    assert told[:4] == [logging.INFO] * 3 + [logging.DEBUG]
    assert told.count(logging.INFO) == 5
    assert "attempt 1 to connect, to nats://a:4222, failed: refused" in caplog.text


async def test_the_end_is_reported(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    policy = ReconnectPolicy(max_attempts=0)
    with pytest.raises(ConnectionLostError):
        async with open_nats(nats_server.url, reconnect=policy) as nc, nc.subscribe("a") as sub:
            await nats_server.kill()
            await sub.receive()
    assert [level for level, _ in records(caplog)] == [logging.WARNING, logging.ERROR]
    assert "gone for good" in caplog.text


async def test_a_failed_first_connection_raises_without_events(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(OSError, match="cannot connect"):
        async with open_nats("nats://127.0.0.1:1"):
            pass
    assert records(caplog) == []


# --- what times out -------------------------------------------------------------------------------


async def publish_to_a_stream(nc: Connection) -> None:
    await nc.jetstream(timeout=0.05).publish("a", b"")


async def publish_by_a_publisher(nc: Connection) -> None:
    try:
        async with nc.jetstream().publisher(timeout=0.05) as publisher:
            await (await publisher.publish("a", b""))
    except UnacknowledgedError as error:
        raise error.errors[0] from None


CALLS: dict[str, Callable[[Connection], Awaitable[object]]] = {
    "request": lambda nc: nc.request("a", timeout=0.05),
    "flush": lambda nc: nc.flush(timeout=0.05),
    "rtt": lambda nc: nc.rtt(timeout=0.05),
    "account info": lambda nc: nc.jetstream(timeout=0.05).account_info(),
    "stream": lambda nc: nc.jetstream(timeout=0.05).stream("S"),
    "key-value": lambda nc: nc.jetstream(timeout=0.05).key_value("B"),
    "object store": lambda nc: nc.jetstream(timeout=0.05).object_store("B"),
    "publish": publish_to_a_stream,
    "publisher": publish_by_a_publisher,
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_timeout_without_a_connection_says_so(call: str, nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url, reconnect=NEVER, close_timeout=0) as nc:
        await nc.flush()
        await nats_server.kill()
        while nc.disconnected_for is None:
            await trio.lowlevel.checkpoint()
        with pytest.raises(TimeoutError, match=SINCE):
            await CALLS[call](nc)


async def test_consumer_timeouts_mention_the_outage() -> None:
    async with (
        NatsServer(jetstream=True) as server,
        open_nats(server.url, reconnect=NEVER, close_timeout=0) as nc,
    ):
        stream = await nc.jetstream().create_stream(StreamConfig(name="S", subjects=["s"]))
        consumer = await stream.create_consumer()
        ordered = stream.ordered_consumer()
        await server.kill()
        while nc.disconnected_for is None:
            await trio.lowlevel.checkpoint()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: consumer.next(timeout=0.05),
            lambda: ordered.next(timeout=0.05),
            lambda: consumer.fetch(timeout=0.05),
            lambda: consumer.fetch(timeout=0.05, no_wait=True),
            lambda: ordered.fetch(timeout=0.05),
        ]
        for call in calls:
            with pytest.raises(TimeoutError, match=r"no (further )?message") as caught:
                await call()
            assert re.search(SINCE, str(caught.value))


@pytest.mark.slow
async def test_messages_that_came_before_are_handed_out() -> None:
    """The next call tells of the missing connection."""
    async with (
        NatsServer(jetstream=True) as server,
        open_nats(server.url, reconnect=NEVER, close_timeout=0) as nc,
        trio.open_nursery() as nursery,
    ):
        stream = await nc.jetstream().create_stream(StreamConfig(name="S", subjects=["s"]))
        consumer = await stream.create_consumer()
        await nc.jetstream().publish("s", b"x")
        came: list[bytes] = []
        fetched = trio.Event()

        async def fetch() -> None:
            came.extend([msg.data for msg in await consumer.fetch(2, timeout=0.5)])
            fetched.set()

        before = nc.stats.in_messages
        nursery.start_soon(fetch)
        while nc.stats.in_messages == before:
            await trio.lowlevel.checkpoint()
        await server.kill()
        await fetched.wait()
        assert came == [b"x"]


@pytest.mark.parametrize(
    ("replied", "options"), [(0, {}), (1, {}), (1, {"timeout": 100, "stall": 0.2})]
)
async def test_replies_that_may_be_missing(
    replied: int, options: dict[str, float], nats_server: NatsServer
) -> None:
    async with (
        open_nats(nats_server.url, reconnect=NEVER, close_timeout=0) as nc,
        nc.subscribe("svc") as requests,
        nc.request_many("svc", **{"timeout": 0.3, **options}) as replies,
    ):
        request = await requests.receive()
        for _ in range(replied):
            await request.respond(b"x")
            assert (await replies.receive()).data == b"x"
        await nats_server.kill()
        with pytest.raises(TimeoutError, match="may be missing" + SINCE):
            await replies.receive()


async def test_before_the_first_connection(nats_server: NatsServer) -> None:
    policy = ReconnectPolicy(delay=lambda _: 1000.0, retry_on_initial_connect=True)
    async with open_nats(nats_server.url, reconnect=policy, close_timeout=0) as nc:
        with pytest.raises(TimeoutError, match=SINCE):
            await nc.request("a", timeout=0.05)


async def test_a_timeout_while_connected_does_not_mention_the_connection(
    nats_server: NatsServer,
) -> None:
    async with open_nats(nats_server.url) as nc, nc.subscribe("a"):
        await nc.flush()
        with pytest.raises(TimeoutError, match=r"no reply from 'a' within 0.05 s$"):
            await nc.request("a", timeout=0.05)
