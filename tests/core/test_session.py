"""One wire's reader, writer and pinger: what ends them, and what they say about it."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from tests.connection.helpers import (
    HANG_TIMEOUT,
    QUICK,
    barrier,
    fill,
    hurry,
    msg,
    next_event,
    receive_n,
    scripted,
)
from tests.support.internals import failing
from tests.support.peer import Peer, PeerGone, ScriptedServer
from tests.support.scripts import session
from trio_nats import ConnectionLostError, ProtocolError, open_nats
from trio_nats.events import Disconnected

# --- keeping alive --------------------------------------------------------------------------------


async def test_a_server_that_answers_no_ping_is_given_up() -> None:
    async with scripted(ping_interval=0.01, max_pings_out=3) as (nc, peer):
        for _ in range(3):
            assert await peer.expect_line() == b"PING"
        await nc.wait_for_state("closed")
        assert "3 PINGs in a row were not answered" in str(nc.failure)
        with pytest.raises(ConnectionLostError):
            await nc.flush()
        with pytest.raises(PeerGone):
            await peer.expect_line()


async def test_a_server_that_answers_late_is_kept() -> None:
    async with scripted(ping_interval=0.2, max_pings_out=2) as (nc, peer):
        for _ in range(6):
            await peer.expect_line(b"PING")
            await peer.send(b"PONG\r\n")
        assert nc.state == "open"


async def test_unanswered_flushes_do_not_end_the_connection() -> None:
    async with scripted(ping_interval=100, max_pings_out=1) as (nc, peer):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(nc.flush)
            for _ in range(50):
                await peer.expect_line(b"PING")
            assert nc.state == "open"
            await peer.send(b"PONG\r\n" * 50)


async def test_pings_are_answered_ahead_of_what_waits() -> None:
    async with scripted() as (nc, peer):
        waiting = await fill(nc, 3_000_000)
        await peer.send(b"PING\r\n")
        await trio.testing.wait_all_tasks_blocked()
        hurry(nc)
        lines = []
        for _ in range(waiting + 1):
            line = await peer.expect_line()
            lines.append(line)
            if line != b"PONG":
                await peer.receive_exactly(100_002)
        # Nothing but the chunks that were on their way was before it.
        assert lines.index(b"PONG") < waiting - 10


# --- what ends it ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (b"nonsense\r\n", "malformed data"),
        (b"MSG a 1 -5\r\n", "malformed MSG line"),
        (b"MSG a 1 1\r\nxyz", "malformed end of payload"),
        (b"INFO {\r\n", "INFO"),
        (b"MSG a 1 99999999999\r\n", "more than the limit"),
    ],
)
async def test_what_is_not_the_protocol(said: bytes, complaint: str) -> None:
    async with scripted() as (nc, peer), nc.events() as events, nc.subscribe("a") as sub:
        await peer.send(msg("a", 1, b"before") + said)
        lost = await next_event(events, Disconnected)
        assert isinstance(lost.reason, ProtocolError)
        assert complaint in str(lost.reason)
        assert await receive_n(sub, 1) == [b"before"]


async def test_pings_whose_answers_are_not_read() -> None:
    async with scripted() as (nc, peer), nc.events() as events:
        await fill(nc, 6_000_000)
        await peer.send(b"PING\r\n" * 3000)
        lost = await next_event(events, Disconnected)
        assert "without reading the answers" in str(lost.reason)


async def test_a_server_that_closes_the_connection_is_reported() -> None:
    async with scripted() as (nc, peer), nc.events() as events:
        url = nc.connected_url
        peer.close()
        lost = await next_event(events, Disconnected)
        assert "closed it" in str(lost.reason)
        assert lost.server == url


async def test_the_servers_error_is_reported_although_writing_failed_first() -> None:
    for _ in range(12):  # whether reader or writer notices first is a toss-up
        async with scripted() as (nc, peer), nc.events() as events:
            await fill(nc, 200_000)
            # It says why, and resets the connection with our bytes unread.
            await peer.send(b"-ERR 'Slow Consumer'\r\n")
            peer.abort()
            lost = await next_event(events, Disconnected)
            assert "Slow Consumer" in str(lost.reason)
            assert nc.stats.lost_in_flight >= 1


async def test_an_internal_error_reconnects(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with trio.fail_after(HANG_TIMEOUT), caplog.at_level(logging.ERROR, "trio_nats"):
        async with ScriptedServer(session()) as server:
            async with open_nats(server.url, reconnect=QUICK) as nc, nc.subscribe("a") as sub:
                peer = await server.peer(0)

                with failing(sub, LookupError("a bug")):
                    await peer.send(msg("a", 1, b"x"))
                    await nc.wait_for_state("reconnecting")
                await nc.wait_for_state("open")
                await (await server.peer(1)).send(msg("a", 1, b"y"))
                assert await receive_n(sub, 1) == [b"y"]
    assert "unexpected error in the session" in caplog.text
    assert "a bug" in caplog.text


# --- what is survived -----------------------------------------------------------------------------


async def test_ok_and_extra_pongs_change_nothing() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        await peer.send(b"+OK\r\nPONG\r\nPONG\r\n+OK\r\n" + msg("a", 1, b"x"))
        await barrier(peer)
        assert await receive_n(sub, 1) == [b"x"]
        assert nc.state == "open"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_protocol_lines_in_pieces(size: int) -> None:
    frames = msg("a", 1, b"one", reply="r") + b"PING\r\n" + msg("a", 1, b"") + msg("a", 1, b"two")
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        before = nc.stats.in_bytes
        for start in range(0, len(frames), size):
            await peer.send(frames[start : start + size])
            await trio.testing.wait_all_tasks_blocked()
        assert await receive_n(sub, 3) == [b"one", b"", b"two"]
        assert nc.stats.in_bytes == before + len(frames)


@pytest.mark.parametrize("behind", [1, 2])
async def test_what_comes_with_the_first_pongs_is_not_lost(behind: int) -> None:
    said = b"-ERR 'early'\r\nPING\r\n" + b'INFO {"server_name":"later"}\r\n'

    async def script(peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect(pong=False)
        await peer.send(b"PONG\r\n" * behind + said + b"PONG\r\n" * (2 - behind))
        await peer.serve()

    with trio.fail_after(HANG_TIMEOUT):
        async with ScriptedServer(script) as server, open_nats(server.url) as nc:
            await nc.flush()
            assert nc.server_info.server_name == "later"
            await nc.flush()
            assert b"PONG" in (await server.peer(0)).lines
