"""Changing servers, against servers that do what real ones do only with bad luck."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.connection.helpers import fill, hurry
from tests.reliability.helpers import (
    HANG_TIMEOUT,
    QUICK,
    deliver,
    eventually,
    read_line,
    receive_n,
    session,
    shorten_overlap,
    until,
)
from tests.support.internals import is_overlapping, set_handover_limits
from tests.support.peer import Peer, ScriptedServer, info_line
from trio_nats import ConnectError, ReconnectPolicy, open_nats
from trio_nats.events import Disconnected, LameDuck, Reconnected


def sid_of(line: bytes) -> bytes:
    return line.split()[-1]


async def test_a_subscription_made_while_the_new_server_is_primed() -> None:
    """The old server never hears of it; the new one does when it takes over, limit and all."""
    primed, subscribed = trio.Event(), trio.Event()
    old_peers: list[Peer] = []

    async def old(peer: Peer) -> None:
        old_peers.append(peer)
        await peer.serve()

    async def new(peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect()
        await peer.expect_line(b"SUB early")
        await peer.expect_line(b"PING")
        primed.set()
        await subscribed.wait()
        await peer.send(b"PONG\r\n")
        sid = sid_of(await read_line(peer, b"SUB late"))
        assert await peer.expect_line(b"UNSUB") == b"UNSUB %b 3" % sid
        await peer.send(b"".join(deliver(b"late", sid, data) for data in (b"1", b"2", b"3")))
        await peer.serve()

    async with ScriptedServer(session(old), new) as server, open_nats(server.url) as nc:
        shorten_overlap(nc)
        async with nc.subscribe("early"), trio.open_nursery() as nursery:
            nursery.start_soon(nc.reconnect)
            with trio.fail_after(HANG_TIMEOUT):
                await primed.wait()
            async with nc.subscribe("late", stop_after=3) as late:
                subscribed.set()
                assert [msg.data for msg in await receive_n(late, 3)] == [b"1", b"2", b"3"]
            assert not any(b"late" in line for line in old_peers[0].lines)


async def test_reconnecting_again_while_the_last_change_is_being_finished() -> None:
    async with ScriptedServer(session()) as server, open_nats(server.url) as nc:
        shorten_overlap(nc)
        with trio.fail_after(HANG_TIMEOUT):
            await nc.reconnect()
            await nc.reconnect()
        assert nc.stats.reconnects == 2


async def test_reconnecting_while_a_lame_duck_has_nowhere_to_send_us() -> None:
    dialled, go_on = trio.Event(), trio.Event()

    async def refuse(peer: Peer) -> None:
        dialled.set()
        await go_on.wait()

    async with ScriptedServer(refuse) as other:

        async def lame(peer: Peer) -> None:
            await read_line(peer, b"SUB")
            await peer.send(info_line(ldm=True, connect_urls=[f"127.0.0.1:{other.port}"]))
            await peer.serve()

        async with (
            ScriptedServer(session(lame), session()) as server,
            open_nats(server.url, reconnect=QUICK) as nc,
            nc.subscribe("a"),
            trio.open_nursery() as nursery,
        ):
            with trio.fail_after(HANG_TIMEOUT):
                await dialled.wait()
                nursery.start_soon(nc.reconnect)
                await trio.testing.wait_all_tasks_blocked()
                go_on.set()
                await server.peer(1)


async def test_the_next_server_turning_lame_before_the_change_is_finished() -> None:
    third = ScriptedServer(session())
    async with third:

        async def lame_too(peer: Peer) -> None:
            await read_line(peer, b"PING")
            url = f"127.0.0.1:{third.port}"
            await peer.send(b"PONG\r\n" + info_line(ldm=True, connect_urls=[url]))
            await peer.serve()

        async with ScriptedServer(session(lame_too)) as second:

            async def lame(peer: Peer) -> None:
                await read_line(peer, b"SUB")
                first.refuse()
                await peer.send(info_line(ldm=True, connect_urls=[f"127.0.0.1:{second.port}"]))
                await peer.serve()

            async with ScriptedServer(session(lame)) as first, open_nats(first.url) as nc:
                shorten_overlap(nc)
                async with nc.events() as events, nc.subscribe("a"):
                    assert (await until(events, LameDuck)).server == first.url
                    assert (await until(events, Reconnected)).server == second.url
                    assert (await until(events, LameDuck)).server == second.url
                    assert (await until(events, Reconnected)).server == third.url


async def test_the_new_server_dying_during_the_overlap_brings_no_message_twice() -> None:
    died = trio.Event()

    async def old(peer: Peer) -> None:
        sid = sid_of(await read_line(peer, b"SUB"))
        await read_line(peer, b"PING")
        await peer.send(b"PONG\r\n")
        await died.wait()
        await peer.send(deliver(b"a", sid, b"both") + deliver(b"a", sid, b"end"))
        await peer.serve()

    async def dies(peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect()
        sid = sid_of(await read_line(peer, b"SUB"))
        await peer.expect_line(b"PING")
        await peer.send(b"PONG\r\n" + deliver(b"a", sid, b"both"))
        peer.close()

    async with (
        ScriptedServer(session(old), dies) as server,
        open_nats(server.url, reconnect=QUICK) as nc,
        nc.events() as events,
        nc.subscribe("a") as sub,
    ):
        with trio.fail_after(HANG_TIMEOUT):
            await nc.reconnect()
            await until(events, Disconnected)
            died.set()
            assert [msg.data for msg in await receive_n(sub, 2)] == [b"both", b"end"]
            await nc.flush()
        assert len(server.peers) == 2


async def test_without_echo_the_new_server_dying_during_the_overlap_is_a_failed_move() -> None:
    async def dies(peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect()
        await read_line(peer, b"SUB")
        await peer.expect_line(b"PING")
        await peer.send(b"PONG\r\n")
        peer.close()

    async with (
        ScriptedServer(session(), dies) as server,
        open_nats(server.url, echo=False) as nc,
        nc.subscribe("a"),
    ):
        with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError) as caught:
            await nc.reconnect()
        assert caught.value.attempts[0].phase == "subscribe"
        await nc.flush(timeout=HANG_TIMEOUT)
        assert nc.stats.reconnects == 0
        assert len(server.peers) == 2


async def test_the_new_server_dying_after_the_overlap_is_a_lost_connection() -> None:
    """The old server is not subscribed any more, so what it would bring is not complete."""
    unsubscribed = trio.Event()

    async def old(peer: Peer) -> None:
        await read_line(peer, b"PING")
        await peer.send(b"PONG\r\n")
        await read_line(peer, b"UNSUB")
        unsubscribed.set()
        await peer.stall()

    async def dies(peer: Peer) -> None:
        sid = sid_of(await read_line(peer, b"SUB"))
        await peer.expect_line(b"PING")
        await peer.send(b"PONG\r\n" + deliver(b"a", sid, b"held"))
        await unsubscribed.wait()
        peer.close()

    async def third(peer: Peer) -> None:
        sid = sid_of(await read_line(peer, b"SUB"))
        await peer.send(deliver(b"a", sid, b"end"))
        await peer.serve()

    async with (
        ScriptedServer(session(old), session(dies), session(third)) as server,
        open_nats(server.url, reconnect=QUICK) as nc,
        nc.subscribe("a") as sub,
    ):
        shorten_overlap(nc)
        with trio.fail_after(HANG_TIMEOUT):
            await nc.reconnect()
            assert [msg.data for msg in await receive_n(sub, 2)] == [b"held", b"end"]


async def test_an_unsubscription_that_was_unwritten_when_a_move_began_is_written() -> None:
    """Else the old server would give its share of a queue group's messages to nobody."""
    subscribed, go_lame, read_on = trio.Event(), trio.Event(), trio.Event()

    async with ScriptedServer(session()) as other:

        async def lame(peer: Peer) -> None:
            await read_line(peer, b"SUB q g ")
            subscribed.set()
            await go_lame.wait()
            await peer.send(info_line(ldm=True, connect_urls=[f"127.0.0.1:{other.port}"]))
            await read_on.wait()
            await peer.serve()

        async with ScriptedServer(session(lame)) as server, open_nats(server.url) as nc:
            set_handover_limits(nc, pong_timeout=0.2, overlap=3600)
            with trio.fail_after(HANG_TIMEOUT):
                async with nc.subscribe("q", queue="g"):
                    await subscribed.wait()
                    await fill(nc, 100_000)
                go_lame.set()
                await eventually(lambda: nc.connected_url == other.url)
                read_on.set()
                await eventually(lambda: b"UNSUB 1" in server.peers[0].lines)


async def test_draining_during_the_overlap_keeps_what_the_new_server_brought() -> None:
    async def new(peer: Peer) -> None:
        sid = sid_of(await read_line(peer, b"SUB"))
        await peer.expect_line(b"PING")
        await peer.send(b"PONG\r\n" + deliver(b"a", sid, b"only here"))
        await peer.serve()

    async with (
        ScriptedServer(session(), session(new)) as server,
        open_nats(server.url) as nc,
        nc.subscribe("a") as sub,
    ):
        shorten_overlap(nc)
        with trio.fail_after(HANG_TIMEOUT):
            await nc.reconnect()
            await sub.drain()
            assert [msg.data async for msg in sub] == [b"only here"]


async def test_closing_between_two_servers_waits_until_the_old_one_has_everything() -> None:
    fenced, closing, finished = trio.Event(), trio.Event(), trio.Event()

    async def old(peer: Peer) -> None:
        await read_line(peer, b"PING")
        fenced.set()
        await closing.wait()
        finished.set()
        await peer.send(b"PONG\r\n")
        await peer.serve()

    async with ScriptedServer(session(old), session()) as server:
        async with open_nats(server.url) as nc, trio.open_nursery() as nursery:
            await nc.publish("a", b"on its way")

            async def close() -> None:
                await nc.aclose()
                assert finished.is_set()

            async def move() -> None:
                try:
                    await nc.reconnect()
                except trio.ClosedResourceError:
                    pass

            nursery.start_soon(move)
            with trio.fail_after(HANG_TIMEOUT):
                await fenced.wait()
                nursery.start_soon(close)
                await trio.testing.wait_all_tasks_blocked()
                closing.set()


async def test_a_server_found_after_the_deadline_is_not_used() -> None:
    """The old server is lost, and replaced, while the next one is still being dialled."""
    dialled, replaced, let_in = trio.Event(), trio.Event(), trio.Event()

    async def slow(peer: Peer) -> None:
        dialled.set()
        await let_in.wait()
        await session()(peer)

    async def in_time(peer: Peer) -> None:
        await read_line(peer, b"SUB")
        replaced.set()
        await peer.serve()

    async with ScriptedServer(slow, session(in_time)) as other:

        async def lame(peer: Peer) -> None:
            await read_line(peer, b"SUB")
            first.refuse()
            await peer.send(info_line(ldm=True, connect_urls=[f"127.0.0.1:{other.port}"]))
            await dialled.wait()
            peer.close()

        async with (
            ScriptedServer(session(lame)) as first,
            open_nats(first.url, reconnect=QUICK) as nc,
            nc.subscribe("a"),
        ):
            with trio.fail_after(HANG_TIMEOUT):
                await replaced.wait()
                let_in.set()
                late = await other.peer(0)
                await late.finished.wait()
            assert nc.stats.reconnects == 1
            await nc.publish("a", b"over the only wire")
            await nc.flush(timeout=HANG_TIMEOUT)
            assert (await other.peer(1)).payloads == [b"over the only wire"]
            assert not any(line.startswith(b"SUB") for line in late.lines)


async def test_a_server_that_floods_instead_of_answering_is_not_moved_to() -> None:

    async def flood(peer: Peer) -> None:
        sid = sid_of(await peer.expect_line(b"SUB"))
        while True:
            await peer.send(deliver(b"a", sid, bytes(1000)) * 50)

    async with ScriptedServer(session(), session(flood)) as server:
        async with open_nats(server.url, reconnect=QUICK) as nc, nc.subscribe("a") as sub:
            set_handover_limits(nc, pong_timeout=3600, max_held=1024 * 1024)
            with (
                trio.fail_after(HANG_TIMEOUT),
                pytest.raises(ConnectError, match="without answering a PING"),
            ):
                await nc.reconnect()
            await nc.flush(timeout=HANG_TIMEOUT)
            assert len(server.peers) == 2
            assert sub.pending == (0, 0)


async def test_what_was_unwritten_when_a_move_failed_is_written_all_the_same() -> None:
    go_lame, read_on = trio.Event(), trio.Event()

    async def refuse(peer: Peer) -> None:
        await peer.expect_line(b"SUB")
        await peer.hang_up()

    async with ScriptedServer(session(refuse)) as other:

        async def lame(peer: Peer) -> None:
            await go_lame.wait()
            await peer.send(info_line(ldm=True, connect_urls=[f"127.0.0.1:{other.port}"]))
            await read_on.wait()
            await peer.serve()

        async with ScriptedServer(session(lame)) as server, open_nats(server.url) as nc:
            set_handover_limits(nc, pong_timeout=0.2)
            await fill(nc, 100_000)
            async with nc.subscribe("late"):
                go_lame.set()
                with trio.fail_after(HANG_TIMEOUT):
                    await (await other.peer()).finished.wait()
                    await eventually(lambda: nc.connected_url == server.url)
                    read_on.set()
                    await nc.flush()
                assert any(line.startswith(b"SUB late ") for line in server.peers[0].lines)


async def test_draining_while_a_move_fails_keeps_what_the_server_sent_before_it_knew() -> None:
    """The move takes back the PING that the drain waits for, with all that is unwritten."""
    subscribed, go_lame, read_on = trio.Event(), trio.Event(), trio.Event()

    async def refuse(peer: Peer) -> None:
        await peer.hang_up()

    async with ScriptedServer(session(refuse)) as other:

        async def lame(peer: Peer) -> None:
            sid = sid_of(await read_line(peer, b"SUB"))
            subscribed.set()
            await go_lame.wait()
            await peer.send(info_line(ldm=True, connect_urls=[f"127.0.0.1:{other.port}"]))
            await read_on.wait()
            await read_line(peer, b"UNSUB")
            await peer.send(deliver(b"a", sid, b"last"))
            await peer.serve()

        async with (
            ScriptedServer(session(lame)) as server,
            open_nats(server.url) as nc,
            nc.subscribe("a") as sub,
            trio.open_nursery() as nursery,
        ):
            set_handover_limits(nc, pong_timeout=0.2)
            with trio.fail_after(HANG_TIMEOUT):
                await subscribed.wait()
                await fill(nc, 4_000_000, 1_000_000)
                nursery.start_soon(sub.drain)
                await trio.testing.wait_all_tasks_blocked()
                go_lame.set()
                await (await other.peer()).finished.wait()
                await eventually(lambda: nc.connected_url == server.url)
                await trio.testing.wait_all_tasks_blocked()
                hurry(nc)
                read_on.set()
                assert [msg.data async for msg in sub] == [b"last"]


async def test_lame_duck_mode_during_a_failed_move_moves_again() -> None:
    """It says so while the connection is between two servers."""

    async def old(peer: Peer) -> None:
        await read_line(peer, b"PING")
        other.accept()
        await peer.send(b"PONG\r\n" + info_line(ldm=True))
        await peer.serve()

    async def refuses(peer: Peer) -> None:
        await peer.expect_line(b"SUB")
        await peer.hang_up()

    async with (
        ScriptedServer(session()) as other,
        ScriptedServer(session(old), session(refuses)) as server,
    ):
        other.refuse()
        async with (
            open_nats([server.url, other.url], randomize=False) as nc,
            nc.events() as events,
            nc.subscribe("a"),
        ):
            shorten_overlap(nc)
            with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError):
                await nc.reconnect()
            assert await until(events, LameDuck) == LameDuck(server.url)
            assert await until(events, Reconnected) == Reconnected(other.url)


async def test_a_lame_duck_is_not_left_for_another_one() -> None:
    async with ScriptedServer(session(ldm=True)) as other:

        async def lame(peer: Peer) -> None:
            await read_line(peer, b"SUB")
            await peer.send(info_line(ldm=True, connect_urls=[f"127.0.0.1:{other.port}"]))
            await peer.serve()

        async with (
            ScriptedServer(session(lame)) as server,
            open_nats(server.url, reconnect=ReconnectPolicy(delay=lambda _: 1000.0)) as nc,
            nc.subscribe("a"),
        ):
            with trio.fail_after(HANG_TIMEOUT):
                tried = await other.peer()
                await tried.finished.wait()
                await nc.flush()
            assert nc.connected_url == server.url
            assert nc.stats.reconnects == 0
            assert len(other.peers) == 1


async def test_a_server_already_in_lame_duck_mode_is_left() -> None:
    async with ScriptedServer(session()) as other:
        urls = [f"127.0.0.1:{other.port}"]
        async with ScriptedServer(session(ldm=True, connect_urls=urls)) as server:
            async with open_nats(server.url) as nc:
                shorten_overlap(nc)
                with trio.fail_after(HANG_TIMEOUT):
                    await eventually(lambda: nc.connected_url == other.url)


@pytest.mark.slow
async def test_messages_that_are_alike_come_once_each_without_echo_too() -> None:
    """Which of them are the same is told by when they came, so each wire is read all the time."""
    to_old, old_turn = trio.open_memory_channel[None](0)
    to_new, new_turn = trio.open_memory_channel[None](0)

    async def beat(peer: Peer, sid: bytes, turns: trio.MemoryReceiveChannel[None]) -> None:
        async for _ in turns:
            await peer.send(deliver(b"a", sid, b"alive"))
        await peer.serve()

    async def old(peer: Peer) -> None:
        sid = sid_of(await read_line(peer, b"SUB"))
        await read_line(peer, b"PING")
        await peer.send(b"PONG\r\n")
        await beat(peer, sid, old_turn)

    async def new(peer: Peer) -> None:
        sid = sid_of(await read_line(peer, b"SUB"))
        await read_line(peer, b"PING")
        await peer.send(b"PONG\r\n")
        await beat(peer, sid, new_turn)

    async with (
        ScriptedServer(session(old), session(new)) as server,
        open_nats(server.url, echo=False) as nc,
        nc.subscribe("a") as sub,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(nc.reconnect)
        with trio.fail_after(HANG_TIMEOUT):
            for beats in range(3):
                await to_old.send(None)
                await receive_n(sub, 1)
                await to_new.send(None)
                await eventually(lambda beats=beats: nc.stats.in_messages == 2 * (beats + 1))  # type: ignore[misc]
                await trio.sleep(0.2)  # The time by which they are told apart.
            await to_old.aclose()
            await eventually(lambda: nc.stats.reconnects == 1 and not is_overlapping(nc))
            await to_new.aclose()
            await nc.flush()
        with pytest.raises(trio.WouldBlock):
            sub.receive_nowait()
