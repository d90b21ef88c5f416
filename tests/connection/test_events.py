"""What listeners are told, in which order, and that they never hold anything up."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest
import trio
import trio.testing

from tests.connection.helpers import (
    HANG_TIMEOUT,
    NO_RECONNECT,
    barrier,
    errors_of_waiters,
    msg,
    next_event,
    receive_n,
    scripted,
)
from tests.support.internals import event_listeners
from tests.support.peer import Peer, info_line
from tests.support.scripts import session
from tests.transports import ALL_BUT_WSS, Transport
from trio_nats import (
    ConfigurationError,
    ConnectionLostError,
    EventChannel,
    PendingLimits,
    ReconnectPolicy,
)
from trio_nats.events import (
    Closed,
    Connected,
    Disconnected,
    Event,
    LameDuck,
    Reconnected,
    ReconnectFailed,
    ServerError,
    ServersDiscovered,
    SlowConsumer,
)


async def rest(events: trio.abc.ReceiveChannel[Event]) -> list[Event]:
    """All events until there can be no more."""
    return [event async for event in events]


async def refuses(peer: Peer) -> None:
    await peer.send_info()
    await peer.send(b"-ERR 'maximum connections exceeded'\r\n")
    await peer.hang_up()


@ALL_BUT_WSS
async def test_cancelling_a_whole_lifetime(transport: Transport) -> None:
    again = ReconnectPolicy(wait=0)
    with trio.fail_after(HANG_TIMEOUT):
        async with transport.scripted(session(), refuses, refuses, session()) as server:
            async with transport.open(server, reconnect=again) as nc, nc.events() as events:
                url = transport.url(server)
                (await server.peer(0)).abort()
                async with nc.events() as others:
                    await next_event(others, Reconnected)
                await nc.aclose()
                found = await rest(events)
    assert [type(event) for event in found] == [
        Disconnected,
        ReconnectFailed,
        ReconnectFailed,
        Reconnected,
        Closed,
    ]
    lost, one, two, back, closed = found
    assert isinstance(lost, Disconnected)
    assert isinstance(lost.reason, ConnectionLostError)
    assert isinstance(one, ReconnectFailed)
    assert isinstance(two, ReconnectFailed)
    assert (one.attempt, two.attempt) == (1, 2)
    assert "maximum connections exceeded" in str(one.error)
    assert {lost.server, one.server, back.server} == {url}  # type: ignore[union-attr]
    assert closed == Closed(None)


@ALL_BUT_WSS
async def test_the_first_connection_is_told_to_who_was_there_before_it(
    transport: Transport,
) -> None:
    behind = ReconnectPolicy(wait=0, retry_on_initial_connect=True)
    with trio.fail_after(HANG_TIMEOUT):
        async with transport.scripted(refuses, session()) as server:
            async with transport.open(server, reconnect=behind) as nc, nc.events() as events:
                assert isinstance(await events.receive(), ReconnectFailed)
                assert await events.receive() == Connected(transport.url(server))
                await nc.flush()
                assert nc.stats.reconnects == 0


async def test_the_last_event_says_why() -> None:
    async with scripted() as (nc, peer), nc.events() as events:
        await peer.send(b"-ERR 'Stale Connection'\r\n")
        peer.close()
        complaint, lost, closed = await rest(events)
        assert isinstance(complaint, ServerError)
        assert complaint.error.message == "Stale Connection"
        assert isinstance(lost, Disconnected)
        assert "Stale Connection" in str(lost.reason)
        assert nc.failure is not None
        assert closed == Closed(nc.failure)
        # There is no more to be told to who comes later.
        assert await rest(nc.events()) == []


@pytest.mark.parametrize(
    "text",
    [
        "something new",
        'Permissions Violation for Publish to "a"',
        'Permissions Violation for Subscription to "a"',
        'Permissions Violation for Subscription to "a" using queue "q"',
        'Permissions Violation for Subscription to "x" (sid "9")',
        "",
    ],
)
async def test_errors_that_concern_no_subscription(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted() as (nc, peer), nc.events() as events, nc.subscribe("b") as sub:
        with caplog.at_level(logging.WARNING, "trio_nats"):
            await peer.send(b"-ERR '%b'\r\n" % text.encode())
            event = await events.receive()
        assert isinstance(event, ServerError)
        assert event.error.message == text
        assert text in caplog.text
        await peer.send(msg("b", 1, b"x"))
        assert await receive_n(sub, 1) == [b"x"]


@ALL_BUT_WSS
async def test_servers_that_info_names(transport: Transport) -> None:
    scheme = transport.scheme
    async with scripted() as (nc, peer), nc.events() as events:
        urls = ["10.9.8.7:1", "[fd00::7]:2", "not a server"]
        await peer.send(info_line(connect_urls=urls) * 2)
        event = await events.receive()
        assert isinstance(event, ServersDiscovered)
        assert sorted(event.servers) == [f"{scheme}://10.9.8.7:1", f"{scheme}://[fd00::7]:2"]
        assert {server.host for server in nc.servers} == {"127.0.0.1", "10.9.8.7", "fd00::7"}
        urls = ["[fd00::7]:2", "10.9.8.9:3"]
        await peer.send(info_line(connect_urls=urls, server_name="renamed"))
        # Each is told of once.
        assert await events.receive() == ServersDiscovered((f"{scheme}://10.9.8.9:3",))
        await barrier(peer)
        # 10.9.8.7 has left the cluster; what the user named stays.
        assert {server.host for server in nc.servers} == {"127.0.0.1", "fd00::7", "10.9.8.9"}
        assert nc.server_info.server_name == "renamed"
        assert isinstance(events, EventChannel)
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


async def test_ignoring_the_servers_that_info_names() -> None:
    async with scripted(ignore_discovered=True) as (nc, peer), nc.events() as events:
        await peer.send(info_line(connect_urls=["10.9.8.7:1"]))
        await barrier(peer)
        assert [server.host for server in nc.servers] == ["127.0.0.1"]
        await nc.aclose()
        assert await rest(events) == [Closed(None)]


async def test_lame_duck_mode_without_another_server_is_reported_once() -> None:
    async with scripted() as (nc, peer), nc.events() as events:
        url = nc.connected_url
        assert url is not None
        await peer.send(info_line(ldm=True) * 2)
        await barrier(peer)
        assert nc.state == "open"
        await nc.aclose()
        assert await rest(events) == [LameDuck(url), Closed(None)]


@pytest.mark.parametrize("buffer", [0, -1, 1.5, True, None])
async def test_buffers_that_cannot_be(buffer: Any) -> None:
    async with scripted() as (nc, _):
        kind = ConfigurationError if buffer in (0, -1) else TypeError
        with pytest.raises(kind, match="buffer"):
            nc.events(buffer=buffer)


async def test_a_full_event_listener_drops_the_oldest_events() -> None:
    async with (
        scripted() as (nc, peer),
        nc.events(buffer=1) as one,
        nc.events(buffer=3) as three,
        nc.events(buffer=10**30) as many,
    ):
        await peer.send(b"".join(b"-ERR 'no. %d'\r\n" % number for number in range(200)))
        await barrier(peer)
        await nc.aclose()
        assert await rest(one) == [Closed(None)]
        found = await rest(many)
        assert await rest(three) == found[-3:]
        assert [events.dropped for events in (one, three, many)] == [200, 198, 0]
        assert len(found) == 201
        texts = [event.error.message for event in found if isinstance(event, ServerError)]
        assert texts == [f"no. {number}" for number in range(200)]


async def test_a_closed_or_collected_listener_is_removed() -> None:
    async with scripted() as (nc, peer):
        async with nc.events(buffer=1), nc.events(buffer=1) as events:
            assert event_listeners(nc) == 2
        assert event_listeners(nc) == 0
        nc.events()
        gc.collect()
        assert event_listeners(nc) == 0
        await peer.send(b"-ERR 'one'\r\n")
        await barrier(peer)
        for _ in range(2):
            with pytest.raises(trio.ClosedResourceError):
                await events.receive()
            await events.aclose()


async def test_closing_a_listener_wakes_who_waits() -> None:
    async with scripted() as (nc, peer):
        events = nc.events()
        async with errors_of_waiters(events.receive) as errors:
            await events.aclose()
        assert [type(error) for error in errors] == [trio.ClosedResourceError] * 2
        await peer.send(b"-ERR 'one'\r\n")
        await barrier(peer)


async def test_a_waiting_listener_can_be_cancelled_without_loss() -> None:
    async with scripted() as (nc, peer), nc.events(buffer=1) as events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(events.receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await peer.send(b"-ERR 'one'\r\n")
        event = await events.receive()
        assert isinstance(event, ServerError)


async def test_slow_consumer_events_contain_counts() -> None:
    limits = PendingLimits(messages=2)
    async with scripted(reconnect=NO_RECONNECT) as (nc, peer), nc.events() as events:
        async with nc.subscribe("a.*", pending_limits=limits):
            await peer.send(msg("a.b", 1, b"123") * 5)
            assert await events.receive() == SlowConsumer("a.*", 2, 6, 1)
