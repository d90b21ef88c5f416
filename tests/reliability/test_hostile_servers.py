"""Servers that turn hostile on a connection that was in good order."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_nats
from tests.reliability.helpers import (
    HANG_TIMEOUT,
    QUICK,
    deliver,
    info_with,
    read_line,
    receive_n,
    session,
    until,
)
from tests.support.peer import Peer, ScriptedServer
from tests.transports import TCP_AND_WSS, Transport
from trio_nats import ProtocolError, ProtocolLimits, open_nats
from trio_nats.events import Disconnected, Reconnected, ServerError

Act = Callable[[Peer], Awaitable[object]]

LIMITS = ProtocolLimits(payload=256 * 1024, headers=64 * 1024, control_line=4096, info=64 * 1024)


def says(data: bytes) -> Act:
    async def act(peer: Peer) -> None:
        await peer.send(data)
        await peer.serve()

    return act


def for_ever(beginning: bytes, piece: bytes) -> Act:
    async def act(peer: Peer) -> None:
        await peer.send(beginning)
        while True:
            await peer.send(piece)

    return act


MALFORMED = {
    "INFO without end": for_ever(b'INFO {"server_id":"', b"A" * 4096),
    "giant INFO": says(info_with(server_name="A" * 200_000)),
    "nested INFO": says(b'INFO {"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}\r\n"),
    "INFO of no JSON": says(b"INFO {never mind}\r\n"),
    "INFO of invalid UTF-8": says(b'INFO {"server_name":"\xff\xfe"}\r\n'),
    "line without end": for_ever(b"MSG a 1 ", b"9" * 4096),
    "-ERR without end": for_ever(b"-ERR '", b"e" * 4096),
    "payload longer than said": says(b"MSG a 1 3\r\nabcdef\r\n"),
    "payload shorter than said": says(b"MSG a 1 8\r\nabc\r\nMSG a 1 1\r\nx\r\n" + b"PING\r\n"),
    "negative size": says(b"MSG a 1 -1\r\n\r\n"),
    "no number": says(b"MSG a 1 1x\r\na\r\n"),
    "size beyond the limit": says(b"MSG a 1 999999999\r\n"),
    "size of a thousand digits": says(b"MSG a 1 " + b"9" * 1000 + b"\r\n"),
    "headers longer than the whole": says(b"HMSG a 1 20 10\r\n" + b"." * 12),
    "negative header size": says(b"HMSG a 1 -5 10\r\n" + b"." * 12),
    "headers beyond the limit": says(b"HMSG a 1 100000 100001\r\n"),
    "unknown operation": says(b"HELLO\r\n"),
    "a client's operation": says(b"PUB a 1\r\na\r\n"),
    "binary": says(bytes(range(256))),
    "HTTP": says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("act", MALFORMED.values(), ids=MALFORMED)
@TCP_AND_WSS
async def test_what_is_not_nats_ends_the_wire_and_not_the_connection(
    transport: Transport, act: Act
) -> None:
    async def first(peer: Peer) -> None:
        await read_line(peer, b"SUB")
        await peer.send(deliver(b"a", b"1", b"before"))
        await act(peer)

    async def second(peer: Peer) -> None:
        await read_line(peer, b"SUB")
        await peer.send(deliver(b"a", b"1", b"after"))
        await peer.serve()

    async with (
        transport.scripted(session(first), session(second)) as server,
        transport.open(server, reconnect=QUICK, limits=LIMITS) as nc,
        nc.events() as events,
        nc.subscribe("a") as sub,
    ):
        lost = await until(events, Disconnected)
        assert isinstance(lost.reason, ProtocolError)
        assert len(str(lost.reason)) < 500
        await until(events, Reconnected)
        assert [msg.data for msg in await receive_n(sub, 2)] == [b"before", b"after"]


@TCP_AND_WSS
async def test_unusual_but_valid_input_is_accepted(transport: Transport) -> None:
    async def act(peer: Peer) -> None:
        await read_line(peer, b"SUB")
        await peer.send(deliver(b"a", b"999", b"for nobody") + deliver(b"a", b"x", b"for nobody"))
        await peer.send(b"PONG\r\n" * 10 + b"+OK\r\n")
        await peer.send(b"-ERR 'something \xff\xfe else'\r\n-ERR\r\n")
        await peer.send(info_with(connect_urls=["", "no port:x", "\u0000", "[::1"]))
        await peer.send(b"HMSG a 1 6 9\r\n\xff\xfe\xfd\r\n\r\nabc\r\n".replace(b"6 9", b"7 10"))
        await peer.send(b"MSG \xff\xfe 1 2\r\n\xff\xff\r\n" + deliver(b"a", b"1", b"end"))
        await peer.serve()

    async with (
        transport.scripted(session(act)) as server,
        transport.open(server, reconnect=QUICK) as nc,
        nc.subscribe("a") as sub,
    ):
        broken, invalid, end = await receive_n(sub, 3)
        assert broken.data == b"abc"
        assert invalid.subject == "\\xff\\xfe"
        assert invalid.data == b"\xff\xff"
        assert end.data == b"end"
        await nc.flush(timeout=HANG_TIMEOUT)
        assert nc.stats.reconnects == 0


@TCP_AND_WSS
async def test_a_peer_that_floods_pings_without_reading_is_disconnected(
    transport: Transport,
) -> None:
    async with transport.scripted(session(for_ever(b"", b"PING\r\n" * 1000)), session()) as server:
        async with transport.open(server, reconnect=QUICK) as nc, nc.events() as events:
            lost = await until(events, Disconnected)
            assert isinstance(lost.reason, ProtocolError)
            assert "without reading the answers" in str(lost.reason)
            await until(events, Reconnected)
            assert nc.stats.outbox_bytes < 64 * 1024


@TCP_AND_WSS
async def test_many_pings_that_are_answered_do_no_harm(transport: Transport) -> None:
    asked = trio.Event()

    async def asks(peer: Peer) -> None:
        for _ in range(50):
            await peer.send(b"PING\r\n" * 100)
            for _ in range(100):
                await peer.expect_line(b"PONG")
        asked.set()
        await peer.serve()

    async with transport.scripted(session(asks)) as server:
        async with transport.open(server) as nc:
            with trio.fail_after(HANG_TIMEOUT):
                await asked.wait()
            await nc.flush(timeout=HANG_TIMEOUT)
            assert nc.stats.reconnects == 0


# -- memory --------------------------------------------------------------------------------------


@pytest.fixture
def allocated() -> Iterator[Callable[[], int]]:
    """How many bytes allocated by the package's own lines are in use."""
    package = tracemalloc.Filter(True, f"{Path(trio_nats.__file__).parent}/*")

    def measure() -> int:
        gc.collect()
        snapshot = tracemalloc.take_snapshot().filter_traces([package])
        return sum(trace.size for trace in snapshot.traces)

    tracemalloc.start()
    yield measure
    tracemalloc.stop()


def errors(count: int) -> bytes:
    return b"-ERR 'no reason at all, and a long one of that'\r\n" * count


def cluster_of(count: int, offset: int) -> bytes:
    return info_with(connect_urls=[f"10.0.{i % 250}.{offset % 250}:4222" for i in range(count)])


FLOODS: dict[str, Callable[[int], bytes]] = {
    "-ERR": lambda number: errors(200),
    "INFO": lambda number: cluster_of(200, number),
    "messages for nobody": lambda number: deliver(b"a", b"999", b"." * 1000) * 40,
    "replies to nobody": lambda number: deliver(b"_INBOX.x.1", b"1", b"." * 1000) * 40,
    "PONG": lambda number: b"PONG\r\n" * 1000,
}


@pytest.mark.slow
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_flood_of_well_formed_lines_takes_no_memory(
    flood: Callable[[int], bytes],
    allocated: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    rounds = 15
    done = trio.Event()

    async def act(peer: Peer) -> None:
        for number in range(rounds):
            await peer.send(flood(number))
            await peer.send(b"PING\r\n")
            await peer.expect_line(b"PONG")
        done.set()
        await peer.serve()

    caplog.set_level("CRITICAL")
    async with ScriptedServer(session(act)) as server, open_nats(server.url) as nc:
        before = allocated()
        with trio.fail_after(HANG_TIMEOUT):
            await done.wait()
        assert allocated() - before < 150_000
        assert len(nc.servers) <= 201
        assert nc.stats.reconnects == 0


@pytest.mark.slow
@TCP_AND_WSS
async def test_a_flood_of_errors_becomes_events(transport: Transport) -> None:
    async def act(peer: Peer) -> None:
        for number in range(300):
            await peer.send(b"-ERR 'complaint %d'\r\n" % number)
        await peer.serve()

    async with transport.scripted(session(act)) as server:
        async with transport.open(server) as nc, nc.events(buffer=10) as events:
            await nc.flush(timeout=HANG_TIMEOUT)
            kept: list[Any] = [events.receive_nowait() for _ in range(10)]
            texts = [event.error.message for event in kept if isinstance(event, ServerError)]
            assert texts == [f"complaint {number}" for number in range(290, 300)]
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()
