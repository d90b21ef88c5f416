"""Draining: what the server has sent is received, and it never takes longer than it may."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel
import trio.testing

from tests.reliability.helpers import (
    HANG_TIMEOUT,
    QUICK,
    deliver,
    frames_of,
    read_line,
    receive_n,
    session,
    until,
)
from tests.support.peer import Peer
from tests.transports import ALL_BUT_WSS, Transport
from trio_nats import ConnectionState, ReconnectPolicy
from trio_nats.events import Closed, Disconnected, Reconnected


async def sends_between_unsub_and_pong(peer: Peer) -> None:
    sid = (await read_line(peer, b"SUB")).split()[-1]
    await peer.send(deliver(b"a", sid, b"before"))
    await read_line(peer, b"UNSUB")
    await peer.send(deliver(b"a", sid, b"on its way"))
    await read_line(peer, b"PING")
    await peer.send(deliver(b"a", sid, b"at the last moment") + b"PONG\r\n")
    await peer.serve()


@ALL_BUT_WSS
async def test_a_drained_subscription_gets_all_messages_in_flight(transport: Transport) -> None:
    async with (
        transport.scripted(session(sends_between_unsub_and_pong)) as server,
        transport.open(server) as nc,
        nc.subscribe("a") as sub,
    ):
        with trio.fail_after(HANG_TIMEOUT):
            await sub.drain()
            got = [msg.data async for msg in sub]
        assert got == [b"before", b"on its way", b"at the last moment"]
        await sub.aclose()
        # Unsubscribed once, however often it is left.
        await nc.flush(timeout=HANG_TIMEOUT)
        assert frames_of(await server.peer()).count(b"UNSUB 1") == 1
        assert nc.stats.subscriptions == 0


@ALL_BUT_WSS
async def test_draining_a_subscription_takes_no_longer_than_it_may(transport: Transport) -> None:
    async with transport.scripted(session(Peer.stall)) as server:
        async with transport.open(server, close_timeout=0) as nc, nc.subscribe("a") as sub:
            with pytest.raises(TimeoutError):
                await sub.drain(timeout=0.05)
            with pytest.raises(trio.EndOfChannel):
                await sub.receive()
            assert nc.stats.subscriptions == 0


@ALL_BUT_WSS
async def test_a_cancelled_drain_is_still_unsubscribed(transport: Transport) -> None:
    unsubscribed = trio.Event()

    async def script(peer: Peer) -> None:
        await peer.expect_line(b"SUB a 1")
        await peer.expect_line(b"UNSUB 1")
        unsubscribed.set()
        await peer.stall()

    async with transport.scripted(session(script)) as server:
        async with transport.open(server, close_timeout=0) as nc, nc.subscribe("a") as sub:
            with trio.move_on_after(0.02) as scope:
                await sub.drain()
            assert scope.cancelled_caught
            with pytest.raises(trio.EndOfChannel):
                await sub.receive()
            with trio.fail_after(HANG_TIMEOUT):
                await unsubscribed.wait()


@ALL_BUT_WSS
async def test_a_drain_in_a_cancelled_scope_is_still_unsubscribed(transport: Transport) -> None:
    async with transport.scripted(session()) as server:
        async with transport.open(server) as nc, nc.subscribe("a") as sub:
            with trio.CancelScope() as scope:
                scope.cancel()
                await sub.drain()
            assert scope.cancelled_caught
            assert nc.stats.subscriptions == 0
            with trio.fail_after(HANG_TIMEOUT), pytest.raises(trio.EndOfChannel):
                await sub.receive()
            await nc.flush(timeout=HANG_TIMEOUT)
        assert frames_of(await server.peer()).count(b"UNSUB 1") == 1


@ALL_BUT_WSS
async def test_draining_a_subscription_while_the_connection_breaks(transport: Transport) -> None:
    async def breaks(peer: Peer) -> None:
        sid = (await read_line(peer, b"SUB")).split()[-1]
        await read_line(peer, b"UNSUB")
        await peer.send(deliver(b"a", sid, b"arrived"))
        await peer.expect_line(b"PING")
        peer.close()

    async with (
        transport.scripted(session(breaks), session()) as server,
        transport.open(server, reconnect=QUICK) as nc,
        nc.events() as events,
        nc.subscribe("a") as sub,
    ):
        with trio.fail_after(HANG_TIMEOUT):
            await sub.drain()
            assert [msg.data async for msg in sub] == [b"arrived"]
        await until(events, Reconnected)
        await nc.flush(timeout=HANG_TIMEOUT)
        assert frames_of(await server.peer(1)) == [b"CONNECT", b"PING", b"PING", b"PING"]


@ALL_BUT_WSS
async def test_draining_a_subscription_while_disconnected_ends_it_at_once(
    transport: Transport,
) -> None:
    async with transport.server() as server:
        async with (
            transport.open(server, reconnect=QUICK) as nc,
            nc.events() as events,
            nc.subscribe("a") as sub,
        ):
            await nc.publish("a", b"arrived")
            await nc.flush(timeout=HANG_TIMEOUT)
            await server.kill()
            await until(events, Disconnected)
            await sub.drain()
            assert [msg.data async for msg in sub] == [b"arrived"]
            await server.start()


@ALL_BUT_WSS
async def test_slow_workers_answer_everything_when_their_subscription_is_drained_first(
    transport: Transport,
) -> None:
    count = 100
    async with transport.server() as server, transport.open(server) as asker:
        async with asker.subscribe("answers") as answers:
            async with (
                transport.open(server) as nc,
                nc.subscribe("questions") as questions,
                trio.open_nursery() as nursery,
            ):

                async def work() -> None:
                    async for msg in questions:
                        await trio.sleep(0.001)
                        await msg.respond(msg.data)

                for _ in range(10):
                    nursery.start_soon(work)
                await nc.flush(timeout=HANG_TIMEOUT)
                for number in range(count):
                    await asker.publish("questions", b"%d" % number, reply="answers")
                await asker.flush(timeout=HANG_TIMEOUT)
                # The loops end by themselves, and with them the block: nothing is cut off.
                await questions.drain(timeout=HANG_TIMEOUT)
            got = await receive_n(answers, count)
            assert sorted(int(msg.data) for msg in got) == list(range(count))


# -- the whole connection ------------------------------------------------------------------------


@ALL_BUT_WSS
async def test_a_drained_connection_answers_all_requests(transport: Transport) -> None:
    count = 500
    async with transport.server() as server, transport.open(server) as asker:
        async with asker.subscribe("answers") as answers:
            async with transport.open(server) as nc:
                async with trio.open_nursery() as nursery:
                    ready = trio.Event()

                    async def serve() -> None:
                        async with nc.subscribe("questions") as questions:
                            await nc.flush(timeout=HANG_TIMEOUT)
                            ready.set()
                            async for msg in questions:
                                await msg.respond(msg.data)

                    nursery.start_soon(serve)
                    await ready.wait()
                    for number in range(count):
                        await asker.publish("questions", b"%d" % number, reply="answers")
                    await asker.flush(timeout=HANG_TIMEOUT)
                    await nc.drain(timeout=HANG_TIMEOUT)
                    assert nc.state is ConnectionState.CLOSED
            got = await receive_n(answers, count)
            assert [int(msg.data) for msg in got] == list(range(count))


@ALL_BUT_WSS
async def test_while_draining_one_can_publish_and_not_subscribe(transport: Transport) -> None:
    async with transport.server() as server, transport.open(server) as nc:
        async with nc.subscribe("a") as sub, trio.open_nursery() as nursery:
            await nc.publish("a", b"unread")
            await nc.flush(timeout=HANG_TIMEOUT)
            nursery.start_soon(nc.drain)
            with trio.fail_after(HANG_TIMEOUT):
                await nc.wait_for_state(ConnectionState.DRAINING)
            await nc.publish("b", b"still works")
            with pytest.raises(trio.ClosedResourceError):
                async with nc.subscribe("b"):
                    pass
            assert [msg.data async for msg in sub] == [b"unread"]


@ALL_BUT_WSS
async def test_draining_takes_no_longer_than_it_may_when_nobody_reads(transport: Transport) -> None:
    async with transport.server() as server, transport.open(server) as nc:
        async with nc.subscribe("a") as sub:
            await nc.publish("a", b"unread")
            await nc.flush(timeout=HANG_TIMEOUT)
            with pytest.raises(TimeoutError, match="messages were left"):
                await nc.drain(timeout=0.05)
            assert nc.state is ConnectionState.CLOSED
            # They are still there to be looked at.
            assert [msg.data async for msg in sub] == [b"unread"]


@ALL_BUT_WSS
async def test_a_cancelled_drain_closes_at_once(transport: Transport) -> None:
    async with transport.server() as server, transport.open(server) as nc:
        async with nc.subscribe("a"):
            await nc.publish("a", b"unread")
            await nc.flush(timeout=HANG_TIMEOUT)
            with trio.move_on_after(0.05) as scope:
                await nc.drain()
            assert scope.cancelled_caught
            assert nc.state is ConnectionState.CLOSED


@ALL_BUT_WSS
async def test_draining_during_a_reconnect_delivers_what_waits(transport: Transport) -> None:
    async with transport.server() as server:
        async with (
            transport.open(server, reconnect=QUICK) as nc,
            nc.events() as events,
            nc.subscribe("a") as sub,
        ):
            await nc.publish("a", b"unread")
            await nc.flush(timeout=HANG_TIMEOUT)
            await server.kill()
            await until(events, Disconnected)
            await nc.publish("b", b"to be sent")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nc.drain)
                with trio.fail_after(HANG_TIMEOUT):
                    await nc.wait_for_state(ConnectionState.DRAINING)
                    assert [msg.data async for msg in sub] == [b"unread"]
                    await nc.wait_for_state(ConnectionState.CLOSING)
                    await server.start()
            assert (await until(events, Closed)).reason is None
            assert (await server.monitor("varz"))["in_msgs"] == 1


@ALL_BUT_WSS
async def test_draining_while_the_server_stays_away_ends_in_time(transport: Transport) -> None:
    policy = ReconnectPolicy(wait=0.01, max_wait=0.02)
    async with transport.server() as server:
        async with transport.open(server, reconnect=policy, close_timeout=0.1) as nc:
            async with nc.events() as events:
                await server.kill()
                await until(events, Disconnected)
                await nc.publish("a", b"lost")
                with trio.fail_after(HANG_TIMEOUT):
                    await nc.drain(timeout=0.1)
                assert nc.state is ConnectionState.CLOSED


@ALL_BUT_WSS
async def test_draining_twice_at_once(transport: Transport) -> None:
    async with transport.server() as server, transport.open(server) as nc:
        async with nc.subscribe("a") as sub, trio.open_nursery() as nursery:
            await nc.publish("a", b"x")
            await nc.flush(timeout=HANG_TIMEOUT)
            nursery.start_soon(nc.drain)
            nursery.start_soon(nc.drain)
            assert [msg.data async for msg in sub] == [b"x"]
        assert nc.state is ConnectionState.CLOSED


@ALL_BUT_WSS
async def test_a_second_drain_waits_as_the_first_does(transport: Transport) -> None:
    async with transport.server() as server, transport.open(server) as nc:
        async with nc.subscribe("a") as sub, trio.open_nursery() as nursery:
            await nc.publish("a", b"unread")
            await nc.flush(timeout=HANG_TIMEOUT)
            nursery.start_soon(nc.drain)
            await nc.wait_for_state(ConnectionState.DRAINING)
            await nc.flush(timeout=HANG_TIMEOUT)
            nursery.start_soon(nc.drain)
            await nc.flush(timeout=HANG_TIMEOUT)
            await trio.testing.wait_all_tasks_blocked()
            assert nc.state is ConnectionState.DRAINING
            assert [msg.data async for msg in sub] == [b"unread"]
        assert nc.state is ConnectionState.CLOSED


@pytest.mark.parametrize("again", [False, True])
@ALL_BUT_WSS
async def test_closing_ends_a_drain(transport: Transport, again: bool) -> None:
    async with transport.server() as server, transport.open(server) as nc:
        async with nc.subscribe("a") as first, nc.subscribe("a") as second:
            await nc.publish("a", b"unread")
            await nc.flush(timeout=HANG_TIMEOUT)
            with trio.fail_after(HANG_TIMEOUT):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(nc.drain)
                    await nc.wait_for_state(ConnectionState.DRAINING)
                    await nc.flush()
                    if again:
                        with pytest.raises(TimeoutError):
                            await nc.drain(timeout=0.01)
                    else:
                        await nc.aclose()
            assert [sub.pending[0] for sub in (first, second)] == [1, 1]
