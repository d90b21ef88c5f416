"""What counts as life while a PING has no answer, and that nothing else does."""

from __future__ import annotations

import socket
from typing import cast

import pytest
import trio
import trio.testing

from tests.connection.helpers import QUICK, next_event, scripted
from tests.support.peer import Peer, ScriptedServer
from tests.support.scripts import session
from trio_nats import ProtocolLimits, ServerInfo, open_nats
from trio_nats._core.outbox import Outbox
from trio_nats._core.router import Router
from trio_nats._core.session import Session, SessionCallbacks
from trio_nats._core.stats import Counters
from trio_nats._protocol.parser import Parser
from trio_nats._transport.connector import ServerConnection
from trio_nats._transport.tcp import TCPStream
from trio_nats.events import Disconnected
from trio_nats.servers import parse_server

INTERVAL = 2.0


class SlowNetwork(trio.abc.Stream):
    """Takes so much at once, and the rest in pieces as long as the peer reads. Nothing comes."""

    def __init__(self, at_once: int, piece: int) -> None:
        self._at_once = at_once
        self._piece = piece
        self.reads = True
        self.progress = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        left = len(data) - self._at_once
        while left > 0:
            await trio.sleep(INTERVAL * 0.9)
            if not self.reads:
                await trio.sleep_forever()
            left -= self._piece
            self.progress += self._piece

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_slow_network_keeps_its_connection_while_publishing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = SlowNetwork(at_once=1000, piece=10_000)
    outbox = Outbox(1_000_000, "wait", lambda: None)
    wire = ServerConnection(
        parse_server("nats://slow"),
        network,
        Parser(ProtocolLimits()),
        [],
        ServerInfo(),
        None,
        tcp=cast("TCPStream", network),
    )
    session = Session(wire, Router(outbox), outbox, Counters(), SessionCallbacks())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run, INTERVAL, 2)
        for _ in range(20):
            outbox.append((b"PUB a 100000\r\n", bytes(100_000), b"\r\n"))
        await trio.sleep(50 * INTERVAL)
        assert network.progress > 0
        assert not session.ended.is_set()
        # Now nobody reads any more.
        network.reads = False
        dead_since = trio.current_time()
        await session.ended.wait()
        assert trio.current_time() - dead_since <= 3 * INTERVAL
        assert "2 PINGs in a row" in str(session.reason)


async def test_publishing_little_to_a_dead_peer_is_detected(clock: trio.testing.MockClock) -> None:
    """The kernel takes all of it, for it has room."""
    async with scripted(ping_interval=INTERVAL, max_pings_out=2) as (nc, _), nc.events() as events:
        dead_since = trio.current_time()

        async def publish_now_and_then() -> None:
            while True:
                await nc.publish("a", b"x")
                await trio.sleep(INTERVAL / 10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_now_and_then)
            await next_event(events, Disconnected)
            assert trio.current_time() - dead_since <= 3 * INTERVAL
            nursery.cancel_scope.cancel()


async def test_received_messages_count_as_a_sign_of_life(clock: trio.testing.MockClock) -> None:
    async def talks(peer: Peer) -> None:
        for _ in range(8):
            await trio.sleep(INTERVAL)
            await peer.send(b"MSG a 1 1\r\nx\r\n")
        await trio.sleep_forever()

    async with ScriptedServer(session(talks)) as server:
        async with open_nats(
            server.url, ping_interval=INTERVAL, max_pings_out=2, reconnect=QUICK, close_timeout=0
        ) as nc:
            async with nc.subscribe("a") as sub, nc.events() as events:
                for _ in range(8):
                    await sub.receive()
                assert nc.stats.reconnects == 0
                heard = trio.current_time()
                assert "2 PINGs in a row" in str((await next_event(events, Disconnected)).reason)
                assert trio.current_time() - heard <= 3 * INTERVAL


async def test_only_a_blocked_write_shows_that_the_peer_reads() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        port = listener.socket.getsockname()[1]
        ours = await trio.open_tcp_stream("127.0.0.1", port)
        theirs = await listener.accept()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        stream = TCPStream(ours)
        data = bytes(range(256)) * 10_000
        async with stream, theirs, trio.open_nursery() as nursery:
            await stream.send_all(b"")
            await stream.send_all(b"small")
            assert stream.progress == 0
            nursery.start_soon(stream.send_all, data)
            await trio.testing.wait_all_tasks_blocked()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 500_000)
            received = bytearray()
            while len(received) < 5 + len(data):
                before = stream.progress
                received += await theirs.receive_some(65_536)
                assert stream.progress >= before
            assert received == b"small" + data
            assert 0 < stream.progress < len(data)


async def test_a_socket_that_breaks_or_is_closed_raises_as_trios_own() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        port = listener.socket.getsockname()[1]
        stream = TCPStream(await trio.open_tcp_stream("127.0.0.1", port))
        theirs = await listener.accept()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    while True:
                        await stream.send_all(bytes(1_000_000))

            nursery.start_soon(send)
            await theirs.receive_some(10)
            theirs.socket.close()
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"")
