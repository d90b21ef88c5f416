"""What a connection tells about itself."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing

from tests.channels.helpers import PATIENCE
from tests.reliability.helpers import read_line, session, until
from tests.support.peer import Peer, ScriptedServer, info_line
from trio_nats import ConfigurationError, ReconnectPolicy, open_nats
from trio_nats.events import (
    Closed,
    Disconnected,
    Event,
    LameDuck,
    Reconnected,
    ServerError,
    ServersDiscovered,
)
from trio_nats.testing import NatsServer

QUICK = ReconnectPolicy(wait=0.001, max_wait=0.001)


async def rest(events: trio.abc.ReceiveChannel[Event]) -> list[Event]:
    with trio.fail_after(PATIENCE):
        return [event async for event in events]


def texts_of(events: list[Event]) -> list[str]:
    assert events.pop() == Closed(None)
    assert all(isinstance(event, ServerError) for event in events)
    return [event.error.message for event in events if isinstance(event, ServerError)]


async def test_all_of_a_life_in_order() -> None:
    async def lose(peer: Peer) -> None:
        await read_line(peer, b"PUB")
        peer.abort()

    async with ScriptedServer(session(lose), session()) as server:
        async with open_nats(server.url, reconnect=QUICK) as nc:
            events, other = nc.events(), nc.events()
            await nc.publish("news")
            await until(other, Reconnected)
        found = await rest(events)
        assert [type(event) for event in found] == [Disconnected, Reconnected, Closed]
        lost, again, closed = found
        assert isinstance(lost, Disconnected)
        assert isinstance(again, Reconnected)
        assert lost.server == again.server == server.url
        assert str(lost.reason)
        assert closed == Closed(None)
        assert await rest(other) == [Closed(None)]
        # One who comes too late is not left waiting.
        assert await rest(nc.events()) == []


async def test_the_reason_for_the_end() -> None:
    async def lose(peer: Peer) -> None:
        await read_line(peer, b"PUB")
        peer.abort()

    async with ScriptedServer(session(lose)) as server:
        async with open_nats(server.url, reconnect=ReconnectPolicy(max_attempts=0)) as nc:
            events = nc.events()
            await nc.publish("news")
            found = await rest(events)
            assert [type(event) for event in found] == [Disconnected, Closed]
            assert found[-1] == Closed(nc.failure)
            assert nc.failure is not None


async def test_a_listener_that_does_not_listen_loses_the_oldest() -> None:
    async def complain(peer: Peer) -> None:
        await read_line(peer, b"PUB")
        await peer.send(b"".join(b"-ERR 'Complaint %d'\r\n" % number for number in range(10)))
        await peer.serve()

    async with ScriptedServer(session(complain)) as server, open_nats(server.url) as nc:
        few, many = nc.events(buffer=3), nc.events()
        await nc.publish("news")
        await nc.flush(PATIENCE)
        await nc.aclose()
        assert texts_of(await rest(few)) == ["Complaint 8", "Complaint 9"]
        assert texts_of(await rest(many)) == [f"Complaint {number}" for number in range(10)]


async def test_errors_of_the_server_are_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    async def complain(peer: Peer) -> None:
        await read_line(peer, b"PUB")
        await peer.send(b"-ERR 'Maximum Subscriptions Exceeded'\r\n")
        await peer.serve()

    with caplog.at_level(logging.WARNING, "trio_nats"):
        async with ScriptedServer(session(complain)) as server, open_nats(server.url) as nc:
            async with nc.events() as events:
                await nc.publish("news")
                event = await until(events, ServerError)
                assert event.error.message == "Maximum Subscriptions Exceeded"
                await nc.flush(PATIENCE)  # an error of this kind does not end the connection
    assert "Maximum Subscriptions Exceeded" in caplog.text


async def test_lame_duck_and_discovered_servers() -> None:
    async def announce(peer: Peer) -> None:
        await read_line(peer, b"PUB")
        urls = ["10.9.8.7:4222", "[fd00::7]:4223", "not a server"]
        await peer.send(info_line(connect_urls=urls) * 2)
        await peer.expect_line(b"PUB")
        await peer.receive_exactly(2)
        urls = ["10.9.8.7:4222"]
        await peer.send(info_line(connect_urls=urls, server_name="renamed"))
        await peer.serve()

    async with ScriptedServer(session(announce)) as server, open_nats(server.url) as nc:
        async with nc.events() as events:
            await nc.publish("news")
            event = await until(events, ServersDiscovered)
            assert set(event.servers) == {"nats://10.9.8.7:4222", "nats://[fd00::7]:4223"}
            assert {str(known.host) for known in nc.servers} == {
                "127.0.0.1",
                "10.9.8.7",
                "fd00::7",
            }
            await nc.publish("news")
            await nc.flush(PATIENCE)
            assert nc.server_info.server_name == "renamed"
            assert {known.host for known in nc.servers} == {"127.0.0.1", "10.9.8.7"}
            assert isinstance(events, trio.MemoryReceiveChannel)
            with pytest.raises(trio.WouldBlock):  # each is announced once
                events.receive_nowait()


async def test_lame_duck_is_announced_once_and_there_is_nowhere_to_go() -> None:
    async def announce(peer: Peer) -> None:
        await read_line(peer, b"PUB")
        await peer.send(info_line(ldm=True) * 2)
        await peer.serve()

    async with ScriptedServer(session(announce)) as server, open_nats(server.url) as nc:
        events = nc.events()
        await nc.publish("news")
        await nc.flush(PATIENCE)
        await nc.aclose()
        assert await rest(events) == [LameDuck(server.url), Closed(None)]


async def test_ignoring_what_the_cluster_says() -> None:
    async def announce(peer: Peer) -> None:
        await read_line(peer, b"PUB")
        await peer.send(info_line(connect_urls=["10.9.8.7:4222"]))
        await peer.serve()

    async with ScriptedServer(session(announce)) as server:
        async with open_nats(server.url, ignore_discovered=True) as nc:
            await nc.publish("news")
            await nc.flush(PATIENCE)
            assert [known.host for known in nc.servers] == ["127.0.0.1"]


@pytest.mark.parametrize("buffer", [0, -1, 1.5, True, None])
async def test_buffers_that_cannot_be(nats_server: NatsServer, buffer: Any) -> None:
    async with open_nats(nats_server.url) as nc:
        with pytest.raises(ConfigurationError, match="buffer"):
            nc.events(buffer=buffer)


async def test_a_listener_that_left_is_forgotten(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        for _ in range(3):
            async with nc.events():
                pass
        nc._core.hub.emit(LameDuck("nats://nowhere"))
        assert nc._core.hub._listeners == []
